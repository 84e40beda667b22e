//! Post-training quantization, top to bottom:
//!
//! ```text
//! FloatNet ── fold ──► FoldedNet ── observe ──► Calibration
//!                          └───────── quantize ─────┴──────► QuantNet ── pack ──► file
//! ```
//!
//! Everything is quantized: the stem, all convolutions, shortcuts, the residual stream and the
//! final linear. Observation is done once; every width and method then takes what it needs from
//! the same statistics.

mod assignment;
mod fold;
mod lower;
mod observe;
mod pack;
mod plan;
mod quantize;

pub use assignment::{Assigned, Assignment};
pub use fold::fold;
pub use observe::{Calibration, observe};
pub use pack::{pack, unpack};
pub use plan::{Method, Options, Widths};
pub use quantize::quantize;

#[cfg(test)]
mod tests;
