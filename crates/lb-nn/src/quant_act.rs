//! A quantized activation, simulated.

use burn::module::Module;
use burn::tensor::Tensor;
use lb_core::{activation_levels, affine, dither};
use lb_format::{Activation, QParams};

use crate::{Nonlinearity, layer::Act};

/// Applies the nonlinearity, adds the pattern of a dither if there is one, then rounds to codes and
/// back ([`affine::fake_quantize`], or, on a table of levels, [`activation_levels::fake_quantize`]).
#[derive(Module, Debug)]
pub struct QuantAct {
    /// What it computes first.
    #[module(skip)]
    pub nonlinearity: Nonlinearity,
    /// Per-tensor parameters; `None` passes the real values on.
    #[module(skip)]
    pub qparams: Option<QParams>,
    /// Whether it is dithered; only the image may be.
    #[module(skip)]
    pub dither: bool,
}

impl QuantAct {
    /// A quantized activation.
    pub fn new(nonlinearity: Nonlinearity, qparams: Option<QParams>) -> Self {
        Self {
            nonlinearity,
            qparams,
            dither: false,
        }
    }

    /// The same with or without dither.
    pub fn with_dither(self, dither: bool) -> Self {
        Self { dither, ..self }
    }

    /// As stored in a packed file.
    pub fn to_format(&self, name: &str) -> Activation {
        Activation {
            name: name.into(),
            relu: self.nonlinearity == Nonlinearity::Relu,
            dither: self.dither,
            qparams: self.qparams.clone(),
        }
    }

    /// From a packed file.
    pub fn from_format(activation: &Activation) -> Self {
        let nonlinearity = match activation.relu {
            true => Nonlinearity::Relu,
            false => Nonlinearity::Identity,
        };
        Self::new(nonlinearity, activation.qparams.clone()).with_dither(activation.dither)
    }
}

impl Act for QuantAct {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.nonlinearity.apply(x);
        let Some(q) = &self.qparams else {
            return x;
        };
        let x = match self.dither {
            true => dither::add(x, |pattern| pattern * q.channel(0).scale),
            false => x,
        };
        match q.levels {
            Some(_) => activation_levels::fake_quantize(x, q),
            None => affine::fake_quantize(x, q),
        }
    }
}
