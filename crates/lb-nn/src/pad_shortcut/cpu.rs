//! On slices, without and with gradients.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use lb_core::host::{self, FlexTensor, OnHost};

pub(super) fn pad_shortcut(
    x: OnHost,
    dims: [usize; 4],
    channels: usize,
    stride: usize,
) -> Tensor<4> {
    let shape = Shape {
        dims,
        channels,
        stride,
    };
    match x {
        OnHost::Plain(x) => Tensor::from_primitive::<Flex>(shape.forward(&x)),
        OnHost::Tracked(x) => {
            let (x, node) = x.into_parts();
            let y = shape.forward(&x);
            let prepared = PadShortcut.prepare::<NoCheckpointing>([node]);
            let y = match prepared.compute_bound().stateful() {
                OpsKind::Tracked(prepared) => prepared.finish(shape, y),
                OpsKind::UnTracked(prepared) => prepared.finish(y),
            };
            Tensor::from_primitive::<Autodiff<Flex>>(y)
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Of the input.
    dims: [usize; 4],
    channels: usize,
    stride: usize,
}

impl Shape {
    fn output(&self) -> [usize; 4] {
        let [n, _, h, w] = self.dims;
        [
            n,
            self.channels,
            h.div_ceil(self.stride),
            w.div_ceil(self.stride),
        ]
    }

    /// Values of an input image and of an output image.
    fn images(&self) -> (usize, usize) {
        let of = |[_, c, h, w]: [usize; 4]| c * h * w;
        (of(self.dims), of(self.output()))
    }

    /// `f(input, output)` of where every value that is not padding stands in its image.
    fn for_each(&self, mut f: impl FnMut(usize, usize)) {
        let ([_, c, h, w], [_, channels, h_out, w_out]) = (self.dims, self.output());
        let before = (channels - c) / 2;
        for c in 0..c {
            for i in 0..h_out {
                let (from, to) = (c * h + self.stride * i, (before + c) * h_out + i);
                for j in 0..w_out {
                    f(from * w + self.stride * j, to * w_out + j);
                }
            }
        }
    }

    fn forward(&self, x: &FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        let (x, (from, to)) = (host::values(&x), self.images());
        let of_image = |_: &mut (), n: usize, y: &mut [f32]| {
            let x = &x[n * from..][..from];
            self.for_each(|from, to| y[to] = x[from]);
        };
        let (y, _) = host::filled(self.dims[0] * to, to, || (), of_image);
        host::tensor(y, &self.output())
    }

    fn backward(&self, dy: &FlexTensor) -> FlexTensor {
        let dy = dy.to_contiguous();
        let (dy, (from, to)) = (host::values(&dy), self.images());
        let of_image = |_: &mut (), n: usize, dx: &mut [f32]| {
            let dy = &dy[n * to..][..to];
            self.for_each(|from, to| dx[from] = dy[to]);
        };
        let (dx, _) = host::filled(self.dims[0] * from, from, || (), of_image);
        host::tensor(dx, &self.dims)
    }
}

#[derive(Debug)]
struct PadShortcut;

impl Backward<Flex, 1> for PadShortcut {
    type State = Shape;

    fn backward(self, ops: Ops<Shape, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        if let [Some(node)] = ops.parents {
            grads.register::<Flex>(node.id, ops.state.backward(&dy));
        }
    }
}
