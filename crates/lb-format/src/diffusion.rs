//! Error diffusion of the image: what rounding a pixel leaves is made up for by its neighbours.
//!
//! An image of few codes is off by up to half a step everywhere. A network does not feel all such errors
//! alike: most of what is red too much and green too little cancels in its first sums, and so does what
//! changes from pixel to pixel. If each value takes over part of the errors made before it, left and
//! above and in the colours before its own, what remains can be moved to where it is felt least:
//!
//! ```text
//! v_c(p) = x_c(p) / s + Σ_k Σ_j A_k[c, j] · e_j(p − k)      over k: the same pixel (j < c only), left, and
//! n_c(p) = clamp(⌊v_c(p) + ½⌋, lo − z, hi − z)              the three above
//! e_c(p) = clamp(n_c(p) − v_c(p), −½, ½)                    the code is n + z
//! ```
//!
//! (Floyd and Steinberg 1976, "An adaptive algorithm for spatial grey scale", with one weight a neighbour; with
//! matrices of the colours, and weights that suit who looks: Damera-Venkata and Evans 2001, "Design and analysis of
//! vector color error diffusion halftoning systems".) All of it is integer arithmetic, the same everywhere: values and errors in [`ONE`]ths of a step, A in [`ONE_WEIGHT`]ths. `x / s`, at most 256 steps away
//! from 0, is rounded to the nearest, half to even ([`steps`]); the sum is, half upwards.

use serde::{Deserialize, Serialize};

use crate::FormatError;

/// A step, as values and errors count it.
pub const ONE: i32 = 1 << 12;

/// A weight of 1.
pub const ONE_WEIGHT: i32 = 1 << 8;

/// Largest weight, in [`ONE_WEIGHT`]ths. With it no sum leaves `i32`.
pub const MAX_WEIGHT: i16 = 8 << 8;

/// Largest value, in steps.
const MAX_STEPS: f64 = 256.0;

/// Red, green and blue.
type Colours = [i32; 3];

/// Weights, `[to][from]` colour, in [`ONE_WEIGHT`]ths.
pub type Mix = [[i16; 3]; 3];

/// How errors are passed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diffusion {
    /// From the colours of the same pixel before: only below the diagonal.
    pub pixel: Mix,
    /// From the pixel on the left.
    pub left: Mix,
    /// From the row above: the pixels before, at and after the same column.
    pub above: [Mix; 3],
}

impl Diffusion {
    /// Passes nothing on: rounds to the nearest.
    pub const NONE: Self = Self {
        pixel: [[0; 3]; 3],
        left: [[0; 3]; 3],
        above: [[[0; 3]; 3]; 3],
    };

    /// Checks that sums fit, and that no colour waits for one behind it.
    ///
    /// # Errors
    /// Names the weight.
    pub fn validate(&self) -> Result<(), FormatError> {
        let invalid = |problem: String| Err(FormatError::invalid("diffusion", problem));
        let mixes = [&self.pixel, &self.left].into_iter().chain(&self.above);
        for &weight in mixes.flatten().flatten() {
            if weight.unsigned_abs() > MAX_WEIGHT.unsigned_abs() {
                let most = MAX_WEIGHT;
                return invalid(format!("a weight is {weight}, and must be at most {most}"));
            }
        }
        for (to, from) in [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)] {
            if self.pixel[to][from] != 0 {
                return invalid(format!(
                    "colour {to} waits for colour {from} of its own pixel"
                ));
            }
        }
        Ok(())
    }
}

/// `x` in steps of `scale`, in [`ONE`]ths.
pub fn steps(x: f32, scale: f32) -> i32 {
    let steps = (f64::from(x) / f64::from(scale)).clamp(-MAX_STEPS, MAX_STEPS);
    (steps * f64::from(ONE)).round_ties_even() as i32
}

/// The real value that rounds to the nearest as `v` [`ONE`]ths of a step do here, and never lies halfway
/// between two codes.
pub fn real(v: i32, scale: f32) -> f32 {
    ((f64::from(v) + 0.5) / f64::from(ONE) * f64::from(scale)) as f32
}

/// Goes through an image, row by row.
#[derive(Debug)]
pub struct Diffuser<'a> {
    diffusion: &'a Diffusion,
    /// Codes less the zero point.
    range: (i32, i32),
    /// Errors of the row above, and of this one; one pixel of none before and after.
    rows: [&'a mut [Colours]; 2],
}

impl<'a> Diffuser<'a> {
    /// Values of scratch memory for an image of so many columns.
    pub fn scratch(width: usize) -> usize {
        2 * 3 * (width + 2)
    }

    /// At the top of an image, with codes less the zero point in `range`. It has as many columns as the
    /// [`scratch`](Self::scratch) memory is for.
    pub fn new(diffusion: &'a Diffusion, range: (i32, i32), scratch: &'a mut [i32]) -> Self {
        scratch.fill(0);
        let (pixels, _) = scratch.as_chunks_mut();
        let (above, errors) = pixels.split_at_mut(pixels.len() / 2);
        Self {
            diffusion,
            range,
            rows: [above, errors],
        }
    }

