//! Levels that are not equidistant: a table of small integers between a code and its value.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{BitWidth, CodeRange, FormatError};

/// What the codes `0, 1, 2, …` stand for, in steps of a scale: strictly increasing integers that
/// fit 8 bits.
///
/// ```text
/// x̂ = s · level[code] + o
/// ```
///
/// Integers, so that an engine that multiplies 8-bit integers runs them: a weight's codes it looks up once,
/// when it loads them (a file holds the codes, at their own width), and of an activation it holds the
/// levels. An activation is rounded to whole steps first, which are what an engine has at hand:
///
/// ```text
/// code = nearest level to round_half_even(x / s), the lower one halfway between two
/// ```
///
/// Copies share one table.
///
/// ```
/// use lb_format::{BitWidth, Levels};
/// let levels = Levels::additive_powers_of_two(BitWidth::new(3)?)?;
/// assert_eq!(levels.as_slice(), [-4, -2, -1, 0, 1, 2, 4]);
/// assert_eq!(levels.level(levels.nearest(3.2)), 4);
/// # Ok::<(), lb_format::FormatError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<i32>", into = "Vec<i32>")]
pub struct Levels(Arc<[i32]>);

impl Levels {
    /// Largest magnitude of a level.
    pub const LARGEST: i32 = 127;

    /// A table.
    ///
    /// # Errors
    /// If there are fewer than two levels, one does not increase, or one is beyond
    /// [`LARGEST`](Self::LARGEST).
    pub fn new(levels: Vec<i32>) -> Result<Self, FormatError> {
        let wrong = |problem: String| Err(FormatError::invalid("levels", problem));
        if levels.len() < 2 {
            return wrong(format!("{}, expected at least 2", levels.len()));
        }
        if let Some(pair) = levels.windows(2).find(|p| p[0] >= p[1]) {
            return wrong(format!("{} is not above {}", pair[1], pair[0]));
        }
        let most = Self::LARGEST;
        match levels.iter().find(|&l| !(-most..=most).contains(l)) {
            Some(l) => wrong(format!("{l} is outside −{most}..={most}")),
            None => Ok(Self(levels.into())),
        }
    }

    /// The levels of weights of `bits` bits that are sums of powers of two (APoT, Li, Dong and Wang
    /// 2020, arXiv 1909.13144), with the paper's k = 2.
    ///
    /// One bit is the sign, the others choose a magnitude, `B = b − 1` bits: a sum of `n = ⌊B/2⌋`
    /// terms, each zero or one of three powers, and for odd `B` one more, zero or one power.
    /// All powers are distinct and neighbours go to different terms, so that every magnitude is
    /// one sum alone:
    ///
    /// | bits | terms | magnitudes |
    /// |--:|---|---|
    /// | 2 | {0, 1} | 0 1 |
    /// | 3 | {0, 4, 2, 1} | 0 1 2 4 |
    /// | 4 | {0, 8, 4, 1} + {0, 2} | 0 1 2 3 4 6 8 10 |
    /// | 5 | {0, 32, 8, 2} + {0, 16, 4, 1} | 0 1 2 3 4 6 8 9 12 16 18 24 32 33 36 48 |
    /// | 6 | {0, 64, 16, 2} + {0, 32, 8, 1} + {0, 4} | 0 to 8, 10 … 72 76 96 100: 32 of them |
    ///
    /// Zero has one code, so one of the `2^b` codes is not used.
    ///
    /// # Errors
    /// At 1 bit, whose two levels have only one distance; and from 7 bits on, where levels (up to
    /// 448 at 7) do not fit 8-bit integers.
    pub fn additive_powers_of_two(bits: BitWidth) -> Result<Self, FormatError> {
        let why = match bits.get() {
            2..=6 => return Self::new(signed(magnitudes(usize::from(bits.get()) - 1))),
            1 => "two levels have only one distance between them",
            _ => "their levels do not fit 8-bit integers",
        };
        let what = format!("additive powers of two at {bits} bits");
        Err(FormatError::invalid(
            what,
            format!("not supported, {why}: use 2 to 6"),
        ))
    }

