//! Images in the orders that tiles are loaded from.

use std::arch::x86_64::*;

use aligned_vec::{AVec, ConstAlign};

use crate::{AmxBf16, Image, SIDE};

/// Rows of an image with a border: a row of zeros above and below, and between rows zeros that are the
/// border of both neighbours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Padded {
    /// Zeros before every row.
    gap: usize,
    /// Values from one row to the next.
    pub pitch: usize,
    /// Values of a plane.
    pub len: usize,
}

impl Padded {
    /// # Panics
    /// If the image is of no size that is taken.
    fn new(image: &Image, gap: usize) -> Self {
        assert!(image.is_taken(), "{image:?}");
        let pitch = image.width + gap;
        Self {
            gap,
            pitch,
            // One more gap is the last row's right border.
            len: ((image.height + 2) * pitch + gap).next_multiple_of(gap),
        }
    }

    /// Index of row `y` and column `x`, counted from the border.
    pub fn at(&self, y: usize, x: usize) -> usize {
        y * self.pitch + self.gap + x - 1
    }
}

/// An image whose channels are in pairs: `[pair][row][column]`, each the bits of two values.
pub struct Pairs {
    pub(crate) image: Image,
    pub(crate) padded: Padded,
    values: AVec<u32, ConstAlign<64>>,
}

impl Pairs {
    /// Zeros.
    ///
    /// # Panics
    /// If the image [is not taken](Image::is_taken).
    pub fn new(_: AmxBf16, image: Image) -> Self {
        let padded = Padded::new(&image, image.width.min(SIDE));
        let len = image.channels.div_ceil(2) * padded.len;
        Self {
            image,
            padded,
            values: AVec::from_iter(64, std::iter::repeat_n(0, len)),
        }
    }

    /// Another image, `[C, H, W]`.
    ///
    /// # Panics
    /// If it is of another size.
    pub fn fill(&mut self, x: &[f32]) {
        // SAFETY: a token made this.
        unsafe { self.convert(x) }
    }

    #[target_feature(enable = "avx512bf16,avx512vl")]
    fn convert(&mut self, x: &[f32]) {
        assert_eq!(x.len(), self.image.values());
        let (w, padded, plane) = (self.image.width, self.padded, self.image.plane());
        for (to, x) in (self.values.chunks_exact_mut(padded.len)).zip(x.chunks(2 * plane)) {
            let (even, odd) = x.split_at(plane);
            for y in 0..self.image.height {
                let to = &mut to[padded.at(y + 1, 1)..][..w];
                let (to, even) = (eights_mut(to), eights(&even[y * w..][..w]));
                if odd.is_empty() {
                    for (to, even) in to.iter_mut().zip(even) {
                        *to = paired(narrow(even), [0; 8]);
                    }
                } else {
                    let odd = eights(&odd[y * w..][..w]);
                    for (to, (even, odd)) in to.iter_mut().zip(even.iter().zip(odd)) {
                        *to = paired(narrow(even), narrow(odd));
                    }
                }
            }
        }
    }

    pub(crate) fn values(&self) -> &[u32] {
        &self.values
    }
}

/// An image as it is, with borders: `[channel][row][column]`.
pub struct Rows {
    pub(crate) image: Image,
    pub(crate) padded: Padded,
    values: AVec<u16, ConstAlign<64>>,
}

impl Rows {
    /// Zeros.
    ///
    /// # Panics
    /// If the image [is not taken](Image::is_taken).
    pub fn new(_: AmxBf16, image: Image) -> Self {
        let padded = Padded::new(&image, image.width);
        Self {
            image,
            padded,
            values: AVec::from_iter(64, std::iter::repeat_n(0, image.channels * padded.len)),
        }
    }

    /// Another image, `[C, H, W]`.
    ///
    /// # Panics
    /// If it is of another size.
    pub fn fill(&mut self, x: &[f32]) {
        // SAFETY: a token made this.
        unsafe { self.convert(x) }
    }

    #[target_feature(enable = "avx512bf16,avx512vl")]
    fn convert(&mut self, x: &[f32]) {
        assert_eq!(x.len(), self.image.values());
        let (w, padded) = (self.image.width, self.padded);
        let planes = x.chunks_exact(self.image.plane());
        for (to, x) in (self.values.chunks_exact_mut(padded.len)).zip(planes) {
            for (y, x) in x.chunks_exact(w).enumerate() {
                let to = eights_mut(&mut to[padded.at(y + 1, 1)..][..w]);
                for (to, x) in to.iter_mut().zip(eights(x)) {
                    *to = narrow(x);
                }
            }
        }
    }

    pub(crate) fn values(&self) -> &[u16] {
        &self.values
    }
}

/// An image by position: `[row][pair of columns][channel]`, each the bits of two values.
pub struct Transposed {
    pub(crate) image: Image,
    values: AVec<u32, ConstAlign<64>>,
}

impl Transposed {
    /// Zeros.
    ///
    /// # Panics
    /// If the image [is not taken](Image::is_taken), or its channels are no multiple of [`SIDE`].
    pub fn new(_: AmxBf16, image: Image) -> Self {
        assert!(
            image.is_taken() && image.channels.is_multiple_of(SIDE),
            "{image:?}"
        );
        Self {
            image,
            values: AVec::from_iter(64, std::iter::repeat_n(0, image.values() / 2)),
        }
    }

