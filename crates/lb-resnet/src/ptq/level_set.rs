//! How the levels of weights and of activations are spaced, as people choose it.

use std::fmt;
use std::str::FromStr;

use lb_format::{BitWidth, Levels};
use serde::{Deserialize, Serialize};

/// A choice of levels for weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LevelSet {
    /// Equidistant.
    #[default]
    Uniform,
    /// Sums of powers of two ([`Levels::additive_powers_of_two`]), at the widths that have them.
    Apot,
}

impl LevelSet {
    /// All choices.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Apot];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Apot => "apot",
        }
    }

    /// Whether it is [`Self::Uniform`].
    pub fn is_uniform(&self) -> bool {
        *self == Self::Uniform
    }

    /// The table of a weight of `bits` bits; `None`: its codes are its levels. Edge layers at 8
    /// bits are among these: so many equidistant levels leave no error to save.
    pub fn table(self, bits: BitWidth) -> Option<Levels> {
        match self {
            Self::Uniform => None,
            Self::Apot => Levels::additive_powers_of_two(bits).ok(),
        }
    }
}

impl fmt::Display for LevelSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for LevelSet {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|l| l.name() == s);
        named.ok_or_else(|| format!("levels `{s}` are unknown: use uniform or apot"))
    }
}

/// A choice of levels for activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationLevels {
    /// Equidistant.
    #[default]
    Uniform,
    /// Fitted to what was observed, where that is not negative and has 2 to 6 bits
    /// ([`lb_core::activation_levels`]).
    Fitted,
}

impl ActivationLevels {
    /// All choices.
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Fitted];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Fitted => "fitted",
        }
    }

    /// Whether it is [`Self::Uniform`].
    pub fn is_uniform(&self) -> bool {
        *self == Self::Uniform
    }
}

impl fmt::Display for ActivationLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ActivationLevels {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|l| l.name() == s);
        named.ok_or_else(|| format!("activation levels `{s}` are unknown: use uniform or fitted"))
    }
}
