//! In place where nobody else looks, with and without gradients.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use lb_core::host::{self, FlexTensor, OnHost};

/// Values a piece of work.
const CHUNK: usize = 1 << 14;

/// Gives `x` back if it is not on the CPU.
pub(super) fn relu<const D: usize>(x: Tensor<D>) -> Result<Tensor<D>, Tensor<D>> {
    let Some(host) = host::on_host(&x) else {
        return Err(x);
    };
    drop(x);
    Ok(match host {
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
    })
}

/// Gives both back if they are not both on the CPU, with gradients or without.
#[allow(clippy::type_complexity, reason = "what was given")]
pub(super) fn add<const D: usize>(
    a: Tensor<D>,
    b: Tensor<D>,
) -> Result<Tensor<D>, (Tensor<D>, Tensor<D>)> {
    assert_eq!(a.dims(), b.dims(), "a sum of tensors of one shape");
    match (host::on_host(&a), host::on_host(&b)) {
        (Some(OnHost::Plain(x)), Some(OnHost::Plain(y))) => {
            drop((a, b));
            Ok(Tensor::from_primitive::<Flex>(sum(x, &y)))
        }
        (Some(OnHost::Tracked(x)), Some(OnHost::Tracked(y))) => {
            drop((a, b));
            let (x, x_node) = x.into_parts();
            let (y, y_node) = y.into_parts();
            let sum = sum(x, &y);
            let prepared = Add.prepare::<NoCheckpointing>([x_node, y_node]);
            let sum = match prepared.compute_bound().stateful() {
                OpsKind::Tracked(prepared) => prepared.finish((), sum),
                OpsKind::UnTracked(prepared) => prepared.finish(sum),
            };
            Ok(Tensor::from_primitive::<Autodiff<Flex>>(sum))
        }
        _ => Err((a, b)),
    }
}

fn positive(x: FlexTensor) -> FlexTensor {
    host::map_pieces(x, CHUNK, |_, x| {
        for x in x {
            *x = if *x > 0.0 { *x } else { 0.0 };
        }
    })
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
    /// The output: positive where the input was.
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        if let [Some(node)] = ops.parents {
            let dx = with_other(dy, &ops.state, |dy, y| {
                *dy = if y > 0.0 { *dy } else { 0.0 };
            });
            grads.register::<Flex>(node.id, dx);
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
