//! Errors of the quantization functions.

/// What can go wrong when parameters are derived from data.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// No value was observed.
    #[error("nothing was observed: run calibration images through the network first")]
    NothingObserved,
    /// The data holds NaN or infinity.
    #[error(
        "{count} of {total} observed values are NaN or infinite: check the checkpoint and its normalisation"
    )]
    NonFinite {
        /// How many.
        count: u64,
        /// Out of how many.
        total: u64,
    },
    /// The second moments of a layer's inputs are not those of finite numbers.
    #[error(
        "the inputs of a layer have no finite second moments: check the checkpoint and its normalisation"
    )]
    Moments,
    /// What a network feels of errors of its image is not finite.
    #[error(
        "the gradients of the network in its image are not finite: check the checkpoint and its normalisation"
    )]
    Felt,
    /// Reading a tensor from the device failed.
    #[error("reading a tensor from the device: {0}")]
    Device(String),
    /// The parameters are not valid.
    #[error(transparent)]
    Format(#[from] lb_format::FormatError),
}
