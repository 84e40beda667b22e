//! End-to-end tuning: the float network teaches its quantized self, without labels.
//!
//! ```text
//! loss = T² · mean over images of Σ_classes p · (log p − log q)  +  λ · Σ_blocks ‖x̂ − x‖² / ‖x‖²
//! p = softmax(float logits / T)      q = softmax(quantized logits / T)
//! ```
//!
//! with x the residual stream after each block of the float network and x̂ of the quantized one
//! (Hinton et al. 2015, arXiv 1503.02531; Romero et al. 2015, arXiv 1412.6550), with gradients
//! through every quantizer: weights straight through from their latent codes, activation steps as in
//! LSQ.
//!
//! On the CPU a batch passes in parts, side by side, and the second term is the mean of theirs.

use std::num::NonZeroUsize;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device, Tensor, activation};
use lb_core::distance;
use lb_data::{AugmentConfig, ImageSet, Normalization};
use lb_nn::conv2d::in_bf16;
use lb_nn::learned::{Dropping, Learning, Rounding};
use serde::{Deserialize, Serialize};

use super::evaluate::evaluate;
use super::learn::{confine, finish, learn};
use super::mixup::mixup;
use crate::ResnetError;
use crate::batch::{Epochs, NormalizedBatcher, spans};
use crate::lanes::{self, Lanes};
use crate::model::{EvaluatedNet, FoldedNet, LearnedNet, QuantNet, Seen};

/// How a network is tuned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DistillConfig {
    /// Steps of Adam.
    pub steps: usize,
    /// Images a step.
    pub batch: usize,
    /// Peak learning rate, in units of a quantization step; rises over the first twentieth of the
    /// steps, then falls to zero by a cosine.
    pub learning_rate: f64,
    /// Weight of the residual stream's error.
    pub features: f32,
    /// T, above 0.
    pub temperature: f32,
    /// What is done to the images.
    pub augment: AugmentConfig,
    /// Whether images are then mixed with each other.
    #[serde(default)]
    pub mixup: bool,
    /// Whether the CPU may round factors of convolutions to bfloat16 ([`in_bf16`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bf16: bool,
    /// Seed of order and augmentation.
    pub seed: u64,
}

impl DistillConfig {
    /// Default of `learning_rate` on many images.
    pub const LEARNING_RATE: f64 = 0.01;
    /// Default of `features` on many images.
    pub const FEATURES: f32 = 0.05;
    /// Default of `temperature`.
    pub const TEMPERATURE: f32 = 2.0;

    /// The defaults for `steps` steps.
    pub fn new(steps: usize, seed: u64) -> Self {
        Self {
            steps,
            batch: 64,
            learning_rate: Self::LEARNING_RATE,
            features: Self::FEATURES,
            temperature: Self::TEMPERATURE,
            augment: AugmentConfig::default(),
            mixup: false,
            bf16: false,
            seed,
        }
    }

    /// The defaults for tuning on `images` calibration images.
    pub fn on_calibration_images(images: usize, seed: u64) -> Self {
        let default = Self::new(CALIBRATION_STEPS, seed);
        Self {
            batch: default.batch.min(images),
            // A few hundred steps get further at a high rate, in spite of its noise.
            learning_rate: 0.03,
            // The default was chosen on many images; on few it has not been tried.
            features: 0.5,
            mixup: true,
            ..default
        }
    }

    fn rate(&self, step: usize) -> f64 {
        let done = (step as f64 + 0.5) / self.steps as f64;
        if done < WARM_UP {
            return self.learning_rate * done / WARM_UP;
        }
        let done = (done - WARM_UP) / (1.0 - WARM_UP);
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

/// Where tuning stands, after every step.
#[derive(Clone, Copy, Debug)]
pub struct DistillProgress {
    /// Steps done.
    pub step: usize,
    /// All of them.
    pub steps: usize,
    /// Loss of the last step that was read, in nats.
    pub loss: f64,
}

/// Steps of tuning on calibration images. More of them fit the images, not the task.
const CALIBRATION_STEPS: usize = 400;

/// How fast scales, offsets, biases and activation steps move, relative to codes: they are stiff, as
/// every code of a channel hangs on them.
const RELATIVE_RATE: f32 = 1.0 / 30.0;

/// Part of the steps over which the learning rate rises.
const WARM_UP: f64 = 0.05;

/// Images that pass at once on the CPU. Fixed, so that sums have the same order on every number of
/// threads.
const PART: usize = 16;

/// Steps between reading losses from the device.
const READ_EVERY: usize = 10;

/// A tuning run in memory.
pub struct Distillation<'a> {
    teacher: &'a FoldedNet,
    set: Arc<ImageSet>,
    normalization: Normalization,
    config: &'a DistillConfig,
    device: &'a Device,
    student: LearnedNet,
    adam: ModuleOptimizer,
    /// Where parts of a batch pass side by side; `None`: batches pass whole.
    lanes: Option<Lanes>,
    step: usize,
    loss: f64,
}

/// A tuning run in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredDistillation {
    /// Parameters.
    pub student: Vec<u8>,
    /// The optimizer's state.
    pub optimizer: Vec<u8>,
    /// Steps done.
    pub step: usize,
}

