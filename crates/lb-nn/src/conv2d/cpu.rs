//! Convolution on slices: im2col and matrix products, an image at a time.
//!
//! With `col` the `[C_in · k · k, H' · W']` matrix whose column `p` holds the inputs that output
//! position `p` sees, the three passes of an image are
//!
//! ```text
//! y = W · col          dW += dy · colᵀ          dcol = Wᵀ · dy, summed back into dx
//! ```
//!
//! An image's `col` fits the second-level cache (590 kB for 16 channels of 32×32), which that of
//! a whole batch does not; images run in parallel.

use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

use super::Geometry;

/// Images that are summed into one partial weight gradient. Fixed, so that the order of the sum,
/// and with it the last bit, does not depend on the number of threads.
const GROUPS: usize = 8;

/// All sizes of one convolution.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    n: usize,
    c_in: usize,
    h: usize,
    w: usize,
    c_out: usize,
    k: usize,
    h_out: usize,
    w_out: usize,
    geometry: Geometry,
}

impl Shape {
    /// # Panics
    /// If the shapes do not fit.
    pub(super) fn new(x: [usize; 4], weight: [usize; 4], geometry: Geometry) -> Self {
        let [n, c_in, h, w] = x;
        let [c_out, inputs, k, k_w] = weight;
        assert!(
            inputs == c_in && k == k_w,
            "a convolution {weight:?} of {x:?}: the kernel is square and has {c_in} input channels"
        );
        let out = |size: usize| {
            let padded = size + 2 * geometry.padding;
            assert!(
                padded >= k,
                "a kernel of {k} is larger than the image {x:?}"
            );
            (padded - k) / geometry.stride + 1
        };
        Self {
            n,
            c_in,
            h,
            w,
            c_out,
            k,
            h_out: out(h),
            w_out: out(w),
            geometry,
        }
    }

    pub(super) fn output(&self) -> [usize; 4] {
        [self.n, self.c_out, self.h_out, self.w_out]
    }

    pub(super) fn input(&self) -> [usize; 4] {
        [self.n, self.c_in, self.h, self.w]
    }

    pub(super) fn weight(&self) -> [usize; 4] {
        [self.c_out, self.c_in, self.k, self.k]
    }

    pub(super) fn bias(&self) -> [usize; 1] {
        [self.c_out]
    }

    /// Values of an input image.
    fn image(&self) -> usize {
        self.c_in * self.h * self.w
    }

    fn positions(&self) -> usize {
        self.h_out * self.w_out
    }

    /// Inputs that one output sees.
    fn taps(&self) -> usize {
        self.c_in * self.k * self.k
    }

    /// Values of an output image.
    fn out_image(&self) -> usize {
        self.c_out * self.positions()
    }
}

/// `[N, C_out, H', W']`
pub(super) fn forward(s: &Shape, x: &[f32], weight: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let mut y = vec![0.0; s.n * s.out_image()];
    y.par_chunks_mut(s.out_image())
        .zip(x.par_chunks(s.image()))
        .for_each_init(
            || vec![0.0; s.taps() * s.positions()],
            |col, (y, x)| {
                unroll(s, x, col);
                let keep = match bias {
                    Some(bias) => {
                        for (row, b) in y.chunks_exact_mut(s.positions()).zip(bias) {
                            row.fill(*b);
                        }
                        1.0
                    }
                    None => 0.0,
                };
                let weight = matrix(weight, s.c_out, s.taps());
                let col = matrix(col, s.taps(), s.positions());
                general_mat_mul(
                    1.0,
                    &weight,
                    &col,
                    keep,
                    &mut matrix_mut(y, s.c_out, s.positions()),
                );
            },
        );
    y
}

/// The gradient of the input, `[N, C_in, H, W]`, from that of the output.
pub(super) fn input_gradient(s: &Shape, weight: &[f32], dy: &[f32]) -> Vec<f32> {
    let mut dx = vec![0.0; s.n * s.image()];
    dx.par_chunks_mut(s.image())
        .zip(dy.par_chunks(s.out_image()))
        .for_each_init(
            || vec![0.0; s.taps() * s.positions()],
            |dcol, (dx, dy)| {
                let weight = matrix(weight, s.c_out, s.taps());
                let dy = matrix(dy, s.c_out, s.positions());
                general_mat_mul(
                    1.0,
                    &weight.t(),
                    &dy,
                    0.0,
                    &mut matrix_mut(dcol, s.taps(), s.positions()),
                );
                roll_up(s, dcol, dx);
            },
        );
    dx
}

