//! Numbers with units, as people type them: `80kB`, `150us`, `0.5`.

use std::fmt;
use std::str::FromStr;

/// A number of bytes: `B`, `kB` (1,000), `kiB` (1,024), `MB`, `MiB`, `GB`, `GiB`; in any case.
#[derive(Clone, Debug, PartialEq)]
pub struct Size {
    /// Bytes.
    pub bytes: u64,
    text: String,
}

/// A time: `ns`, `us` or `µs`, `ms`, `s`.
#[derive(Clone, Debug, PartialEq)]
pub struct Time {
    /// Nanoseconds.
    pub ns: u64,
    text: String,
}

/// Percentage points, 0 to 100; a `%` may follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    /// As typed: 0.5 is half a point.
    pub points: f64,
    text: String,
}

/// Splits a number from what follows it.
fn split(s: &str) -> Option<(f64, &str)> {
    let end = s.find(|c: char| !(c.is_ascii_digit() || c == '.'));
    let (number, unit) = s.split_at(end.unwrap_or(s.len()));
    Some((number.parse().ok()?, unit.trim()))
}

/// `value` of a unit of `each`, as a whole number of at least 1.
fn whole(value: f64, each: f64) -> Option<u64> {
    let n = (value * each).floor();
    // Beyond, a number of `f64` is no longer exact.
    (1.0..=9e15).contains(&n).then_some(n as u64)
}

/// Without spaces, and in letters that any file system takes.
fn plain(s: &str) -> String {
    s.replace(' ', "").replace(['µ', 'μ'], "u")
}

impl FromStr for Size {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let parse = || {
            let (value, unit) = split(s.trim())?;
            let each = match unit.to_ascii_lowercase().as_str() {
                "b" => 1.0,
                "kb" => 1e3,
                "kib" => 1024.0,
                "mb" => 1e6,
                "mib" => 1024.0 * 1024.0,
                "gb" => 1e9,
                "gib" => 1024.0 * 1024.0 * 1024.0,
                _ => return None,
            };
            whole(value, each)
        };
        match parse() {
            Some(bytes) => Ok(Self {
                bytes,
                text: plain(s),
            }),
            None => Err(format!(
                "`{s}` is not a size: use a number with B, kB, kiB, MB, MiB, GB or GiB, as in 80kB"
            )),
        }
    }
}

impl FromStr for Time {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let parse = || {
            let (value, unit) = split(s.trim())?;
            let each = match unit {
                "ns" => 1.0,
                // The micro sign and the Greek letter look alike.
                "us" | "µs" | "μs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                _ => return None,
            };
            whole(value, each)
        };
        match parse() {
            Some(ns) => Ok(Self { ns, text: plain(s) }),
            None => Err(format!(
                "`{s}` is not a time: use a number with ns, us, µs, ms or s, as in 150us"
            )),
        }
    }
}

impl FromStr for Points {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let parsed = split(s.trim()).filter(|(v, unit)| *v <= 100.0 && matches!(*unit, "" | "%"));
        match parsed {
            Some((points, _)) => Ok(Self {
                points,
                text: plain(s).trim_end_matches('%').into(),
            }),
            None => Err(format!(
                "`{s}` is not a number of percentage points from 0 to 100, as in 0.5"
            )),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("80kB", 80_000),
            ("80 kb", 80_000),
            ("1.5MB", 1_500_000),
            ("64kiB", 65_536),
            ("64KiB", 65_536),
            ("2MiB", 2_097_152),
            ("123B", 123),
        ] {
            assert_eq!(text.parse::<Size>().unwrap().bytes, bytes, "{text}");
        }
        for bad in [
            "",
            "80",
            "kB",
            "-1kB",
            "80kg",
            "0B",
            "1e3B",
            "nanB",
            "1.2.3kB",
            "9999999999999999MB",
        ] {
            let e = bad.parse::<Size>().unwrap_err();
            assert!(e.contains(&format!("`{bad}`")) && e.contains("80kB"), "{e}");
        }
    }

    #[test]
    fn times() {
        for (text, ns) in [
            ("150us", 150_000),
            ("150µs", 150_000),
            ("150μs", 150_000),
            ("0.15ms", 150_000),
            ("1s", 1_000_000_000),
            ("700ns", 700),
        ] {
            assert_eq!(text.parse::<Time>().unwrap().ns, ns, "{text}");
        }
        for bad in ["", "150", "us", "0us", "-1us", "150min"] {
            assert!(bad.parse::<Time>().unwrap_err().contains("150us"), "{bad}");
        }
        // What goes into a file's name.
        assert_eq!("150 µs".parse::<Time>().unwrap().to_string(), "150us");
    }

    #[test]
    fn percentage_points() {
        assert_eq!("0.5".parse::<Points>().unwrap().points, 0.5);
        assert_eq!("2%".parse::<Points>().unwrap().to_string(), "2");
        assert_eq!("0".parse::<Points>().unwrap().points, 0.0);
        for bad in ["", "-1", "101", "x", "0.5pp"] {
            assert!(bad.parse::<Points>().is_err(), "{bad}");
        }
    }
}
