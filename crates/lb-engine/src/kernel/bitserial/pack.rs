//! Input codes to binary digits, in AVX-512.

use std::arch::x86_64::*;

use super::layout::{Layout, SLACK};
use crate::conv::Conv;
use crate::plane::TAIL;

/// What to pack, and where it goes in scratch memory.
pub struct Packer {
    layout: Layout,
    planes: usize,
    /// Whether counts of windows are wanted.
    counts: bool,
    /// Bytes of one digit row by row, and in the layout.
    plain: usize,
    bytes: usize,
}

/// Scratch memory, cut up.
struct Parts<'a> {
    /// Each digit, row by row.
    plain: &'a mut [u8],
    /// Each digit, interleaved; empty if the layout is by rows.
    interleaved: &'a mut [u8],
    counts: &'a mut [i32],
}

/// A convolution's input, packed.
pub struct Packed<'a> {
    /// Every digit in the layout, [`Packer::plane`] bytes apart.
    pub digits: &'a [u8],
    /// `Σ x + 2^16 Σ x₁` of the window that starts at every pixel, `x₁` the higher digit; empty if
    /// not wanted. Windows that leave the image hold anything.
    pub counts: &'a [i32],
}

impl Packer {
    /// Packs the input of `conv` into `planes` digits.
    pub fn new(conv: &Conv, layout: Layout, planes: usize, counts: bool) -> Self {
        Self {
            layout,
            planes,
            counts,
            plain: layout.plain_bytes(),
            bytes: layout.bytes(conv),
        }
    }

    /// Bytes from one digit to the next.
    pub fn plane(&self) -> usize {
        self.bytes
    }

    fn lengths(&self, conv: &Conv) -> [usize; 3] {
        let interleaved = if self.layout.interleaved {
            self.bytes
        } else {
            0
        };
        let [kh, kw] = conv.layer.kernel;
        let columns = self.layout.columns;
        let counts = match self.counts {
            // Windows at the last pixels read behind them.
            true => (self.layout.rows + kh) * columns + kw + 32,
            false => 0,
        };
        [self.plain * self.planes, interleaved * self.planes, counts]
    }

    /// Bytes of scratch memory.
    pub fn scratch(&self, conv: &Conv) -> usize {
        let [plain, interleaved, counts] = self.lengths(conv);
        plain + interleaved + 4 * counts + 4
    }

    fn parts<'a>(&self, conv: &Conv, scratch: &'a mut [u8]) -> Parts<'a> {
        let [plain, interleaved, counts] = self.lengths(conv);
        let (plain, rest) = scratch.split_at_mut(plain);
        let (interleaved, rest) = rest.split_at_mut(interleaved);
        // SAFETY: any four bytes are an integer.
        let (_, integers, _) = unsafe { rest.align_to_mut::<i32>() };
        Parts {
            plain,
            interleaved,
            counts: &mut integers[..counts],
        }
    }

    /// Packs `input`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,popcnt")]
    pub fn pack<'a>(&self, conv: &Conv, input: &[u8], scratch: &'a mut [u8]) -> Packed<'a> {
        let parts = self.parts(conv, scratch);
        let (plane, pixel) = (conv.input, self.layout.pixel);
        assert!(input.len() >= plane.len() + TAIL);
        let codes = &input[..plane.len() + TAIL];
        let dense_pixels = plane.channels == plane.stride && plane.stride == 8 * pixel;
        match (self.planes, dense_pixels) {
            (1, true) => dense::<1>(codes, parts.plain, self.plain),
            (1, false) => sparse::<1>(conv, codes, parts.plain, self.plain, pixel),
            (_, true) => dense::<2>(codes, parts.plain, self.plain),
            (_, false) => sparse::<2>(conv, codes, parts.plain, self.plain, pixel),
        }
        if self.counts {
            count(parts.plain, self.plain, self.planes, pixel, parts.counts);
            // First the rows of a window, then its columns, for all pixels at once.
            let [kh, kw] = conv.layer.kernel;
            let pixels = self.layout.rows * self.layout.columns;
            slide(parts.counts, pixels, kh, self.layout.columns);
            slide(parts.counts, pixels, kw, 1);
        }
        let digits = match self.layout.interleaved {
            true => {
                let from = parts.plain.chunks_exact(self.plain);
                for (from, to) in from.zip(parts.interleaved.chunks_exact_mut(self.bytes)) {
                    interleave(conv, &self.layout, from, to);
                }
                &*parts.interleaved
            }
            false => &*parts.plain,
        };
        Packed {
            digits,
            counts: parts.counts,
        }
    }
}

