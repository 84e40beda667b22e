//! What a topology needs to know of its parts.

use burn::module::{Module, ModuleDisplay};
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

use crate::conv2d::{Geometry, conv2d};
use crate::pointwise::{add, add_relu};

/// A 2-D convolution, with whatever is fused into it.
pub trait Conv: Module + ModuleDisplay {
    /// `[N, C_in, H, W]` → `[N, C_out, H', W']`
    fn forward(&self, x: Tensor<4>) -> Tensor<4>;

    /// `act` of that; a layer that has the two in one operator uses it.
    fn forward_then<A: Act>(&self, act: &A, x: Tensor<4>) -> Tensor<4> {
        act.forward(self.forward(x))
    }
}

/// An activation: a nonlinearity, and what its stage adds (observing, quantizing).
pub trait Act: Module + ModuleDisplay {
    /// `[N, C, H, W]` → the same shape
    fn forward(&self, x: Tensor<4>) -> Tensor<4>;

    /// Whether it is `max(x, 0)`, and nothing else.
    fn is_relu(&self) -> bool {
        false
    }

    /// [`forward`](Self::forward) of `a + b`.
    fn of_sum(&self, a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
        match self.is_relu() {
            true => add_relu(a, b),
            false => self.forward(add(a, b)),
        }
    }
}

/// A fully connected layer.
pub trait Dense: Module + ModuleDisplay {
    /// `[N, in]` → `[N, out]`
    fn forward(&self, x: Tensor<2>) -> Tensor<2>;
}

impl Conv for Conv2d {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        match Geometry::of(self) {
            Some(geometry) => {
                let bias = self.bias.as_ref().map(|b| b.val());
                conv2d(x, self.weight.val(), bias, geometry)
            }
            None => Conv2d::forward(self, x),
        }
    }
}

impl Dense for Linear {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        Linear::forward(self, x)
    }
}
