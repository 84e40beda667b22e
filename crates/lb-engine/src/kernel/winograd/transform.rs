//! `Bᵀ d B + 2m` of rows of patches: 4×4 pixels, two apart, with all their channels.
//!
//! A transformed row lies as `[i][patch][j][channels]`: the four positions of a patch's row `i` and
//! those of its neighbours are evenly apart.

use std::arch::x86_64::*;

use super::super::avx512::Pointers;
use crate::conv::Conv;

/// The one position whose values are never negative: (1, 1).
pub const CENTRE: usize = 5;

/// `2m`, which makes all others positive.
pub fn offset(conv: &Conv) -> i32 {
    2 * conv.input_max
}

/// Transforms the `patches` patches of row `row`. Values of one `i` are `i_bytes` from those of the
/// next.
///
/// # Safety
/// AVX-512 BW. `to` has room for the row. Behind the input plane as many values may be read as a
/// pixel has.
#[target_feature(enable = "avx512f,avx512bw")]
pub unsafe fn input(
    conv: &Conv,
    io: &Pointers,
    row: usize,
    patches: usize,
    to: *mut u8,
    i_bytes: usize,
) {
    let (plane, stride) = (conv.input, conv.input.stride);
    // Behind an odd height the last row only reaches outputs that are thrown away, so any row
    // inside the plane will do.
    let last = conv.output.height + 1;
    let rows: [*const u8; 4] = std::array::from_fn(|i| {
        let y = (2 * row + i).min(last);
        (io.input).wrapping_add(conv.window(0, 0) + y * plane.pitch())
    });
    let offsets = Offsets::new(conv);
    for patch in 0..patches {
        let from = rows.map(|r| r.wrapping_add(2 * patch * stride));
        let to = to.wrapping_add(patch * 4 * stride);
        // SAFETY: the caller's.
        unsafe {
            match stride {
                16 => sixteen(&offsets, from, to, i_bytes),
                32 => thirty_two(&offsets, from, to, i_bytes),
                _ => {
                    for c in (0..stride).step_by(64) {
                        let from = from.map(|r| r.wrapping_add(c));
                        sixty_four(&offsets, from, to.wrapping_add(c), i_bytes, stride);
                    }
                }
            }
        }
    }
}

/// `2m` for 64 bytes of positions `(i, j)` to `(i, j + 3)` that lie together: nothing for (1, 1).
struct Offsets {
    all: __m512i,
    but_second_16: __m512i,
    but_second_32: __m512i,
}

impl Offsets {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(conv: &Conv) -> Self {
        let all = _mm512_set1_epi8(offset(conv) as i8);
        Self {
            all,
            but_second_16: _mm512_maskz_mov_epi8(!0xffff_0000, all),
            but_second_32: _mm512_maskz_mov_epi8(0xffff_ffff, all),
        }
    }
}

/// `Bᵀ` applied to four rows.
///
/// # Safety
/// 64 bytes can be read at each.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn vertical(rows: [*const u8; 4]) -> [__m512i; 4] {
    // SAFETY: the caller's.
    let [a, b, c, d] = rows.map(|r| unsafe { _mm512_loadu_si512(r.cast()) });
    [
        _mm512_sub_epi8(a, c),
        _mm512_add_epi8(b, c),
        _mm512_sub_epi8(c, b),
        _mm512_sub_epi8(b, d),
    ]
}

/// 16 channels: a register holds the pixels `a b c d` of a patch's row.
///
/// # Safety
/// Four pixels can be read at each row, and written at each `i`.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn sixteen(offsets: &Offsets, from: [*const u8; 4], to: *mut u8, i_bytes: usize) {
    // SAFETY: the caller's.
    unsafe {
        for (i, t) in vertical(from).into_iter().enumerate() {
            let left = _mm512_shuffle_i32x4::<0b01_10_01_00>(t, t); // a b c b
            let right = _mm512_shuffle_i32x4::<0b11_01_10_10>(t, t); // c c b d
            let v = _mm512_sub_epi8(left, right);
            let v = _mm512_mask_add_epi8(v, 0xffff_0000, left, right);
            let offset = if i == 1 {
                offsets.but_second_16
            } else {
                offsets.all
            };
            _mm512_storeu_si512(to.add(i * i_bytes).cast(), _mm512_add_epi8(v, offset));
        }
    }
}

/// 32 channels: two registers hold the pixels `a b` and `c d`.
///
/// # Safety
/// As [`sixteen`].
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn thirty_two(offsets: &Offsets, from: [*const u8; 4], to: *mut u8, i_bytes: usize) {
    // SAFETY: the caller's.
    unsafe {
        let ab = vertical(from);
        let cd = vertical(from.map(|r| r.add(64)));
        for i in 0..4 {
            let (x, y) = (ab[i], cd[i]);
            let cc = _mm512_shuffle_i64x2::<0b01_00_01_00>(y, y);
            let first = _mm512_mask_add_epi8(_mm512_sub_epi8(x, cc), !0 << 32, x, cc);
            let cb = _mm512_shuffle_i64x2::<0b11_10_01_00>(y, x);
            let bd = _mm512_shuffle_i64x2::<0b11_10_11_10>(x, y);
            let second = _mm512_sub_epi8(cb, bd);
            let offset = if i == 1 {
                offsets.but_second_32
            } else {
                offsets.all
            };
            let to = to.add(i * i_bytes);
            _mm512_storeu_si512(to.cast(), _mm512_add_epi8(first, offset));
            _mm512_storeu_si512(to.add(64).cast(), _mm512_add_epi8(second, offsets.all));
        }
    }
}

/// 64 of `stride` channels: a register a pixel.
///
/// # Safety
/// As [`sixteen`].
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn sixty_four(
    offsets: &Offsets,
    from: [*const u8; 4],
    to: *mut u8,
    i_bytes: usize,
    stride: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let a = vertical(from);
        let b = vertical(from.map(|r| r.add(stride)));
        let c = vertical(from.map(|r| r.add(2 * stride)));
        let d = vertical(from.map(|r| r.add(3 * stride)));
        for i in 0..4 {
            let to = to.add(i * i_bytes);
            let put = |j: usize, v, offset| {
                _mm512_storeu_si512(to.add(j * stride).cast(), _mm512_add_epi8(v, offset));
            };
            put(0, _mm512_sub_epi8(a[i], c[i]), offsets.all);
            let centre = if i == 1 {
                _mm512_setzero_si512()
            } else {
                offsets.all
            };
            put(1, _mm512_add_epi8(b[i], c[i]), centre);
            put(2, _mm512_sub_epi8(c[i], b[i]), offsets.all);
            put(3, _mm512_sub_epi8(b[i], d[i]), offsets.all);
        }
    }
}
