//! Bit widths and the codes they can hold.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::FormatError;

/// A supported bit width: 1 to 8, or 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct BitWidth(u8);

impl BitWidth {
    /// 8 bits, the default of edge layers.
    pub const EIGHT: Self = Self(8);
    /// 7 bits, which hold every level of an activation ([`Levels::LARGEST`](crate::Levels::LARGEST)).
    pub const SEVEN: Self = Self(7);

    /// All supported widths, narrowest first.
    pub const ALL: [Self; 9] = [
        Self(1),
        Self(2),
        Self(3),
        Self(4),
        Self(5),
        Self(6),
        Self(7),
        Self(8),
        Self(16),
    ];

    /// A width of `bits` bits.
    ///
    /// # Errors
    /// If `bits` is not in `1..=8` and not 16.
    pub fn new(bits: u8) -> Result<Self, FormatError> {
        match bits {
            1..=8 | 16 => Ok(Self(bits)),
            _ => Err(FormatError::invalid(
                "bit width",
                format!("{bits} is not supported: use 1 to 8, or 16"),
            )),
        }
    }

    /// The number of bits.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The number of distinct codes, 2^bits.
    pub const fn levels(self) -> u32 {
        1 << self.0
    }

    /// The codes: `0 ..= 2^b − 1`, or signed `−2^(b−1) ..= 2^(b−1) − 1`.
    pub const fn range(self, signed: bool) -> CodeRange {
        let levels = self.levels() as i32;
        let lo = if signed { -(levels / 2) } else { 0 };
        CodeRange {
            lo,
            hi: lo + levels - 1,
        }
    }
}

impl TryFrom<u8> for BitWidth {
    type Error = FormatError;
    fn try_from(bits: u8) -> Result<Self, FormatError> {
        Self::new(bits)
    }
}

impl From<BitWidth> for u8 {
    fn from(bits: BitWidth) -> u8 {
        bits.0
    }
}

impl fmt::Display for BitWidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An inclusive range of integer codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeRange {
    /// Smallest code.
    pub lo: i32,
    /// Largest code.
    pub hi: i32,
}

impl CodeRange {
    /// Number of steps between the smallest and the largest code, `hi − lo` = 2^b − 1.
    pub const fn steps(self) -> i32 {
        self.hi - self.lo
    }

    /// Whether `code` is in the range.
    pub const fn contains(self, code: i32) -> bool {
        self.lo <= code && code <= self.hi
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_two_to_the_bits_codes() {
        for bits in BitWidth::ALL {
            for signed in [false, true] {
                let r = bits.range(signed);
                assert_eq!(r.steps() as u32 + 1, bits.levels());
                assert!(r.contains(0));
            }
        }
        assert_eq!(BitWidth::EIGHT.range(true), CodeRange { lo: -128, hi: 127 });
        assert_eq!(BitWidth(1).range(true), CodeRange { lo: -1, hi: 0 });
    }

    #[test]
    fn other_widths_are_refused() {
        for bits in [0u8, 9, 15, 17, 32, 255] {
            assert!(BitWidth::new(bits).is_err(), "{bits}");
        }
        assert!(serde_json::from_str::<BitWidth>("9").is_err());
    }
}
