//! Fine-tuning of a quantized network on any number of unlabelled images, in a run folder.
//!
//! | file | holds |
//! |---|---|
//! | `config.json` | what was asked for at the start, data, versions, machine |
//! | `metrics.jsonl` | one line an evaluation |
//! | `best.lbq`, `last.lbq` | packed networks; best by KL divergence on held-out images |
//! | `state.safetensors` | everything `--resume` needs |

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use lb_data::{ImageSet, Normalization};
use lb_format::network::Recipe;
use lb_format::{NetworkInfo, atomic, file};
use serde::{Deserialize, Serialize};

use crate::divergence::Reference;
use crate::model::{FoldedNet, QuantNet};
use crate::ptq::{self, DistillConfig, DistillProgress, Distillation, StoredDistillation};
use crate::{ResnetError, run_files, state_file};

/// Longest time between two saved states.
const SAVE_EVERY: Duration = Duration::from_secs(120);

/// What decides a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FinetuneConfig {
    /// The tuning.
    pub distill: DistillConfig,
    /// Evaluations, evenly spread over the steps.
    pub evaluations: usize,
}

/// One evaluation; a line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Steps done.
    pub step: usize,
    /// All of them.
    pub steps: usize,
    /// KL divergence from the float network on the held-out images, nats an image; simulated.
    pub held_out_kl: f64,
    /// Held-out images that float and quantized network name alike, in 0..=1.
    pub held_out_agreement: f64,
    /// Loss of the last step before, which carries the factor T².
    pub loss: f64,
}

/// Watches a run.
pub trait FinetuneMonitor {
    /// After every step. `false` stops the run; its state is kept.
    fn step(&mut self, progress: &DistillProgress) -> bool;
    /// After every evaluation.
    fn evaluated(&mut self, evaluation: &Evaluation);
    /// While held-out images are evaluated. `false` stops the run.
    fn evaluating(&mut self, done: usize) -> bool;
}

/// What is tuned on what.
pub struct Task<'a> {
    /// The float network.
    pub teacher: &'a FoldedNet,
    /// It, quantized.
    pub start: &'a QuantNet,
    /// Images to tune on.
    pub train: Arc<ImageSet>,
    /// Images that choose the best network; never tuned on.
    pub held_out: &'a ImageSet,
    /// Of both.
    pub normalization: Normalization,
    /// Goes into the packed files.
    pub info: NetworkInfo,
    /// The same.
    pub recipe: Recipe,
}

/// What a run is of; another one cannot go on with its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    config: FinetuneConfig,
    /// CRC-32 of the packed network that it started from.
    start: u32,
    images: usize,
}

#[derive(Serialize, Deserialize)]
struct Header {
    of: Identity,
    step: usize,
    history: Vec<Evaluation>,
}

/// A folder that a run writes to.
#[derive(Clone, Debug)]
pub struct FinetuneFolder(PathBuf);

impl FinetuneFolder {
    /// A folder; it is made when something is written.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The packed network closest to float.
    pub fn best(&self) -> PathBuf {
        self.0.join("best.lbq")
    }

    /// The packed network of the last evaluation.
    pub fn last(&self) -> PathBuf {
        self.0.join("last.lbq")
    }

    /// What `--resume` reads.
    pub fn state(&self) -> PathBuf {
        self.0.join("state.safetensors")
    }

    /// What the run was started with.
    pub fn config(&self) -> PathBuf {
        run_files::config(&self.0)
    }

