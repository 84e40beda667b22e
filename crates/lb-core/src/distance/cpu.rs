//! The CPU's single pass, forward and backward.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use rayon::prelude::*;

use crate::host::{self, FlexTensor, OnHost};

/// Values a piece of work. Fixed, so that sums have the same order on every number of threads.
const CHUNK: usize = 1 << 14;

/// Partial sums of a piece.
const LANES: usize = 16;

pub(super) fn squared<const D: usize>(x: &Tensor<D>, target: &Tensor<D>) -> Option<Tensor<1>> {
    assert_eq!(x.dims(), target.dims(), "a target of the same shape");
    let target = match host::on_host(target)? {
        OnHost::Plain(target) => target,
        OnHost::Tracked(target) => target.into_parts().0,
    }
    .to_contiguous();
    match host::on_host(x)? {
        OnHost::Plain(x) => {
            let sum = sum(&x.to_contiguous(), &target);
            Some(Tensor::from_primitive::<Flex>(sum))
        }
        OnHost::Tracked(x) => {
            let (x, node) = x.into_parts();
            let x = x.to_contiguous();
            let value = sum(&x, &target);
            let prepared = SquaredDistance.prepare::<NoCheckpointing>([node]);
            let value = match prepared.compute_bound().stateful() {
                OpsKind::Tracked(prepared) => prepared.finish((x, target), value),
                OpsKind::UnTracked(prepared) => prepared.finish(value),
            };
            Some(Tensor::from_primitive::<Autodiff<Flex>>(value))
        }
    }
}

pub(super) fn squared_norm<const D: usize>(x: &Tensor<D>) -> Option<Tensor<1>> {
    let OnHost::Plain(x) = host::on_host(x)? else {
        return None;
    };
    let x = x.to_contiguous();
    // The distance from zero: a piece's worth of zeros stays in the cache.
    let zeros = [0.0; CHUNK];
    let pieces = host::values(&x).par_chunks(CHUNK);
    let sum = total(pieces.map(|x| (x, &zeros[..x.len()])));
    Some(Tensor::from_primitive::<Flex>(sum))
}

fn sum(x: &FlexTensor, target: &FlexTensor) -> FlexTensor {
    let (x, target) = (host::values(x), host::values(target));
    total(x.par_chunks(CHUNK).zip(target.par_chunks(CHUNK)))
}

/// `Σ (x − target)²` over pieces of both.
fn total<'a>(pieces: impl IndexedParallelIterator<Item = (&'a [f32], &'a [f32])>) -> FlexTensor {
    let sums: Vec<f64> = pieces
        .map(|(x, target)| {
            let mut sums = [0f32; LANES];
            for (x, target) in x.chunks(LANES).zip(target.chunks(LANES)) {
                for ((sum, x), target) in sums.iter_mut().zip(x).zip(target) {
                    *sum += (x - target) * (x - target);
                }
            }
            f64::from(sums.iter().sum::<f32>())
        })
        .collect();
    host::tensor(vec![sums.into_iter().sum::<f64>() as f32], &[1])
}

#[derive(Debug)]
struct SquaredDistance;

impl Backward<Flex, 1> for SquaredDistance {
    /// `x` and its target.
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let scale = 2.0 * host::values(&grads.consume::<Flex>(&ops.node).to_contiguous())[0];
        let [Some(node)] = ops.parents else { return };
        let (x, target) = (host::values(&ops.state.0), host::values(&ops.state.1));
        let mut dx = vec![0.0; x.len()];
        dx.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK).zip(target.par_chunks(CHUNK)))
            .for_each(|(dx, (x, target))| {
                for (dx, (x, target)) in dx.iter_mut().zip(x.iter().zip(target)) {
                    *dx = scale * (x - target);
                }
            });
        let shape = ops.state.0.layout().shape().to_vec();
        grads.register::<Flex>(node.id, host::tensor(dx, &shape));
    }
}
