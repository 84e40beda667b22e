//! Quantization as functions of Burn tensors: the same code on every backend.
//!
//! | module | idea |
//! |---|---|
//! | [`activation_levels`] | activations on a table of levels, and the levels that fit them |
//! | [`affine`] | quantize, dequantize, fake-quantize with a straight-through gradient |
//! | [`compensate`](mod@compensate) | rounding whose errors cancel on calibration images (GPTQ) |
//! | [`diffusion`] | how errors of an image of few codes are passed on, and the weights that suit a network |
//! | [`dither`] | what is added to an image of few codes before it is rounded |
//! | [`distance`] | squared distance from a target |
//! | [`learned`] | fake quantization of activations with a learned step, and QDrop |
//! | [`levels`] | search of scale and offset for weights with a table of levels |
//! | [`moments`] | mean and deviation of each channel |
//! | [`scheme`] | bits, signedness, symmetry and granularity, before any range is known |
//! | [`range`] | a real range becomes [`QParams`](lb_format::QParams) |
//! | [`observe`] | statistics of activations, and the rules that turn them into a range |
//! | [`weight`] | per-channel search of weight scale and offset |
//! | [`bias`] | bias correction |
//! | [`host`] | tensors on the CPU as slices, for operators that fuse many passes into one |
//! | [`sqnr`](mod@sqnr) | signal to quantization noise ratio |
//!
//! An observer gathers, a range rule decides, [`QParams`](lb_format::QParams) encode: three things.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use lb_core::{affine, observe::{RangeRule, Statistics}, range};
//! use lb_format::BitWidth;
//!
//! let device = Device::flex();
//! let x = Tensor::<4>::from_data([[[[0.0f32, 0.4, 1.1, 3.0]]]], &device);
//! let mut stats = Statistics::default();
//! stats.observe(x.clone());
//! let (lo, hi) = RangeRule::MinMax.range(&stats, BitWidth::new(4)?)?;
//! let q = range::activation(lo, hi, BitWidth::new(4)?);
//! let codes: Vec<f32> = affine::quantize(x, &q).try_to_vec_as()?;
//! assert_eq!(codes, [0.0, 2.0, 6.0, 15.0]); // steps of 3.0 / 15
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod activation_levels;
pub mod affine;
pub mod bias;
pub mod compensate;
pub mod diffusion;
pub mod distance;
pub mod dither;
mod error;
#[cfg(feature = "flex")]
pub mod host;
pub mod learned;
pub mod levels;
pub mod moments;
pub mod observe;
pub mod range;
pub mod scheme;
pub mod sqnr;
pub mod weight;

pub use error::CoreError;
pub use scheme::{Granularity, QScheme, Symmetry};
