//! The passes over memory around a convolution's. A plane is the positions of one channel of one image.

use std::ops::Range;

use lb_core::host;
use lb_core::moments::plane_sums;
use rayon::prelude::*;

use crate::conv2d::cpu::{OutputGradient, Shape};

/// Lanes that sums are added up in.
const LANES: usize = 16;

/// `Σ y` and `Σ y²` by channel of each of some images.
pub(super) fn sums(s: &Shape, images: &[f32]) -> Vec<Vec<[f64; 2]>> {
    let of_image = |image: &[f32]| -> Vec<_> {
        host::vectorized(|| image.chunks_exact(s.positions()).map(plane_sums).collect())
    };
    images.chunks_exact(s.out_image()).map(of_image).collect()
}

/// `z = max(scale · y + shift, floor)` by channel.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
    /// 0, or −∞ where there is no ReLU.
    pub floor: f32,
}

impl Line {
    /// `y` to `scale · y + shift`
    #[inline(always)]
    fn of(&self, c: usize) -> impl Fn(f32) -> f32 {
        let (scale, shift) = (self.scale[c], self.shift[c]);
        move |y| scale * y + shift
    }

    pub fn apply(&self, s: &Shape, y: &[f32]) -> Vec<f32> {
        let of_image = |_: &mut (), i: usize, z: &mut [f32]| {
            let y = &y[i * s.out_image()..][..s.out_image()];
            host::vectorized(|| {
                let size = s.positions();
                let planes = z.chunks_exact_mut(size).zip(y.chunks_exact(size));
                for (c, (z, y)) in planes.enumerate() {
                    let line = self.of(c);
                    for (z, y) in z.iter_mut().zip(y) {
                        *z = host::floored(line(*y), self.floor);
                    }
                }
            });
        };
        host::filled(y.len(), s.out_image(), || (), of_image).0
    }

    /// What gets through of the gradient `dz` to the line at `y`.
    #[inline(always)]
    fn passes(&self, c: usize) -> impl Fn(f32, f32) -> f32 {
        let (line, floor) = (self.of(c), self.floor);
        move |y, dz| host::passed(line(y), floor, dz)
    }

    /// With `d` that which gets through of `dz`: `Σ d` and `Σ d · (y − μ)` by channel.
    pub fn sums(&self, s: &Shape, y: &[f32], dz: &[f32], mean: &[f32]) -> Vec<[f64; 2]> {
        let images = (y.par_chunks(s.out_image())).zip(dz.par_chunks(s.out_image()));
        host::per_channel(images, s.c_out, |c, (y, dz)| {
            let (passes, mean) = (self.passes(c), mean[c]);
            let plane = c * s.positions()..(c + 1) * s.positions();
            let (ys, y_rest) = y[plane.clone()].as_chunks::<LANES>();
            let (dzs, dz_rest) = dz[plane].as_chunks::<LANES>();
            let mut sums = [[0f32; LANES]; 2];
            let [total, products] = &mut sums;
            for (y, dz) in ys.iter().zip(dzs) {
                for i in 0..LANES {
                    let d = passes(y[i], dz[i]);
                    total[i] += d;
                    products[i] += (y[i] - mean) * d;
                }
            }
            let mut rest = [0f32; 2];
            for (y, dz) in y_rest.iter().zip(dz_rest) {
                let d = passes(*y, *dz);
                rest[0] += d;
                rest[1] += (y - mean) * d;
            }
            [0, 1].map(|i| f64::from(sums[i].iter().sum::<f32>() + rest[i]))
        })
    }
}

/// The gradient of `y`, `of_d · d + of_y · y + shift` by channel with `d` what gets through of `dz`.
pub(super) struct Combined<'a> {
    pub shape: &'a Shape,
    pub line: &'a Line,
    pub y: &'a [f32],
    pub dz: &'a [f32],
    /// `[of_d, of_y, shift]`
    pub factors: Vec<[f32; 3]>,
}

impl OutputGradient for Combined<'_> {
    fn of<'a>(&'a self, images: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let (image, size) = (self.shape.out_image(), self.shape.positions());
        let values = images.start * image..images.end * image;
        buffer.resize(values.len(), 0.0);
        let planes = (buffer.chunks_exact_mut(size))
            .zip(self.y[values.clone()].chunks_exact(size))
            .zip(self.dz[values].chunks_exact(size));
        host::vectorized(|| {
            for (i, ((dy, y), dz)) in planes.enumerate() {
                let c = i % self.shape.c_out;
                let ([of_d, of_y, shift], passes) = (self.factors[c], self.line.passes(c));
                for (dy, (y, dz)) in dy.iter_mut().zip(y.iter().zip(dz)) {
                    *dy = of_d * passes(*y, *dz) + of_y * y + shift;
                }
            }
        });
        buffer
    }
}
