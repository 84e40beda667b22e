//! The passes over memory. A plane is the positions of one channel of one image.

use lb_core::host::{self, FlexTensor, sum};
use rayon::prelude::*;

/// Images, channels, positions of an image.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub n: usize,
    pub c: usize,
    pub plane: usize,
}

impl Shape {
    fn image(&self) -> usize {
        self.c * self.plane
    }

    /// Values of a channel.
    pub fn count(&self) -> usize {
        self.n * self.plane
    }

    fn plane<'a>(&self, image: &'a [f32], c: usize) -> &'a [f32] {
        &image[c * self.plane..][..self.plane]
    }
}

/// `scale · x + shift` by channel.
pub(super) fn scale_and_shift(s: &Shape, x: &[f32], scale: &[f32], shift: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    y.par_chunks_mut(s.image())
        .zip(x.par_chunks(s.image()))
        .for_each(|(y, x)| {
            host::vectorized(|| {
                for (c, y) in y.chunks_exact_mut(s.plane).enumerate() {
                    let (scale, shift) = (scale[c], shift[c]);
                    for (y, x) in y.iter_mut().zip(s.plane(x, c)) {
                        *y = scale * x + shift;
                    }
                }
            });
        });
    y
}

/// `Σ dy` and `Σ dy · (x − μ)` by channel.
pub(super) fn sums(s: &Shape, x: &[f32], dy: &[f32], mean: &[f32]) -> Vec<[f64; 2]> {
    let images = x.par_chunks(s.image()).zip(dy.par_chunks(s.image()));
    host::per_channel(images, s.c, |c, (x, dy)| {
        let (x, dy, mean) = (s.plane(x, c), s.plane(dy, c), mean[c]);
        let mut products = [0f32; 16];
        let (xs, x_rest) = x.as_chunks::<16>();
        let (dys, dy_rest) = dy.as_chunks::<16>();
        for (x, dy) in xs.iter().zip(dys) {
            for ((p, x), dy) in products.iter_mut().zip(x).zip(dy) {
                *p += (x - mean) * dy;
            }
        }
        let rest: f32 = x_rest
            .iter()
            .zip(dy_rest)
            .map(|(x, dy)| (x - mean) * dy)
            .sum();
        let products = products.iter().sum::<f32>() + rest;
        [f64::from(sum(dy)), f64::from(products)]
    })
}

/// `of_dy · dy + of_x · x + shift` by channel, in the place of `dy`.
pub(super) fn combine(s: &Shape, x: &[f32], dy: FlexTensor, factors: &[[f32; 3]]) -> FlexTensor {
    host::map_pieces(dy, s.image(), |i, dy| {
        let x = &x[i * s.image()..][..s.image()];
        host::vectorized(|| {
            for (c, dy) in dy.chunks_exact_mut(s.plane).enumerate() {
                let [of_dy, of_x, shift] = factors[c];
                for (d, x) in dy.iter_mut().zip(s.plane(x, c)) {
                    *d = of_dy * *d + of_x * x + shift;
                }
            }
        });
    })
}