impl<'a> Distillation<'a> {
    /// Before the first step: `start` is the quantized `teacher`.
    ///
    /// # Errors
    /// If a layer was left in float, the images do not fill a batch, or the device has no bfloat16 where that
    /// is wanted.
    pub fn new(
        start: &QuantNet,
        teacher: &'a FoldedNet,
        set: Arc<ImageSet>,
        normalization: Normalization,
        config: &'a DistillConfig,
        device: &'a Device,
    ) -> Result<Self, ResnetError> {
        if set.len() < config.batch {
            return Err(ResnetError::Invalid(format!(
                "{} images do not fill one batch of {}",
                set.len(),
                config.batch
            )));
        }
        if config.bf16 {
            lanes::require_bf16(std::slice::from_ref(device))?;
        }
        let dropping = Dropping::default();
        let learning = Learning {
            rounding: Rounding::Straight,
            relative_rate: RELATIVE_RATE,
        };
        let student = learn(start, teacher, learning, &dropping, device)?;
        let parts = NonZeroUsize::MIN.saturating_add(config.batch.saturating_sub(1) / PART);
        let lanes = Lanes::of_device(device, parts);
        Ok(Self {
            teacher,
            set,
            normalization,
            config,
            student: student.set_require_grad(true).train(),
            device,
            adam: AdamConfig::new().init(),
            lanes: lanes.map_err(|e| ResnetError::Device(e.to_string()))?,
            step: 0,
            loss: f64::NAN,
        })
    }

    /// Goes on where `stored` stopped.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn restore(mut self, stored: &StoredDistillation) -> Result<Self, ResnetError> {
        let damaged = |e: &dyn std::fmt::Display| {
            ResnetError::Invalid(format!(
                "the tuning state is damaged: {e}; start without --resume"
            ))
        };
        let bytes = |b: &[u8]| Bytes::from_bytes_vec(b.to_vec());
        let record = ModuleRecord::from_bytes(bytes(&stored.student)).map_err(|e| damaged(&e))?;
        self.student = self.student.load_record(record);
        self.adam = (self.adam.from_bytes(bytes(&stored.optimizer))).map_err(|e| damaged(&e))?;
        self.step = stored.step;
        Ok(self)
    }

    /// Everything that is needed to go on.
    ///
    /// # Errors
    /// If the device fails.
    pub fn store(&self) -> Result<StoredDistillation, ResnetError> {
        let failed = |e: &dyn std::fmt::Display| ResnetError::Device(e.to_string());
        let record = self.student.clone().into_record();
        Ok(StoredDistillation {
            student: record.into_bytes().map_err(|e| failed(&e))?.to_vec(),
            optimizer: self.adam.into_bytes().map_err(|e| failed(&e))?.to_vec(),
            step: self.step,
        })
    }

    /// Steps done.
    pub fn step(&self) -> usize {
        self.step
    }

    /// Trains until all steps are done or `go_on` says no; whether all were done.
    ///
    /// # Errors
    /// If the loss is no longer a number.
    pub fn run(
        &mut self,
        go_on: &mut dyn FnMut(&DistillProgress) -> bool,
    ) -> Result<bool, ResnetError> {
        let batcher = NormalizedBatcher {
            normalization: self.normalization,
            size: (self.set.height(), self.set.width()),
        };
        let images = Epochs::new(
            self.set.clone(),
            self.config.augment.clone(),
            self.config.seed,
            self.config.batch,
            self.step..self.config.steps,
        );
        let loader = batcher.loader(images, self.config.batch, self.device);
        for batch in loader.iter() {
            let mut images = (batch.map_err(|e| ResnetError::Device(e.to_string()))?).images;
            if self.config.mixup {
                images = mixup(images, self.config.seed, self.step);
            }
            self.descend(images)?;
            let progress = DistillProgress {
                step: self.step,
                steps: self.config.steps,
                loss: self.loss,
            };
            if !go_on(&progress) {
                return Ok(self.step == self.config.steps);
            }
        }
        // A loader that died looks like one at its end.
        if self.step < self.config.steps {
            let problem = format!("images ended after step {}", self.step);
            return Err(ResnetError::Device(problem));
        }
        Ok(true)
    }

    /// One step of gradient descent.
    fn descend(&mut self, images: Tensor<4>) -> Result<(), ResnetError> {
        let (net, origins) = evaluate(self.student.clone());
        let parts = self.parts(&net, images);
        let config = self.config;
        let passed = match &self.lanes {
            Some(lanes) => lanes.map(parts, |part| in_bf16(config.bf16, || part.pass(config))),
            None => parts.into_iter().map(|part| part.pass(config)).collect(),
        };
        let read = self.step.is_multiple_of(READ_EVERY);
        let mut sum = 0.0;
        let mut gradients = GradientsAccumulator::new();
        for (part, loss) in passed {
            gradients.accumulate(&net, part);
            if read {
                let loss = loss.try_into_scalar::<f32>();
                sum += f64::from(loss.map_err(|e| ResnetError::Device(e.to_string()))?);
            }
        }
        if read {
            self.loss = sum;
            if !sum.is_finite() {
                return Err(ResnetError::Invalid(format!(
                    "the loss became {sum} in step {}: use a smaller learning rate",
                    self.step
                )));
            }
        }
        let gradients = origins.backward(&self.student, gradients.grads());
        let rate = self.config.rate(self.step);
        self.student = (self.adam).step(rate, self.student.clone(), gradients);
        confine(&mut self.student);
        self.step += 1;
        Ok(())
    }

    /// What passes at once: [`PART`] images on the CPU, elsewhere all.
    fn parts(&self, net: &EvaluatedNet, images: Tensor<4>) -> Vec<Part> {
        let n = images.dims()[0];
        let size = if self.lanes.is_some() { PART } else { n };
        let part = |(from, size): (usize, usize)| Part {
            // Graphs that shared parameters would wait for each other.
            student: match size == n {
                true => net.clone(),
                false => net.clone().fork(self.device),
            },
            teacher: self.teacher.clone(),
            images: images.clone().narrow(0, from, size),
            share: size as f32 / n as f32,
        };
        spans(n, size).map(part).collect()
    }

    /// The quantized network as tuned so far.
    ///
    /// # Errors
    /// If a parameter diverged.
    pub fn finish(&self) -> Result<QuantNet, ResnetError> {
        finish(self.student.valid())
    }
}

