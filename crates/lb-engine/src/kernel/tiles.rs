//! Output positions in groups, and requantizing their accumulators.

use std::arch::x86_64::*;

use super::avx512::{Case, Epilogue, LANES, Pointers, is_real, pack4};
use crate::conv::Conv;

/// Most positions a tile.
pub const MOST_ROWS: usize = 16;
/// Accumulators of a tile × a block of 16 channels.
pub const BLOCK: usize = MOST_ROWS * LANES;

/// Neighbouring positions of an output row, by the first of them.
#[derive(Clone, Copy)]
pub struct Tile {
    /// Offset of the first position's window in the input.
    pub input: usize,
    output: usize,
    residual: usize,
    position: usize,
}

impl Tile {
    /// The tile whose first position is (`y`, `x`).
    pub fn at(conv: &Conv, y: usize, x: usize) -> Self {
        Self {
            input: conv.window(y, x),
            output: conv.output.at(y, x),
            residual: conv.residual.map_or(0, |(plane, _)| plane.at(y, x)),
            position: y * conv.output.width + x,
        }
    }
}

/// Tiles of `rows` positions that cover the output. The last tile of an output row ends with it,
/// and computes some positions a second time.
///
/// # Panics
/// If an output row has fewer positions.
pub fn tiles(conv: &Conv, rows: usize) -> Vec<Tile> {
    let out = conv.output;
    let columns = (0..out.width)
        .step_by(rows)
        .map(|x| x.min(out.width - rows));
    let rows = (0..out.height).flat_map(|y| columns.clone().map(move |x| (y, x)));
    rows.map(|(y, x)| Tile::at(conv, y, x)).collect()
}

/// The accumulators of block `j` of a group and position `i`, where AMX stores them: a vector a
/// position, [`BLOCK`] values a block.
///
/// # Safety
/// They are there, each vector on a cache line of its own.
#[target_feature(enable = "avx512f")]
#[inline]
pub unsafe fn stored(c: *const i32, j: usize, i: usize) -> __m512i {
    // SAFETY: the caller's.
    unsafe { _mm512_load_si512(c.add(j * BLOCK + i * LANES).cast()) }
}

/// Requantizes accumulators.
pub struct Finish {
    epilogue: Epilogue,
    residual_step: usize,
    output_step: usize,
}

impl Finish {
    /// For accumulators that are `factor` times those of `conv`, a power of two.
    pub fn new(conv: &Conv, factor: f32) -> Self {
        Self {
            epilogue: Epilogue::new(conv, factor),
            residual_step: conv.residual.map_or(0, |(plane, _)| plane.stride),
            output_step: conv.output.stride,
        }
    }

    /// Blocks of 16 output channels.
    pub fn blocks(&self) -> usize {
        self.epilogue.blocks()
    }

    /// The epilogue of the first `rows` positions of a tile × one block. `c(0, i)` gives the
    /// accumulators of position `i`.
    ///
    /// # Safety
    /// The tile's positions lie inside the planes.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub unsafe fn one<const C: Case>(
        &self,
        io: &Pointers,
        tile: &Tile,
        (rows, block): (usize, usize),
        c: impl Fn(usize, usize) -> __m512i,
    ) {
        let k = self.epilogue.constants(block);
        let at = Places::new::<C>(self, io, tile, block);
        let mut i = 0;
        // SAFETY: the caller's.
        unsafe {
            while !is_real(C) && i + 4 <= rows {
                let codes = pack4::<C>(
                    [&k; 4],
                    std::array::from_fn(|j| c(0, i + j)),
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
            for i in i..rows {
                k.store::<C>(c(0, i), at.sum(i), at.residual(i), at.output(i));
            }
        }
    }

    /// The epilogue of the first `rows` positions of a tile × blocks `block` and `block + 1`.
    /// `c(j, i)` gives the accumulators of block `block + j` and position `i`.
    ///
    /// # Safety
    /// As [`one`](Self::one).
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
    #[inline]
    pub unsafe fn two<const C: Case>(
        &self,
        io: &Pointers,
        tile: &Tile,
        (rows, block): (usize, usize),
        c: impl Fn(usize, usize) -> __m512i,
    ) {
        let k = [
            self.epilogue.constants(block),
            self.epilogue.constants(block + 1),
        ];
        let at = [
            Places::new::<C>(self, io, tile, block),
            Places::new::<C>(self, io, tile, block + 1),
        ];
        let mut i = 0;
        // SAFETY: the caller's.
        unsafe {
            while !is_real(C) && i + 2 <= rows {
                let codes = pack4::<C>(
                    [&k[0], &k[1], &k[0], &k[1]],
                    std::array::from_fn(|j| c(j % 2, i + j / 2)),
                    std::array::from_fn(|j| at[0].sum(i + j / 2)),
                    std::array::from_fn(|j| at[j % 2].residual(i + j / 2)),
                );
                let (o0, o1) = (at[0].output(i), at[0].output(i + 1));
                _mm256_storeu_si256(o0.cast(), _mm512_castsi512_si256(codes));
                _mm256_storeu_si256(o1.cast(), _mm512_extracti64x4_epi64::<1>(codes));
                i += 2;
            }
            for i in i..rows {
                for j in 0..2 {
                    let (sum, residual) = (at[j].sum(i), at[j].residual(i));
                    k[j].store::<C>(c(j, i), sum, residual, at[j].output(i));
                }
            }
        }
    }
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
