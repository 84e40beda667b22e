//! The CPU's convolution with batch normalization and ReLU as one Burn operator with gradients.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::nn::BatchNorm;
use burn::tensor::Tensor;
use lb_core::host::{self, FlexTensor, OnHost, TrackedTensor};

use super::ConvBn;
use super::group::{Member, whole};
use super::passes::{self, Combined, Line};
use crate::conv2d::{Geometry, Order, cpu};

/// By the statistics of the batch that `x` is, or is a piece of; `None` if the layer is not in
/// training, of another kind, or not with `x` on the CPU with gradients.
pub(super) fn forward(layer: &ConvBn, x: &Tensor<4>, relu: bool) -> Option<Tensor<4>> {
    let ConvBn { conv, bn } = layer;
    if !bn.training.is_enabled() {
        return None;
    }
    let (dims, x) = (x.dims(), tracked(x)?);
    let member = Member::current();
    let Some(geometry) = Geometry::of(conv).filter(|_| conv.bias.is_none()) else {
        // Burn's statistics would be those of the piece.
        assert!(
            member.is_none(),
            "a convolution of this kind cannot pass in pieces"
        );
        return None;
    };
    let (x, x_node) = x.into_parts();
    let shape = cpu::Shape::new(dims, conv.weight.val().dims(), geometry);
    let c = shape.c_out;
    assert_eq!(
        [bn.gamma.val().dims(), bn.beta.val().dims()],
        [[c]; 2],
        "a batch normalization of {c} channels"
    );
    let (weight, weight_node) = tracked(&conv.weight.val())?.into_parts();
    let (gamma, gamma_node) = tracked(&bn.gamma.val())?.into_parts();
    let (beta, beta_node) = tracked(&bn.beta.val())?.into_parts();
    let [x, weight, gamma, beta] = [x, weight, gamma, beta].map(|t| t.to_contiguous());

    let (order, values) = (Order::fastest(), [&x, &weight].map(host::values));
    let see = |images: &[f32]| passes::sums(&shape, images);
    let (y, sums) = cpu::forward_seen(&shape, order, values[0], values[1], None, see);
    let mut totals = vec![[0.0; 2]; c];
    for image in sums.into_iter().flatten() {
        for (total, [sum, squares]) in totals.iter_mut().zip(image) {
            total[0] += sum;
            total[1] += squares;
        }
    }
    let moments = Moments::of(whole(member.as_ref(), totals, shape.all_positions()));
    // All pieces have the same statistics, and share the layer's.
    if member.as_ref().is_none_or(Member::is_first) {
        moments.move_running(bn);
    }
    let inverse: Vec<f32> = (moments.variance.iter())
        .map(|v| (v + bn.epsilon as f32).sqrt().recip())
        .collect();
    let gamma = host::values(&gamma).to_vec();
    let scale: Vec<f32> = gamma.iter().zip(&inverse).map(|(g, i)| g * i).collect();
    let shift = (host::values(&beta).iter().zip(&moments.mean).zip(&scale))
        .map(|((beta, mean), scale)| beta - mean * scale);
    let line = Line {
        shift: shift.collect(),
        scale,
        floor: if relu { 0.0 } else { f32::NEG_INFINITY },
    };
    let z = host::tensor(line.apply(&shape, &y), &shape.output());
    let saved = Saved {
        shape,
        order,
        member,
        x,
        weight,
        y: host::tensor(y, &shape.output()),
        mean: moments.mean,
        inverse,
        gamma,
        line,
    };
    let nodes = [x_node, weight_node, gamma_node, beta_node];
    let prepared = ConvNormalization.prepare::<NoCheckpointing>(nodes);
    let z = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(saved, z),
        OpsKind::UnTracked(prepared) => prepared.finish(z),
    };
    Some(Tensor::from_primitive::<Autodiff<Flex>>(z))
}

fn tracked<const D: usize>(x: &Tensor<D>) -> Option<TrackedTensor> {
    match host::on_host(x)? {
        OnHost::Tracked(x) => Some(x),
        OnHost::Plain(_) => None,
    }
}

/// Mean and (biased) variance by channel.
struct Moments {
    mean: Vec<f32>,
    variance: Vec<f32>,
}

