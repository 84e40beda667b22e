//! An image in four planes, by even and odd rows and columns, each with the outputs' rows and columns.
//!
//! Output `(y, x)` of a kernel of three at stride 2 with a border of one sees rows 2y − 1, 2y and
//! 2y + 1, and such columns. Row `i` of an even plane is row 2i, of an odd one row 2i − 1, so that the
//! output sees rows `y` of the odd plane, `y` of the even and `y + 1` of the odd one; columns alike.
//! Planes have one row and one column more than the outputs. Of odd planes the first of them is the
//! border; of even ones, and of the outputs, the last is zero, or never read. The rows of a plane
//! follow each other, those of all images, so that what a tap sees of all outputs is a stretch.

use lb_core::host;

use super::TAPS;
use crate::conv2d::cpu::product::lanes;
use crate::conv2d::cpu::shape::Shape;

/// Planes of a channel: by row, then by column, the even ones first.
pub const PHASES: usize = 4;

/// Sizes of images and of their planes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layout {
    images: usize,
    height: usize,
    width: usize,
    h_out: usize,
    w_out: usize,
    /// Products of a channel, in whole vectors.
    pub run: usize,
}

impl Layout {
    pub fn new(s: &Shape, images: usize) -> Self {
        let rows = images * (s.h_out + 1);
        Self {
            images,
            height: s.h,
            width: s.w,
            h_out: s.h_out,
            w_out: s.w_out,
            run: (rows * (s.w_out + 1)).next_multiple_of(lanes()),
        }
    }

    /// From a row of a plane to the next.
    fn pitch(&self) -> usize {
        self.w_out + 1
    }

    /// Values of a plane: products, and as far as the last tap reads beyond them.
    pub fn plane(&self) -> usize {
        self.run + self.start()
    }

    /// Where the outputs' gradients start in theirs: the last tap reads as far before them.
    pub fn start(&self) -> usize {
        self.pitch() + 1
    }

    /// Where the taps read, from the first plane's first value on.
    pub fn taps(&self) -> [usize; TAPS] {
        std::array::from_fn(|t| {
            let (ky, kx) = (t / 3, t % 3);
            let plane = 2 * usize::from(ky != 1) + usize::from(kx != 1);
            let below = usize::from(ky == 2) * self.pitch() + usize::from(kx == 2);
            plane * self.plane() + below
        })
    }

    /// Where the outputs' gradients above, to the left, and both are read from.
    pub fn before(&self) -> [usize; 3] {
        [1, self.pitch(), 0]
    }

    /// Row `i` of image `image`.
    fn row(&self, image: usize, i: usize) -> usize {
        (image * (self.h_out + 1) + i) * self.pitch()
    }

    /// Where row `y` of an image is: the plane's rows, odd or even, and which of them.
    fn of_row(y: usize) -> (usize, usize) {
        (y % 2, y.div_ceil(2))
    }

    /// Writes planes, `[channels or more, PHASES, plane]`, of `dense`, `[images, channels, H, W]`.
    pub fn split(&self, channels: usize, dense: &[f32], planes: &mut [f32]) {
        let size = self.plane();
        host::vectorized(
            #[inline(always)]
            || {
                for (i, rows) in dense.chunks_exact(self.height * self.width).enumerate() {
                    let (image, c) = (i / channels, i % channels);
                    let planes = &mut planes[c * PHASES * size..][..PHASES * size];
                    for (y, row) in rows.chunks_exact(self.width).enumerate() {
                        let (odd, i) = Self::of_row(y);
                        let (evens, odds) = planes[2 * odd * size..][..2 * size].split_at_mut(size);
                        let at = self.row(image, i);
                        let evens = &mut evens[at..][..self.w_out];
                        let odds = &mut odds[at + 1..][..self.w_out];
                        let (pairs, last) = row.as_chunks::<2>();
                        for (([a, b], even), odd) in pairs.iter().zip(&mut *evens).zip(odds) {
                            (*even, *odd) = (*a, *b);
                        }
                        if let ([last], Some(even)) = (last, evens.last_mut()) {
                            *even = *last;
                        }
                    }
                }
            },
        );
    }

    /// Writes to `dense`, `[images, channels, H, W]`, what stands in one of its planes: of even or odd
    /// rows and columns, from products, `[channels or more, run]`.
    pub fn join(
        &self,
        channels: usize,
        [odd_rows, odd_columns]: [usize; 2],
        products: &[f32],
        dense: &mut [f32],
    ) {
        host::vectorized(
            #[inline(always)]
            || {
                for (i, rows) in dense.chunks_exact_mut(self.height * self.width).enumerate() {
                    let (image, c) = (i / channels, i % channels);
                    let products = &products[c * self.run..][..self.run];
                    let rows = rows.chunks_exact_mut(self.width).enumerate();
                    for (y, row) in rows.skip(odd_rows).step_by(2) {
                        let (_, i) = Self::of_row(y);
                        let from = &products[self.row(image, i) + odd_columns..];
                        let row = row.iter_mut().skip(odd_columns).step_by(2);
                        for (value, product) in row.zip(from) {
                            *value = *product;
                        }
                    }
                }
            },
        );
    }

    /// Writes the outputs' gradients, `[channels or more, plane]`, of `dense`, `[images, channels, H',
    /// W']`, from [`start`](Self::start) on.
    pub fn spread(&self, channels: usize, dense: &[f32], to: &mut [f32]) {
        let images = dense.chunks_exact(channels * self.h_out * self.w_out);
        for (image, dense) in images.take(self.images).enumerate() {
            for (c, rows) in dense.chunks_exact(self.h_out * self.w_out).enumerate() {
                let to = &mut to[c * self.plane() + self.start()..];
                for (y, row) in rows.chunks_exact(self.w_out).enumerate() {
                    to[self.row(image, y)..][..self.w_out].copy_from_slice(row);
                }
            }
        }
    }

    /// Writes outputs, `dense`, `[images, channels, H', W']`, from products, `[channels or more, run]`,
    /// and the bias of every channel.
    pub fn gather(&self, products: &[f32], bias: &[f32], dense: &mut [f32]) {
        let images = dense.chunks_exact_mut(bias.len() * self.h_out * self.w_out);
        for (image, dense) in images.take(self.images).enumerate() {
            let planes = dense.chunks_exact_mut(self.h_out * self.w_out);
            for (c, (rows, bias)) in planes.zip(bias).enumerate() {
                for (y, row) in rows.chunks_exact_mut(self.w_out).enumerate() {
                    let from = &products[c * self.run + self.row(image, y)..];
                    for (value, product) in row.iter_mut().zip(from) {
                        *value = product + bias;
                    }
                }
            }
        }
    }
}
