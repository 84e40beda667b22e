//! What the AVX-512 kernels share: sixteen output channels a register, and the epilogue on them.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::conv::{Conv, Io, Kind, Values, ValuesMut};

/// Output channels a vector.
pub const LANES: usize = 16;

/// The epilogue's constants, `[block of 16 channels]`; channels beyond the last are zero.
pub struct Epilogue {
    blocks: Vec<Block>,
    residual: f32,
    bounds: (f32, f32),
    zero_point: i32,
    /// Whether no result leaves 31 bits, so that codes may be clamped after rounding: (5) of
    /// [`requant`](crate::requant).
    rounds_first: bool,
    has_sum: bool,
}

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Block {
    acc: [f32; LANES],
    sum: [f32; LANES],
    bias: [f32; LANES],
}

/// How the residual is held: a constant, so that each case is compiled apart.
pub const NO_RESIDUAL: u8 = 0;
/// Codes of at most 8 bits.
pub const CODES: u8 = 1;
/// Real values.
pub const REALS: u8 = 2;

/// Where an image's values are, checked once ([`check`](super::check)).
#[derive(Clone, Copy)]
pub struct Pointers {
    /// First input value.
    pub input: *const u8,
    /// Residual: bytes or floats.
    pub residual: *const u8,
    /// Sums of windows.
    pub sums: *const i32,
    /// Output: bytes or floats.
    pub output: *mut u8,
}

impl Pointers {
    /// The pointers of `io`.
    pub fn new(io: &mut Io) -> Self {
        let bytes = |v: &Values| match v {
            Values::U8(v) => v.as_ptr(),
            Values::U16(v) => v.as_ptr().cast(),
            Values::F32(v) => v.as_ptr().cast(),
        };
        Self {
            input: bytes(&io.input),
            residual: io.residual.as_ref().map_or(std::ptr::null(), bytes),
            sums: io.sums.as_ptr(),
            output: match &mut io.output {
                ValuesMut::U8(v) => v.as_mut_ptr(),
                ValuesMut::U16(v) => v.as_mut_ptr().cast(),
                ValuesMut::F32(v) => v.as_mut_ptr().cast(),
            },
        }
    }
}

/// The residual's kind as a constant.
pub fn residual_kind(conv: &Conv) -> u8 {
    match conv.residual {
        None => NO_RESIDUAL,
        Some((_, Kind::F32)) => REALS,
        Some(_) => CODES,
    }
}

/// The constants of one block, in registers.
#[derive(Clone, Copy)]
pub struct Constants {
    acc: __m512,
    sum: __m512,
    bias: __m512,
    residual: __m512,
    lo: __m512,
    hi: __m512,
    zero_point: __m128i,
    /// The zero point and the first and last code, for [`store4`](Self::store4).
    zero_point16: __m512i,
    lowest: __m512i,
    highest: __m512i,
    rounds_first: bool,
    has_sum: bool,
}

impl Epilogue {
    /// The constants of `conv`.
    pub fn new(conv: &Conv) -> Self {
        let r = &conv.requant;
        let lanes = |v: &[f32], block: usize| {
            std::array::from_fn(|i| v.get(block * LANES + i).copied().unwrap_or(0.0))
        };
        let blocks = (0..conv.layer.c_out.div_ceil(LANES)).map(|b| Block {
            acc: lanes(&r.acc, b),
            sum: r.sum.as_ref().map_or([0.0; LANES], |s| lanes(s, b)),
            bias: lanes(&r.bias, b),
        });
        Self {
            blocks: blocks.collect(),
            residual: r.residual,
            bounds: r.bounds,
            zero_point: r.zero_point,
            rounds_first: conv
                .largest_result()
                .is_some_and(|t| t < f64::from(1 << 30)),
            has_sum: r.sum.is_some(),
        }
    }

    /// Blocks of 16 output channels.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Loads the constants of `block`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub fn constants(&self, block: usize) -> Constants {
        let b = &self.blocks[block];
        // SAFETY: arrays of 16 floats.
        let load = |v: &[f32; LANES]| unsafe { _mm512_loadu_ps(v.as_ptr()) };
        Constants {
            acc: load(&b.acc),
            sum: load(&b.sum),
            bias: load(&b.bias),
            residual: _mm512_set1_ps(self.residual),
            lo: _mm512_set1_ps(self.bounds.0),
            hi: _mm512_set1_ps(self.bounds.1),
            zero_point: _mm_set1_epi8(self.zero_point as i8),
            zero_point16: _mm512_set1_epi16(self.zero_point as i16),
            lowest: _mm512_set1_epi8((self.bounds.0 as i32 + self.zero_point) as i8),
            highest: _mm512_set1_epi8((self.bounds.1 as i32 + self.zero_point) as i8),
            rounds_first: self.rounds_first,
            has_sum: self.has_sum,
        }
    }
}

