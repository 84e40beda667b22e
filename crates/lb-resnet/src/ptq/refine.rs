//! Refinement of a quantized network, a unit at a time: affine correction, then reconstruction.
//!
//! ```text
//! for each unit:  x̂ from the quantized prefix, x from the float one, y = float unit(x)
//!                 correct:      match mean and deviation of every channel
//!                 reconstruct:  minimise ‖quantized unit(x̂) − y‖², keep it if that helped
//! ```

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use lb_core::sqnr::Sqnr;
use lb_data::{ImageSet, Normalization};
use serde::{Deserialize, Serialize};

use super::QuantUnit;
use super::chain::{self, Chain};
use super::correct::correct;
use super::reconstruct::{ReconstructConfig, reconstruct};
use crate::ResnetError;
use crate::model::{FoldedNet, QuantNet};

/// One image in this many is held out of reconstruction, to judge it.
const HELD_OUT: usize = 8;

/// Images that [`refine`] needs.
pub const LEAST_IMAGES: usize = HELD_OUT;

/// What is done to every unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refinement {
    /// Whether layers are corrected.
    pub correct: bool,
    /// Whether they are rounded with errors that cancel before; only where they are corrected.
    #[serde(default)]
    pub compensate: bool,
    /// Whether and how units are reconstructed.
    pub reconstruct: Option<ReconstructConfig>,
}

/// What refinement did to a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitReport {
    /// Path.
    pub unit: String,
    /// Signal to quantization noise of its output as it was quantized, in dB: on calibration images
    /// that reconstruction does not see, with the refined units before it.
    pub quantized_db: f64,
    /// After correction.
    pub corrected_db: f64,
    /// After reconstruction; `None` without one.
    pub reconstructed: Option<Reconstructed>,
    /// Whether the reconstructed unit was taken: it was better.
    pub kept: bool,
    /// Time that it took.
    pub seconds: f64,
}

/// How well a unit was reconstructed. If its own images fit much better than others, they are too
/// few; if neither fits, it is the bits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reconstructed {
    /// As of [`UnitReport`]: on images that reconstruction did not see, in dB.
    pub held_out_db: f64,
    /// On those that it did.
    pub own_db: f64,
}

/// Where refinement stands.
#[derive(Clone, Copy, Debug)]
pub struct RefineProgress {
    /// Unit, from 0.
    pub unit: usize,
    /// Number of units.
    pub units: usize,
    /// Iterations of its reconstruction that are done.
    pub iteration: usize,
    /// All of them.
    pub iterations: usize,
}

/// Watches refinement.
pub trait RefineMonitor {
    /// Often. `false` stops; finished units are kept by [`unit`](Self::unit)'s caller.
    fn progress(&mut self, progress: &RefineProgress) -> bool;
    /// A unit is finished: `net` holds it, and reports of all units so far. An error stops.
    ///
    /// # Errors
    /// As the monitor decides, e.g. when a state cannot be saved.
    fn unit(&mut self, net: &QuantNet, reports: &[UnitReport]) -> Result<(), ResnetError>;
}

/// Refines `net`, the quantized `float`, on the images of `set`. The units that `done` reports on
/// are refined already.
///
/// # Errors
/// If there are too few images, a layer was left in float and is to be reconstructed, or `monitor`
/// stops.
#[allow(clippy::too_many_arguments, reason = "each is another thing")]
pub fn refine(
    mut net: QuantNet,
    float: &FoldedNet,
    set: &ImageSet,
    normalization: &Normalization,
    refinement: &Refinement,
    done: Vec<UnitReport>,
    device: &Device,
    monitor: &mut dyn RefineMonitor,
) -> Result<QuantNet, ResnetError> {
    if set.len() < HELD_OUT {
        return Err(ResnetError::Invalid(format!(
            "{} calibration images: correction and reconstruction need at least {HELD_OUT}",
            set.len()
        )));
    }
    let mut reports = done;
    let mut chain = Chain::start(set, normalization, device);
    let units = net.units();
    for i in 0..units {
        let float_unit = float.unit(i);
        let target = chain::forward(&float_unit, &chain.float);
        let mut unit = net.unit(i);
        if i >= reports.len() {
            let start = Instant::now();
            let judged = Judged::new(&chain, &target);
            let quantized_db = judged.db(&unit);
            if refinement.correct {
                // Images that judge reconstruction must not have made what it starts from.
                let seen = chain.first(match refinement.reconstruct {
                    Some(_) => judged.train,
                    None => chain.len(),
                });
                let compensates = refinement.compensate;
                correct(&mut unit, &float_unit, &seen, compensates).map_err(|source| {
                    ResnetError::Site {
                        site: unit.name(),
                        source,
                    }
                })?;
            }
            let corrected_db = judged.db(&unit);
            net.set_unit(unit.clone());
            let mut report = UnitReport {
                unit: unit.name(),
                quantized_db,
                corrected_db,
                reconstructed: None,
                kept: false,
                seconds: 0.0,
            };
            let iterations = refinement.reconstruct.map_or(0, |c| c.iterations);
            let mut go_on = |iteration| {
                monitor.progress(&RefineProgress {
                    unit: i,
                    units,
                    iteration,
                    iterations,
                })
            };
            if let Some(config) = &refinement.reconstruct {
                let images = (judged.inputs, judged.targets, judged.train);
                let candidate = reconstruct(&net, float, i, images, config, device, &mut go_on)?;
                let db = judged.db(&candidate);
                report.reconstructed = Some(Reconstructed {
                    held_out_db: db,
                    own_db: judged.own_db(&candidate),
                });
                if db > corrected_db {
                    report.kept = true;
                    net.set_unit(candidate.clone());
                    unit = candidate;
                }
            } else if !go_on(0) {
                return Err(ResnetError::Invalid("interrupted".into()));
            }
            report.seconds = start.elapsed().as_secs_f64();
            reports.push(report);
            monitor.unit(&net, &reports)?;
        }
        chain = Chain {
            quantized: chain::forward(&unit, &chain.quantized),
            float: target,
        };
    }
    Ok(net)
}

/// Inputs and targets of a unit: those that it trains on, and those that judge it.
struct Judged<'a> {
    inputs: &'a Tensor<4>,
    targets: &'a Tensor<4>,
    /// Number of images to train on; the rest judges.
    train: usize,
}

impl<'a> Judged<'a> {
    fn new(chain: &'a Chain, targets: &'a Tensor<4>) -> Self {
        Self {
            inputs: &chain.quantized,
            targets,
            train: chain.len() - chain.len() / HELD_OUT,
        }
    }

    /// SQNR of the unit's output on the held-out images.
    fn db(&self, unit: &QuantUnit) -> f64 {
        let all = self.inputs.dims()[0];
        self.sqnr(unit, self.train, all - self.train)
    }

    /// On the others.
    fn own_db(&self, unit: &QuantUnit) -> f64 {
        self.sqnr(unit, 0, self.train)
    }

    fn sqnr(&self, unit: &QuantUnit, from: usize, n: usize) -> f64 {
        let part = |x: &Tensor<4>| x.clone().narrow(0, from, n);
        let mut sqnr = Sqnr::default();
        sqnr.add(part(self.targets), chain::forward(unit, &part(self.inputs)));
        sqnr.db()
    }
}
