//! The methods by name: how ranges are chosen, and what follows.

use std::fmt;
use std::str::FromStr;

use lb_core::observe::RangeRule;
use lb_core::weight::WeightRule;
use lb_core::{Granularity, QScheme, Symmetry};
use lb_format::BitWidth;
use lb_nn::learned::Rounding;
use serde::{Deserialize, Serialize};

use super::{ReconstructConfig, Refinement, Widths};

/// How ranges are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Full ranges; weights symmetric per channel.
    MinMax,
    /// Activations by the moving average of batch extremes; weights as [`Method::Mse`].
    MovingAverage,
    /// Activations clipped to 99.9 % of the values; weights as [`Method::Mse`].
    Percentile,
    /// Least squared error: activations per tensor, weights per channel, below 8 bits with a real
    /// offset.
    Mse,
    /// Activations by Kullback–Leibler divergence; weights as [`Method::Mse`].
    Kl,
    /// [`Method::Mse`], then affine correction of every layer ([`lb_nn::correct`]).
    Affine,
    /// [`Method::Affine`] of weights rounded so that their errors cancel
    /// ([`lb_core::compensate`]).
    Gptq,
    /// [`Method::Affine`], then reconstruction of every block.
    Brecq,
    /// [`Method::Brecq`], then end-to-end tuning on the calibration images.
    #[serde(rename = "brecq+kl")]
    BrecqKl,
    /// The predecessor's scheme, as it was: min-max per tensor, scale divided by 2^b, shortcuts,
    /// residual stream and final linear in float. For comparison only.
    Lbtorch,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 10] = [
        Self::MinMax,
        Self::MovingAverage,
        Self::Percentile,
        Self::Mse,
        Self::Kl,
        Self::Affine,
        Self::Gptq,
        Self::Brecq,
        Self::BrecqKl,
        Self::Lbtorch,
    ];

    /// What a network of these widths is quantized with unless told otherwise. Rounding with errors
    /// that cancel costs seconds and no gradients, and wins below 8 bits: on held-out training
    /// images (float 86.08 %) 63.1 to 76.6 % at W2A2, 83.4 to 85.3 % at W4A4. At 8 bits nothing is
    /// lost, and at 16 there is nothing to win.
    pub fn default_for(widths: Widths) -> Self {
        match widths.weights.min(widths.activations).get() {
            1..=8 => Self::Gptq,
            _ => Self::Mse,
        }
    }

    /// What follows quantization.
    pub fn refinement(self, seed: u64) -> Refinement {
        let refines = matches!(
            self,
            Self::Affine | Self::Gptq | Self::Brecq | Self::BrecqKl
        );
        let reconstructs = matches!(self, Self::Brecq | Self::BrecqKl);
        Refinement {
            correct: refines,
            compensate: refines && self != Self::Affine,
            reconstruct: reconstructs.then(|| ReconstructConfig::new(Rounding::Straight, seed)),
        }
    }

    /// Whether end-to-end tuning follows.
    pub fn distills(self) -> bool {
        self == Self::BrecqKl
    }

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MinMax => "minmax",
            Self::MovingAverage => "moving-average",
            Self::Percentile => "percentile",
            Self::Mse => "mse",
            Self::Kl => "kl",
            Self::Affine => "affine",
            Self::Gptq => "gptq",
            Self::Brecq => "brecq",
            Self::BrecqKl => "brecq+kl",
            Self::Lbtorch => "lbtorch",
        }
    }

    pub(super) const fn activation_rule(self) -> RangeRule {
        match self {
            Self::MinMax | Self::Lbtorch => RangeRule::MinMax,
            Self::MovingAverage => RangeRule::MovingAverage,
            Self::Percentile => RangeRule::Percentile(0.999),
            Self::Mse | Self::Affine | Self::Gptq | Self::Brecq | Self::BrecqKl => RangeRule::Mse,
            Self::Kl => RangeRule::Kl,
        }
    }

    pub(super) const fn weight_scheme(self, bits: BitWidth) -> (QScheme, WeightRule) {
        let (symmetry, rule) = match self {
            Self::MinMax => (Symmetry::Symmetric, WeightRule::MinMax),
            // From 8 bits on an offset gains nothing that can be measured, and without one an
            // integer engine has no sums of inputs to compute.
            Self::Lbtorch => (Symmetry::Affine, WeightRule::Mse),
            _ if bits.get() >= 8 => (Symmetry::Symmetric, WeightRule::Mse),
            _ => (Symmetry::Affine, WeightRule::Mse),
        };
        (
            QScheme::weight(bits, symmetry, Granularity::PerChannel),
            rule,
        )
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Method {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|m| m.name() == s)
            .ok_or_else(|| {
                format!(
                    "method `{s}` is unknown: use one of {}",
                    Self::ALL.map(Self::name).join(", ")
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_have_names() {
        for m in Method::ALL {
            assert_eq!(m.name().parse::<Method>().unwrap(), m);
        }
        assert!("brcq".parse::<Method>().unwrap_err().contains("lbtorch"));
    }
}
