//! Convolution on slices: images in parallel, by the algorithm that suits the geometry.

#[cfg(target_arch = "x86_64")]
mod bf16;
mod product;
mod shape;
mod strided;
mod unrolled;
mod winograd;

use rayon::prelude::*;

use super::Order;
pub(super) use shape::Shape;
use strided::{StridedBackward, StridedForward};
use unrolled::Unrolled;
pub(super) use unrolled::sums;
use winograd::{WinogradBackward, WinogradForward};

/// Most partial weight gradients, each summed over some of the images. Fixed, so that the order of
/// the sum, and with it the last bit, does not depend on the number of threads.
const GROUPS: usize = 8;
/// Least images of one.
const LEAST: usize = 8;

/// Values that the images a thread computes on may take, so that they stay in a core's second-level
/// cache.
const SCRATCH: usize = 1 << 16;

/// Computes outputs.
trait Forward: Sync {
    /// What a thread needs.
    type Scratch;
    fn scratch(&self) -> Self::Scratch;
    /// Images that are best computed on at once.
    fn together(&self) -> usize;
    /// Of so many images or fewer, `[N, C_out, H', W']` from `[N, C_in, H, W]`.
    fn forward(&self, scratch: &mut Self::Scratch, x: &[f32], y: &mut [f32]);
}

/// Computes gradients.
trait Backward: Sync {
    /// What a thread needs.
    type Scratch;
    fn scratch(&self) -> Self::Scratch;
    /// Adds to the gradient of the weight that of some images.
    fn weight_gradient(&self, scratch: &mut Self::Scratch, x: &[f32], dy: &[f32], dw: &mut [f32]);
    /// The gradient of some images; `dx` is zero before. Follows
    /// [`weight_gradient`](Self::weight_gradient) of the same images, if that is wanted.
    fn input_gradient(&self, scratch: &mut Self::Scratch, dy: &[f32], dx: &mut [f32]);
}

/// `[N, C_out, H', W']`
pub(super) fn forward(
    s: &Shape,
    order: Order,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if order == Order::AnyBf16
        && let Some(token) = bf16::fits(s)
    {
        return run_forward(s, &bf16::Bf16Forward::new(token, s, weight, bias), x);
    }
    if order != Order::InTurn && winograd::fits(s) {
        run_forward(s, &WinogradForward::new(s, weight, bias), x)
    } else if order != Order::InTurn && strided::fits(s) {
        run_forward(s, &StridedForward::new(s, weight, bias), x)
    } else {
        let shape = *s;
        let unrolled = Unrolled {
            shape,
            weight,
            bias,
        };
        run_forward(s, &unrolled, x)
    }
}

fn run_forward<F: Forward>(s: &Shape, algorithm: &F, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; s.n * s.out_image()];
    let together = algorithm.together();
    y.par_chunks_mut(together * s.out_image())
        .zip(x.par_chunks(together * s.image()))
        .for_each_init(
            || algorithm.scratch(),
            |scratch, (y, x)| algorithm.forward(scratch, x, y),
        );
    y
}

/// Which gradients somebody waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub x: bool,
    pub weight: bool,
    pub bias: bool,
}

/// Those that were wanted, each in the shape of its tensor.
pub(super) struct Gradients {
    pub x: Option<Vec<f32>>,
    pub weight: Option<Vec<f32>>,
    pub bias: Option<Vec<f32>>,
}

/// From the gradient of the output.
pub(super) fn backward(
    s: &Shape,
    order: Order,
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    wanted: Wanted,
) -> Gradients {
    #[cfg(target_arch = "x86_64")]
    if order == Order::AnyBf16
        && let Some(token) = bf16::fits_backward(s, wanted)
    {
        let algorithm = bf16::Bf16Backward::new(token, s, weight, wanted);
        return run_backward(s, &algorithm, x, dy, wanted);
    }
    let _ = order;
    if winograd::fits(s) {
        run_backward(s, &WinogradBackward::new(s, weight), x, dy, wanted)
    } else if strided::fits(s) {
        run_backward(s, &StridedBackward::new(s, weight), x, dy, wanted)
    } else {
        let (shape, bias) = (*s, None);
        let unrolled = Unrolled {
            shape,
            weight,
            bias,
        };
        run_backward(s, &unrolled, x, dy, wanted)
    }
}

fn run_backward<B: Backward>(
    s: &Shape,
    algorithm: &B,
    x: &[f32],
    dy: &[f32],
    wanted: Wanted,
) -> Gradients {
    let group = s.n.div_ceil(GROUPS).max(LEAST);
    let mut dx = wanted.x.then(|| vec![0.0; s.n * s.image()]);
    let dx_groups: Vec<Option<&mut [f32]>> = match &mut dx {
        Some(dx) => dx.chunks_mut(group * s.image()).map(Some).collect(),
        None => (0..s.n.div_ceil(group)).map(|_| None).collect(),
    };
    let partial: Vec<(Vec<f32>, Vec<f64>)> = dx_groups
        .into_par_iter()
        .zip(x.par_chunks(group * s.image()))
        .zip(dy.par_chunks(group * s.out_image()))
        .map_init(
            || algorithm.scratch(),
            |scratch, ((dx, x), dy)| {
                let mut dw = Vec::new();
                if wanted.weight {
                    dw.resize(s.c_out * s.taps(), 0.0);
                    algorithm.weight_gradient(scratch, x, dy, &mut dw);
                }
                if let Some(dx) = dx {
                    algorithm.input_gradient(scratch, dy, dx);
                }
                (
                    dw,
                    if wanted.bias {
                        bias_gradient(s, dy)
                    } else {
                        Vec::new()
                    },
                )
            },
        )
        .collect();
    let (dw, db): (Vec<_>, Vec<_>) = partial.into_iter().unzip();
    let total = |parts: Vec<Vec<f32>>| parts.into_iter().reduce(added);
    Gradients {
        x: dx,
        weight: wanted.weight.then(|| total(dw)).flatten(),
        bias: wanted.bias.then(|| {
            let sum = db.into_iter().reduce(added).unwrap_or_default();
            sum.into_iter().map(|d| d as f32).collect()
        }),
    }
}

fn added<T: std::ops::AddAssign>(mut a: Vec<T>, b: Vec<T>) -> Vec<T> {
    for (a, b) in a.iter_mut().zip(b) {
        *a += b;
    }
    a
}

/// The output's gradient summed over images and positions, `[C_out]`.
fn bias_gradient(s: &Shape, dy: &[f32]) -> Vec<f64> {
    let mut sum = vec![0.0; s.c_out];
    for image in dy.chunks(s.out_image()) {
        for (sum, row) in sum.iter_mut().zip(image.chunks_exact(s.positions())) {
            *sum += f64::from(lb_core::host::sum(row));
        }
    }
    sum
}