    /// The levels, by code.
    pub fn as_slice(&self) -> &[i32] {
        &self.0
    }

    /// The codes.
    pub fn range(&self) -> CodeRange {
        CodeRange {
            lo: 0,
            hi: self.0.len() as i32 - 1,
        }
    }

    /// The level of `code`.
    ///
    /// # Panics
    /// If `code` has none.
    pub fn level(&self, code: i32) -> i32 {
        self.0[code as usize]
    }

    /// Halfway between neighbours, ascending: exact, half-integers.
    pub fn boundaries(&self) -> impl Iterator<Item = f32> {
        self.0.windows(2).map(|p| (p[0] + p[1]) as f32 * 0.5)
    }

    /// The code of the level nearest to `steps`, of the lower one halfway between two. NaN has no
    /// code of its own and takes 0.
    pub fn nearest(&self, steps: f32) -> i32 {
        let (mut lo, mut hi) = (0, self.0.len() - 1);
        // The number of boundaries below, by bisection.
        while lo < hi {
            let middle = (lo + hi) / 2;
            let boundary = (self.0[middle] + self.0[middle + 1]) as f32 * 0.5;
            if steps > boundary {
                lo = middle + 1;
            } else {
                hi = middle;
            }
        }
        lo as i32
    }

    /// The code of an activation that is so many `steps`: [`nearest`](Self::nearest) of whole ones. NaN has
    /// no code of its own and takes 0.
    pub fn nearest_to_whole(&self, steps: f32) -> i32 {
        self.nearest(steps.round_ties_even())
    }

    /// For people: `apot`, or `table`.
    pub fn name(&self) -> &'static str {
        let is_apot = |bits| Self::additive_powers_of_two(bits).is_ok_and(|l| l == *self);
        match BitWidth::ALL.into_iter().any(is_apot) {
            true => "apot",
            false => "table",
        }
    }
}

/// All sums of one value of each term; `bits` bits choose one.
fn magnitudes(bits: usize) -> Vec<i32> {
    let (n, odd) = (bits / 2, bits % 2);
    let powers = 3 * n + odd;
    let mut terms = vec![vec![0]; n + odd];
    for p in 0..powers {
        // From the largest power down, in turn; of an odd width, the single power of the last term
        // comes after two rounds, as in the authors' code (github.com/yhhhli/APoT_Quantization).
        let term = match odd {
            1 if p == 2 * n => n,
            1 if p > 2 * n => (p - 1) % n,
            _ => p % n,
        };
        terms[term].push(1 << (powers - 1 - p));
    }
    let mut sums = vec![0];
    for term in terms {
        sums = (sums.iter())
            .flat_map(|s| term.iter().map(move |t| s + t))
            .collect();
    }
    sums.sort_unstable();
    sums
}

/// `magnitudes`, ascending from 0, with both signs.
fn signed(magnitudes: Vec<i32>) -> Vec<i32> {
    let negative = magnitudes[1..].iter().rev().map(|m| -m);
    negative.chain(magnitudes.iter().copied()).collect()
}

impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&levels.join(" "))
    }
}

impl TryFrom<Vec<i32>> for Levels {
    type Error = FormatError;
    fn try_from(levels: Vec<i32>) -> Result<Self, FormatError> {
        Self::new(levels)
    }
}