impl Constants {
    /// Formula (6) of [`requant`](crate::requant), not clamped yet.
    ///
    /// # Safety
    /// `sum` points to a sum if the layer has them; `residual` to 16 values of kind `R`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    unsafe fn unclamped<const R: u8>(
        &self,
        acc: __m512i,
        sum: *const i32,
        residual: *const u8,
    ) -> __m512 {
        let mut t = self.bias;
        if self.has_sum {
            // SAFETY: the caller's.
            let s = _mm512_cvtepi32_ps(_mm512_set1_epi32(unsafe { *sum }));
            t = _mm512_fmadd_ps(self.sum, s, t);
        }
        t = _mm512_fmadd_ps(self.acc, _mm512_cvtepi32_ps(acc), t);
        if R != NO_RESIDUAL {
            // SAFETY: the caller's.
            let r = unsafe {
                match R {
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

    /// Formula (6) of [`requant`](crate::requant), clamped.
    ///
    /// # Safety
    /// As [`unclamped`](Self::unclamped).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    unsafe fn real<const R: u8>(
        &self,
        acc: __m512i,
        sum: *const i32,
        residual: *const u8,
    ) -> __m512 {
        // SAFETY: the caller's.
        let t = unsafe { self.unclamped::<R>(acc, sum, residual) };
        _mm512_min_ps(_mm512_max_ps(t, self.lo), self.hi)
    }

    /// Requantizes 16 channels of a position and stores them.
    ///
    /// # Safety
    /// As [`real`](Self::real); `output` points to 16 values of the output's kind, floats if
    /// `REAL`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub unsafe fn store<const R: u8, const REAL: bool>(
        &self,
        acc: __m512i,
        sum: *const i32,
        residual: *const u8,
        output: *mut u8,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let t = self.real::<R>(acc, sum, residual);
            if REAL {
                _mm512_storeu_ps(output.cast(), t);
            } else {
                let codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(t));
                _mm_storeu_si128(output.cast(), _mm_add_epi8(codes, self.zero_point));
            }
        }
    }

    /// [`store`](Self::store) of four positions: cheaper by a third where codes can be clamped
    /// after rounding, which the saturation of the instructions that narrow them half does.
    ///
    /// # Safety
    /// As [`store`](Self::store), four times.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub unsafe fn store4<const R: u8, const REAL: bool>(
        &self,
        acc: [__m512i; 4],
        sum: [*const i32; 4],
        residual: [*const u8; 4],
        output: [*mut u8; 4],
    ) {
        if REAL || R == REALS || !self.rounds_first {
            for i in 0..4 {
                // SAFETY: the caller's.
                unsafe { self.store::<R, REAL>(acc[i], sum[i], residual[i], output[i]) };
            }
            return;
        }
        let mut rounded = acc;
        for i in 0..4 {
            // SAFETY: the caller's.
            let t = unsafe { self.unclamped::<R>(acc[i], sum[i], residual[i]) };
            rounded[i] = _mm512_cvtps_epi32(t);
        }
        let [a, b, c, d] = rounded;
        // Every 128 bits now hold four channels of each position; then a position's channels go
        // together.
        let (ab, cd) = (_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
        let zero_point = self.zero_point16;
        let ab = _mm512_adds_epi16(ab, zero_point);
        let cd = _mm512_adds_epi16(cd, zero_point);
        let codes = _mm512_packus_epi16(ab, cd);
        let codes = _mm512_min_epu8(_mm512_max_epu8(codes, self.lowest), self.highest);
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let mut codes = _mm512_permutexvar_epi32(order, codes);
        // SAFETY: no instruction. Opaque, or the compiler permutes anew for each of four stores.
        unsafe {
            asm!("/* {0} */", inout(zmm_reg) codes, options(pure, nomem, nostack, preserves_flags));
        }
        // SAFETY: the caller's.
        unsafe {
            _mm_storeu_si128(output[0].cast(), _mm512_castsi512_si128(codes));
            _mm_storeu_si128(output[1].cast(), _mm512_extracti32x4_epi32::<1>(codes));
            _mm_storeu_si128(output[2].cast(), _mm512_extracti32x4_epi32::<2>(codes));
            _mm_storeu_si128(output[3].cast(), _mm512_extracti32x4_epi32::<3>(codes));
        }
    }
}
