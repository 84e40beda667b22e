//! Error diffusion of an image ([`lb_format::diffusion`]), many rows at once.
//!
//! A value waits for those on its left and above, so one row alone is a chain of additions that wait for
//! each other. But a row can follow two pixels behind the one above: rows run as a wave, a row a lane of
//! vectors.
//!
//! ```text
//! step t: lane r is at column t − 2r
//! its left is what the same lane had at step t − 1; above its column − 1, 0 and + 1
//! is what lane r − 1 had at steps t − 3, t − 2 and t − 1
//! ```

use lb_format::Diffusion;
use lb_format::diffusion::{ONE, ONE_WEIGHT};

use super::isa::{Avx2, Avx512Vnni};

/// Red, green and blue.
const COLOURS: usize = 3;

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
    /// Values of `i32` that it wants as scratch memory.
    pub fn scratch(width: usize) -> usize {
        COLOURS * width
    }

    /// `put(y, x, n)` of the values `at(y, x)` of every pixel, in steps.
    ///
    /// # Panics
    /// If `scratch` is too short.
    pub fn run(
        &self,
        scratch: &mut [i32],
        at: impl Fn(usize, usize) -> [i32; COLOURS],
        put: impl FnMut(usize, usize, [i32; COLOURS]),
    ) {
        let (above, _) = scratch[..Self::scratch(self.width)].as_chunks_mut();
        #[cfg(target_arch = "x86_64")]
        {
            /// # Safety
            /// The CPU has these.
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn wide(
                wave: &Wave,
                above: &mut [[i32; COLOURS]],
                at: impl Fn(usize, usize) -> [i32; COLOURS],
                put: impl FnMut(usize, usize, [i32; COLOURS]),
            ) {
                wave.pass::<16>(above, at, put);
            }
            /// # Safety
            /// The CPU has these.
            #[target_feature(enable = "avx2,fma")]
            unsafe fn narrow(
                wave: &Wave,
                above: &mut [[i32; COLOURS]],
                at: impl Fn(usize, usize) -> [i32; COLOURS],
                put: impl FnMut(usize, usize, [i32; COLOURS]),
            ) {
                wave.pass::<8>(above, at, put);
            }
            if Avx512Vnni::detect().is_some() {
                // SAFETY: the token.
                return unsafe { wide(self, above, at, put) };
            }
            if Avx2::detect().is_some() {
                // SAFETY: the token.
                return unsafe { narrow(self, above, at, put) };
            }
        }
        self.pass::<4>(above, at, put);
    }

    /// The same, `ROWS` rows at once; `above` holds the errors of the row before them.
    #[inline(always)]
    fn pass<const ROWS: usize>(
        &self,
        above: &mut [[i32; COLOURS]],
        at: impl Fn(usize, usize) -> [i32; COLOURS],
        mut put: impl FnMut(usize, usize, [i32; COLOURS]),
    ) {
        above.fill([0; COLOURS]);
        for top in (0..self.height).step_by(ROWS) {
            let rows = ROWS.min(self.height - top);
            let error =
                |above: &[[i32; COLOURS]], x: usize| above.get(x).copied().unwrap_or([0; COLOURS]);
            // Of the last three steps, the latest first.
            let mut before = [Errors::<ROWS>::NONE; 3];
            before[0].enter(error(above, 1));
            before[1].enter(error(above, 0));
            for t in 0..self.width + 2 * (rows - 1) {
                // Lanes within the image.
                let first = (t + 1).saturating_sub(self.width).div_ceil(2);
                let lanes = first..rows.min(t / 2 + 1);
                let mut values = [[0; ROWS]; COLOURS];
                for r in lanes.clone() {
                    let value = at(top + r, t - 2 * r);
                    for c in 0..COLOURS {
                        values[c][r] = value[c];
                    }
                }
                let mut inside = [0; ROWS];
                for (r, inside) in inside.iter_mut().enumerate() {
                    *inside = -i32::from(lanes.start <= r && r < lanes.end);
                }
                let (mut errors, codes) = self.step(&values, &before, &inside);
                errors.enter(error(above, t + 2));
                for r in lanes {
                    put(top + r, t - 2 * r, std::array::from_fn(|c| codes[c][r]));
                }
                if let Some(x) = t.checked_sub(2 * (ROWS - 1)) {
                    above[x] = std::array::from_fn(|c| errors.0[c].lanes[ROWS - 1]);
                }
                before = [errors, before[0], before[1]];
            }
        }
    }

    /// Errors and codes of a step.
    #[inline(always)]
    fn step<const ROWS: usize>(
        &self,
        values: &[[i32; ROWS]; COLOURS],
        before: &[Errors<ROWS>; 3],
        inside: &[i32; ROWS],
    ) -> (Errors<ROWS>, [[i32; ROWS]; COLOURS]) {
        const WEIGHT_BITS: u32 = ONE_WEIGHT.ilog2();
        const BITS: u32 = ONE.ilog2();
        let Diffusion { pixel, left, above } = self.diffusion;
        let (lo, hi) = self.range;
        let mut errors = Errors::NONE;
        let mut codes = [[0; ROWS]; COLOURS];
        for c in 0..COLOURS {
            let mut sums = [ONE_WEIGHT / 2; ROWS];
            for j in 0..COLOURS {
                let [one, two, three] = before.each_ref().map(|errors| &errors.0[j]);
                let weight = |mix: &[[i16; 3]; 3]| i32::from(mix[c][j]);
                let (from_left, from_above) = (weight(left), above.each_ref().map(weight));
                for r in 0..ROWS {
                    sums[r] += from_left * one.lanes[r]
                        + from_above[0] * three.above(r)
                        + from_above[1] * two.above(r)
                        + from_above[2] * one.above(r);
                }
            }
            for j in 0..c {
                let weight = i32::from(pixel[c][j]);
                for r in 0..ROWS {
                    sums[r] += weight * errors.0[j].lanes[r];
                }
            }
            for r in 0..ROWS {
                let v = values[c][r] + (sums[r] >> WEIGHT_BITS);
                let n = ((v + ONE / 2) >> BITS).max(lo).min(hi);
                let e = ((n << BITS) - v).max(-ONE / 2).min(ONE / 2);
                errors.0[c].lanes[r] = e & inside[r];
                codes[c][r] = n;
            }
        }
        (errors, codes)
    }
}

