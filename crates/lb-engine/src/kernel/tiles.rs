//! Output positions in groups, and requantizing their accumulators: what kernels share that put
//! them in memory first.
//!
//! A group's accumulators lie as AMX stores them: a vector of 16 channels a position, [`BLOCK`]
//! values a block of channels.

use std::arch::x86_64::*;

use super::avx512::{Case, Epilogue, LANES, Pointers, is_real, pack4};
use crate::conv::Conv;

/// Most positions a tile.
pub const MOST_ROWS: usize = 16;
/// Accumulators of a tile × a block of 16 channels.
pub const BLOCK: usize = MOST_ROWS * LANES;

/// Neighbouring positions of an output row; all tiles of a layer have as many.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Offset of the first position's window in the input.
    pub input: usize,
    output: usize,
    residual: usize,
    position: usize,
}

/// Tiles of `rows` positions that cover the output. The last tile of an output row ends with it,
/// and computes some positions a second time.
///
/// # Panics
/// If an output row has fewer positions.
pub fn tiles(conv: &Conv, rows: usize) -> Vec<Tile> {
    let out = conv.output;
    let mut tiles = Vec::new();
    for y in 0..out.height {
        for x in (0..out.width).step_by(rows) {
            let x = x.min(out.width - rows);
            tiles.push(Tile {
                input: conv.window(y, x),
                output: out.at(y, x),
                residual: conv.residual.map_or(0, |(plane, _)| plane.at(y, x)),
                position: y * out.width + x,
            });
        }
    }
    tiles
}

/// Requantizes accumulators.
pub struct Finish {
    epilogue: Epilogue,
    rows: usize,
    residual_step: usize,
    output_step: usize,
}

impl Finish {
    /// For `conv` in tiles of `rows` positions.
    pub fn new(conv: &Conv, rows: usize) -> Self {
        Self {
            epilogue: Epilogue::new(conv),
            rows,
            residual_step: conv.residual.map_or(0, |(plane, _)| plane.stride),
            output_step: conv.output.stride,
        }
    }

    /// Blocks of 16 output channels.
    pub fn blocks(&self) -> usize {
        self.epilogue.blocks()
    }

    /// The epilogue of one tile × one block.
    ///
    /// # Safety
    /// The tile's positions lie inside the planes; `c` points to its accumulators, aligned.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub unsafe fn one<const C: Case>(
        &self,
        io: &Pointers,
        tile: &Tile,
        block: usize,
        c: *const i32,
    ) {
        let k = self.epilogue.constants(block);
        let at = Places::new::<C>(self, io, tile, block);
        let mut i = 0;
        // SAFETY: the caller's.
        unsafe {
            while !is_real(C) && i + 4 <= self.rows {
                let codes = pack4::<C>(
                    [&k; 4],
                    std::array::from_fn(|j| vector(c, i + j)),
                    std::array::from_fn(|j| at.sum(i + j)),
                    std::array::from_fn(|j| at.residual(i + j)),
                );
                if at.output_step == LANES {
                    _mm512_storeu_si512(at.output(i).cast(), codes);
                } else {
                    _mm_storeu_si128(at.output(i).cast(), _mm512_castsi512_si128(codes));
                    let (o1, o2, o3) = (at.output(i + 1), at.output(i + 2), at.output(i + 3));
                    _mm_storeu_si128(o1.cast(), _mm512_extracti32x4_epi32::<1>(codes));
                    _mm_storeu_si128(o2.cast(), _mm512_extracti32x4_epi32::<2>(codes));
                    _mm_storeu_si128(o3.cast(), _mm512_extracti32x4_epi32::<3>(codes));
                }
                i += 4;
            }
            for i in i..self.rows {
                k.store::<C>(vector(c, i), at.sum(i), at.residual(i), at.output(i));
            }
        }
    }

    /// The epilogue of one tile × blocks `block` and `block + 1`, whose C tiles follow one another.
    ///
    /// # Safety
    /// As [`one`](Self::one).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub unsafe fn two<const C: Case>(
        &self,
        io: &Pointers,
        tile: &Tile,
        block: usize,
        c: *const i32,
    ) {
        let k = [
            self.epilogue.constants(block),
            self.epilogue.constants(block + 1),
        ];
        let at = [
            Places::new::<C>(self, io, tile, block),
            Places::new::<C>(self, io, tile, block + 1),
        ];
        let c = [c, c.wrapping_add(BLOCK)];
        let mut i = 0;
        // SAFETY: the caller's.
        unsafe {
            while !is_real(C) && i + 2 <= self.rows {
                let codes = pack4::<C>(
                    [&k[0], &k[1], &k[0], &k[1]],
                    std::array::from_fn(|j| vector(c[j % 2], i + j / 2)),
                    std::array::from_fn(|j| at[0].sum(i + j / 2)),
                    std::array::from_fn(|j| at[j % 2].residual(i + j / 2)),
                );
                let (o0, o1) = (at[0].output(i), at[0].output(i + 1));
                _mm256_storeu_si256(o0.cast(), _mm512_castsi512_si256(codes));
                _mm256_storeu_si256(o1.cast(), _mm512_extracti64x4_epi64::<1>(codes));
                i += 2;
            }
            for i in i..self.rows {
                for j in 0..2 {
                    let (sum, residual) = (at[j].sum(i), at[j].residual(i));
                    k[j].store::<C>(vector(c[j], i), sum, residual, at[j].output(i));
                }
            }
        }
    }
}

/// The accumulators of position `i`.
///
/// # Safety
/// They are there, on a cache line of their own.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn vector(c: *const i32, i: usize) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_load_si512(c.add(i * LANES).cast()) }
}

/// Where the positions of a tile are, for one block of channels.
struct Places {
    sums: *const f32,
    residual: *const u8,
    residual_step: usize,
    output: *mut u8,
    output_step: usize,
}

impl Places {
    #[inline]
    fn new<const C: Case>(f: &Finish, io: &Pointers, tile: &Tile, block: usize) -> Self {
        let bytes = |real: bool| if real { 4 } else { 1 };
        let residual_bytes = bytes(C & 3 == 2);
        let output_bytes = bytes(is_real(C));
        let channel = block * LANES;
        let residual_step = f.residual_step;
        Self {
            sums: io.sums.wrapping_add(tile.position),
            residual: (io.residual).wrapping_add((tile.residual + channel) * residual_bytes),
            residual_step: residual_step * residual_bytes,
            output: io
                .output
                .wrapping_add((tile.output + channel) * output_bytes),
            output_step: f.output_step * output_bytes,
        }
    }

    #[inline]
    fn sum(&self, i: usize) -> *const f32 {
        self.sums.wrapping_add(i)
    }

    #[inline]
    fn residual(&self, i: usize) -> *const u8 {
        self.residual.wrapping_add(i * self.residual_step)
    }

    #[inline]
    fn output(&self, i: usize) -> *mut u8 {
        self.output.wrapping_add(i * self.output_step)
    }
}
