//! The CPU's single pass, forward and backward.

use std::sync::atomic::{AtomicU64, Ordering};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;

use super::{Drop, StepRange, hash};
use crate::host::{self, FlexTensor, OnHost};

/// Values a piece of work. Fixed, so that sums have the same order on every number of threads.
const CHUNK: usize = 1 << 14;

/// Partial sums of a piece.
const LANES: usize = 16;

pub(super) fn fake_quantize<const D: usize>(
    x: &Tensor<D>,
    step: &Tensor<1>,
    range: &StepRange,
    drop: Option<Drop>,
) -> Option<Tensor<D>> {
    match (host::on_host(x)?, host::on_host(step)?) {
        (OnHost::Plain(x), OnHost::Plain(step)) => {
            let op = Op::new(x, &step, range, drop);
            Some(Tensor::from_primitive::<Flex>(op.forward()))
        }
        (OnHost::Tracked(x), OnHost::Tracked(step)) => {
            let (x, x_node) = x.into_parts();
            let (step, step_node) = step.into_parts();
            let op = Op::new(x, &step, range, drop);
            let y = op.forward();
            let prepared = LearnedStep.prepare::<NoCheckpointing>([x_node, step_node]);
            let y = match prepared.compute_bound().stateful() {
                OpsKind::Tracked(prepared) => prepared.finish(op, y),
                OpsKind::UnTracked(prepared) => prepared.finish(y),
            };
            Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
        }
        _ => None,
    }
}

/// One application, with what its backward pass needs.
#[derive(Clone, Debug)]
struct Op {
    x: FlexTensor,
    shape: Vec<usize>,
    step: f32,
    range: StepRange,
    /// Key and threshold.
    drop: Option<(u32, u32)>,
}

impl Op {
    fn new(x: FlexTensor, step: &FlexTensor, range: &StepRange, drop: Option<Drop>) -> Self {
        let x = x.to_contiguous();
        Self {
            shape: x.layout().shape().to_vec(),
            x,
            step: host::values(&step.to_contiguous())[0],
            range: range.clone(),
            drop: drop.map(|d| (d.key(), d.threshold())),
        }
    }

    /// `x` after the nonlinearity.
    #[inline(always)]
    fn active(&self, x: f32) -> f32 {
        match self.range.relu {
            true => x.max(0.0),
            false => x,
        }
    }

    fn forward(&self) -> FlexTensor {
        let x = host::values(&self.x);
        let of_chunk = |_: &mut (), i: usize, y: &mut [f32]| {
            let x = &x[i * CHUNK..][..y.len()];
            host::vectorized(
                #[inline(always)]
                || match self.drop {
                    None => self.forward_chunk(x, y, |_| false),
                    Some(drop) => self.forward_chunk(x, y, dropped_from(i * CHUNK, drop)),
                },
            );
        };
        let (y, _) = host::filled(x.len(), CHUNK, || (), of_chunk);
        host::tensor(y, &self.shape)
    }

    /// `dropped(i)`: whether value i of the chunk passes unquantized.
    #[inline(always)]
    fn forward_chunk(&self, x: &[f32], y: &mut [f32], dropped: impl Fn(usize) -> bool) {
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (y, y_rest) = y.as_chunks_mut::<LANES>();
        let whole = x.len() * LANES;
        for (block, (y, x)) in y.iter_mut().zip(x).enumerate() {
            self.values(x, y, |i| dropped(block * LANES + i));
        }
        for (rest, (y, x)) in y_rest.iter_mut().zip(x_rest).enumerate() {
            let y = std::array::from_mut(y);
            self.values(&[*x], y, |_| dropped(whole + rest));
        }
    }

    #[inline(always)]
    fn values<const N: usize>(
        &self,
        x: &[f32; N],
        y: &mut [f32; N],
        dropped: impl Fn(usize) -> bool,
    ) {
        let inverse = self.step.recip();
        let codes = self.codes(x.map(|x| self.clipped(x * inverse)));
        for i in 0..N {
            y[i] = match dropped(i) {
                true => self.active(x[i]),
                false => codes[i] * self.step,
            };
        }
    }

