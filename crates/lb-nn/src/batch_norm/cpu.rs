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
    fn count(&self) -> f64 {
        (self.n * self.plane) as f64
    }

    /// `f(channel, plane of an image)` of all, added up over the images in their order.
    fn per_channel<T: Send>(
        &self,
        images: impl IndexedParallelIterator<Item = T>,
        f: impl Fn(usize, &T) -> [f64; 2] + Sync,
    ) -> Vec<[f64; 2]> {
        let sums: Vec<Vec<[f64; 2]>> = images
            .map(|image| host::vectorized(|| (0..self.c).map(|c| f(c, &image)).collect()))
            .collect();
        let mut total = vec![[0.0; 2]; self.c];
        for image in sums {
            for (total, [a, b]) in total.iter_mut().zip(image) {
                total[0] += a;
                total[1] += b;
            }
        }
        total
    }

    fn plane<'a>(&self, image: &'a [f32], c: usize) -> &'a [f32] {
        &image[c * self.plane..][..self.plane]
    }
}

/// Mean and biased variance of every channel.
///
/// Each plane's own mean is taken off before squaring, and planes are joined in `f64`, so that a
/// large mean costs no digits.
pub(super) fn statistics(s: &Shape, x: &[f32]) -> Vec<[f64; 2]> {
    let count = s.plane as f64;
    let moments = |c: usize, image: &&[f32]| {
        let plane = s.plane(image, c);
        let mean = sum(plane) / s.plane as f32;
        let mut squares = [0f32; 16];
        let (chunks, rest) = plane.as_chunks::<16>();
        for chunk in chunks {
            for (s, x) in squares.iter_mut().zip(chunk) {
                *s += (x - mean) * (x - mean);
            }
        }
        let rest: f32 = rest.iter().map(|x| (x - mean) * (x - mean)).sum();
        let squares = f64::from(squares.iter().sum::<f32>() + rest);
        let mean = f64::from(mean);
        [mean * count, squares + mean * mean * count]
    };
    s.per_channel(x.par_chunks(s.image()), moments)
        .into_iter()
        .map(|[total, squares]| {
            let mean = total / s.count();
            [mean, (squares / s.count() - mean * mean).max(0.0)]
        })
        .collect()
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
    s.per_channel(images, |c, (x, dy)| {
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
