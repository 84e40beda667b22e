//! The CPU's single pass, forward and backward.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{Drop, StepRange, hash};
use crate::host::{self, FlexTensor, OnHost};

/// Values a piece of work. Fixed, so that sums have the same order on every number of threads.
const CHUNK: usize = 1 << 14;

pub(super) fn fake_quantize<const D: usize>(
    x: &Tensor<D>,
    step: &Tensor<1>,
    range: StepRange,
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
    fn new(x: FlexTensor, step: &FlexTensor, range: StepRange, drop: Option<Drop>) -> Self {
        let x = x.to_contiguous();
        Self {
            shape: x.layout().shape().to_vec(),
            x,
            step: host::values(&step.to_contiguous())[0],
            range,
            drop: drop.map(|d| (d.key(), d.threshold())),
        }
    }

    fn dropped(&self, i: usize) -> bool {
        match self.drop {
            Some((key, threshold)) => hash(i as u32, key) < threshold,
            None => false,
        }
    }

    /// `x` after the nonlinearity.
    fn active(&self, x: f32) -> f32 {
        match self.range.relu {
            true => x.max(0.0),
            false => x,
        }
    }

    fn forward(&self) -> FlexTensor {
        let x = host::values(&self.x);
        let mut y = vec![0.0; x.len()];
        let StepRange { lo, hi, .. } = self.range;
        let inverse = self.step.recip();
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(chunk, (y, x))| {
                for (i, (y, &x)) in y.iter_mut().zip(x).enumerate() {
                    let quantized = host::round((x * inverse).clamp(lo, hi)) * self.step;
                    *y = match self.dropped(chunk * CHUNK + i) {
                        true => self.active(x),
                        false => quantized,
                    };
                }
            });
        host::tensor(y, &self.shape)
    }

    /// Gradients of `x` and of the step.
    fn backward(&self, dy: &[f32]) -> (Vec<f32>, f32) {
        let x = host::values(&self.x);
        let mut dx = vec![0.0; x.len()];
        let StepRange { lo, hi, .. } = self.range;
        let inverse = self.step.recip();
        let partial: Vec<f64> = dx
            .par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK).zip(dy.par_chunks(CHUNK)))
            .enumerate()
            .map(|(chunk, (dx, (x, dy)))| {
                let mut sum = 0f32;
                for (i, (dx, (&x, &dy))) in dx.iter_mut().zip(x.iter().zip(dy)).enumerate() {
                    let v = x * inverse;
                    let clipped = v.clamp(lo, hi);
                    // Inside: k − x/s. Outside: the bound itself, which k is.
                    let inside = v == clipped;
                    let slope = host::round(clipped) - if inside { v } else { 0.0 };
                    let dropped = self.dropped(chunk * CHUNK + i);
                    let passes = match dropped {
                        true => !self.range.relu || x > 0.0,
                        // At a ReLU's floor the gradient is that of the ReLU.
                        false => inside && (!self.range.relu || x > 0.0),
                    };
                    *dx = if passes { dy } else { 0.0 };
                    sum += if dropped { 0.0 } else { slope * dy };
                }
                f64::from(sum)
            })
            .collect();
        (dx, partial.into_iter().sum::<f64>() as f32)
    }
}

#[derive(Debug)]
struct LearnedStep;

impl Backward<Flex, 2> for LearnedStep {
    type State = Op;

    fn backward(self, ops: Ops<Op, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (dx, ds) = ops.state.backward(host::values(&dy));
        let [x, step] = ops.parents;
        if let Some(node) = x {
            grads.register::<Flex>(node.id, host::tensor(dx, &ops.state.shape));
        }
        if let Some(node) = step {
            grads.register::<Flex>(node.id, host::tensor(vec![ds], &[1]));
        }
    }
}
