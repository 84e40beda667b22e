//! Errors of this crate.

use std::path::PathBuf;

/// What can go wrong between a checkpoint and a packed file.
#[derive(Debug, thiserror::Error)]
pub enum ResnetError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A checkpoint cannot be used.
    #[error("{path}: {problem}", path = path.display())]
    Checkpoint {
        /// The file concerned.
        path: PathBuf,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A training configuration or a request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A place in the network could not be quantized.
    #[error("`{site}`: {source}")]
    Site {
        /// Path in the network.
        site: String,
        /// Why.
        source: lb_core::CoreError,
    },
    /// Data.
    #[error(transparent)]
    Data(#[from] lb_data::DataError),
    /// The packed file.
    #[error(transparent)]
    Format(#[from] lb_format::FormatError),
    /// Architecture.
    #[error(transparent)]
    Arch(#[from] crate::model::UnknownArch),
    /// The device failed.
    #[error("the device failed: {0}")]
    Device(String),
}

impl ResnetError {
    pub(crate) fn checkpoint(path: &std::path::Path, problem: impl std::fmt::Display) -> Self {
        Self::Checkpoint {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }
}
