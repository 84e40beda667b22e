//! Error diffusion of an image ([`lb_format::diffusion`]), many rows at once.
//!
//! A value waits for those on its left and above, so one row alone is a chain of sums that wait for each
//! other. But a row can follow two pixels behind the one above: with AVX2 eight rows run as a wave, each in a
//! lane.
//!
//! ```text
//! step t: lane r is at column t − 2r
//! its left is what the same lane had at step t − 1; above its column − 1, 0 and + 1
//! is what lane r − 1 had at steps t − 3, t − 2 and t − 1
//! ```

use lb_format::Diffusion;
use lb_format::diffusion::Diffuser;

#[cfg(target_arch = "x86_64")]
use super::isa::Avx2;

/// Red, green and blue.
type Colours = [i32; 3];

/// An image to diffuse.
#[derive(Clone, Copy, Debug)]
pub struct Wave<'a> {
    /// How errors are passed on.
    pub diffusion: &'a Diffusion,
    /// Codes less the zero point.
    pub range: (i32, i32),
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Wave<'_> {
    /// Values of scratch memory that it wants.
    pub fn scratch(width: usize) -> usize {
        Diffuser::scratch(width)
    }

    /// `put(y, x, n)` of the values `at(y, x)` of every pixel, in steps.
    ///
    /// # Panics
    /// If `scratch` is too short.
    pub fn run(
        &self,
        scratch: &mut [i32],
        at: impl Fn(usize, usize) -> Colours,
        mut put: impl FnMut(usize, usize, Colours),
    ) {
        let scratch = &mut scratch[..Self::scratch(self.width)];
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = Avx2::detect() {
            return avx2::run(token, self, scratch, at, put);
        }
        let mut diffuser = Diffuser::new(self.diffusion, self.range, scratch);
        for y in 0..self.height {
            diffuser.row(|x| at(y, x), |x, n, _| put(y, x, n));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;
    use std::ops::Range;

    use lb_format::diffusion::{Mix, ONE, ONE_WEIGHT};

    use super::{Avx2, Colours, Wave};

    /// Rows at once.
    const ROWS: usize = 8;
    /// Values of each colour and row.
    type Lanes = [[i32; ROWS]; 3];

    pub fn run(
        _: Avx2,
        wave: &Wave,
        scratch: &mut [i32],
        at: impl Fn(usize, usize) -> Colours,
        put: impl FnMut(usize, usize, Colours),
    ) {
        let (above, _) = scratch.as_chunks_mut();
        // SAFETY: the token.
        unsafe { pass(wave, &mut above[..wave.width], at, put) }
    }

    /// Errors of a step in pairs of 16 bits, which one instruction multiplies and adds: red and green, and blue
    /// alone.
    #[derive(Clone, Copy)]
    struct Errors {
        red_green: __m256i,
        blue: __m256i,
    }

    /// Weights in the same pairs, for each colour: from red and green of the left and of the three above; from blue
    /// of the left and of the third above, and of the other two; and from red and green of the pixel itself.
    struct Weights([[i32; 7]; 3]);

    impl Weights {
        fn new(wave: &Wave) -> Self {
            let pair = |low: i16, high: i16| i32::from(low) & 0xffff | i32::from(high) << 16;
            let (d, [before, same, after]) = (wave.diffusion, &wave.diffusion.above);
            Self(std::array::from_fn(|c| {
                let red_green = |mix: &Mix| pair(mix[c][0], mix[c][1]);
                let blue = |a: &Mix, b: &Mix| pair(a[c][2], b[c][2]);
                [
                    red_green(&d.left),
                    red_green(before),
                    red_green(same),
                    red_green(after),
                    blue(&d.left, after),
                    blue(same, before),
                    red_green(&d.pixel),
                ]
            }))
        }
    }

    /// Lanes that are within the image at step t.
    fn inside(wave: &Wave, rows: usize, t: usize) -> Range<usize> {
        let first = (t + 1).saturating_sub(wave.width).div_ceil(2);
        first..rows.min(t / 2 + 1)
    }

    /// Eight rows after eight; `above` holds the errors of the row before them, in pairs.
    #[target_feature(enable = "avx2,fma")]
    fn pass(
        wave: &Wave,
        above: &mut [[i32; 2]],
        at: impl Fn(usize, usize) -> Colours,
        mut put: impl FnMut(usize, usize, Colours),
    ) {
        let weights = Weights::new(wave);
        above.fill([0; 2]);
        let none = Errors {
            red_green: _mm256_setzero_si256(),
            blue: _mm256_setzero_si256(),
        };
        for top in (0..wave.height).step_by(ROWS) {
            let rows = ROWS.min(wave.height - top);
            let steps = wave.width + 2 * (rows - 1);
            let mut left = none;
            // Of the row above each lane's, of the last three steps, the latest first.
            let mut over = [
                shifted(none, above.get(1)),
                shifted(none, above.first()),
                none,
            ];
            let (mut values, mut codes): (Lanes, Lanes) = ([[0; ROWS]; 3], [[0; ROWS]; 3]);
            // What is stored value by value is read as a vector a step later, and the other way round: at once
            // it would wait for the store.
            for turn in 0..steps + 2 {
                let now = values;
                for r in inside(wave, rows, turn) {
                    let value = at(top + r, turn - 2 * r);
                    for c in 0..3 {
                        values[c][r] = value[c];
                    }
                }
                let written = codes;
                if let Some(t) = turn.checked_sub(1) {
                    let errors;
                    (errors, codes) =
                        step(wave, &weights, &now, (left, &over), inside(wave, rows, t));
                    if let Some(x) = t.checked_sub(2 * (ROWS - 1)).filter(|x| *x < wave.width) {
                        above[x] = last(errors);
                    }
                    over = [shifted(errors, above.get(t + 2)), over[0], over[1]];
                    left = errors;
                }
                if let Some(t) = turn.checked_sub(2) {
                    for r in inside(wave, rows, t) {
                        put(top + r, t - 2 * r, written.map(|codes| codes[r]));
                    }
                }
            }
        }
    }

    /// Errors of the row above each lane's: of the first, `entered`.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn shifted(errors: Errors, entered: Option<&[i32; 2]>) -> Errors {
        let [red_green, blue] = entered.copied().unwrap_or([0; 2]);
        let up = _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6);
        let shift = |lanes: __m256i, first: i32| {
            let moved = _mm256_permutevar8x32_epi32(lanes, up);
            _mm256_blend_epi32::<1>(moved, _mm256_set1_epi32(first))
        };
        Errors {
            red_green: shift(errors.red_green, red_green),
            blue: shift(errors.blue, blue),
        }
    }

    /// Of the last lane.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn last(errors: Errors) -> [i32; 2] {
        [errors.red_green, errors.blue].map(|lanes| _mm256_extract_epi32::<7>(lanes))
    }

    /// Errors and codes of a step.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn step(
        wave: &Wave,
        weights: &Weights,
        values: &Lanes,
        (left, [after, same, before]): (Errors, &[Errors; 3]),
        inside: Range<usize>,
    ) -> (Errors, Lanes) {
        const WEIGHT_BITS: i32 = ONE_WEIGHT.ilog2() as i32;
        const BITS: i32 = ONE.ilog2() as i32;
        let all = |value: i32| _mm256_set1_epi32(value);
        let (lo, hi) = (all(wave.range.0), all(wave.range.1));
        let half = (all(-ONE / 2), all(ONE / 2));
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm256_and_si256(
            _mm256_cmpgt_epi32(lane, all(inside.start as i32 - 1)),
            _mm256_cmpgt_epi32(all(inside.end as i32), lane),
        );
        let low = all(0xffff);
        let join = |a, b| _mm256_or_si256(a, _mm256_slli_epi32::<16>(b));
        let parts = [
            left.red_green,
            before.red_green,
            same.red_green,
            after.red_green,
            join(left.blue, after.blue),
            join(same.blue, before.blue),
        ];
        let mut errors = [_mm256_setzero_si256(); 3];
        let mut codes = [[0; ROWS]; 3];
        let mut own = _mm256_setzero_si256();
        for c in 0..3 {
            let times = |part, weight: i32| _mm256_madd_epi16(part, all(weight));
            let mut sum = all(ONE_WEIGHT / 2);
            for (part, weight) in parts.into_iter().zip(weights.0[c]) {
                sum = _mm256_add_epi32(sum, times(part, weight));
            }
            sum = _mm256_add_epi32(sum, times(own, weights.0[c][6]));
            // SAFETY: eight values.
            let value = unsafe { _mm256_loadu_si256(values[c].as_ptr().cast()) };
            let v = _mm256_add_epi32(value, _mm256_srai_epi32::<WEIGHT_BITS>(sum));
            let n = _mm256_srai_epi32::<BITS>(_mm256_add_epi32(v, half.1));
            let n = _mm256_min_epi32(_mm256_max_epi32(n, lo), hi);
            let e = _mm256_sub_epi32(_mm256_slli_epi32::<BITS>(n), v);
            let e = _mm256_min_epi32(_mm256_max_epi32(e, half.0), half.1);
            errors[c] = _mm256_and_si256(_mm256_and_si256(e, mask), low);
            // SAFETY: eight values.
            unsafe { _mm256_storeu_si256(codes[c].as_mut_ptr().cast(), n) };
            own = match c {
                0 => errors[0],
                _ => join(errors[0], errors[1]),
            };
        }
        let errors = Errors {
            red_green: own,
            blue: errors[2],
        };
        (errors, codes)
    }
}

