//! Any geometry: im2col and matrix products, an image at a time.
//!
//! With `col` the `[C_in · k · k, H' · W']` matrix whose column `p` holds the inputs that output
//! position `p` sees, the three passes of an image are
//!
//! ```text
//! y = W · col          dW += dy · colᵀ          dcol = Wᵀ · dy, summed back into dx
//! ```
//!
//! An image's `col` fits the second-level cache (590 kB for 16 channels of 32×32), which that of
//! a whole batch does not.

use lb_core::compensate::Sums;
use ndarray::linalg::general_mat_mul;
use ndarray::{ArrayView2, ArrayViewMut2};
use rayon::prelude::*;

use super::shape::Shape;
use super::{Backward, Forward};
use crate::conv2d::Geometry;

/// The convolution of these sizes by this weight.
pub struct Unrolled<'a> {
    pub shape: Shape,
    pub weight: &'a [f32],
    pub bias: Option<&'a [f32]>,
}

impl Unrolled<'_> {
    fn column_matrix(&self) -> Vec<f32> {
        vec![0.0; self.shape.taps() * self.shape.positions()]
    }

    fn weight(&self) -> ArrayView2<'_, f32> {
        matrix(self.weight, self.shape.c_out, self.shape.taps())
    }
}

impl Forward for Unrolled<'_> {
    type Scratch = Vec<f32>;

    fn scratch(&self) -> Vec<f32> {
        self.column_matrix()
    }

    fn together(&self) -> usize {
        1
    }

    fn forward(&self, col: &mut Vec<f32>, x: &[f32], y: &mut [f32]) {
        let s = &self.shape;
        unroll(s, x, col);
        let keep = match self.bias {
            Some(bias) => {
                for (row, b) in y.chunks_exact_mut(s.positions()).zip(bias) {
                    row.fill(*b);
                }
                1.0
            }
            None => 0.0,
        };
        let col = matrix(col, s.taps(), s.positions());
        let mut y = matrix_mut(y, s.c_out, s.positions());
        general_mat_mul(1.0, &self.weight(), &col, keep, &mut y);
    }
}

impl Backward for Unrolled<'_> {
    type Scratch = Vec<f32>;

    fn scratch(&self) -> Vec<f32> {
        self.column_matrix()
    }

    fn weight_gradient(&self, col: &mut Vec<f32>, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let s = &self.shape;
        for (x, dy) in x.chunks(s.image()).zip(dy.chunks(s.out_image())) {
            unroll(s, x, col);
            let dy = matrix(dy, s.c_out, s.positions());
            let col = matrix(col, s.taps(), s.positions());
            let mut dw = matrix_mut(dw, s.c_out, s.taps());
            general_mat_mul(1.0, &dy, &col.t(), 1.0, &mut dw);
        }
    }

    fn input_gradient(&self, dcol: &mut Vec<f32>, dy: &[f32], dx: &mut [f32]) {
        let s = &self.shape;
        for (dx, dy) in dx.chunks_mut(s.image()).zip(dy.chunks(s.out_image())) {
            let dy = matrix(dy, s.c_out, s.positions());
            let mut d = matrix_mut(dcol, s.taps(), s.positions());
            general_mat_mul(1.0, &self.weight().t(), &dy, 0.0, &mut d);
            roll_up(s, dcol, dx);
        }
    }
}

/// Sums over all positions of what the output positions see and of `y`, `[N, C_out, H', W']`.
pub fn sums(s: &Shape, x: &[f32], y: &[f32]) -> Sums {
    let (k, c, p) = (s.taps(), s.c_out, s.positions());
    let group = s.n.div_ceil(super::GROUPS).max(1);
    let parts: Vec<[Vec<f32>; 4]> = x
        .par_chunks(group * s.image())
        .zip(y.par_chunks(group * s.out_image()))
        .map(|(x, y)| {
            let mut col = vec![0.0; k * p];
            let mut part = [k * k, c * k, k, c].map(|n| vec![0.0; n]);
            let [xx, yx, x_sum, y_sum] = &mut part;
            for (x, y) in x.chunks(s.image()).zip(y.chunks(s.out_image())) {
                unroll(s, x, &mut col);
                let (a, b) = (matrix(&col, k, p), matrix(y, c, p));
                general_mat_mul(1.0, &a, &a.t(), 1.0, &mut matrix_mut(xx, k, k));
                general_mat_mul(1.0, &b, &a.t(), 1.0, &mut matrix_mut(yx, c, k));
                for (sums, rows) in [(&mut *x_sum, &col[..]), (&mut *y_sum, y)] {
                    for (sum, row) in sums.iter_mut().zip(rows.chunks_exact(p)) {
                        *sum += lb_core::host::sum(row);
                    }
                }
            }
            part
        })
        .collect();
    let mut total = [k * k, c * k, k, c].map(|n| vec![0.0; n]);
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            *total = super::added(std::mem::take(total), part);
        }
    }
    let [xx, yx, x, y] = total;
    let count = s.n * p;
    Sums {
        count,
        xx,
        yx,
        x,
        y,
    }
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
