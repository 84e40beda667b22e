//! The same in AVX-512: `vpdpbusd` with ones adds four bytes, and a transposition adds the rest.

use std::arch::x86_64::*;

use super::super::avx512::{LANES, Line};
use super::{Avx512Vnni, columns, corner, start};
use crate::conv::Conv;
use crate::plane::TAIL;

/// Adds the channels of every pixel, for strides of 4, 16, 32 and multiples of 64 bytes.
pub struct Pixels {
    stride: usize,
    /// 1 for every channel of a pixel, 0 behind the last, repeated to whole vectors.
    ones: Vec<Line<i8, 64>>,
}

/// Sixteen pixels are added at a time, so at most 15 of up to 64 bytes are read behind the end; of
/// wider pixels four at a time.
const _: () = assert!(15 * 64 <= TAIL);

impl Pixels {
    /// For `conv`'s input, unless its stride is another.
    pub fn new(conv: &Conv, _: Avx512Vnni) -> Option<Self> {
        let plane = conv.input;
        // Three pixels of the stride are read behind the end.
        let wide = plane.stride.is_multiple_of(64) && 3 * plane.stride <= TAIL;
        if !(matches!(plane.stride, 4 | 16 | 32) || wide) {
            return None;
        }
        let one = |byte: usize| i8::from(byte % plane.stride < plane.channels);
        let ones = (0..plane.stride.div_ceil(64))
            .map(|v| Line(std::array::from_fn(|i| one(v * 64 + i))))
            .collect();
        Some(Self {
            stride: plane.stride,
            ones,
        })
    }

    /// Writes the sums of `n` pixels, and up to 15 more behind them.
    ///
    /// # Panics
    /// If a buffer is too short.
    pub fn run(&self, x: &[u8], pixels: &mut [i32], n: usize) {
        let (step, bytes) = match self.stride {
            ..=32 => (LANES, LANES * self.stride),
            _ => (4, 4 * self.stride),
        };
        let steps = n.div_ceil(step);
        assert!(x.len() >= steps * bytes && pixels.len() >= steps * step);
        for (i, sums) in pixels.chunks_exact_mut(step).take(steps).enumerate() {
            let from = x[i * bytes..].as_ptr();
            // SAFETY: the constructor's token proves the instructions; `bytes` can be read at
            // `from` and `step` sums written.
            unsafe {
                match self.stride {
                    4 => self.four(from, sums.as_mut_ptr()),
                    16 => self.sixteen(from, sums.as_mut_ptr()),
                    32 => self.thirty_two(from, sums.as_mut_ptr()),
                    _ => self.wide(from, sums.as_mut_ptr()),
                }
            }
        }
    }

    /// # Safety
    /// 16 pixels of 4 bytes; room for 16 sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn four(&self, x: *const u8, sums: *mut i32) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_si512(sums.cast(), dot(x, &self.ones[0])) }
    }

    /// # Safety
    /// 16 pixels of 16 bytes; room for 16 sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn sixteen(&self, x: *const u8, sums: *mut i32) {
        let ones = &self.ones[0];
        // SAFETY: the caller's.
        unsafe {
            let quads = [0, 1, 2, 3].map(|i| dot(x.add(64 * i), ones));
            _mm512_storeu_si512(sums.cast(), in_order(add_lanes(quads)));
        }
    }

    /// # Safety
    /// 16 pixels of 32 bytes; room for 16 sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn thirty_two(&self, x: *const u8, sums: *mut i32) {
        let ones = &self.ones[0];
        // SAFETY: the caller's.
        unsafe {
            let quads = [0, 1, 2, 3].map(|i| {
                let (a, b) = (dot(x.add(128 * i), ones), dot(x.add(128 * i + 64), ones));
                // Lanes: lower and upper half of two pixels each; add the halves of all four.
                let lower = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
                let upper = _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
                _mm512_add_epi32(lower, upper)
            });
            _mm512_storeu_si512(sums.cast(), in_order(add_lanes(quads)));
        }
    }

    /// # Safety
    /// 4 pixels; room for 4 sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn wide(&self, x: *const u8, sums: *mut i32) {
        // SAFETY: the caller's.
        unsafe {
            let pixels = [0, 1, 2, 3].map(|i| {
                let mut sum = _mm512_setzero_si512();
                for (v, ones) in self.ones.iter().enumerate() {
                    let x = x.add(i * self.stride + 64 * v);
                    sum = _mm512_add_epi32(sum, dot(x, ones));
                }
                sum
            });
            // Every lane holds a quarter of each pixel.
            let quarters = add_lanes(pixels);
            let halves = _mm256_add_epi32(
                _mm512_castsi512_si256(quarters),
                _mm512_extracti64x4_epi64::<1>(quarters),
            );
            let all = _mm_add_epi32(
                _mm256_castsi256_si128(halves),
                _mm256_extracti128_si256::<1>(halves),
            );
            _mm_storeu_si128(sums.cast(), all);
        }
    }
}

