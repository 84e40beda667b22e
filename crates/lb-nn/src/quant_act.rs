//! A quantized activation, simulated.

use burn::module::Module;
use burn::tensor::Tensor;
use lb_core::affine;
use lb_format::{Activation, QParams};

use crate::{Nonlinearity, layer::Act};

/// Applies the nonlinearity, then rounds to codes and back ([`affine::fake_quantize`]).
#[derive(Module, Debug)]
pub struct QuantAct {
    /// What it computes first.
    #[module(skip)]
    pub nonlinearity: Nonlinearity,
    /// Per-tensor parameters; `None` passes the real values on.
    #[module(skip)]
    pub qparams: Option<QParams>,
}

impl QuantAct {
    /// A quantized activation.
    pub fn new(nonlinearity: Nonlinearity, qparams: Option<QParams>) -> Self {
        Self {
            nonlinearity,
            qparams,
        }
    }

    /// As stored in a packed file.
    pub fn to_format(&self, name: &str) -> Activation {
        Activation {
            name: name.into(),
            relu: self.nonlinearity == Nonlinearity::Relu,
            qparams: self.qparams.clone(),
        }
    }

    /// From a packed file.
    pub fn from_format(activation: &Activation) -> Self {
        let nonlinearity = match activation.relu {
            true => Nonlinearity::Relu,
            false => Nonlinearity::Identity,
        };
        Self::new(nonlinearity, activation.qparams.clone())
    }
}

impl Act for QuantAct {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.nonlinearity.apply(x);
        match &self.qparams {
            Some(q) => affine::fake_quantize(x, q),
            None => x,
        }
    }
}
