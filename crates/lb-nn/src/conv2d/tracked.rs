//! The CPU's convolution as a Burn operator, with and without gradients.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use lb_core::compensate::Sums;
use lb_core::host::{self, FlexTensor, OnHost};

use super::{Geometry, Order, cpu};

/// `None` if the tensors are not all on the CPU, or only some of them track gradients.
pub(super) fn conv2d(
    x: &Tensor<4>,
    weight: &Tensor<4>,
    bias: Option<&Tensor<1>>,
    geometry: Geometry,
    order: Order,
) -> Option<Tensor<4>> {
    let shape = cpu::Shape::new(x.dims(), weight.dims(), geometry);
    match (host::on_host(x)?, host::on_host(weight)?) {
        (OnHost::Plain(x), OnHost::Plain(weight)) => {
            let bias = match bias.map(host::on_host) {
                None => None,
                Some(Some(OnHost::Plain(bias))) => Some(bias),
                Some(_) => return None,
            };
            let y = forward(
                &shape,
                order,
                &x.to_contiguous(),
                &weight.to_contiguous(),
                bias,
            );
            Some(Tensor::from_primitive::<Flex>(y))
        }
        (OnHost::Tracked(x), OnHost::Tracked(weight)) => {
            let (x, x_node) = x.into_parts();
            let (weight, weight_node) = weight.into_parts();
            let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
            let state = Saved {
                shape,
                order,
                x: x.clone(),
                weight: weight.clone(),
            };
            let y = match bias.map(host::on_host) {
                None => {
                    let y = forward(&shape, order, &x, &weight, None);
                    finish(Convolution, [x_node, weight_node], state, y)
                }
                Some(Some(OnHost::Tracked(bias))) => {
                    let (bias, bias_node) = bias.into_parts();
                    let y = forward(&shape, order, &x, &weight, Some(bias));
                    finish(Convolution, [x_node, weight_node, bias_node], state, y)
                }
                Some(_) => return None,
            };
            Some(Tensor::from_primitive::<Autodiff<Flex>>(y))
        }
        _ => None,
    }
}

/// Sums of inputs and outputs; `None` if they are not both on the CPU without gradients.
pub(super) fn sums(
    x: &Tensor<4>,
    y: &Tensor<4>,
    kernel: usize,
    geometry: Geometry,
) -> Option<Sums> {
    let [_, c_out, ..] = y.dims();
    let [_, c_in, ..] = x.dims();
    let shape = cpu::Shape::new(x.dims(), [c_out, c_in, kernel, kernel], geometry);
    assert_eq!(shape.output(), y.dims(), "outputs of these inputs");
    match (host::on_host(x)?, host::on_host(y)?) {
        (OnHost::Plain(x), OnHost::Plain(y)) => {
            let (x, y) = (x.to_contiguous(), y.to_contiguous());
            Some(cpu::sums(&shape, host::values(&x), host::values(&y)))
        }
        _ => None,
    }
}

fn forward(
    shape: &cpu::Shape,
    order: Order,
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<FlexTensor>,
) -> FlexTensor {
    let bias = bias.map(|b| b.to_contiguous());
    let bias = bias.as_ref().map(host::values);
    let y = cpu::forward(shape, order, host::values(x), host::values(weight), bias);
    host::tensor(y, &shape.output())
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    shape: cpu::Shape,
    order: Order,
    x: FlexTensor,
    weight: FlexTensor,
}

#[derive(Debug)]
struct Convolution;

fn finish<const N: usize>(
    op: Convolution,
    nodes: [burn::backend::autodiff::ops::NodeGuard; N],
    state: Saved,
    y: FlexTensor,
) -> host::TrackedTensor
where
    Convolution: Backward<Flex, N, State = Saved>,
{
    match op
        .prepare::<NoCheckpointing>(nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(prepared) => prepared.finish(state, y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    }
}

impl<const N: usize> Backward<Flex, N> for Convolution {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node).to_contiguous();
        let Saved {
            shape,
            order,
            x,
            weight,
        } = &ops.state;
        let tracked = |i: usize| ops.parents.get(i).is_some_and(Option::is_some);
        let wanted = cpu::Wanted {
            x: tracked(0),
            weight: tracked(1),
            bias: tracked(2),
        };
        let (x, weight) = (host::values(x), host::values(weight));
        let dy = host::values(&dy);
        let dy = cpu::Stored { shape, dy };
        let found = cpu::backward(shape, *order, x, weight, &dy, wanted);
        let found = [
            found.x.map(|dx| host::tensor(dx, &shape.input())),
            found.weight.map(|dw| host::tensor(dw, &shape.weight())),
            found.bias.map(|db| host::tensor(db, &shape.bias())),
        ];
        for (node, gradient) in ops.parents.iter().zip(found) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}