/// The gradient of the weight, `[C_out, C_in, k, k]`, from that of the output.
pub(super) fn weight_gradient(s: &Shape, x: &[f32], dy: &[f32]) -> Vec<f32> {
    let group = s.n.div_ceil(GROUPS).max(1);
    let partial: Vec<Vec<f32>> = x
        .par_chunks(group * s.image())
        .zip(dy.par_chunks(group * s.out_image()))
        .map(|(x, dy)| {
            let mut col = vec![0.0; s.taps() * s.positions()];
            let mut dw = vec![0.0; s.c_out * s.taps()];
            for (x, dy) in x.chunks(s.image()).zip(dy.chunks(s.out_image())) {
                unroll(s, x, &mut col);
                let dy = matrix(dy, s.c_out, s.positions());
                let col = matrix(&col, s.taps(), s.positions());
                general_mat_mul(
                    1.0,
                    &dy,
                    &col.t(),
                    1.0,
                    &mut matrix_mut(&mut dw, s.c_out, s.taps()),
                );
            }
            dw
        })
        .collect();
    let mut sum = vec![0.0; s.c_out * s.taps()];
    for dw in partial {
        for (sum, d) in sum.iter_mut().zip(dw) {
            *sum += d;
        }
    }
    sum
}

/// The gradient of the bias, `[C_out]`: the output's, summed over images and positions.
pub(super) fn bias_gradient(s: &Shape, dy: &[f32]) -> Vec<f32> {
    let mut sum = vec![0f64; s.c_out];
    for image in dy.chunks(s.out_image()) {
        for (sum, row) in sum.iter_mut().zip(image.chunks_exact(s.positions())) {
            *sum += f64::from(row.iter().sum::<f32>());
        }
    }
    sum.into_iter().map(|d| d as f32).collect()
}

fn matrix(values: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, columns), values).expect("the sizes are those of the shape")
}

fn matrix_mut(values: &mut [f32], rows: usize, columns: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, columns), values).expect("the sizes are those of the shape")
}

/// The output positions `from..to` along one axis that tap `t` reaches inside the image.
fn inside(t: usize, size: usize, out: usize, g: Geometry) -> (usize, usize) {
    // Input position: stride · p + t − padding, which must be in 0..size.
    let from = g.padding.saturating_sub(t).div_ceil(g.stride);
    let to = (size + g.padding)
        .saturating_sub(t)
        .div_ceil(g.stride)
        .min(out);
    (from.min(to), to)
}

/// Calls `f(start of the row in col, what of it lies inside the image)` for every row of outputs
/// of every tap.
fn rows(s: &Shape, mut f: impl FnMut(usize, Option<Stretch>)) {
    let g = s.geometry;
    let mut at = 0;
    for c in 0..s.c_in {
        for ky in 0..s.k {
            let (top, bottom) = inside(ky, s.h, s.h_out, g);
            for kx in 0..s.k {
                let (from, to) = inside(kx, s.w, s.w_out, g);
                for oy in 0..s.h_out {
                    let stretch = (oy >= top && oy < bottom && from < to).then(|| Stretch {
                        from,
                        to,
                        start: (c * s.h + oy * g.stride + ky - g.padding) * s.w
                            + (from * g.stride + kx - g.padding),
                    });
                    f(at, stretch);
                    at += s.w_out;
                }
            }
        }
    }
}

/// Output columns `from..to` of a row, and where in the image the first one looks.
struct Stretch {
    from: usize,
    to: usize,
    start: usize,
}

fn unroll(s: &Shape, x: &[f32], col: &mut [f32]) {
    let stride = s.geometry.stride;
    rows(s, |at, stretch| {
        let row = &mut col[at..at + s.w_out];
        let Some(Stretch { from, to, start }) = stretch else {
            return row.fill(0.0);
        };
        row[..from].fill(0.0);
        row[to..].fill(0.0);
        if stride == 1 {
            row[from..to].copy_from_slice(&x[start..start + to - from]);
        } else {
            for (value, x) in row[from..to]
                .iter_mut()
                .zip(x[start..].iter().step_by(stride))
            {
                *value = *x;
            }
        }
    });
}

/// The transpose of [`unroll`]: every value is added to the input that it was a copy of.
fn roll_up(s: &Shape, dcol: &[f32], dx: &mut [f32]) {
    let stride = s.geometry.stride;
    rows(s, |at, stretch| {
        let Some(Stretch { from, to, start }) = stretch else {
            return;
        };
        let row = &dcol[at + from..at + to];
        if stride == 1 {
            for (dx, d) in dx[start..start + row.len()].iter_mut().zip(row) {
                *dx += d;
            }
        } else {
            for (dx, d) in dx[start..].iter_mut().step_by(stride).zip(row) {
                *dx += d;
            }
        }
    });
}
