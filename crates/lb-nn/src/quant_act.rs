//! A quantized activation, simulated.

use burn::module::Module;
use burn::tensor::Tensor;
use lb_core::{activation_levels, affine, diffusion, dither};
use lb_format::{Activation, Diffusion, QParams};

use crate::{Nonlinearity, layer::Act};

/// Applies the nonlinearity, adds the pattern of a dither or the errors of a diffusion if there is one, then
/// rounds to codes and back ([`affine::fake_quantize`], or, on a table of levels, [`activation_levels::fake_quantize`]).
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
    /// How errors are passed on; only the image's may be.
    #[module(skip)]
    pub diffusion: Option<Diffusion>,
}

impl QuantAct {
    /// A quantized activation.
    pub fn new(nonlinearity: Nonlinearity, qparams: Option<QParams>) -> Self {
        Self {
            nonlinearity,
            qparams,
            dither: false,
            diffusion: None,
        }
    }

    /// The same with or without dither.
    pub fn with_dither(self, dither: bool) -> Self {
        Self { dither, ..self }
    }

    /// The same with or without diffusion.
    pub fn with_diffusion(self, diffusion: Option<Diffusion>) -> Self {
        Self { diffusion, ..self }
    }

    /// As stored in a packed file.
    pub fn to_format(&self, name: &str) -> Activation {
        Activation {
            name: name.into(),
            relu: self.nonlinearity == Nonlinearity::Relu,
            dither: self.dither,
            diffusion: self.diffusion.clone(),
            qparams: self.qparams.clone(),
        }
    }

    /// From a packed file.
    pub fn from_format(activation: &Activation) -> Self {
        let nonlinearity = match activation.relu {
            true => Nonlinearity::Relu,
            false => Nonlinearity::Identity,
        };
        Self {
            dither: activation.dither,
            diffusion: activation.diffusion.clone(),
            ..Self::new(nonlinearity, activation.qparams.clone())
        }
    }
}

impl Act for QuantAct {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.nonlinearity.apply(x);
        let Some(q) = &self.qparams else {
            return x;
        };
        let scale = q.channel(0).scale;
        let x = match (&self.diffusion, self.dither) {
            (Some(diffusion), _) => diffusion::add(x, scale, q, diffusion),
            (None, true) => dither::add(x, |pattern| pattern * scale),
            (None, false) => x,
        };
        match q.levels {
            Some(_) => activation_levels::fake_quantize(x, q),
            None => affine::fake_quantize(x, q),
        }
    }
}
