//! What AVX2 and AVX-VNNI share: eight output channels a register, and the epilogue on them.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::direct::{Direct, Ends, POSITIONS, STEP, Unit};
use super::epilogue::{CODES, Case, Epilogue, LANES, Line, PLAIN, REALS, SUM, is_real};

/// The accumulators of a tile.
pub type Tile = [[__m256i; 2]; POSITIONS];

/// How a tile is accumulated.
pub trait Sum {
    /// Accumulates the channels of `block` under the windows that start at `x`.
    ///
    /// # Safety
    /// As [`Unit::tile`].
    unsafe fn tile(p: &Direct, block: usize, x: [*const u8; POSITIONS]) -> Tile;
}

/// How the products of a step are added to an accumulator.
pub trait Step {
    /// Adds the products of the inputs `x` and the weights `w` to `acc`.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn add(acc: __m256i, x: __m256i, w: __m256i) -> __m256i;
}

impl<S: Step> Sum for S {
    #[inline(always)]
    unsafe fn tile(p: &Direct, block: usize, x: [*const u8; POSITIONS]) -> Tile {
        // SAFETY: the caller's.
        unsafe {
            let acc = [start(p, block); POSITIONS];
            accumulate::<S>(acc, x, &p.steps, p.weights(block))
        }
    }
}

/// Where the accumulators of `block` start.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
pub unsafe fn start(p: &Direct, block: usize) -> [__m256i; 2] {
    let Line(start) = &p.start[block];
    // SAFETY: an aligned array of 16.
    [0, 8].map(|i| unsafe { _mm256_load_si256(start[i..].as_ptr().cast()) })
}

/// Accumulates `steps` of the windows that start at `x`.
///
/// # Safety
/// The CPU has the instructions, the steps lie inside the input, and `weights` has [`STEP`] bytes
/// for each.
#[inline(always)]
pub unsafe fn accumulate<S: Step>(
    mut acc: Tile,
    x: [*const u8; POSITIONS],
    steps: &[u32],
    mut weights: *const u8,
) -> Tile {
    for &at in steps {
        // SAFETY: the caller's.
        unsafe {
            let w = [
                _mm256_load_si256(weights.cast()),
                _mm256_load_si256(weights.add(32).cast()),
            ];
            for (acc, x) in acc.iter_mut().zip(x) {
                let x = x.add(at as usize).cast::<i32>().read_unaligned();
                let x = _mm256_set1_epi32(x);
                acc[0] = S::add(acc[0], x, w[0]);
                acc[1] = S::add(acc[1], x, w[1]);
            }
            weights = weights.add(STEP);
        }
    }
    acc
}

/// 256-bit registers, with a way to sum.
pub struct Ymm<S>(PhantomData<S>);

/// The epilogue's constants of a block.
pub struct Constants {
    acc: [__m256; 2],
    sum: [__m256; 2],
    bias: [__m256; 2],
    residual: __m256,
    bounds: (__m256, __m256),
    zero_point: __m256i,
    codes: (__m128i, __m128i),
}

impl<S: Sum> Unit for Ymm<S> {
    type Acc = [__m256i; 2];
    type Constants = Constants;

    #[inline(always)]
    unsafe fn constants(epilogue: &Epilogue, block: usize) -> Constants {
        let (b, (lo, hi)) = (&epilogue.blocks[block], epilogue.codes());
        // SAFETY: the caller's, and aligned arrays of 16 floats.
        unsafe {
            let load = |Line(v): &Line<f32, LANES>| {
                [
                    _mm256_load_ps(v[..8].as_ptr()),
                    _mm256_load_ps(v[8..].as_ptr()),
                ]
            };
            Constants {
                acc: load(&b.acc),
                sum: load(&b.sum),
                bias: load(&b.bias),
                residual: _mm256_set1_ps(epilogue.residual),
                bounds: (
                    _mm256_set1_ps(epilogue.bounds.0),
                    _mm256_set1_ps(epilogue.bounds.1),
                ),
                zero_point: _mm256_set1_epi16(epilogue.zero_point as i16),
                codes: (_mm_set1_epi8(lo as i8), _mm_set1_epi8(hi as i8)),
            }
        }
    }

    #[inline(always)]
    unsafe fn tile(p: &Direct, block: usize, x: [*const u8; POSITIONS]) -> Tile {
        // SAFETY: the caller's.
        unsafe { S::tile(p, block, x) }
    }

    #[inline(always)]
    unsafe fn store<const C: Case>(k: &Constants, acc: [__m256i; 2], ends: &Ends) {
        // SAFETY: the caller's.
        unsafe {
            let t = [k.real::<C>(acc, 0, ends), k.real::<C>(acc, 1, ends)];
            if is_real(C) {
                for (half, t) in t.into_iter().enumerate() {
                    let t = _mm256_min_ps(_mm256_max_ps(t, k.bounds.0), k.bounds.1);
                    _mm256_storeu_ps(ends.output.cast::<f32>().add(8 * half), t);
                }
                return;
            }
            // Saturating to 16 bits and then to bytes is part of the clamp. The conversion to 32 bits
            // turns 2³¹ and above into negative numbers, so there the upper bound comes first.
            let round = |t| match C & PLAIN {
                0 => _mm256_cvtps_epi32(_mm256_min_ps(t, k.bounds.1)),
                _ => _mm256_cvtps_epi32(t),
            };
            let mut codes = _mm256_packs_epi32(round(t[0]), round(t[1]));
            if C & PLAIN == 0 {
                codes = _mm256_adds_epi16(codes, k.zero_point);
            }
            let low = _mm256_castsi256_si128(codes);
            let bytes = _mm_packus_epi16(low, _mm256_extracti128_si256::<1>(codes));
            // Packing worked on 128 bits: dwords 1 and 2 are in each other's place.
            let bytes = _mm_shuffle_epi32::<0b11_01_10_00>(bytes);
            let bytes = _mm_min_epu8(_mm_max_epu8(bytes, k.codes.0), k.codes.1);
            _mm_storeu_si128(ends.output.cast(), bytes);
        }
    }
}

impl Constants {
    /// Formula (6) of [`requant`](crate::requant) for half a block, not yet clamped.
    ///
    /// # Safety
    /// As [`Unit::store`].
    #[inline(always)]
    unsafe fn real<const C: Case>(&self, acc: [__m256i; 2], half: usize, ends: &Ends) -> __m256 {
        // SAFETY: the caller's.
        unsafe {
            let mut t = self.bias[half];
            if C & SUM != 0 {
                t = _mm256_fmadd_ps(self.sum[half], _mm256_set1_ps(*ends.sum), t);
            }
            t = _mm256_fmadd_ps(self.acc[half], _mm256_cvtepi32_ps(acc[half]), t);
            let r = match C & (CODES | REALS) {
                CODES => {
                    let codes = _mm_loadl_epi64(ends.residual.add(8 * half).cast());
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes))
                }
                REALS => _mm256_loadu_ps(ends.residual.cast::<f32>().add(8 * half)),
                _ => return t,
            };
            _mm256_fmadd_ps(self.residual, r, t)
        }
    }
}
