//! Training that can be interrupted anywhere and resumed to the same result.

mod config;
mod ema;
mod pass;
mod pieces;
mod run_folder;
mod schedule;
mod select;
mod state;
mod step;

use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::Device;
use lb_data::ImageSet;
use lb_format::NetworkInfo;
use serde::{Deserialize, Serialize};

pub use config::TrainConfig;
use run_folder::Identity;
pub use run_folder::RunFolder;
pub use schedule::learning_rate;
pub use select::chosen;

use crate::ResnetError;
use crate::batch::{Epochs, NormalizedBatcher};
use crate::checkpoint::{Checkpoint, normalization};
use crate::eval::evaluate;
use crate::lanes;
use crate::model::FloatNet;
use pass::Passes;
use state::State;
use step::Stepper;

/// One finished epoch; a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochMetrics {
    /// From 1.
    pub epoch: usize,
    /// Mean cross entropy on the augmented training images, while they were trained on.
    pub train_loss: f64,
    /// Accuracy on the same, in 0..=1.
    pub train_accuracy: f64,
    /// Accuracy on the held-out part of the training images, in 0..=1; `None` without one.
    pub held_out_accuracy: Option<f64>,
    /// Learning rate of the last step.
    pub learning_rate: f64,
}

/// Where training stands, after every step.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Steps done in this epoch.
    pub step: usize,
    /// Steps an epoch.
    pub steps: usize,
    /// Mean loss of this epoch so far.
    pub loss: f64,
    /// Training accuracy of this epoch so far, in 0..=1.
    pub accuracy: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
}

/// Longest time between two saved states: what a crash in a long epoch costs.
const SAVE_EVERY: Duration = Duration::from_secs(300);

/// Watches a training run.
pub trait Monitor {
    /// After every step. `false` stops the run; its state is kept.
    fn step(&mut self, progress: &Progress) -> bool;
    /// After every epoch.
    fn epoch(&mut self, metrics: &EpochMetrics);
    /// While the held-out images are evaluated. `false` stops the run.
    fn evaluating(&mut self, _done: usize) -> bool {
        true
    }
}

/// What is trained on.
#[derive(Clone, Debug)]
pub struct TrainData {
    /// Training images.
    pub train: Arc<ImageSet>,
    /// Images that choose an epoch ([`chosen`]); never trained on.
    pub held_out: Option<ImageSet>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Metrics of every epoch.
    pub epochs: Vec<EpochMetrics>,
    /// Whether all epochs were done.
    pub finished: bool,
}

