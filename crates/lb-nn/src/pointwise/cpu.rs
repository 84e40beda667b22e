//! In place where nobody else looks, with and without gradients.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use lb_core::host::{self, FlexTensor, OnHost, TrackedTensor};

/// Values a piece of work.
const CHUNK: usize = 1 << 14;

pub(super) fn relu<const D: usize>(x: OnHost) -> Tensor<D> {
    match x {
        OnHost::Plain(x) => Tensor::from_primitive::<Flex>(positive(x)),
        OnHost::Tracked(x) => {
            let (x, node) = x.into_parts();
            let y = positive(x);
            let prepared = Relu.prepare::<NoCheckpointing>([node]);
            let y = match prepared.compute_bound().stateful() {
                OpsKind::Tracked(prepared) => prepared.finish(y.clone(), y),
                OpsKind::UnTracked(prepared) => prepared.finish(y),
            };
            Tensor::from_primitive::<Autodiff<Flex>>(y)
        }
    }
}

pub(super) fn add<const D: usize>(a: FlexTensor, b: FlexTensor) -> Tensor<D> {
    Tensor::from_primitive::<Flex>(sum(a, &b))
}

pub(super) fn add_relu_tracked<const D: usize>(a: TrackedTensor, b: TrackedTensor) -> Tensor<D> {
    let (a, a_node) = a.into_parts();
    let (b, b_node) = b.into_parts();
    let y = with_other(a, &b, |a, b| *a = host::floored(*a + b, 0.0));
    let prepared = AddRelu.prepare::<NoCheckpointing>([a_node, b_node]);
    let y = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(y.clone(), y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(y)
}

pub(super) fn add_tracked<const D: usize>(a: TrackedTensor, b: TrackedTensor) -> Tensor<D> {
    let (a, a_node) = a.into_parts();
    let (b, b_node) = b.into_parts();
    let sum = sum(a, &b);
    let prepared = Add.prepare::<NoCheckpointing>([a_node, b_node]);
    let sum = match prepared.compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish((), sum),
        OpsKind::UnTracked(prepared) => prepared.finish(sum),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(sum)
}

fn positive(x: FlexTensor) -> FlexTensor {
    host::map_pieces(x, CHUNK, |_, x| {
        for x in x {
            *x = host::floored(*x, 0.0);
        }
    })
}

/// The gradient before, by that after and the output: zero where the gradient is.
fn passed(dy: FlexTensor, y: &FlexTensor) -> FlexTensor {
    with_other(dy, y, |dy, y| *dy = host::passed(y, 0.0, *dy))
}

fn sum(a: FlexTensor, b: &FlexTensor) -> FlexTensor {
    with_other(a, b, |a, b| *a += b)
}

/// `f(a, b)` value by value; the changed `a`.
fn with_other(a: FlexTensor, b: &FlexTensor, f: impl Fn(&mut f32, f32) + Sync) -> FlexTensor {
    let b = b.to_contiguous();
    let b = host::values(&b);
    host::map_pieces(a, CHUNK, |i, a| {
        for (a, b) in a.iter_mut().zip(&b[i * CHUNK..]) {
            f(a, *b);
        }
    })
}

#[derive(Debug)]
struct Relu;

impl Backward<Flex, 1> for Relu {
    /// The output.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<Flex>(node.id, passed(dy, &ops.state));
        }
    }
}

#[derive(Debug)]
struct AddRelu;

impl Backward<Flex, 2> for AddRelu {
    /// The output.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let d = passed(dy, &ops.state);
        for node in ops.parents.into_iter().flatten() {
            grads.register::<Flex>(node.id, d.clone());
        }
    }
}

#[derive(Debug)]
struct Add;

impl Backward<Flex, 2> for Add {
    type State = ();

    fn backward(self, ops: Ops<(), 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        for node in ops.parents.into_iter().flatten() {
            grads.register::<Flex>(node.id, dy.clone());
        }
    }
}