    /// Writes `config.json`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn save_config(&self, config: &serde_json::Value) -> Result<(), ResnetError> {
        run_files::save_config(&self.0, config)
    }

    fn save(
        &self,
        of: &Identity,
        s: &StoredDistillation,
        history: &[Evaluation],
    ) -> Result<(), ResnetError> {
        let header = Header {
            of: of.clone(),
            step: s.step,
            history: history.to_vec(),
        };
        let parts = [
            ("student", s.student.as_slice()),
            ("optimizer", &s.optimizer),
        ];
        state_file::write(&self.state(), &header, &parts)
    }

    fn load(
        &self,
        of: &Identity,
    ) -> Result<Option<(StoredDistillation, Vec<Evaluation>)>, ResnetError> {
        let (path, remedy) = (self.state(), "start without --resume");
        let Some((header, mut parts)) = state_file::read::<Header>(&path, remedy)? else {
            return Ok(None);
        };
        if header.of != *of {
            let what = match (header.of.start == of.start, header.of.images == of.images) {
                (false, _) => "another packed network",
                (_, false) => "another number of images",
                _ => "other settings",
            };
            let problem = format!("the run was started with {what} than asked for now; {remedy}");
            return Err(ResnetError::checkpoint(&path, problem));
        }
        let stored = StoredDistillation {
            student: parts.need(&path, "student")?,
            optimizer: parts.need(&path, "optimizer")?,
            step: header.step,
        };
        Ok(Some((stored, header.history)))
    }

    fn save_metrics(&self, history: &[Evaluation]) -> Result<(), ResnetError> {
        run_files::save_metrics(&self.0, history)
    }
}

/// Tunes, or goes on with the run in `folder`; the evaluations, and whether all steps were done.
///
/// # Errors
/// If the configuration makes no sense, files cannot be written, or the device fails.
pub fn finetune(
    task: &Task,
    config: &FinetuneConfig,
    folder: &FinetuneFolder,
    device: &Device,
    monitor: &mut dyn FinetuneMonitor,
) -> Result<(Vec<Evaluation>, bool), ResnetError> {
    let packed = |net: &QuantNet| -> Result<Vec<u8>, ResnetError> {
        let network = ptq::pack(net, task.info.clone(), task.recipe.clone())?;
        Ok(file::to_bytes(&network)?)
    };
    let of = Identity {
        config: config.clone(),
        start: crc32fast::hash(&packed(task.start)?),
        images: task.train.len(),
    };
    let mut run = Distillation::new(
        task.start,
        task.teacher,
        task.train.clone(),
        task.normalization,
        &config.distill,
        device,
    )?;
    let mut history = Vec::new();
    if let Some((stored, evaluations)) = folder.load(&of)? {
        run = run.restore(&stored)?;
        history = evaluations;
    }
    let reference = Reference::new(
        task.teacher,
        task.held_out,
        &task.normalization,
        device,
        &mut |done| monitor.evaluating(done),
    )?;
    let steps = config.distill.steps;
    let every = steps.div_ceil(config.evaluations.max(1));
    while run.step() < steps {
        let until = (run.step() / every + 1) * every;
        let mut saved = Instant::now();
        let mut stopped = false;
        let mut loss = f64::NAN;
        while run.step() < until.min(steps) && !stopped {
            run.run(&mut |p| {
                loss = p.loss;
                stopped = !monitor.step(p);
                !stopped && p.step < until && saved.elapsed() < SAVE_EVERY
            })?;
            if stopped || saved.elapsed() >= SAVE_EVERY {
                folder.save(&of, &run.store()?, &history)?;
                saved = Instant::now();
            }
        }
        if stopped {
            return Ok((history, false));
        }
        let net = run.finish()?;
        let divergence = reference.divergence(&net, &mut |done| monitor.evaluating(done))?;
        let evaluation = Evaluation {
            step: run.step(),
            steps,
            held_out_kl: divergence.kl,
            held_out_agreement: divergence.agreement(),
            loss,
        };
        monitor.evaluated(&evaluation);
        let best = (history.iter()).all(|e: &Evaluation| evaluation.held_out_kl < e.held_out_kl);
        history.push(evaluation);
        let bytes = packed(&net)?;
        atomic::write(&folder.last(), &bytes)?;
        if best {
            atomic::write(&folder.best(), &bytes)?;
        }
        folder.save_metrics(&history)?;
        folder.save(&of, &run.store()?, &history)?;
    }
    Ok((history, true))
}
