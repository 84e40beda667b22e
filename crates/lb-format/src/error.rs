//! Errors, split by whose fault it is: the file system, the bytes, or a value.

use std::path::PathBuf;

/// Everything that can go wrong when a quantized network is built, written or read.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The bytes are not a safetensors container.
    #[error("not a safetensors file: {0}")]
    Container(#[from] safetensors::SafeTensorError),
    /// The container is sound, but holds something else than a quantized network.
    #[error("not a quantized network of `lb` ({0}); `lb calibrate` writes them")]
    NotQuantized(String),
    /// Written by another `lb`.
    #[error("format version {found}, but this `lb` reads versions {} to {supported}: {}", crate::file::OLDEST, if found > supported { "update `lb`" } else { "write it again with `lb calibrate`" })]
    Version {
        /// Version in the file.
        found: u32,
        /// The newest version that this code reads.
        supported: u32,
    },
    /// The tensor data changed after it was written.
    #[error(
        "damaged: checksum of the tensor data is {found:08x}, the header says {expected:08x}; copy the file again or rerun `lb calibrate`"
    )]
    Checksum {
        /// CRC-32 in the header.
        expected: u32,
        /// CRC-32 of the data as read.
        found: u32,
    },
    /// A value that no correct writer produces.
    #[error("{what}: {problem}")]
    Invalid {
        /// Where the value stands, e.g. ``layer `stem`, scale[3]``.
        what: String,
        /// The value and what was expected.
        problem: String,
    },
    /// An error with the file it came from.
    #[error("{path}: {source}", path = path.display())]
    At {
        /// The file concerned.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<FormatError>,
    },
}

impl FormatError {
    /// Shorthand for [`FormatError::Invalid`].
    pub fn invalid(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Invalid {
            what: what.into(),
            problem: problem.into(),
        }
    }

    /// The same error, naming the file it came from.
    pub fn at(self, path: &std::path::Path) -> Self {
        match self {
            e @ (Self::Io { .. } | Self::At { .. }) => e,
            e => Self::At {
                path: path.to_owned(),
                source: Box::new(e),
            },
        }
    }
}
