//! Reconstruction of one unit (BRECQ: Li et al. 2021, arXiv 2102.05426).

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor};
use lb_core::distance;
use lb_nn::learned::{Dropping, LearnedAct, LearnedConv2d, LearnedLinear, Learning, Rounding};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::QuantUnit;
use super::learn::{finish, learn};
use crate::ResnetError;
use crate::model::{FoldedNet, QuantNet, Unit};

/// How a unit is reconstructed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReconstructConfig {
    /// Steps of Adam a unit.
    pub iterations: usize,
    /// Images a step.
    pub batch: usize,
    /// Peak learning rate, in units of a quantization step; falls to zero by a cosine.
    pub learning_rate: f64,
    /// Probability that an activation passes unquantized (QDrop).
    pub drop: f32,
    /// How layers learn.
    pub learning: Learning,
    /// Weight of AdaRound's regulariser.
    pub lambda: f32,
    /// Seed of batches and drops.
    pub seed: u64,
}

impl ReconstructConfig {
    /// The defaults with `rounding`.
    pub fn new(rounding: Rounding, seed: u64) -> Self {
        let (iterations, learning_rate) = match rounding {
            Rounding::Straight => (200, 3e-2),
            Rounding::AdaRound => (800, 1e-2),
        };
        Self {
            iterations,
            batch: 32,
            learning_rate,
            drop: 0.5,
            learning: Learning {
                rounding,
                relative_rate: 1.0 / 15.0,
            },
            lambda: 0.01,
            seed,
        }
    }
}

/// Part of the iterations before AdaRound's regulariser sets in.
const WARM_UP: f64 = 0.2;
/// Its exponent β, first and last.
const BETA: (f64, f64) = (20.0, 2.0);

type LearnedUnit = Unit<LearnedConv2d, LearnedAct, LearnedLinear>;

/// Unit `index` of `net`, trained so that from the first `count` of `inputs` it makes those of
/// `targets`:
///
/// ```text
/// loss = mean over images and positions of Σ_channels (y − ŷ)²  (+ λ · Σ 1 − |2h − 1|^β)
/// ```
///
/// # Errors
/// If a layer was left in float, the training diverged, or `go_on`, which is told the number of
/// iterations done, says no.
pub(super) fn reconstruct(
    net: &QuantNet,
    float: &FoldedNet,
    index: usize,
    (inputs, targets, count): (&Tensor<4>, &Tensor<4>, usize),
    config: &ReconstructConfig,
    device: &Device,
    go_on: &mut dyn FnMut(usize) -> bool,
) -> Result<QuantUnit, ResnetError> {
    let dropping = Dropping::default();
    let mut learned = learn(net, float, config.learning, &dropping, device)?;
    let mut unit: LearnedUnit = learned.unit(index).set_require_grad(true).train();
    let mut adam = AdamConfig::new().init();
    let mut rng = ChaCha8Rng::seed_from_u64(config.seed);
    rng.set_stream(index as u64 + 1);
    let [_, _, h, w] = targets.dims();
    let positions = config.batch * h * w;
    for i in 0..config.iterations {
        let done = i as f64 / config.iterations as f64;
        dropping.set(config.drop, rng.random());
        let chosen: Vec<i32> = (0..config.batch)
            .map(|_| rng.random_range(0..count as i32))
            .collect();
        let chosen = Tensor::<1, Int>::from_data(chosen.as_slice(), device);
        // From whole tensors: Burn copies all of a part of one before it selects from it.
        let x = inputs.clone().select(0, chosen.clone()).autodiff();
        let y = targets.clone().select(0, chosen);
        let mut loss = distance::squared(unit.forward(x), y) / positions as f32;
        if done >= WARM_UP {
            let annealed = (done - WARM_UP) / (1.0 - WARM_UP);
            let beta = BETA.0 + (BETA.1 - BETA.0) * annealed;
            if let Some(indecision) = indecision(&unit, beta as f32) {
                loss = loss + indecision * config.lambda;
            }
        }
        let rate = config.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        let gradients = GradientsParams::from_grads(loss.backward(), &unit);
        unit = adam.step(rate, unit, gradients);
        if !go_on(i + 1) {
            return Err(ResnetError::Invalid("interrupted".into()));
        }
    }
    learned.set_unit(unit.valid());
    Ok(finish(learned)?.unit(index))
}

/// AdaRound's regulariser of all layers of the unit.
fn indecision(unit: &LearnedUnit, beta: f32) -> Option<Tensor<1>> {
    let convolutions = unit.convolutions().into_iter();
    let layers = convolutions.filter_map(|c| c.indecision(beta));
    let linear = unit.linear().and_then(|l| l.indecision(beta));
    layers.chain(linear).reduce(|a, b| a + b)
}