/// Errors of a step.
#[derive(Clone, Copy)]
struct Errors<const ROWS: usize>([Lanes<ROWS>; COLOURS]);

/// Of a colour: a lane a row, and of the row above the first.
#[derive(Clone, Copy)]
#[repr(C)]
struct Lanes<const ROWS: usize> {
    entered: i32,
    lanes: [i32; ROWS],
}

impl<const ROWS: usize> Errors<ROWS> {
    const NONE: Self = Self(
        [Lanes {
            entered: 0,
            lanes: [0; ROWS],
        }; COLOURS],
    );

    /// What the row above the first had two columns further on.
    #[inline(always)]
    fn enter(&mut self, error: [i32; COLOURS]) {
        for (of, error) in self.0.iter_mut().zip(error) {
            of.entered = error;
        }
    }
}

impl<const ROWS: usize> Lanes<ROWS> {
    /// Of the row above row `r`.
    #[inline(always)]
    fn above(&self, r: usize) -> i32 {
        match r {
            0 => self.entered,
            _ => self.lanes[r - 1],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_format::diffusion::Diffuser;

    #[test]
    fn the_wave_is_row_after_row() {
        let mut state = 7u32;
        let mut next = |most: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % most
        };
        for (height, width) in [(1, 1), (1, 40), (40, 1), (33, 2), (32, 32), (50, 21)] {
            let mut mix = || [(); 3].map(|()| [(); 3].map(|()| next(400) as i16 - 200));
            let (left, above) = (mix(), [mix(), mix(), mix()]);
            let pixel = [[0; 3], [-77, 0, 0], [12, -190, 0]];
            let diffusion = Diffusion { pixel, left, above };
            let values: Vec<[i32; 3]> = (0..height * width)
                .map(|_| [(); 3].map(|()| next(20 << 12) as i32 - (3 << 12)))
                .collect();
            let range = (-2, 13);
            let mut expected = Vec::new();
            let mut diffuser = Diffuser::new(&diffusion, range, width);
            for y in 0..height {
                diffuser.row(|x| values[y * width + x], |_, n, _| expected.push(n));
            }
            let wave = Wave {
                diffusion: &diffusion,
                range,
                height,
                width,
            };
            type Pass<'a> = &'a dyn Fn(&mut [i32], &mut [[i32; 3]]);
            let at = |y: usize, x: usize| values[y * width + x];
            let put = |codes: &mut [[i32; 3]], y: usize, x: usize, n| codes[y * width + x] = n;
            let chunks = |scratch: &mut [i32]| scratch.as_chunks_mut().0.to_vec();
            let passes: [Pass; 3] = [
                &|scratch, codes| wave.run(scratch, at, |y, x, n| put(codes, y, x, n)),
                &|scratch, codes| {
                    wave.pass::<4>(&mut chunks(scratch), at, |y, x, n| put(codes, y, x, n));
                },
                &|scratch, codes| {
                    wave.pass::<8>(&mut chunks(scratch), at, |y, x, n| put(codes, y, x, n));
                },
            ];
            for pass in passes {
                // Whatever was left there.
                let mut scratch = vec![99; Wave::scratch(width)];
                let mut codes = vec![[99; 3]; height * width];
                pass(&mut scratch, &mut codes);
                assert_eq!(codes, expected, "{height}×{width}");
            }
        }
    }
}
