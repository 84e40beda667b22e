//! What a topology needs to know of its parts.

use burn::module::{Module, ModuleDisplay};
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;

use crate::conv2d::{Geometry, conv2d};

/// A 2-D convolution, with whatever is fused into it.
pub trait Conv: Module + ModuleDisplay {
    /// `[N, C_in, H, W]` → `[N, C_out, H', W']`
    fn forward(&self, x: Tensor<4>) -> Tensor<4>;
}

/// An activation: a nonlinearity, and what its stage adds (observing, quantizing).
pub trait Act: Module + ModuleDisplay {
    /// `[N, C, H, W]` → the same shape
    fn forward(&self, x: Tensor<4>) -> Tensor<4>;
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
