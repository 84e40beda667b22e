//! Values that several commands read, or that are more than a number.

use clap::builder::RangedU64ValueParser;
use lb_format::BitWidth;

/// Far more than any machine has.
pub const MAX_THREADS: u64 = 1024;

/// A number from 1 to `most`.
pub fn at_least_one(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// Above 0, an hour at most.
pub fn seconds(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => Err(format!("`{s}` is not a number of seconds up to 3600")),
    }
}

/// A supported width.
pub fn width(s: &str) -> Result<BitWidth, String> {
    let bits = s.parse().ok().and_then(|b| BitWidth::new(b).ok());
    bits.ok_or_else(|| format!("width `{s}` is not supported: use 1 to 8 or 16"))
}

/// A mean of widths.
pub fn mean_bits(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(bits) if (1.0..=16.0).contains(&bits) => Ok(bits),
        _ => Err(format!("`{s}` is not a number of bits from 1 to 16")),
    }
}

/// A least number of bits: `None` is "the same as all others".
#[derive(Clone, Copy, Debug)]
pub struct Floor(pub Option<BitWidth>);

/// A width, or `same`.
pub fn floor(s: &str) -> Result<Floor, String> {
    if s == "same" {
        return Ok(Floor(None));
    }
    let bits = s.parse::<u8>().ok().and_then(|b| BitWidth::new(b).ok());
    match bits {
        Some(b) => Ok(Floor(Some(b))),
        None => Err(format!(
            "`{s}` is neither `same` nor a width of 1 to 8 or 16 bits"
        )),
    }
}