/// Sums of four bytes each of the 64 at `x`.
///
/// # Safety
/// They can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
#[inline]
unsafe fn dot(x: *const u8, ones: &Line<i8, 64>) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        let x = _mm512_loadu_si512(x.cast());
        _mm512_dpbusd_epi32(
            _mm512_setzero_si512(),
            x,
            _mm512_load_si512(ones.0.as_ptr().cast()),
        )
    }
}

/// Adds the four values of each 128-bit lane: value `v` of lane `l` of the result is the sum of
/// lane `l` of vector `v`.
#[target_feature(enable = "avx512f")]
#[inline]
fn add_lanes([a, b, c, d]: [__m512i; 4]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// Pixel `4v + l` from value `v` of lane `l`.
#[target_feature(enable = "avx512f")]
#[inline]
fn in_order(sums: __m512i) -> __m512i {
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(order, sums)
}

/// Adds the pixels of every window, for steps of one and two pixels.
///
/// # Panics
/// If a buffer is too short.
pub fn windows(conv: &Conv, pixels: &[i32], sums: &mut [f32], _: Avx512Vnni) {
    let (out, [kh, kw]) = (conv.output, conv.layer.kernel);
    let stride = conv.layer.stride;
    let across = out.width.next_multiple_of(LANES);
    // The furthest pixel that a vector touches.
    let row = (out.height - 1) * stride + kh - 1;
    assert!(pixels.len() >= row * columns(conv) + corner(conv) + across * stride + kw - 1);
    assert!(sums.len() >= out.height * out.width && matches!(stride, 1 | 2));
    for x in (0..out.width).step_by(LANES) {
        let from = pixels[corner(conv) + x * stride..].as_ptr();
        let to = sums[x..].as_mut_ptr();
        // Columns behind the last are computed and not stored.
        let mask = u16::MAX >> (LANES - LANES.min(out.width - x));
        // SAFETY: the token proves the instructions, and the assertions the bounds.
        unsafe {
            match (kh, kw, stride) {
                (3, 3, 1) => three_by_three(conv, from, to, mask),
                (_, _, 1) => any::<1>(conv, from, to, mask),
                _ => any::<2>(conv, from, to, mask),
            }
        }
    }
}

/// The windows of 16 columns, 3×3 and one pixel apart: what three pixels of a row add up to serves
/// three rows of windows.
///
/// # Safety
/// The windows of 16 columns from `pixels` on can be read, and the sums in `mask` written.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn three_by_three(conv: &Conv, pixels: *const i32, sums: *mut f32, mask: u16) {
    let (columns, width) = (columns(conv), conv.output.width);
    // SAFETY: the caller's.
    let row = |y: usize| unsafe {
        let at = pixels.add(y * columns);
        let [a, b, c] = [0, 1, 2].map(|x| _mm512_loadu_si512(at.add(x).cast()));
        _mm512_add_epi32(_mm512_add_epi32(a, b), c)
    };
    let start = _mm512_set1_epi32(start(conv));
    let (mut upper, mut middle) = (_mm512_add_epi32(row(0), start), row(1));
    for y in 0..conv.output.height {
        let lower = row(y + 2);
        let sum = _mm512_add_epi32(_mm512_add_epi32(upper, middle), lower);
        // SAFETY: the caller's.
        unsafe { _mm512_mask_storeu_ps(sums.add(y * width), mask, _mm512_cvtepi32_ps(sum)) };
        upper = _mm512_add_epi32(middle, start);
        middle = lower;
    }
}

/// The windows of 16 columns, of any size, `STRIDE` pixels apart.
///
/// # Safety
/// As [`three_by_three`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn any<const STRIDE: usize>(conv: &Conv, pixels: *const i32, sums: *mut f32, mask: u16) {
    let [kh, kw] = conv.layer.kernel;
    let (columns, width) = (columns(conv), conv.output.width);
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    for y in 0..conv.output.height {
        let mut sum = _mm512_set1_epi32(start(conv));
        for ky in 0..kh {
            for kx in 0..kw {
                // SAFETY: the caller's.
                sum = unsafe {
                    let at = pixels.add((y * STRIDE + ky) * columns + kx);
                    let mut v = _mm512_loadu_si512(at.cast());
                    if STRIDE == 2 {
                        let next = _mm512_loadu_si512(at.add(LANES).cast());
                        v = _mm512_permutex2var_epi32(v, even, next);
                    }
                    _mm512_add_epi32(sum, v)
                };
            }
        }
        // SAFETY: the caller's.
        unsafe { _mm512_mask_storeu_ps(sums.add(y * width), mask, _mm512_cvtepi32_ps(sum)) };
    }
}
