//! What can go wrong between a packed file and a label.

use lb_format::FormatError;

/// Why a network cannot be run in integers, or an input cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The network itself is invalid.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The network is valid, but this engine does not run it.
    #[error("{place}: {reason}, which the integer engine does not run")]
    Unsupported {
        /// The node, layer or activation.
        place: String,
        /// What about it.
        reason: String,
    },
    /// A value that integers of this width cannot hold.
    #[error("layer `{layer}`: {problem}")]
    Numeric {
        /// The layer.
        layer: String,
        /// The value and its bound.
        problem: String,
    },
    /// The caller's buffer has the wrong size.
    #[error("{what}: {found} bytes or values, expected {expected}")]
    Size {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// `LB_KERNEL` or an option names a kernel that is not there.
    #[error("kernel `{asked}` is not available on this machine: use one of {}", available.join(", "))]
    NoKernel {
        /// What was asked for.
        asked: String,
        /// The names that would work.
        available: Vec<&'static str>,
    },
    /// The operating system gave no threads.
    #[error("starting {threads} threads: {problem}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What it said.
        problem: String,
    },
}

impl EngineError {
    pub(crate) fn unsupported(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Unsupported {
            place: place.into(),
            reason: reason.into(),
        }
    }
}
