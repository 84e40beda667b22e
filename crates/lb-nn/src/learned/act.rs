//! An activation whose step is learned.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use lb_core::learned::{Drop, StepRange, fake_quantize};
use lb_core::{diffusion, dither};
use lb_format::{Diffusion, FormatError, QParams};

use crate::layer::Act;
use crate::quant_conv2d::host;
use crate::{Nonlinearity, QuantAct};

/// How many values pass unquantized (QDrop), shared by all activations that train together.
///
/// Every step and every place has a seed of its own, so a run can be repeated.
#[derive(Clone, Debug, Default)]
pub struct Dropping {
    /// Bits of the probability as `f32`.
    probability: Arc<AtomicU32>,
    seed: Arc<AtomicU64>,
}

impl Dropping {
    /// From now on.
    pub fn set(&self, probability: f32, seed: u64) {
        self.probability
            .store(probability.to_bits(), Ordering::Relaxed);
        self.seed.store(seed, Ordering::Relaxed);
    }

    fn at(&self, place: u64) -> Option<Drop> {
        let probability = f32::from_bits(self.probability.load(Ordering::Relaxed));
        let seed = self.seed.load(Ordering::Relaxed);
        (probability > 0.0).then(|| Drop {
            probability,
            seed: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(place),
        })
    }
}

/// Applies the nonlinearity and quantizes with the step `s = s₀ · exp(ρ · θ)`
/// ([`fake_quantize`]). Where an image is dithered or diffused, values that pass unquantized have what is
/// added, too.
#[derive(Module, Debug)]
pub struct LearnedAct {
    /// θ, `[1]`; `None`: real values pass.
    step: Option<Param<Tensor<1>>>,
    #[module(skip)]
    nonlinearity: Nonlinearity,
    #[module(skip)]
    start: Option<QParams>,
    #[module(skip)]
    dither: bool,
    #[module(skip)]
    diffusion: Option<Diffusion>,
    #[module(skip)]
    dropping: Dropping,
    #[module(skip)]
    place: u64,
    /// ρ
    #[module(skip)]
    rate: f32,
}

impl LearnedAct {
    /// Starts at `act`; its step learns at `rate`, relative to codes. `place` tells activations apart that share `dropping`.
    pub fn new(
        act: &QuantAct,
        dropping: &Dropping,
        place: u64,
        rate: f32,
        device: &burn::tensor::Device,
    ) -> Self {
        let step = act
            .qparams
            .as_ref()
            .map(|_| Param::from_tensor(Tensor::zeros([1], device)));
        Self {
            step,
            nonlinearity: act.nonlinearity,
            start: act.qparams.clone(),
            dither: act.dither,
            diffusion: act.diffusion.clone(),
            dropping: dropping.clone(),
            place,
            rate,
        }
    }

    /// The quantized activation with the step as learned. For a module without gradients (`valid`).
    ///
    /// # Errors
    /// If the step cannot be read, or is no longer usable.
    pub fn finish(&self) -> Result<QuantAct, FormatError> {
        let mut qparams = self.start.clone();
        if let (Some(q), Some(step)) = (&mut qparams, &self.step) {
            let theta = host(step.val())?[0];
            for affine in &mut q.affine {
                affine.scale *= (theta * self.rate).exp();
            }
            q.validate("learned activation", 1)?;
        }
        Ok(QuantAct {
            dither: self.dither,
            diffusion: self.diffusion.clone(),
            ..QuantAct::new(self.nonlinearity, qparams)
        })
    }
}

impl Act for LearnedAct {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (Some(start), Some(step)) = (&self.start, &self.step) else {
            return self.nonlinearity.apply(x);
        };
        let step = (step.val() * self.rate).exp() * start.channel(0).scale;
        let held = step.clone().detach();
        let x = match (&self.diffusion, self.dither) {
            (Some(diffusion), _) => diffusion::add(x, held.into_scalar(), start, diffusion),
            (None, true) => dither::add(x, |pattern| pattern * held.reshape([1; 4])),
            (None, false) => x,
        };
        let range = StepRange::of(start, self.nonlinearity == Nonlinearity::Relu);
        fake_quantize(x, step, range, self.dropping.at(self.place))
    }
}
