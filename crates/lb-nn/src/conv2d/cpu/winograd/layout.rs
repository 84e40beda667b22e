//! Images as rows of Winograd's tiles, so that every horizontal tap is a shift.
//!
//! A tile is [`TILE`] rows of an image, and becomes one row at each of [`POINTS`] points. At a point
//! the rows of a channel follow each other, those of all images, with a single zero between that is
//! both the right neighbour of one row's last value and the left neighbour of the next one's first.
//! What tap `kx` of product `q` reads is then `q + kx`, whatever the row; the products in the place
//! of the zeros (1 in 9, 17 or 33) are never read.

use std::marker::PhantomData;

use pulp::{Arch, Simd, WithSimd};

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
    by_rows(
        layout.width,
        Spread {
            layout,
            channels,
            dense,
            to,
            rows: PhantomData::<R>,
        },
    );
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
                    each_vector::<S>(
                        l.width,
                        #[inline(always)]
                        |x, n| {
                            let mut values = [simd.splat_f32s(0.0); POINTS];
                            for (value, row) in values.iter_mut().zip(rows) {
                                *value = load(simd, &row[x..][..n]);
                            }
                            for (p, value) in R::points(simd, values).into_iter().enumerate() {
                                store(simd, &mut to[p * point + x..][..n], value);
                            }
                        },
                    );
                }
            }
        }
    }
}

/// Writes outputs, `dense`, `[images, channels, H, W]`, from products, `[POINTS, channels or more,
/// run]`, and the bias of every channel.
pub fn gather(layout: Layout, products: &[f32], bias: &[f32], dense: &mut [f32]) {
    by_rows(
        layout.width,
        Gather {
            layout,
            products,
            bias,
            dense,
        },
    );
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
        let images = self.dense.chunks_exact_mut(self.bias.len() * l.plane());
        for (image, dense) in images.take(l.images).enumerate() {
            let planes = dense.chunks_exact_mut(l.plane());
            for (c, (plane, &bias)) in planes.zip(self.bias).enumerate() {
                for (tile, rows) in plane.chunks_mut(TILE * l.width).enumerate() {
                    let from = &self.products[c * l.run + l.at(image, tile)..];
                    let bias = simd.splat_f32s(bias);
                    each_vector::<S>(
                        l.width,
                        #[inline(always)]
                        |x, n| {
                            let mut products = [simd.splat_f32s(0.0); POINTS];
                            for (p, product) in products.iter_mut().enumerate() {
                                *product = load(simd, &from[p * point + x..][..n]);
                            }
                            let values = outputs(simd, products).into_iter();
                            // The last tile of an image may have fewer rows.
                            for (row, value) in rows.chunks_exact_mut(l.width).zip(values) {
                                store(simd, &mut row[x..][..n], simd.add_f32s(value, bias));
                            }
                        },
                    );
                }
            }
        }
    }
}

/// `op` by the widest vectors that rows fill: parts of vectors are slow.
fn by_rows<Op: WithSimd>(width: usize, op: Op) -> Op::Output {
    #[cfg(target_arch = "x86_64")]
    if !width.is_multiple_of(16)
        && let Some(avx2) = pulp::x86::V3::try_new()
    {
        return Simd::vectorize(avx2, op);
    }
    let _ = width;
    Arch::new().dispatch(op)
}

/// `f(first, count)` of every vector of a row; the last one may be a part. `f` has to be inlined: on its
/// own it is compiled without the vectors' instructions.
#[inline(always)]
fn each_vector<S: Simd>(width: usize, mut f: impl FnMut(usize, usize)) {
    let whole = width - width % S::F32_LANES;
    for x in (0..whole).step_by(S::F32_LANES) {
        f(x, S::F32_LANES);
    }
    if whole < width {
        f(whole, width - whole);
    }
}

#[inline(always)]
fn load<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    match from.len() == S::F32_LANES {
        true => S::as_simd_f32s(from).0[0],
        false => simd.partial_load_f32s(from),
    }
}

#[inline(always)]
fn store<S: Simd>(simd: S, to: &mut [f32], value: S::f32s) {
    match to.len() == S::F32_LANES {
        true => S::as_mut_simd_f32s(to).0[0] = value,
        false => simd.partial_store_f32s(to, value),
    }
}
