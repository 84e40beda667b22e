//! The CPU's batch normalization as a Burn operator with gradients.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use lb_core::host::{self, FlexTensor, OnHost, TrackedTensor};
use lb_core::moments::channel_sums;

use super::cpu::{self, Shape};
use super::group::{Member, whole};

pub(super) struct Normalized {
    pub y: Tensor<4>,
    pub mean: Tensor<1>,
    pub variance: Tensor<1>,
}

/// By the statistics of the batch that `x` is, or is a piece of; `None` if the tensors are not all on
/// the CPU with gradients.
pub(super) fn batch_norm(
    x: &Tensor<4>,
    gamma: &Tensor<1>,
    beta: &Tensor<1>,
    epsilon: f32,
) -> Option<Normalized> {
    let [n, c, h, w] = x.dims();
    assert_eq!(
        [gamma.dims(), beta.dims()],
        [[c]; 2],
        "a batch normalization of {c} channels"
    );
    let (x, x_node) = tracked(x)?.into_parts();
    let (gamma, gamma_node) = tracked(gamma)?.into_parts();
    let (beta, beta_node) = tracked(beta)?.into_parts();
    let x = x.to_contiguous();
    let shape = Shape { n, c, plane: h * w };
    let member = Member::current();
    let totals = channel_sums(host::values(&x), c, shape.plane);
    let (totals, count) = whole(member.as_ref(), totals, shape.count());
    let moments = totals.iter().map(|[total, squares]| {
        let mean = total / count;
        let variance = (squares / count - mean * mean).max(0.0);
        (mean as f32, variance as f32)
    });
    let (mean, variance): (Vec<f32>, Vec<f32>) = moments.unzip();
    let inverse: Vec<f32> = variance
        .iter()
        .map(|v| (v + epsilon).sqrt().recip())
        .collect();
    let (gamma, beta) = (gamma.to_contiguous(), beta.to_contiguous());
    let gamma = host::values(&gamma).to_vec();
    let scale: Vec<f32> = gamma.iter().zip(&inverse).map(|(g, i)| g * i).collect();
    let shift: Vec<f32> = (0..c)
        .map(|c| host::values(&beta)[c] - mean[c] * scale[c])
        .collect();
    let y = cpu::scale_and_shift(&shape, host::values(&x), &scale, &shift);
    let y = host::tensor(y, &[n, c, h, w]);
    let plain = |v: &Vec<f32>| Tensor::from_primitive::<Flex>(host::tensor(v.clone(), &[c]));
    let (mean_tensor, variance) = (plain(&mean), plain(&variance));
    let saved = Saved {
        member,
        shape,
        x,
        mean,
        inverse,
        gamma,
    };
    let prepared = Normalization.prepare::<NoCheckpointing>([x_node, gamma_node, beta_node]);
    let y = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(saved, y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Some(Normalized {
        y: Tensor::from_primitive::<Autodiff<Flex>>(y),
        mean: mean_tensor,
        variance,
    })
}

fn tracked<const D: usize>(x: &Tensor<D>) -> Option<TrackedTensor> {
    match host::on_host(x)? {
        OnHost::Tracked(x) => Some(x),
        OnHost::Plain(_) => None,
    }
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    member: Option<Member>,
    shape: Shape,
    x: FlexTensor,
    mean: Vec<f32>,
    /// `1 / √(σ² + ε)`
    inverse: Vec<f32>,
    gamma: Vec<f32>,
}

#[derive(Debug)]
struct Normalization;

impl Backward<Flex, 3> for Normalization {
    type State = Saved;

    /// With `x̂ = (x − μ) · i` and means over the batch:
    ///
    /// ```text
    /// dγ = Σ dy · x̂      dβ = Σ dy      dx = γ · i · (dy − mean(dy) − x̂ · mean(dy · x̂))
    /// ```
    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let Saved {
            member,
            shape,
            x,
            mean,
            inverse,
            gamma,
        } = &ops.state;
        let values = host::values(x);
        let sums = cpu::sums(shape, values, host::values(&dy.to_contiguous()), mean);
        let c = shape.c;
        let [x_node, gamma_node, beta_node] = ops.parents;
        if let Some(node) = gamma_node {
            let d = sums.iter().zip(inverse).map(|(s, i)| s[1] as f32 * i);
            grads.register::<Flex>(node.id, host::tensor(d.collect(), &[c]));
        }
        if let Some(node) = beta_node {
            let d = sums.iter().map(|s| s[0] as f32).collect();
            grads.register::<Flex>(node.id, host::tensor(d, &[c]));
        }
        if let Some(node) = x_node {
            let (sums, count) = whole(member.as_ref(), sums, shape.count());
            let factors: Vec<[f32; 3]> = (0..c)
                .map(|c| {
                    let (i, mean) = (f64::from(inverse[c]), f64::from(mean[c]));
                    let scale = f64::from(gamma[c]) * i;
                    let of_x = -scale * i * i * sums[c][1] / count;
                    let shift = -scale * sums[c][0] / count - of_x * mean;
                    [scale as f32, of_x as f32, shift as f32]
                })
                .collect();
            grads.register::<Flex>(node.id, cpu::combine(shape, values, dy, &factors));
        }
    }
}
