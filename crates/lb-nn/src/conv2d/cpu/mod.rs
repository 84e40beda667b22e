//! Convolution on slices: images in parallel, by the algorithm that suits the geometry.

#[cfg(target_arch = "x86_64")]
mod bf16;
mod product;
mod shape;
mod strided;
mod unrolled;
mod winograd;

use std::ops::Range;

use lb_core::host;
use rayon::prelude::*;

use super::Order;
pub(crate) use shape::Shape;
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
    forward_seen(s, order, x, weight, bias, |_| ()).0
}

/// The same, and `see(outputs of some images)` of all, in their order, called while they are in the cache.
pub(crate) fn forward_seen<R: Send>(
    s: &Shape,
    order: Order,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    see: impl Fn(&[f32]) -> R + Send + Sync,
) -> (Vec<f32>, Vec<R>) {
    #[cfg(target_arch = "x86_64")]
    if order == Order::AnyBf16
        && let Some(token) = bf16::fits(s)
    {
        let algorithm = bf16::Bf16Forward::new(token, s, weight, bias);
        return run_forward(s, &algorithm, x, see);
    }
    if order != Order::InTurn && winograd::fits(s) {
        run_forward(s, &WinogradForward::new(s, weight, bias), x, see)
    } else if order != Order::InTurn && strided::fits(s) {
        run_forward(s, &StridedForward::new(s, weight, bias), x, see)
    } else {
        let shape = *s;
        let unrolled = Unrolled {
            shape,
            weight,
            bias,
        };
        run_forward(s, &unrolled, x, see)
    }
}

fn run_forward<F: Forward, R: Send>(
    s: &Shape,
    algorithm: &F,
    x: &[f32],
    see: impl Fn(&[f32]) -> R + Send + Sync,
) -> (Vec<f32>, Vec<R>) {
    let together = algorithm.together();
    let compute = |scratch: &mut F::Scratch, i: usize, y: &mut [f32]| {
        let images = y.len() / s.out_image();
        let x = &x[i * together * s.image()..][..images * s.image()];
        algorithm.forward(scratch, x, y);
        see(y)
    };
    let (len, size) = (s.n * s.out_image(), together * s.out_image());
    host::filled(len, size, || algorithm.scratch(), compute)
}

/// The gradient of outputs.
pub(crate) trait OutputGradient: Sync {
    /// That of some images, from memory or computed into `buffer`.
    fn of<'a>(&'a self, images: Range<usize>, buffer: &'a mut Vec<f32>) -> &'a [f32];
}

/// One in memory, `[N, C_out, H', W']`.
pub(crate) struct Stored<'a> {
    pub shape: &'a Shape,
    pub dy: &'a [f32],
}

impl OutputGradient for Stored<'_> {
    fn of<'a>(&'a self, images: Range<usize>, _: &'a mut Vec<f32>) -> &'a [f32] {
        let image = self.shape.out_image();
        &self.dy[images.start * image..images.end * image]
    }
}

/// Which gradients somebody waits for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub x: bool,
    pub weight: bool,
    pub bias: bool,
}

/// Those that were wanted, each in the shape of its tensor.
pub(crate) struct Gradients {
    pub x: Option<Vec<f32>>,
    pub weight: Option<Vec<f32>>,
    pub bias: Option<Vec<f32>>,
}

/// From the gradient of the output.
pub(crate) fn backward(
    s: &Shape,
    order: Order,
    x: &[f32],
    weight: &[f32],
    dy: &impl OutputGradient,
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
    dy: &impl OutputGradient,
    wanted: Wanted,
) -> Gradients {
    let group = s.n.div_ceil(GROUPS).max(LEAST);
    let scratch = || (algorithm.scratch(), Vec::new());
    let of_group =
        |(scratch, buffer): &mut (B::Scratch, Vec<f32>), i: usize, dx: Option<&mut [f32]>| {
            let images = i * group..s.n.min((i + 1) * group);
            let x = &x[images.start * s.image()..images.end * s.image()];
            let dy = dy.of(images, buffer);
            let mut dw = Vec::new();
            if wanted.weight {
                dw.resize(s.c_out * s.taps(), 0.0);
                algorithm.weight_gradient(scratch, x, dy, &mut dw);
            }
            if let Some(dx) = dx {
                algorithm.input_gradient(scratch, dy, dx);
            }
            let db = wanted.bias.then(|| bias_gradient(s, dy));
            (dw, db.unwrap_or_default())
        };
    let (dx, partial) = if wanted.x {
        let f = |scratch: &mut _, i, dx: &mut [f32]| of_group(scratch, i, Some(dx));
        let (dx, partial) = host::filled(s.n * s.image(), group * s.image(), scratch, f);
        (Some(dx), partial)
    } else {
        let groups = (0..s.n.div_ceil(group)).into_par_iter();
        let f = |scratch: &mut _, i| of_group(scratch, i, None);
        (None, groups.map_init(scratch, f).collect())
    };
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
            *sum += f64::from(host::sum(row));
        }
    }
    sum
}
