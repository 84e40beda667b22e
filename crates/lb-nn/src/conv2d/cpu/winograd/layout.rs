//! Images as rows of Winograd's tiles, so that every horizontal tap is a shift.
//!
//! A tile is [`TILE`] rows of an image, and becomes one row at each of [`POINTS`] points. At a point
//! the rows of a channel follow each other, those of all images, with a single zero between that is
//! both the right neighbour of one row's last value and the left neighbour of the next one's first.
//! What tap `kx` of product `q` reads is then `q + kx`, whatever the row; the products in the place
//! of the zeros (1 in 9, 17 or 33) are never read.

use std::marker::PhantomData;
use std::ops::Range;

use pulp::{Arch, Scalar, Simd, WithSimd};

use super::transform::{POINTS, Rows, TILE, outputs};

/// Sizes of images and of their tiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    images: usize,
    height: usize,
    width: usize,
    /// Products of a channel at a point, those in the place of zeros included.
    pub run: usize,
}

impl Layout {
    /// `run` is a multiple of `step`.
    pub fn new(images: usize, height: usize, width: usize, step: usize) -> Self {
        let rows = images * height.div_ceil(TILE);
        Self {
            images,
            height,
            width,
            run: (rows * (width + 1) - 1).next_multiple_of(step),
        }
    }

    /// Values of a channel at a point: [`run`](Self::run), one before and one after.
    pub fn len(&self) -> usize {
        self.run + 2
    }

    fn tiles(&self) -> usize {
        self.height.div_ceil(TILE)
    }

    /// The first product of a tile of an image.
    fn at(&self, image: usize, tile: usize) -> usize {
        (image * self.tiles() + tile) * (self.width + 1)
    }

    fn plane(&self) -> usize {
        self.height * self.width
    }
}

/// Writes `to`, `[POINTS, channels or more, len]`, from `dense`, `[images, channels, H, W]`. What is
/// in the place of zeros stays.
pub fn spread<R: Rows>(layout: Layout, channels: usize, dense: &[f32], to: &mut [f32]) {
    Arch::new().dispatch(Spread {
        layout,
        channels,
        dense,
        to,
        rows: PhantomData::<R>,
    });
}

struct Spread<'a, R> {
    layout: Layout,
    channels: usize,
    dense: &'a [f32],
    to: &'a mut [f32],
    rows: PhantomData<R>,
}

impl<R: Rows> WithSimd for Spread<'_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let l = self.layout;
        let point = self.to.len() / POINTS;
        let whole = l.width - l.width % S::F32_LANES;
        let zeros = vec![0.0; l.width];
        let images = self.dense.chunks_exact(self.channels * l.plane());
        for (image, dense) in images.take(l.images).enumerate() {
            for (c, plane) in dense.chunks_exact(l.plane()).enumerate() {
                for tile in 0..l.tiles() {
                    let mut rows = [&zeros[..]; POINTS];
                    for (y, row) in rows.iter_mut().enumerate() {
                        // The first one is above the tile.
                        let y = TILE * tile + y;
                        if (1..=l.height).contains(&y) {
                            *row = &plane[(y - 1) * l.width..][..l.width];
                        }
                    }
                    // Products start one value in.
                    let to = &mut self.to[c * l.len() + l.at(image, tile) + 1..];
                    spread_rows::<R, S>(simd, rows, to, point, 0..whole);
                    spread_rows::<R, Scalar>(Scalar, rows, to, point, whole..l.width);
                }
            }
        }
    }
}

/// Values `range` of a tile.
#[inline(always)]
fn spread_rows<R: Rows, S: Simd>(
    simd: S,
    rows: [&[f32]; POINTS],
    to: &mut [f32],
    point: usize,
    range: Range<usize>,
) {
    for x in range.step_by(S::F32_LANES) {
        let mut values = [simd.splat_f32s(0.0); POINTS];
        for (value, row) in values.iter_mut().zip(rows) {
            *value = load::<S>(row, x);
        }
        for (p, value) in R::points(simd, values).into_iter().enumerate() {
            store::<S>(value, to, p * point + x);
        }
    }
}

/// Writes outputs, `dense`, `[images, channels, H, W]`, from products, `[POINTS, channels or more,
/// run]`, and the bias of every channel.
pub fn gather(layout: Layout, products: &[f32], bias: &[f32], dense: &mut [f32]) {
    Arch::new().dispatch(Gather {
        layout,
        products,
        bias,
        dense,
    });
}

struct Gather<'a> {
    layout: Layout,
    products: &'a [f32],
    bias: &'a [f32],
    dense: &'a mut [f32],
}

impl WithSimd for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let l = self.layout;
        let point = self.products.len() / POINTS;
        let whole = l.width - l.width % S::F32_LANES;
        let images = self.dense.chunks_exact_mut(self.bias.len() * l.plane());
        for (image, dense) in images.take(l.images).enumerate() {
            let planes = dense.chunks_exact_mut(l.plane());
            for (c, (plane, &bias)) in planes.zip(self.bias).enumerate() {
                for (tile, rows) in plane.chunks_mut(TILE * l.width).enumerate() {
                    let from = &self.products[c * l.run + l.at(image, tile)..];
                    gather_rows(simd, (from, point), bias, (&mut *rows, l.width), 0..whole);
                    let rest = whole..l.width;
                    gather_rows(Scalar, (from, point), bias, (rows, l.width), rest);
                }
            }
        }
    }
}

/// Values `range` of a tile, of as many of its rows as there are.
#[inline(always)]
fn gather_rows<S: Simd>(
    simd: S,
    (from, point): (&[f32], usize),
    bias: f32,
    (rows, width): (&mut [f32], usize),
    range: Range<usize>,
) {
    let bias = simd.splat_f32s(bias);
    for x in range.step_by(S::F32_LANES) {
        let mut products = [simd.splat_f32s(0.0); POINTS];
        for (p, product) in products.iter_mut().enumerate() {
            *product = load::<S>(from, p * point + x);
        }
        for (y, value) in outputs(simd, products).into_iter().enumerate() {
            if y * width < rows.len() {
                store::<S>(simd.add_f32s(value, bias), rows, y * width + x);
            }
        }
    }
}

#[inline(always)]
fn load<S: Simd>(from: &[f32], at: usize) -> S::f32s {
    S::as_simd_f32s(&from[at..][..S::F32_LANES]).0[0]
}

#[inline(always)]
fn store<S: Simd>(value: S::f32s, to: &mut [f32], at: usize) {
    S::as_mut_simd_f32s(&mut to[at..][..S::F32_LANES]).0[0] = value;
}
