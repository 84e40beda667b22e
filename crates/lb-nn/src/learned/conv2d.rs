//! A convolution whose weight codes, scales, offsets and bias are learned.

use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use lb_format::FormatError;

use super::Learning;
use super::weight::{LearnedWeight, learnable};
use crate::QuantConv2d;
use crate::conv2d::{Geometry, conv2d};
use crate::layer::Conv;

/// Learned parameters of one layer's bias: `b = b₀ + ρ · u · β`, with `u` the root mean square of
/// `b₀`.
#[derive(Module, Debug)]
pub(super) struct LearnedBias {
    /// β, `[C_out]`
    deviation: Param<Tensor<1>>,
    start: Tensor<1>,
    /// ρ · u
    #[module(skip)]
    unit: f32,
}

impl LearnedBias {
    pub(super) fn new(start: Tensor<1>, rate: f32) -> Self {
        let square = (start.clone() * start.clone()).mean().into_scalar::<f32>();
        Self {
            deviation: Param::from_tensor(start.zeros_like()),
            start,
            unit: square.sqrt().max(1e-3) * rate,
        }
    }

    pub(super) fn value(&self) -> Tensor<1> {
        self.start.clone() + self.deviation.val() * self.unit
    }
}

/// A [`QuantConv2d`] that learns.
#[derive(Module, Debug)]
pub struct LearnedConv2d {
    pub(super) weight: LearnedWeight<4>,
    pub(super) bias: LearnedBias,
    #[module(skip)]
    pub(super) geometry: Geometry,
}

impl LearnedConv2d {
    /// Starts at `quantized`, with the float convolution that it came from deciding which codes
    /// are close calls.
    ///
    /// # Errors
    /// If its weight was left in float, or has a table of levels.
    pub fn new(
        quantized: &QuantConv2d,
        float: &Conv2d,
        learning: Learning,
    ) -> Result<Self, FormatError> {
        let start = learnable(quantized.qparams())?;
        let weight = quantized.weight.val();
        Ok(Self {
            weight: LearnedWeight::new(weight, start, float.weight.val(), learning),
            bias: LearnedBias::new(quantized.bias.val(), learning.relative_rate),
            geometry: quantized.geometry(),
        })
    }

    /// After a step of an optimizer: brings latent codes that left their range back to its end,
    /// where gradients reach them. For a module with gradients.
    pub fn confine(&mut self) {
        self.weight.confine();
    }

    /// AdaRound's regulariser; `None` with straight-through rounding.
    pub fn indecision(&self, beta: f32) -> Option<Tensor<1>> {
        self.weight.indecision(beta)
    }

    /// The quantized convolution as learned. For a module without gradients (`valid`).
    ///
    /// # Errors
    /// If a parameter cannot be read, or is no longer usable.
    pub fn finish(&self) -> Result<QuantConv2d, FormatError> {
        let (weight, qparams) = self.weight.finish()?;
        Ok(QuantConv2d::on_grid(
            weight,
            qparams,
            self.bias.value(),
            self.geometry,
        ))
    }
}

impl Conv for LearnedConv2d {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d(
            x,
            self.weight.value(),
            Some(self.bias.value()),
            self.geometry,
        )
    }
}
