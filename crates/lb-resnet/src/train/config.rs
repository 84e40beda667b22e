//! What decides a training run.

use lb_data::AugmentConfig;
use serde::{Deserialize, Serialize};

use crate::ResnetError;

/// Hyperparameters. The defaults are He et al. 2015 (section 4.2) with a cosine schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainConfig {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images a step.
    pub batch: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Epochs of linear warm-up from 0.
    pub warmup_epochs: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Nesterov's form of momentum.
    pub nesterov: bool,
    /// L2 penalty, added to the gradient of every parameter.
    pub weight_decay: f64,
    /// Label smoothing in 0..1; 0: none.
    pub label_smoothing: f64,
    /// Decay of an exponential moving average of the weights, which is then what is evaluated and
    /// saved.
    pub ema: Option<f64>,
    /// Whether the CPU may round factors of convolutions to bfloat16 ([`lb_nn::conv2d::in_bf16`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bf16: bool,
    /// Augmentation.
    pub augment: AugmentConfig,
    /// Seed of weights, order and augmentation.
    pub seed: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            epochs: 200,
            batch: 128,
            learning_rate: 0.1,
            warmup_epochs: 1.0,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 5e-4,
            label_smoothing: 0.0,
            ema: None,
            bf16: false,
            augment: AugmentConfig::default(),
            seed: 0,
        }
    }
}

impl TrainConfig {
    /// Refuses values that cannot be meant.
    ///
    /// # Errors
    /// Names the first one, and what it may be.
    pub fn validate(&self) -> Result<(), ResnetError> {
        let within = |name: &str, value: f64, low: f64, high: f64| {
            if (low..=high).contains(&value) {
                return Ok(());
            }
            Err(ResnetError::Invalid(format!(
                "{name} is {value}, expected {low} to {high}"
            )))
        };
        within("the number of epochs", self.epochs as f64, 1.0, 1e5)?;
        within("the batch size", self.batch as f64, 2.0, 65536.0)?;
        within("the learning rate", self.learning_rate, 1e-8, 100.0)?;
        within(
            "warm-up epochs",
            self.warmup_epochs,
            0.0,
            self.epochs as f64,
        )?;
        within("the momentum", self.momentum, 0.0, 0.9999)?;
        within("the weight decay", self.weight_decay, 0.0, 1.0)?;
        within("label smoothing", self.label_smoothing, 0.0, 0.9)?;
        let jitter = self.augment.color_jitter.unwrap_or(0.0);
        within("the colour jitter", f64::from(jitter), 0.0, 1.0)?;
        within("the EMA decay", self.ema.unwrap_or(0.0), 0.0, 0.999_999)
    }

    /// Whole batches in `images` images.
    ///
    /// # Errors
    /// If there is not one.
    pub fn steps_per_epoch(&self, images: usize) -> Result<usize, ResnetError> {
        match images / self.batch {
            0 => Err(ResnetError::Invalid(format!(
                "{images} training images do not fill one batch of {}: use a smaller --batch",
                self.batch
            ))),
            steps => Ok(steps),
        }
    }
}