#[cfg(test)]
mod tests {
    use lb_format::diffusion::{MAX_WEIGHT, ONE};

    use super::*;

    #[test]
    fn the_wave_is_row_after_row() {
        let mut state = 7u32;
        let mut next = |most: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % most
        };
        let sizes = [
            (1, 1),
            (1, 40),
            (40, 1),
            (33, 2),
            (8, 3),
            (32, 32),
            (50, 21),
        ];
        let most = i32::from(MAX_WEIGHT);
        let cases = [
            (200, 10, (-2, 13)),
            (most, 256, (-255, 0)),
            (most, 256, (0, 255)),
        ];
        let cases = cases.into_iter().flat_map(|c| sizes.map(|size| (c, size)));
        for ((largest, steps, range), (height, width)) in cases {
            let mut within = |most: i32| next(2 * most as u32 + 1) as i32 - most;
            let mut mix = || [(); 3].map(|()| [(); 3].map(|()| within(largest) as i16));
            let (left, above) = (mix(), [mix(), mix(), mix()]);
            let mut pixel = mix();
            for (to, row) in pixel.iter_mut().enumerate() {
                row[to..].fill(0);
            }
            let diffusion = Diffusion { pixel, left, above };
            diffusion.validate().unwrap();
            let values: Vec<Colours> = (0..height * width)
                .map(|_| [(); 3].map(|()| within(steps * ONE)))
                .collect();
            // Whatever was left there.
            let mut scratch = vec![99; Wave::scratch(width)];
            let mut expected = Vec::new();
            let mut diffuser = Diffuser::new(&diffusion, range, &mut scratch);
            for y in 0..height {
                diffuser.row(|x| values[y * width + x], |_, n, _| expected.push(n));
            }
            let wave = Wave {
                diffusion: &diffusion,
                range,
                height,
                width,
            };
            let mut codes = vec![[99; 3]; height * width];
            let at = |y: usize, x: usize| values[y * width + x];
            wave.run(&mut scratch, at, |y, x, n| codes[y * width + x] = n);
            assert_eq!(codes, expected, "{height}×{width}, {range:?}");
        }
    }
}