/// Trains, or resumes, the run in `folder`.
///
/// On several `devices` each gets its part of every batch, and the gradients are added up on the
/// first. A device may stand there more than once. Batch normalization sees parts, not batches, so
/// that the result depends on their number. From three devices on, Burn averages the running
/// statistics in any order, and the last bits of a run differ from those of the next.
///
/// # Errors
/// If the configuration makes no sense, files cannot be written, or a device fails or has no bfloat16 where
/// that is wanted.
pub fn train(
    config: &TrainConfig,
    info: &NetworkInfo,
    data: &TrainData,
    folder: &RunFolder,
    devices: &[Device],
    monitor: &mut dyn Monitor,
) -> Result<Outcome, ResnetError> {
    config.validate()?;
    if config.bf16 {
        lanes::require_bf16(devices)?;
    }
    let steps = config.steps_per_epoch(data.train.len())?;
    let part = part_of_batch(config.batch, devices.len())?;
    let identity = Identity {
        config: config.clone(),
        network: info.clone(),
        images: data.train.len(),
        devices: devices.len(),
    };
    let autodiff: Vec<Device> = devices.iter().map(|d| d.clone().autodiff()).collect();
    let mut state = match folder.load_state(&identity)? {
        Some(stored) => State::restore(stored, config, info, &autodiff[0])?,
        None => State::fresh(config, info, &autodiff[0])?,
    };
    let passes = Passes::new(config, &autodiff)?;
    let normalization = normalization(info);
    let batcher = NormalizedBatcher {
        normalization,
        size: (data.train.height(), data.train.width()),
    };
    let images = Epochs::new(
        data.train.clone(),
        config.augment.clone(),
        config.seed,
        config.batch,
        state.position.epoch * steps + state.position.step..config.epochs * steps,
    );
    let loaders: Vec<_> = (autodiff.iter().enumerate())
        .map(|(i, device)| {
            let images = images.part(i * part..(i + 1) * part);
            batcher.clone().loader(images, part, device)
        })
        .collect();
    let mut over = passes.over(&loaders);
    let mut saved = Instant::now();
    while state.position.epoch < config.epochs {
        let epoch = state.position.epoch;
        let mut stepper = Stepper::new(config, steps);
        while state.position.step < steps {
            let Some(pass) = over.next(&state.net) else {
                return Err(ResnetError::Device(format!(
                    "images ended after step {} of {steps}",
                    state.position.step
                )));
            };
            let learning_rate = stepper.step(&mut state, pass?)?;
            let running = &state.position;
            let go_on = monitor.step(&Progress {
                epoch,
                step: running.step,
                steps,
                loss: running.mean_loss(),
                accuracy: running.accuracy(),
                learning_rate,
            });
            if !go_on || saved.elapsed() > SAVE_EVERY {
                stepper.flush(&mut state)?;
                folder.save_state(&identity, &state.store()?)?;
                saved = Instant::now();
            }
            if !go_on {
                return Ok(Outcome {
                    epochs: state.history,
                    finished: false,
                });
            }
        }
        stepper.flush(&mut state)?;
        let candidate = state.evaluation_net().to_device(&devices[0]);
        let held_out_accuracy = match &data.held_out {
            None => None,
            Some(set) => {
                let mut watch = |done| monitor.evaluating(done);
                let c = evaluate(&candidate, set, &normalization, &devices[0], &mut watch)?;
                Some(c.metrics().accuracy)
            }
        };
        let metrics = EpochMetrics {
            epoch: epoch + 1,
            train_loss: state.position.mean_loss(),
            train_accuracy: state.position.accuracy(),
            held_out_accuracy,
            learning_rate: learning_rate(config, steps, (epoch + 1) * steps - 1),
        };
        monitor.epoch(&metrics);
        let held_out = data.held_out.as_ref().map_or(0, ImageSet::len);
        let best = state.finish_epoch(metrics, held_out);
        save(&candidate, &identity, folder, &state, best)?;
    }
    Ok(Outcome {
        epochs: state.history,
        finished: true,
    })
}

/// Images of a batch for each of `devices`.
fn part_of_batch(batch: usize, devices: usize) -> Result<usize, ResnetError> {
    match devices {
        0 => Err(ResnetError::Invalid("training needs a device".into())),
        n if !batch.is_multiple_of(n) || batch / n < 2 => Err(ResnetError::Invalid(format!(
            "a batch of {batch} cannot be shared evenly by {n} devices, two images or more each: use another --batch"
        ))),
        n => Ok(batch / n),
    }
}

/// Writes the checkpoints of a finished epoch, its metrics and the state to resume from, the
/// state last: a run that dies in between repeats the epoch and writes the same again.
fn save(
    net: &FloatNet,
    identity: &Identity,
    folder: &RunFolder,
    state: &State,
    best: bool,
) -> Result<(), ResnetError> {
    let last = state.history.last().expect("an epoch was just finished");
    let checkpoint = Checkpoint {
        net: net.valid(),
        info: identity.network.clone(),
        training: serde_json::json!({
            "config": identity.config,
            "images": identity.images,
            "metrics": last,
        }),
    };
    folder.save_checkpoints(&checkpoint, best)?;
    folder.save_metrics(&state.history)?;
    folder.save_state(identity, &state.store()?)
}

#[cfg(test)]
mod tests;
