//! Layers whose learned weight and bias have been computed: once a step, for all parts of its batch.
//!
//! A part computes the gradients of plain weights; those of all parts, added up, then go back through
//! what the weights were computed from, once. By the chain rule that is the gradient of
//!
//! ```text
//! Σ ⟨value, G⟩        G = ∂loss / ∂value, a constant
//! ```

use burn::module::{Module, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::{LearnedConv2d, LearnedLinear};
use crate::conv2d::{Geometry, conv2d};
use crate::layer::{Conv, Dense};

/// What a parameter of an evaluated layer was computed by.
#[derive(Debug)]
pub struct Origin<const D: usize> {
    parameter: ParamId,
    value: Tensor<D>,
}

impl<const D: usize> Origin<D> {
    /// A parameter of that value, where gradients end.
    fn of(value: Tensor<D>) -> (Param<Tensor<D>>, Self) {
        let parameter = Param::from_tensor(value.clone().detach());
        let id = parameter.id;
        (
            parameter,
            Self {
                parameter: id,
                value,
            },
        )
    }

    /// `⟨value, G⟩`, `[1]`, with the parameter's gradient G, which is taken from `gradients`; `None` if there
    /// is none.
    pub fn product(self, gradients: &mut GradientsParams) -> Option<Tensor<1>> {
        let gradient = gradients.remove::<D>(self.parameter)?;
        Some((self.value * gradient.autodiff()).sum())
    }
}

/// A [`LearnedConv2d`] with its weight and bias evaluated.
#[derive(Module, Debug)]
pub struct EvaluatedConv2d {
    weight: Param<Tensor<4>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    geometry: Geometry,
}

impl EvaluatedConv2d {
    /// As `layer` is now, and what its weight and bias were computed by.
    pub fn new(layer: &LearnedConv2d) -> (Self, Origin<4>, Origin<1>) {
        let (weight, of_weight) = Origin::of(layer.weight.value());
        let (bias, of_bias) = Origin::of(layer.bias.value());
        let geometry = layer.geometry;
        let evaluated = Self {
            weight,
            bias,
            geometry,
        };
        (evaluated, of_weight, of_bias)
    }
}

impl Conv for EvaluatedConv2d {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d(x, self.weight.val(), Some(self.bias.val()), self.geometry)
    }
}

/// A [`LearnedLinear`] with its weight and bias evaluated.
#[derive(Module, Debug)]
pub struct EvaluatedLinear {
    /// `[out, in]`
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

impl EvaluatedLinear {
    /// As `layer` is now, and what its weight and bias were computed by.
    pub fn new(layer: &LearnedLinear) -> (Self, Origin<2>, Origin<1>) {
        let (weight, of_weight) = Origin::of(layer.weight.value());
        let (bias, of_bias) = Origin::of(layer.bias.value());
        (Self { weight, bias }, of_weight, of_bias)
    }
}

impl Dense for EvaluatedLinear {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze()
    }
}