impl From<Levels> for Vec<i32> {
    fn from(levels: Levels) -> Self {
        levels.0.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn apot(bits: u8) -> Result<Levels, FormatError> {
        Levels::additive_powers_of_two(BitWidth::new(bits).unwrap())
    }

    /// The magnitudes that the authors' `build_power_value(B)` gives, times the power of two that
    /// makes them integers.
    #[test]
    fn levels_are_those_of_the_paper() {
        let magnitudes = |bits| -> Vec<i32> {
            let levels = apot(bits).unwrap();
            let (all, n) = (levels.as_slice(), levels.as_slice().len());
            let mirrored: Vec<i32> = all.iter().rev().map(|l| -l).collect();
            assert_eq!(all, mirrored, "{bits} bits");
            assert_eq!(n, (1 << bits) - 1, "{bits} bits: one code is not used");
            all[n / 2..].to_vec()
        };
        assert_eq!(magnitudes(2), [0, 1]);
        assert_eq!(magnitudes(3), [0, 1, 2, 4]);
        assert_eq!(magnitudes(4), [0, 1, 2, 3, 4, 6, 8, 10]);
        let five = [0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48];
        assert_eq!(magnitudes(5), five);
        let six = magnitudes(6);
        assert_eq!(six[..11], [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12]);
        assert_eq!(six[six.len() - 3..], [76, 96, 100]);
    }

    #[test]
    fn widths_without_levels_are_refused_and_say_what_is_supported() {
        for bits in [1, 7, 8, 16] {
            let e = apot(bits).unwrap_err().to_string();
            assert!(
                e.contains(&format!("at {bits} bits")) && e.contains("2 to 6"),
                "{e}"
            );
        }
    }

    #[test]
    fn tables_have_names() {
        assert_eq!(apot(4).unwrap().name(), "apot");
        assert_eq!(Levels::new(vec![-1, 0, 2]).unwrap().name(), "table");
    }

    #[test]
    fn tables_that_make_no_sense_are_refused() {
        for (levels, said) in [
            (vec![], "at least 2"),
            (vec![1], "at least 2"),
            (vec![0, 0], "is not above"),
            (vec![0, 2, 1], "is not above"),
            (vec![-128, 0], "outside"),
            (vec![0, 128], "outside"),
            (vec![i32::MIN, i32::MAX], "outside"),
        ] {
            let e = Levels::new(levels.clone()).unwrap_err().to_string();
            assert!(e.contains(said), "{levels:?}: {e}");
            let json = serde_json::to_string(&levels).unwrap();
            assert!(serde_json::from_str::<Levels>(&json).is_err(), "{json}");
        }
    }

    #[test]
    fn halfway_goes_to_the_lower_level() {
        let levels = apot(3).unwrap();
        for (steps, level) in [
            (3.0, 2),
            (3.001, 4),
            (-3.0, -4),
            (0.5, 0),
            (-0.5, -1),
            (1e30, 4),
            (f32::NEG_INFINITY, -4),
            (f32::NAN, -4),
        ] {
            assert_eq!(levels.level(levels.nearest(steps)), level, "{steps}");
        }
    }

    #[test]
    fn activations_are_rounded_to_whole_steps_first() {
        let levels = Levels::new(vec![0, 1, 4, 10]).unwrap();
        for (steps, level) in [
            (0.5, 0), // ties to even
            (0.51, 1),
            (2.5, 1), // two whole steps
            (2.51, 4),
            (7.4, 4), // seven, halfway between 4 and 10, where a weight would take 10
            (7.6, 10),
            (99.0, 10),
            (-3.0, 0),
            (f32::NAN, 0),
        ] {
            assert_eq!(
                levels.level(levels.nearest_to_whole(steps)),
                level,
                "{steps}"
            );
        }
        assert_eq!(levels.level(levels.nearest(7.4)), 10);
    }

    proptest! {
        #[test]
        fn no_level_is_nearer_than_the_nearest(
            table in proptest::collection::btree_set(-127i32..=127, 2..60), steps in -140f32..140.0,
        ) {
            let levels = Levels::new(table.into_iter().collect()).unwrap();
            let found = levels.level(levels.nearest(steps));
            for &l in levels.as_slice() {
                prop_assert!((found as f32 - steps).abs() <= (l as f32 - steps).abs());
                prop_assert_eq!(levels.level(levels.nearest(l as f32)), l);
            }
            let below = levels.boundaries().filter(|&b| steps > b).count();
            prop_assert_eq!(levels.nearest(steps), below as i32);
        }
    }
}
