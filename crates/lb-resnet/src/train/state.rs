//! Everything that a run must remember to go on as if it had never stopped.

use burn::module::Module;
use burn::optim::decay::WeightDecayConfig;
use burn::optim::momentum::MomentumConfig;
use burn::optim::{ModuleOptimizer, SgdConfig};
use burn::store::ModuleRecord;
use burn::tensor::{Bytes, Device};
use lb_format::NetworkInfo;
use serde::{Deserialize, Serialize};

use super::{EpochMetrics, TrainConfig, chosen};
use crate::ResnetError;
use crate::checkpoint::arch_of;
use crate::model::FloatNet;

/// Where in the run, and the sums of the epoch so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Position {
    pub epoch: usize,
    pub step: usize,
    pub loss_sum: f64,
    pub right: u64,
    pub read_steps: u64,
    pub read_images: u64,
}

impl Position {
    pub(super) fn mean_loss(&self) -> f64 {
        self.loss_sum / self.read_steps.max(1) as f64
    }

    pub(super) fn accuracy(&self) -> f64 {
        self.right as f64 / self.read_images.max(1) as f64
    }
}

/// A run in memory.
pub(super) struct State {
    pub net: FloatNet,
    pub average: Option<FloatNet>,
    pub optimizer: ModuleOptimizer,
    pub position: Position,
    pub history: Vec<EpochMetrics>,
}

/// A run in bytes.
pub(super) struct StoredState {
    pub net: Vec<u8>,
    pub average: Option<Vec<u8>>,
    pub optimizer: Vec<u8>,
    pub position: Position,
    pub history: Vec<EpochMetrics>,
}

impl State {
    pub(super) fn fresh(
        config: &TrainConfig,
        info: &NetworkInfo,
        device: &Device,
    ) -> Result<Self, ResnetError> {
        let net = network(config, info, device)?;
        Ok(Self {
            average: config.ema.map(|_| net.valid()),
            net,
            optimizer: optimizer(config),
            position: Position::default(),
            history: Vec::new(),
        })
    }

    pub(super) fn restore(
        stored: StoredState,
        config: &TrainConfig,
        info: &NetworkInfo,
        device: &Device,
    ) -> Result<Self, ResnetError> {
        let record =
            |bytes| ModuleRecord::from_bytes(Bytes::from_bytes_vec(bytes)).map_err(damaged);
        let net = network(config, info, device)?.load_record(record(stored.net)?);
        let average = match stored.average {
            None => None,
            Some(bytes) => Some(net.valid().load_record(record(bytes)?)),
        };
        let optimizer = optimizer(config)
            .from_bytes(Bytes::from_bytes_vec(stored.optimizer))
            .map_err(damaged)?;
        Ok(Self {
            net,
            average,
            optimizer,
            position: stored.position,
            history: stored.history,
        })
    }

    pub(super) fn store(&self) -> Result<StoredState, ResnetError> {
        // Running statistics lag by one update until `valid` settles them.
        let _ = self.net.valid();
        let bytes = |net: &FloatNet| -> Result<Vec<u8>, ResnetError> {
            Ok(net
                .clone()
                .into_record()
                .into_bytes()
                .map_err(damaged)?
                .to_vec())
        };
        Ok(StoredState {
            net: bytes(&self.net)?,
            average: self.average.as_ref().map(bytes).transpose()?,
            optimizer: self.optimizer.into_bytes().map_err(damaged)?.to_vec(),
            position: self.position.clone(),
            history: self.history.clone(),
        })
    }

    /// The network that is evaluated and saved.
    pub(super) fn evaluation_net(&self) -> FloatNet {
        self.average.as_ref().unwrap_or(&self.net).valid()
    }

    /// Moves to the next epoch; whether the finished one is the one to keep so far, of those that
    /// `held_out` images judged.
    pub(super) fn finish_epoch(&mut self, metrics: EpochMetrics, held_out: usize) -> bool {
        let epoch = metrics.epoch;
        self.history.push(metrics);
        self.position = Position {
            epoch: self.position.epoch + 1,
            ..Position::default()
        };
        chosen(&self.history, held_out).is_some_and(|m| m.epoch == epoch)
    }
}

fn network(
    config: &TrainConfig,
    info: &NetworkInfo,
    device: &Device,
) -> Result<FloatNet, ResnetError> {
    let (arch, shortcut) = arch_of(info)?;
    Ok(FloatNet::init(
        arch,
        shortcut,
        info.classes.len(),
        config.seed,
        device,
    ))
}

fn optimizer(config: &TrainConfig) -> ModuleOptimizer {
    SgdConfig::new()
        .with_momentum((config.momentum > 0.0).then_some(MomentumConfig {
            momentum: config.momentum,
            dampening: 0.0,
            nesterov: config.nesterov,
        }))
        .with_weight_decay(
            (config.weight_decay > 0.0).then(|| WeightDecayConfig::new(config.weight_decay as f32)),
        )
        .init()
}

fn damaged(e: impl std::fmt::Display) -> ResnetError {
    ResnetError::Invalid(format!(
        "the training state is damaged: {e}; start without --resume"
    ))
}