    #[inline(always)]
    fn clipped(&self, steps: f32) -> f32 {
        host::clamp(steps, self.range.lo, self.range.hi)
    }

    /// Codes less the zero point, or levels, of steps in range.
    #[inline(always)]
    fn codes<const N: usize>(&self, steps: [f32; N]) -> [f32; N] {
        let whole = steps.map(host::round);
        match &self.range.climb {
            None => whole,
            Some(climb) => climb.levels(whole),
        }
    }

    /// Gradients of `x`, in the place of `dy`, and of the step.
    fn backward(&self, dy: FlexTensor) -> (FlexTensor, f32) {
        let x = host::values(&self.x);
        let pieces = x.len().div_ceil(CHUNK);
        let partial: Vec<AtomicU64> = (0..pieces).map(|_| AtomicU64::new(0)).collect();
        let dx = host::map_pieces(dy, CHUNK, |i, d| {
            let x = &x[i * CHUNK..][..d.len()];
            let sum = host::vectorized(
                #[inline(always)]
                || match self.drop {
                    None => self.backward_chunk(x, d, |_| false),
                    Some(drop) => self.backward_chunk(x, d, dropped_from(i * CHUNK, drop)),
                },
            );
            partial[i].store(sum.to_bits(), Ordering::Relaxed);
        });
        let partial = partial
            .iter()
            .map(|p| f64::from_bits(p.load(Ordering::Relaxed)));
        (dx, partial.sum::<f64>() as f32)
    }

    /// The same of a chunk, `d` being `dy` before and `dx` after; the step's gradient in [`LANES`]
    /// sums, as vector instructions take them.
    #[inline(always)]
    fn backward_chunk(&self, x: &[f32], d: &mut [f32], dropped: impl Fn(usize) -> bool) -> f64 {
        let mut sums = [0f32; LANES];
        let (x, x_rest) = x.as_chunks::<LANES>();
        let (d, d_rest) = d.as_chunks_mut::<LANES>();
        let whole = x.len() * LANES;
        for (block, (d, x)) in d.iter_mut().zip(x).enumerate() {
            self.gradients(x, d, &mut sums, |i| dropped(block * LANES + i));
        }
        for (rest, (d, x)) in d_rest.iter_mut().zip(x_rest).enumerate() {
            let d = std::array::from_mut(d);
            self.gradients(&[*x], d, &mut sums, |_| dropped(whole + rest));
        }
        f64::from(sums.iter().sum::<f32>())
    }

    #[inline(always)]
    fn gradients<const N: usize>(
        &self,
        x: &[f32; N],
        d: &mut [f32; N],
        sums: &mut [f32; LANES],
        dropped: impl Fn(usize) -> bool,
    ) {
        let (relu, inverse) = (self.range.relu, self.step.recip());
        let steps = x.map(|x| x * inverse);
        let clipped = steps.map(|v| self.clipped(v));
        let codes = self.codes(clipped);
        for i in 0..N {
            let (x, dy) = (x[i], d[i]);
            // Inside: k − x/s. Outside: the bound itself, which k is.
            let inside = steps[i] == clipped[i];
            let slope = codes[i] - if inside { steps[i] } else { 0.0 };
            let dropped = dropped(i);
            // At a ReLU's floor the gradient is that of the ReLU.
            let passes = (dropped | inside) & (!relu | (x > 0.0));
            d[i] = if passes { dy } else { 0.0 };
            sums[i] += if dropped { 0.0 } else { slope * dy };
        }
    }
}

/// Whether value i of those from `start` on passes unquantized, by key and threshold.
#[inline(always)]
fn dropped_from(start: usize, (key, threshold): (u32, u32)) -> impl Fn(usize) -> bool {
    move |i| hash((start + i) as u32, key) < threshold
}

#[derive(Debug)]
struct LearnedStep;

impl Backward<Flex, 2> for LearnedStep {
    type State = Op;

    fn backward(self, ops: Ops<Op, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let (dx, ds) = ops.state.backward(dy);
        let [x, step] = ops.parents;
        if let Some(node) = x {
            grads.register::<Flex>(node.id, dx);
        }
        if let Some(node) = step {
            grads.register::<Flex>(node.id, host::tensor(vec![ds], &[1]));
        }
    }
}
