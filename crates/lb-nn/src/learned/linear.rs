//! A linear layer whose weight codes, scales, offsets and bias are learned.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::Tensor;
use lb_format::FormatError;

use super::Learning;
use super::conv2d::LearnedBias;
use super::weight::{LearnedWeight, learnable};
use crate::layer::Dense;
use crate::{QuantLinear, out_in};

/// A [`QuantLinear`] that learns.
#[derive(Module, Debug)]
pub struct LearnedLinear {
    pub(super) weight: LearnedWeight<2>,
    pub(super) bias: LearnedBias,
}

impl LearnedLinear {
    /// Starts at `quantized`, with the float layer that it came from deciding which codes are
    /// close calls.
    ///
    /// # Errors
    /// If its weight was left in float, or has a table of levels.
    pub fn new(
        quantized: &QuantLinear,
        float: &Linear,
        learning: Learning,
    ) -> Result<Self, FormatError> {
        let start = learnable(quantized.qparams())?;
        let weight = quantized.weight.val();
        Ok(Self {
            weight: LearnedWeight::new(weight, start, out_in(float), learning),
            bias: LearnedBias::new(quantized.bias.val(), learning.relative_rate),
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

    /// The quantized layer as learned. For a module without gradients (`valid`).
    ///
    /// # Errors
    /// If a parameter cannot be read, or is no longer usable.
    pub fn finish(&self) -> Result<QuantLinear, FormatError> {
        let (weight, qparams) = self.weight.finish()?;
        Ok(QuantLinear::on_grid(weight, qparams, self.bias.value()))
    }
}

impl Dense for LearnedLinear {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.value().transpose()) + self.bias.value().unsqueeze()
    }
}
