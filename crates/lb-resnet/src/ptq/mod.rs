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
mod chain;
mod compensate;
mod correct;
mod distill;
mod evaluate;
mod feel;
mod fold;
mod image_rounding;
mod learn;
mod level_set;
mod lower;
mod method;
mod mixup;
mod observe;
mod options;
mod pack;
mod partial;
mod quantize;
mod reconstruct;
mod refine;
mod widths;

pub use assignment::{Assigned, Assignment};
pub use chain::cached_bytes;
pub use distill::{DistillConfig, DistillProgress, Distillation, StoredDistillation};
pub use fold::fold;
pub use image_rounding::ImageRounding;
pub use level_set::{ActivationLevels, LevelSet};
pub use method::Method;
pub use observe::{Calibration, observe};
pub use options::{Options, default_residual_bits};
pub use pack::{pack, unpack};
pub use partial::Partial;
pub use quantize::quantize;
pub use reconstruct::ReconstructConfig;
pub use refine::{
    LEAST_IMAGES, Reconstructed, RefineMonitor, RefineProgress, Refinement, UnitReport, refine,
};
pub use widths::Widths;

use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use lb_nn::{FloatAct, QuantAct, QuantConv2d, QuantLinear};

use crate::model::Unit;

type FloatUnit = Unit<Conv2d, FloatAct, Linear>;
type QuantUnit = Unit<QuantConv2d, QuantAct, QuantLinear>;

#[cfg(test)]
mod learning_tests;
#[cfg(test)]
mod tests;