    /// The next row: `put(x, n, v)` of the values `at(x)` of every pixel, in [`steps`].
    pub fn row(
        &mut self,
        at: impl Fn(usize) -> Colours,
        mut put: impl FnMut(usize, Colours, Colours),
    ) {
        let Diffusion { pixel, left, above } = self.diffusion;
        let mut before = [0; 3];
        let [row_above, row] = &mut self.rows;
        let width = row.len() - 2;
        let (lo, hi) = self.range;
        for x in 0..width {
            let mut sums = [ONE_WEIGHT / 2; 3];
            for (mix, errors) in above.iter().zip(&row_above[x..x + 3]) {
                add(&mut sums, mix, errors);
            }
            add(&mut sums, left, &before);
            let (mut v, mut n, mut e) = (at(x), [0; 3], [0; 3]);
            for c in 0..3 {
                // Later colours of this pixel have no error yet.
                add_one(&mut sums[c], &pixel[c], &e);
                v[c] += sums[c].div_euclid(ONE_WEIGHT);
                n[c] = (v[c] + ONE / 2).div_euclid(ONE).clamp(lo, hi);
                e[c] = (n[c] * ONE - v[c]).clamp(-ONE / 2, ONE / 2);
            }
            put(x, n, v);
            before = e;
            row[x + 1] = e;
        }
        self.rows.swap(0, 1);
    }
}

#[inline(always)]
fn add(sums: &mut Colours, mix: &Mix, errors: &Colours) {
    for (sum, mix) in sums.iter_mut().zip(mix) {
        add_one(sum, mix, errors);
    }
}

#[inline(always)]
fn add_one(sum: &mut i32, mix: &[i16; 3], errors: &Colours) {
    for (weight, error) in mix.iter().zip(errors) {
        *sum += i32::from(*weight) * error;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes of a row-wise image of one value.
    fn run(diffusion: &Diffusion, value: Colours, (height, width): (usize, usize)) -> Vec<Colours> {
        let mut codes = Vec::new();
        let mut scratch = vec![7; Diffuser::scratch(width)];
        let mut diffuser = Diffuser::new(diffusion, (0, 15), &mut scratch);
        for _ in 0..height {
            diffuser.row(|_| value, |_, n, _| codes.push(n));
        }
        codes
    }

    /// Floyd's and Steinberg's weights, each colour for itself.
    fn floyd_steinberg() -> Diffusion {
        let mix = |sixteenths: i16| {
            let weight = -sixteenths * 16;
            [[weight, 0, 0], [0, weight, 0], [0, 0, weight]]
        };
        Diffusion {
            left: mix(7),
            above: [mix(1), mix(5), mix(3)],
            ..Diffusion::NONE
        }
    }

    #[test]
    fn nothing_passed_on_rounds_to_the_nearest() {
        let value = [steps(0.49, 1.0), steps(0.51, 1.0), steps(-3.0, 1.0)];
        assert!((run(&Diffusion::NONE, value, (3, 4)).iter()).all(|&n| n == [0, 1, 0]));
    }

    #[test]
    fn the_mean_is_kept() {
        let (height, width) = (64, 64);
        let value = [0.3, 7.25, 11.8].map(|v| steps(v, 1.0));
        let codes = run(&floyd_steinberg(), value, (height, width));
        for (c, expected) in [0.3, 7.25, 11.8].into_iter().enumerate() {
            let sum: i32 = codes.iter().map(|n| n[c]).sum();
            let mean = f64::from(sum) / (height * width) as f64;
            assert!((mean - expected).abs() < 0.02, "{mean} {expected}");
        }
    }

    #[test]
    fn colours_make_up_for_those_before() {
        let mut diffusion = Diffusion::NONE;
        diffusion.pixel[1][0] = -256;
        // Red is 0.4 too little, so green is given 0.4 more.
        let codes = run(&diffusion, [steps(2.4, 1.0), steps(5.2, 1.0), 0], (1, 1));
        assert_eq!(codes, [[2, 6, 0]]);
    }

    #[test]
    fn what_is_passed_on_rounds_as_it_does_here() {
        let diffusion = floyd_steinberg();
        let mut scratch = vec![0; Diffuser::scratch(50)];
        let mut diffuser = Diffuser::new(&diffusion, (-3, 9), &mut scratch);
        for y in 0..50 {
            let at = |x: usize| [0.17, 0.031, -0.2].map(|f| steps(f * (x * y) as f32 - 4.0, 0.37));
            diffuser.row(at, |_, n, v| {
                for (n, v) in n.into_iter().zip(v) {
                    let rounded = (real(v, 0.37) / 0.37).round_ties_even() as i32;
                    assert_eq!(rounded.clamp(-3, 9), n);
                }
            });
        }
    }

    #[test]
    fn the_largest_weights_do_not_overflow() {
        let mix = [[MAX_WEIGHT; 3]; 3];
        let diffusion = Diffusion {
            pixel: [[0; 3], [MAX_WEIGHT, 0, 0], [MAX_WEIGHT, MAX_WEIGHT, 0]],
            left: mix,
            above: [mix; 3],
        };
        diffusion.validate().unwrap();
        for x in [f32::MAX, f32::MIN, 0.0, f32::NAN, f32::INFINITY] {
            for scale in [f32::MIN_POSITIVE, 1.0] {
                let value = [steps(x, scale); 3];
                assert_eq!(run(&diffusion, value, (8, 8)).len(), 64);
            }
        }
    }

    #[test]
    fn weights_that_are_too_large_or_of_later_colours_are_refused() {
        let mut large = Diffusion::NONE;
        large.above[2][0][1] = -MAX_WEIGHT - 1;
        let mut later = Diffusion::NONE;
        later.pixel[1][2] = 1;
        for (diffusion, said) in [
            (large, "a weight is -2049"),
            (later, "colour 1 waits for colour 2"),
        ] {
            let e = diffusion.validate().unwrap_err().to_string();
            assert!(e.contains(said), "{e}");
        }
    }
}
