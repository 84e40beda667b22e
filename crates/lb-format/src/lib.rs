//! What a quantized network *is*, with no opinion on how it was made or how it is run.
//!
//! | module | idea |
//! |---|---|
//! | [`bits`] | bit widths (1 to 8, and 16) and the codes each can hold |
//! | [`affine`] | the quantization formula, scalar form |
//! | [`dither`] | what is added to an image of few codes before it is rounded |
//! | [`diffusion`] | how errors of an image of few codes are passed on to its neighbours |
//! | [`levels`] | levels that are not equidistant, of weights: a table of integers |
//! | [`packed`] | sub-byte codes, really packed: one canonical bit layout |
//! | [`network`] | layers, activations and provenance of a quantized network |
//! | [`graph`] | the order in which they are applied; every edge's shape and codes |
//! | [`file`](mod@file) | the `.lbq` file: a safetensors container, validated on reading |
//! | [`atomic`] | write to a temporary name, then rename |
//!
//! The formula, for a real value `x`, a scale `s`, an integer zero point `z` and a real offset `o`:
//!
//! ```text
//! code = clamp(round_half_even((x − o) / s) + z, lo, hi)
//! x̂    = s · (code − z) + o
//! ```
//!
//! An image of few codes may have something added to `x` first: what its neighbours' rounding left
//! ([`diffusion`]), or a pattern ([`dither`](mod@dither)).
//! With a table of levels, `x̂ = s · level[code] + o`, and the code is that of the nearest level.
//!
//! ```
//! use lb_format::{Affine, BitWidth};
//! let range = BitWidth::new(4)?.range(false); // unsigned: 0..=15
//! let a = Affine { scale: 0.1, zero_point: 0, offset: 0.0 };
//! assert_eq!(a.quantize(0.72, range), 7);
//! assert_eq!(a.quantize(9.00, range), 15); // clamped
//! assert_eq!(a.dequantize(7), 0.1 * 7.0);
//! # Ok::<(), lb_format::FormatError>(())
//! ```

pub mod affine;
pub mod atomic;
pub mod bits;
pub mod diffusion;
pub mod dither;
mod error;
pub mod file;
pub mod graph;
pub mod levels;
pub mod network;
pub mod packed;

pub use affine::{Affine, QParams};
pub use bits::{BitWidth, CodeRange};
pub use diffusion::Diffusion;
pub use error::FormatError;
pub use file::{read, write};
pub use graph::Graph;
pub use levels::Levels;
pub use network::{Activation, Layer, LayerKind, NetworkInfo, QuantizedNetwork, Weight};
pub use packed::PackedTensor;
