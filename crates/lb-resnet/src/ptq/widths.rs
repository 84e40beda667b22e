//! Bits of weights and activations.

use std::fmt;
use std::str::FromStr;

use lb_format::BitWidth;
use serde::{Deserialize, Serialize};

/// Bits of weights and activations of all layers but the edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Widths {
    /// Bits a weight.
    pub weights: BitWidth,
    /// Bits an activation.
    pub activations: BitWidth,
}

impl fmt::Display for Widths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "W{}A{}", self.weights, self.activations)
    }
}

impl FromStr for Widths {
    type Err = String;
    /// `4` is W4A4; `w2a4` says both.
    fn from_str(s: &str) -> Result<Self, String> {
        let bits = |n: &str| -> Option<BitWidth> { BitWidth::new(n.parse().ok()?).ok() };
        let lower = s.to_ascii_lowercase();
        let parsed = match lower
            .strip_prefix('w')
            .and_then(|rest| rest.split_once('a'))
        {
            Some((w, a)) => bits(w).zip(bits(a)),
            None => bits(&lower).map(|b| (b, b)),
        };
        let (weights, activations) = parsed.ok_or_else(|| {
            format!("width `{s}` is not supported: use 1 to 8 or 16, or weights and activations apart as in w2a4")
        })?;
        Ok(Self {
            weights,
            activations,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_parse() {
        let parse = |s: &str| s.parse::<Widths>().map(|w| w.to_string());
        assert_eq!(parse("4").unwrap(), "W4A4");
        assert_eq!(parse("w2a4").unwrap(), "W2A4");
        assert_eq!(parse("W1A8").unwrap(), "W1A8");
        for bad in ["", "0", "9", "32", "w2", "a4", "w4a9", "4.0", "-2"] {
            assert!(parse(bad).unwrap_err().contains(bad), "{bad}");
        }
    }
}