    /// Another image, `[C, H, W]`.
    ///
    /// # Panics
    /// If it is of another size.
    pub fn fill(&mut self, x: &[f32]) {
        // SAFETY: a token made this.
        unsafe { self.convert(x) }
    }

    #[target_feature(enable = "avx512bf16,avx512vl")]
    fn convert(&mut self, x: &[f32]) {
        assert_eq!(x.len(), self.image.values());
        let (channels, plane) = (self.image.channels, self.image.plane());
        for first in (0..channels).step_by(SIDE) {
            for at in (0..plane / 2).step_by(SIDE) {
                let mut block = [[0u32; SIDE]; SIDE];
                for (c, row) in block.iter_mut().enumerate() {
                    let x = &x[(first + c) * plane + 2 * at..][..2 * SIDE];
                    for (to, x) in row.as_chunks_mut::<4>().0.iter_mut().zip(eights(x)) {
                        let narrow = narrow(x);
                        *to = std::array::from_fn(|i| {
                            u32::from(narrow[2 * i]) | u32::from(narrow[2 * i + 1]) << 16
                        });
                    }
                }
                let rows = transpose(&block);
                for (i, row) in rows.iter().enumerate() {
                    let to = (at + i) * channels + first;
                    self.values[to..to + SIDE].copy_from_slice(row);
                }
            }
        }
    }

    pub(crate) fn values(&self) -> &[u32] {
        &self.values
    }
}

/// A row, whose width is a multiple of eight.
fn eights<T>(row: &[T]) -> &[[T; 8]] {
    row.as_chunks().0
}

fn eights_mut<T>(row: &mut [T]) -> &mut [[T; 8]] {
    row.as_chunks_mut().0
}

/// Eight values rounded to bfloat16, as [`bf16`](crate::bf16) does but for subnormal ones, which become zero.
#[target_feature(enable = "avx512bf16,avx512vl")]
#[inline]
pub(crate) fn narrow(x: &[f32; 8]) -> [u16; 8] {
    // SAFETY: eight values; and a vector of as many numbers of 16 bits.
    unsafe { std::mem::transmute(_mm256_cvtneps_pbh(_mm256_loadu_ps(x.as_ptr()))) }
}

/// `even | odd << 16`
#[inline(always)]
fn paired(even: [u16; 8], odd: [u16; 8]) -> [u32; 8] {
    std::array::from_fn(|i| u32::from(even[i]) | u32::from(odd[i]) << 16)
}

/// Rows to columns.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(block: &[[u32; SIDE]; SIDE]) -> [[u32; SIDE]; SIDE] {
    let mut rows: [__m512i; SIDE] = std::array::from_fn(|i| {
        // SAFETY: a row.
        unsafe { _mm512_loadu_si512(block[i].as_ptr().cast()) }
    });
    // Each step swaps blocks of 1, 2, 4 and 8 values between rows so far apart.
    for pair in 0..8 {
        let (i, j) = (2 * pair, 2 * pair + 1);
        let (a, b) = (rows[i], rows[j]);
        rows[i] = _mm512_unpacklo_epi32(a, b);
        rows[j] = _mm512_unpackhi_epi32(a, b);
    }
    for quad in 0..4 {
        let r: [__m512i; 4] = std::array::from_fn(|i| rows[4 * quad + i]);
        rows[4 * quad] = _mm512_unpacklo_epi64(r[0], r[2]);
        rows[4 * quad + 1] = _mm512_unpackhi_epi64(r[0], r[2]);
        rows[4 * quad + 2] = _mm512_unpacklo_epi64(r[1], r[3]);
        rows[4 * quad + 3] = _mm512_unpackhi_epi64(r[1], r[3]);
    }
    // Row 4q + i holds columns i, 4 + i, 8 + i and 12 + i of rows 4q to 4q + 3.
    let mut columns = [[0u32; SIDE]; SIDE];
    for i in 0..4 {
        let r: [__m512i; 4] = std::array::from_fn(|quad| rows[4 * quad + i]);
        let a = _mm512_shuffle_i32x4::<0x88>(r[0], r[1]);
        let b = _mm512_shuffle_i32x4::<0xdd>(r[0], r[1]);
        let c = _mm512_shuffle_i32x4::<0x88>(r[2], r[3]);
        let d = _mm512_shuffle_i32x4::<0xdd>(r[2], r[3]);
        let whole = [
            _mm512_shuffle_i32x4::<0x88>(a, c),
            _mm512_shuffle_i32x4::<0x88>(b, d),
            _mm512_shuffle_i32x4::<0xdd>(a, c),
            _mm512_shuffle_i32x4::<0xdd>(b, d),
        ];
        for (k, whole) in whole.into_iter().enumerate() {
            // SAFETY: a row.
            unsafe { _mm512_storeu_si512(columns[4 * k + i].as_mut_ptr().cast(), whole) };
        }
    }
    columns
}
