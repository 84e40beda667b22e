//! A quantization scheme: what is decided before any data is seen.

use lb_format::BitWidth;
use serde::{Deserialize, Serialize};

/// Whether zero sits in the middle of the codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Symmetry {
    /// Range `−m ..= m`, zero point and offset 0.
    Symmetric,
    /// Any range; a zero point (activations) or an offset (weights) moves it.
    Affine,
}

/// How many scales a tensor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// One.
    PerTensor,
    /// One per index of axis 0, the output channel of a weight.
    PerChannel,
}

/// Bits, signedness, symmetry and granularity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QScheme {
    /// Bits a code.
    pub bits: BitWidth,
    /// Two's complement codes, or codes from 0.
    pub signed: bool,
    /// Where zero sits.
    pub symmetry: Symmetry,
    /// How many scales.
    pub granularity: Granularity,
}

impl QScheme {
    /// Signed codes, the usual choice for weights: integer kernels multiply unsigned activations
    /// by signed weights.
    pub const fn weight(bits: BitWidth, symmetry: Symmetry, granularity: Granularity) -> Self {
        Self {
            bits,
            signed: true,
            symmetry,
            granularity,
        }
    }
}