/// Part of a batch, and networks of its own.
struct Part {
    student: EvaluatedNet,
    teacher: FoldedNet,
    images: Tensor<4>,
    /// Of the batch, in 0..=1.
    share: f32,
}

impl Part {
    /// Its share of the loss, and of the gradients.
    fn pass(self, config: &DistillConfig) -> (GradientsParams, Tensor<1>) {
        let mut streams = Vec::new();
        let expected = self
            .teacher
            .forward_traced(self.images.clone(), &mut |seen, name, x| {
                if seen == Seen::ActOutput && is_stream(name) {
                    streams.push(x.clone());
                }
                x
            });
        let mut streams = streams.into_iter();
        let mut features: Option<Tensor<1>> = None;
        let logits = self
            .student
            .forward_traced(self.images.autodiff(), &mut |seen, name, x| {
                if seen == Seen::ActOutput
                    && is_stream(name)
                    && let Some(expected) = streams.next()
                {
                    let error = relative_error(x.clone(), expected);
                    features = Some(match features.take() {
                        Some(sum) => sum + error,
                        None => error,
                    });
                }
                x
            });
        let mut loss = divergence(expected.autodiff(), logits, config.temperature);
        if let Some(features) = features {
            loss = loss + features * config.features;
        }
        let loss = loss * self.share;
        let value = loss.clone().detach();
        let gradients = GradientsParams::from_grads(loss.backward(), &self.student);
        (gradients, value)
    }
}

/// Whether an activation is the residual stream's, behind the stem or a block.
fn is_stream(activation: &str) -> bool {
    activation == "stem_act" || activation.ends_with(".act2")
}

/// `‖x̂ − x‖² / ‖x‖²`, `[1]`.
fn relative_error(actual: Tensor<4>, expected: Tensor<4>) -> Tensor<1> {
    let norm = distance::squared_norm(expected.clone());
    let norm = norm.clamp_min(f32::MIN_POSITIVE).autodiff();
    distance::squared(actual, expected) / norm
}

/// The first term of the loss above, `[1]`.
fn divergence(expected: Tensor<2>, logits: Tensor<2>, temperature: f32) -> Tensor<1> {
    let [n, _] = logits.dims();
    let log_p = activation::log_softmax(expected / temperature, 1).detach();
    let log_q = activation::log_softmax(logits / temperature, 1);
    let p = log_p.clone().exp();
    (p * (log_p - log_q)).sum() * (temperature * temperature / n as f32)
}
