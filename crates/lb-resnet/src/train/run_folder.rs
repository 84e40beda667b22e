//! The folder of a training run.
//!
//! | file | holds |
//! |---|---|
//! | `config.json` | resolved configuration, data, versions and machine of the start |
//! | `metrics.jsonl` | one line an epoch |
//! | `last.safetensors`, `best.safetensors` | checkpoints: of the last epoch, and of the one that held-out images choose ([`chosen`](super::chosen)) |
//! | `state.safetensors` | everything `--resume` needs |

use std::path::{Path, PathBuf};

use lb_format::NetworkInfo;
use serde::{Deserialize, Serialize};

use super::state::{Position, StoredState};
use super::{EpochMetrics, TrainConfig};
use crate::ResnetError;
use crate::checkpoint::{self, Checkpoint};
use crate::{run_files, state_file};

/// A folder that a run writes to.
#[derive(Clone, Debug)]
pub struct RunFolder(PathBuf);

/// What a run is of; another one cannot go on with its state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Identity {
    pub config: TrainConfig,
    pub network: NetworkInfo,
    pub images: usize,
    #[serde(default = "one")]
    pub devices: usize,
}

/// Runs of before there were several.
fn one() -> usize {
    1
}

#[derive(Serialize, Deserialize)]
struct StateHeader {
    of: Identity,
    position: Position,
    history: Vec<EpochMetrics>,
}

impl RunFolder {
    /// A folder; it is made when something is written.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The checkpoint of the epoch that held-out images choose ([`chosen`](super::chosen)).
    pub fn best(&self) -> PathBuf {
        self.0.join("best.safetensors")
    }

    /// The checkpoint of the last finished epoch.
    pub fn last(&self) -> PathBuf {
        self.0.join("last.safetensors")
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

    pub(super) fn save_metrics(&self, history: &[EpochMetrics]) -> Result<(), ResnetError> {
        run_files::save_metrics(&self.0, history)
    }

    pub(super) fn save_checkpoints(&self, c: &Checkpoint, best: bool) -> Result<(), ResnetError> {
        checkpoint::save(&self.last(), c)?;
        if best {
            checkpoint::save(&self.best(), c)?;
        }
        Ok(())
    }

    pub(super) fn save_state(&self, of: &Identity, s: &StoredState) -> Result<(), ResnetError> {
        let header = StateHeader {
            of: of.clone(),
            position: s.position.clone(),
            history: s.history.clone(),
        };
        let mut parts = vec![("net", s.net.as_slice()), ("optimizer", &s.optimizer)];
        parts.extend(s.average.as_ref().map(|a| ("average", a.as_slice())));
        state_file::write(&self.state(), &header, &parts)
    }

    /// The stored state, or `None` if the run has not started.
    pub(super) fn load_state(&self, of: &Identity) -> Result<Option<StoredState>, ResnetError> {
        let (path, remedy) = (self.state(), "start without --resume");
        let Some((header, mut parts)) = state_file::read::<StateHeader>(&path, remedy)? else {
            return Ok(None);
        };
        if header.of != *of {
            let what = match (
                header.of.config != of.config,
                header.of.network != of.network,
            ) {
                (true, _) => "hyperparameters",
                (_, true) => "a network or data set",
                _ if header.of.devices != of.devices => "a number of devices",
                _ => "a number of images",
            };
            let problem =
                format!("the run was started with {what} other than asked for now; {remedy}");
            return Err(ResnetError::checkpoint(&path, problem));
        }
        Ok(Some(StoredState {
            net: parts.need(&path, "net")?,
            average: parts.take("average"),
            optimizer: parts.need(&path, "optimizer")?,
            position: header.position,
            history: header.history,
        }))
    }
}
