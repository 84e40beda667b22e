//! The stage between quantized layers: everything that quantization rounds is learned.
//!
//! A [`QuantConv2d`](crate::QuantConv2d), its float original beside it, becomes a
//! [`LearnedConv2d`] whose codes, scales, offsets and bias receive gradients; training done, it
//! becomes a `QuantConv2d` again. Activations learn their step the same way.
//!
//! All parameters but the latent codes are deviations from where they started, in units that make
//! one learning rate right for all of them:
//!
//! ```text
//! s = s₀ · exp(ρ · θ)      o = o₀ + ρ · s₀ · φ      b = b₀ + ρ · u · β
//! ```
//!
//! with ρ given ([`Learning`]): Adam moves a parameter by about the learning rate a step, so
//! codes move by it in units of a step, and scales by ρ times as much, relatively.

mod act;
mod conv2d;
mod evaluated;
mod linear;
mod weight;

use serde::{Deserialize, Serialize};

pub use act::{Dropping, LearnedAct};
pub use conv2d::LearnedConv2d;
pub use evaluated::{EvaluatedConv2d, EvaluatedLinear, Origin};
pub use linear::LearnedLinear;
pub use weight::Rounding;

/// How learned layers start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Learning {
    /// How latent codes become codes.
    pub rounding: Rounding,
    /// How fast scales, offsets, biases and activation steps move, relative to codes: ρ above.
    pub relative_rate: f32,
}

#[cfg(test)]
mod tests;
