//! What the AVX-512 kernels share: sixteen output channels a register, and the epilogue on them.

use std::arch::x86_64::*;

use super::epilogue::{CODES, PLAIN, REALS, SUM};
pub(super) use super::epilogue::{Case, Epilogue, LANES, Line, Pointers, case, for_case, is_real};

/// Assembly: broadcasts four input bytes and adds their products with each register of weights to an
/// accumulator, `multiply_add!(displacement, address, (accumulator, weights), …)`. Overwrites zmm24.
macro_rules! multiply_add {
    ($d:literal, $at:literal, $(($c:literal, $w:literal)),+) => {
        concat!(
            "vpbroadcastd zmm24, dword ptr [", $at, " + ", $d, "]\n",
            $("vpdpbusd zmm", $c, ", zmm24, zmm", $w, "\n",)+
        )
    };
}
pub(super) use multiply_add;

/// The constants of one block, in registers.
#[derive(Clone, Copy)]
pub struct Constants {
    acc: __m512,
    sum: __m512,
    bias: __m512,
    residual: __m512,
    zero_point: __m512i,
    bounds: (__m512, __m512),
    /// Bounds of codes, a byte each.
    codes: (__m512i, __m512i),
}

impl Epilogue {
    /// Loads the constants of `block`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub fn constants(&self, block: usize) -> Constants {
        let b = &self.blocks[block];
        // SAFETY: aligned arrays of 16 floats.
        let load = |v: &Line<f32, LANES>| unsafe { _mm512_load_ps(v.0.as_ptr()) };
        let ((lo, hi), codes) = (self.bounds, self.codes());
        let code = |code: u8| _mm512_set1_epi8(code as i8);
        Constants {
            acc: load(&b.acc),
            sum: load(&b.sum),
            bias: load(&b.bias),
            residual: _mm512_set1_ps(self.residual),
            zero_point: _mm512_set1_epi32(self.zero_point),
            bounds: (_mm512_set1_ps(lo), _mm512_set1_ps(hi)),
            codes: (code(codes.0), code(codes.1)),
        }
    }
}

impl Constants {
    /// Formula (6) of [`requant`](crate::requant), not yet clamped.
    ///
    /// # Safety
    /// `sum` points to a sum if case `C` has them, `residual` to 16 values of its kind.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    unsafe fn real<const C: Case>(
        &self,
        acc: __m512i,
        sum: *const f32,
        residual: *const u8,
    ) -> __m512 {
        let mut t = self.bias;
        if C & SUM != 0 {
            // SAFETY: the caller's.
            t = _mm512_fmadd_ps(self.sum, _mm512_set1_ps(unsafe { *sum }), t);
        }
        t = _mm512_fmadd_ps(self.acc, _mm512_cvtepi32_ps(acc), t);
        if C & (CODES | REALS) != 0 {
            // SAFETY: the caller's.
            let r = unsafe {
                match C & (CODES | REALS) {
                    CODES => {
                        let codes = _mm_loadu_si128(residual.cast());
                        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes))
                    }
                    _ => _mm512_loadu_ps(residual.cast()),
                }
            };
            t = _mm512_fmadd_ps(self.residual, r, t);
        }
        t
    }

    /// Rounded and shifted by the zero point, not yet clamped to codes.
    ///
    /// # Safety
    /// As [`real`](Self::real).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    unsafe fn rounded<const C: Case>(
        &self,
        acc: __m512i,
        sum: *const f32,
        residual: *const u8,
    ) -> __m512i {
        // SAFETY: the caller's.
        let t = unsafe { self.real::<C>(acc, sum, residual) };
        if C & PLAIN != 0 {
            return _mm512_cvtps_epi32(t);
        }
        // Only the upper bound can be missed by the conversion (2³¹ and above become negative);
        // far below, the negative result is clamped like any other.
        let t = _mm512_min_ps(t, self.bounds.1);
        _mm512_add_epi32(_mm512_cvtps_epi32(t), self.zero_point)
    }

    /// Requantizes 16 channels of one position and stores them: 16 bytes, or floats.
    ///
    /// # Safety
    /// As [`real`](Self::real); `output` points to room for 16 values.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub unsafe fn store<const C: Case>(
        &self,
        acc: __m512i,
        sum: *const f32,
        residual: *const u8,
        output: *mut u8,
    ) {
        // SAFETY: the caller's.
        unsafe {
            if is_real(C) {
                let t = self.real::<C>(acc, sum, residual);
                let t = _mm512_min_ps(_mm512_max_ps(t, self.bounds.0), self.bounds.1);
                _mm512_storeu_ps(output.cast(), t);
            } else {
                let code = self.rounded::<C>(acc, sum, residual);
                let bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(code, _mm512_setzero_si512()));
                let (lo, hi) = self.codes;
                let bytes = _mm_max_epu8(bytes, _mm512_castsi512_si128(lo));
                _mm_storeu_si128(
                    output.cast(),
                    _mm_min_epu8(bytes, _mm512_castsi512_si128(hi)),
                );
            }
        }
    }
}

/// Requantizes four vectors of 16 channels at once: half the instructions of storing each alone.
/// The result holds the codes of vector 0 in its first 16 bytes, of vector 1 in the next, and so
/// on.
///
/// # Safety
/// As [`Constants::real`], for each of the four.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
pub unsafe fn pack4<const C: Case>(
    constants: [&Constants; 4],
    acc: [__m512i; 4],
    sums: [*const f32; 4],
    residuals: [*const u8; 4],
) -> __m512i {
    // SAFETY: the caller's.
    let code = |i: usize| unsafe { constants[i].rounded::<C>(acc[i], sums[i], residuals[i]) };
    // Saturating to 16 and then 8 bits is part of the clamp. Both packs work within 128-bit lanes,
    // so lane j ends with channels 4j to 4j+3 of each vector: a 4×4 transposition of dwords.
    let low = _mm512_packs_epi32(code(0), code(1));
    let high = _mm512_packs_epi32(code(2), code(3));
    let bytes = _mm512_packus_epi16(low, high);
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let bytes = _mm512_permutexvar_epi32(order, bytes);
    let (lo, hi) = constants[0].codes;
    _mm512_min_epu8(_mm512_max_epu8(bytes, lo), hi)
}