/// Pixels without gaps: 64 codes a step, whatever the channels.
#[target_feature(enable = "avx512f,avx512bw")]
fn dense<const PLANES: usize>(codes: &[u8], digits: &mut [u8], plane: usize) {
    let (low, high) = digits.split_at_mut(plane);
    // The last step may take some of the tail.
    let steps = (codes.len() - TAIL).div_ceil(64);
    let codes = codes.as_chunks::<64>().0[..steps].iter();
    let low = low.as_chunks_mut::<8>().0[..steps].iter_mut();
    if PLANES == 1 {
        for (x, low) in codes.zip(low) {
            *low = digit(x, 1).to_le_bytes();
        }
    } else {
        let high = high.as_chunks_mut::<8>().0[..steps].iter_mut();
        for ((x, low), high) in codes.zip(low).zip(high) {
            *low = digit(x, 1).to_le_bytes();
            *high = digit(x, 2).to_le_bytes();
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
fn digit(x: &[u8; 64], bit: i8) -> u64 {
    // SAFETY: an array of 64 bytes.
    let x = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
    _mm512_test_epi8_mask(x, _mm512_set1_epi8(bit))
}

/// Pixels with channels that mean nothing, which become zeros.
#[target_feature(enable = "avx512f,avx512bw")]
fn sparse<const PLANES: usize>(
    conv: &Conv,
    codes: &[u8],
    digits: &mut [u8],
    plane: usize,
    pixel: usize,
) {
    let (channels, stride) = (conv.input.channels, conv.input.stride);
    let pixels = (codes.len() - TAIL) / stride;
    let (low, high) = digits.split_at_mut(plane);
    for i in 0..pixels {
        for c in (0..channels).step_by(64) {
            let keep = u64::MAX >> (64 - (channels - c).min(64));
            let x = codes[i * stride + c..].first_chunk().expect("the tail");
            // Eight bytes, of which the next pixel overwrites what is not this one's.
            let at = i * pixel + c / 8;
            low[at..at + 8].copy_from_slice(&(digit(x, 1) & keep).to_le_bytes());
            if PLANES == 2 {
                high[at..at + 8].copy_from_slice(&(digit(x, 2) & keep).to_le_bytes());
            }
        }
    }
}

/// Rows to columns of `k_h` pixels.
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave(conv: &Conv, layout: &Layout, from: &[u8], to: &mut [u8]) {
    let (kh, pixel) = (conv.layer.kernel[0], layout.pixel);
    let inset = conv.input.border - conv.layer.padding;
    let row = layout.columns * pixel;
    for y in 0..conv.output.height {
        let from = &from[(y * conv.layer.stride + inset) * row..];
        let to = &mut to[y * row * kh..];
        if (kh, pixel) == (3, 2) {
            three_rows(layout.columns, from, to);
            continue;
        }
        for x in 0..layout.columns {
            for ky in 0..kh {
                for byte in (0..pixel).step_by(8) {
                    // Eight bytes, of which the next pixel overwrites what is not this one's.
                    let part = &from[ky * row + x * pixel + byte..][..8];
                    to[(x * kh + ky) * pixel + byte..][..8].copy_from_slice(part);
                }
            }
        }
    }
}

/// [`interleave`] for one output row of three kernel rows of 16 channels: 32 columns a step.
#[target_feature(enable = "avx512f,avx512bw")]
fn three_rows(columns: usize, from: &[u8], to: &mut [u8]) {
    // Element j of the result is column j / 3 of row j mod 3.
    const fn column(step: usize) -> [i16; 32] {
        let mut at = [0; 32];
        let mut i = 0;
        while i < 32 {
            at[i] = ((32 * step + i) / 3) as i16;
            i += 1;
        }
        at
    }
    const fn mask(step: usize, row: usize) -> u32 {
        let (mut mask, mut i) = (0, 0);
        while i < 32 {
            if (32 * step + i) % 3 == row {
                mask |= 1 << i;
            }
            i += 1;
        }
        mask
    }
    const COLUMNS: [[i16; 32]; 3] = [column(0), column(1), column(2)];
    const MASKS: [[u32; 2]; 3] = [
        [mask(0, 1), mask(0, 2)],
        [mask(1, 1), mask(1, 2)],
        [mask(2, 1), mask(2, 2)],
    ];
    let row = columns * 2;
    for x in (0..columns).step_by(32) {
        let rows: [&[u8; 64]; 3] =
            std::array::from_fn(|ky| from[ky * row + x * 2..].first_chunk().expect("the slack"));
        let to: &mut [u8; 192] = to[x * 6..].first_chunk_mut().expect("the slack");
        // SAFETY: 64 bytes each are read and written.
        unsafe {
            let [r0, r1, r2] = rows.map(|r| _mm512_loadu_si512(r.as_ptr().cast()));
            for step in 0..3 {
                let at = _mm512_loadu_si512(COLUMNS[step].as_ptr().cast());
                let [m1, m2] = MASKS[step];
                let v = _mm512_permutexvar_epi16(at, r0);
                let v = _mm512_mask_permutexvar_epi16(v, m1, at, r1);
                let v = _mm512_mask_permutexvar_epi16(v, m2, at, r2);
                _mm512_storeu_si512(to[64 * step..].as_mut_ptr().cast(), v);
            }
        }
    }
}

/// `Σ x + 2^16 Σ x₁` of every pixel.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,popcnt")]
fn count(digits: &[u8], plane: usize, planes: usize, pixel: usize, pixels: &mut [i32]) {
    const HIGH: i32 = 2 + (1 << 16);
    let n = (plane - SLACK) / pixel;
    let (low, high) = (&digits[..plane], digits.get(plane..).unwrap_or(&[]));
    if pixel == 2 || pixel == 4 {
        // Sixteen pixels a step; the last may take some of the slack.
        let steps = n.div_ceil(16);
        for (i, to) in (pixels.as_chunks_mut::<16>().0[..steps].iter_mut()).enumerate() {
            let ones = |digit: &[u8]| {
                let at = &digit[i * 16 * pixel..][..16 * pixel];
                // SAFETY: 16 pixels are read.
                let x = unsafe {
                    match pixel {
                        2 => _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.as_ptr().cast())),
                        _ => _mm512_loadu_si512(at.as_ptr().cast()),
                    }
                };
                _mm512_popcnt_epi32(x)
            };
            let mut n = ones(low);
            if planes == 2 {
                let high = _mm512_mullo_epi32(ones(high), _mm512_set1_epi32(HIGH));
                n = _mm512_add_epi32(n, high);
            }
            // SAFETY: an array of 16 integers.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), n) };
        }
        return;
    }
    let ones = |digit: &[u8], i: usize| -> i32 {
        let pixel = &digit[i * pixel..][..pixel];
        let (words, rest) = pixel.as_chunks::<8>();
        let words: u32 = words
            .iter()
            .map(|&w| u64::from_le_bytes(w).count_ones())
            .sum();
        let rest: u32 = rest.iter().map(|b| b.count_ones()).sum();
        (words + rest) as i32
    };
    for (i, to) in pixels[..n].iter_mut().enumerate() {
        *to = ones(low, i);
        if planes == 2 {
            *to += HIGH * ones(high, i);
        }
    }
}

/// `v[i] ← Σ v[i + t · shift]` over `t` in `0..taps`, for at least the first `n`.
#[target_feature(enable = "avx512f")]
fn slide(v: &mut [i32], n: usize, taps: usize, shift: usize) {
    let steps = n.div_ceil(16);
    assert!(v.len() >= steps * 16 + (taps - 1) * shift);
    for i in 0..steps {
        let at = &mut v[i * 16..];
        // SAFETY: the assertion. What is read was not written yet.
        unsafe {
            let mut sum = _mm512_loadu_si512(at.as_ptr().cast());
            for t in 1..taps {
                let next = _mm512_loadu_si512(at.as_ptr().add(t * shift).cast());
                sum = _mm512_add_epi32(sum, next);
            }
            _mm512_storeu_si512(at.as_mut_ptr().cast(), sum);
        }
    }
}