impl Moments {
    /// Of `Σ y` and `Σ y²` over so many values.
    fn of((totals, count): (Vec<[f64; 2]>, f64)) -> Self {
        let moments = totals.iter().map(|[total, squares]| {
            let mean = total / count;
            let variance = (squares / count - mean * mean).max(0.0);
            (mean as f32, variance as f32)
        });
        let (mean, variance) = moments.unzip();
        Self { mean, variance }
    }

    /// Moves a layer's running statistics, as Burn does.
    fn move_running(&self, layer: &BatchNorm) {
        let momentum = layer.momentum;
        for (running, now) in [
            (&layer.running_mean, &self.mean),
            (&layer.running_var, &self.variance),
        ] {
            let now = host::tensor(now.clone(), &[now.len()]);
            let now = Tensor::<1>::from_primitive::<Flex>(now).autodiff();
            // Another device may have moved them last.
            let before = running.value_sync().to_device(&now.device());
            let moved = before * (1.0 - momentum) + now * momentum;
            running.update(moved.detach());
        }
    }
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    shape: cpu::Shape,
    order: Order,
    member: Option<Member>,
    x: FlexTensor,
    weight: FlexTensor,
    /// What the convolution gave.
    y: FlexTensor,
    mean: Vec<f32>,
    /// `1 / √(σ² + ε)`
    inverse: Vec<f32>,
    gamma: Vec<f32>,
    line: Line,
}

#[derive(Debug)]
struct ConvNormalization;

impl Backward<Flex, 4> for ConvNormalization {
    type State = Saved;

    /// With `d` what gets through the ReLU, `ŷ = (y − μ) · i`, and means over the batch:
    ///
    /// ```text
    /// dγ = Σ d · ŷ      dβ = Σ d      dy = γ · i · (d − mean(d) − ŷ · mean(d · ŷ))
    /// ```
    ///
    /// and from `dy` the convolution's. `dy` is made a few images at a time, where it is needed.
    fn backward(self, ops: Ops<Saved, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dz = grads.consume::<Flex>(&ops.node).to_contiguous();
        let dz = host::values(&dz);
        let s = &ops.state;
        let [x, weight, y] = [&s.x, &s.weight, &s.y].map(host::values);
        let c = s.shape.c_out;
        let sums = s.line.sums(&s.shape, y, dz, &s.mean);
        let [x_node, weight_node, gamma_node, beta_node] = ops.parents;
        if let Some(node) = gamma_node {
            let d = sums.iter().zip(&s.inverse).map(|(s, i)| s[1] as f32 * i);
            grads.register::<Flex>(node.id, host::tensor(d.collect(), &[c]));
        }
        if let Some(node) = beta_node {
            let d = sums.iter().map(|s| s[0] as f32).collect();
            grads.register::<Flex>(node.id, host::tensor(d, &[c]));
        }
        if x_node.is_none() && weight_node.is_none() {
            return;
        }
        let (sums, count) = whole(s.member.as_ref(), sums, s.shape.all_positions());
        let factors = (0..c).map(|c| {
            let (i, mean) = (f64::from(s.inverse[c]), f64::from(s.mean[c]));
            let scale = f64::from(s.gamma[c]) * i;
            let of_y = -scale * i * i * sums[c][1] / count;
            let shift = -scale * sums[c][0] / count - of_y * mean;
            [scale as f32, of_y as f32, shift as f32]
        });
        let dy = Combined {
            shape: &s.shape,
            line: &s.line,
            y,
            dz,
            factors: factors.collect(),
        };
        let wanted = cpu::Wanted {
            x: x_node.is_some(),
            weight: weight_node.is_some(),
            bias: false,
        };
        let found = cpu::backward(&s.shape, s.order, x, weight, &dy, wanted);
        if let (Some(node), Some(dx)) = (x_node, found.x) {
            grads.register::<Flex>(node.id, host::tensor(dx, &s.shape.input()));
        }
        if let (Some(node), Some(dw)) = (weight_node, found.weight) {
            grads.register::<Flex>(node.id, host::tensor(dw, &s.shape.weight()));
        }
    }
}
