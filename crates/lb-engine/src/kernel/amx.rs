//! Intel AMX: a tile instruction multiplies 16 positions × 64 input bytes with 64 × 16 output
//! channels, eight times what a vector unit does.
//!
//! ```text
//! A  up to 16 neighbouring output positions of a row × 64 bytes of their windows, straight from
//!    the input plane: for a kernel row the k_w pixels of a window are contiguous, and positions
//!    are one pixel step apart
//! B  64 bytes × 16 output channels, packed once
//! C  positions × channels, 32 bits, starting at `−z_x Σ q`
//! ```
//!
//! A kernel row of `k_w · stride` bytes is cut into steps of 64; weights behind its end are zero,
//! so what the last step reads there does not matter. Four C tiles are in flight: four groups of
//! positions × one block of 16 channels, or two × two.
//!
//! The compiler never uses tile registers, so their content survives between the `asm!` blocks of
//! one call.

use std::arch::asm;
use std::arch::x86_64::*;

use aligned_vec::{AVec, ConstAlign};

use super::avx512::{Case, Epilogue, LANES, Line, Pointers, case, for_case, is_real, pack4};
use super::isa::Amx as Token;
use super::{Kernel, Run, check};
use crate::conv::{Conv, Io};

/// Bytes of a tile's row.
const ROW: usize = 64;
/// Bytes of a tile.
const TILE: usize = 16 * ROW;
/// Input rows that a step may read behind the last pixel: within [`TAIL`](crate::plane::TAIL).
const _: () = assert!(ROW <= crate::plane::TAIL);

/// The AMX kernel.
pub struct Amx(pub Token);

impl Kernel for Amx {
    fn name(&self) -> &'static str {
        "amx"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        if !conv.is_narrow() {
            return None;
        }
        let shape = Tiling::new(conv);
        let blocks = conv.layer.c_out.div_ceil(LANES) as f64;
        let tiles = shape.tiles.len() as f64 * blocks;
        // A row of a tile takes a cycle to multiply, and its epilogue about three.
        Some(60.0 + tiles * shape.rows as f64 * (shape.offsets.len() as f64 + 3.0) * 0.3)
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        Box::new(Prepared::new(conv, self.0))
    }
}

/// How positions are grouped into tiles.
struct Tiling {
    /// Positions a tile.
    rows: usize,
    /// Input, output and residual offsets (in values) and number of each tile's first position.
    tiles: Vec<Tile>,
    /// Offset of every step's bytes from a tile's first.
    offsets: Vec<i64>,
}

#[derive(Clone, Copy)]
struct Tile {
    input: usize,
    output: usize,
    residual: usize,
    position: usize,
}

impl Tiling {
    fn new(conv: &Conv) -> Self {
        let out = conv.output;
        let rows = out.width.min(16);
        let mut tiles = Vec::new();
        for y in 0..out.height {
            for x in (0..out.width).step_by(rows) {
                // The last tile of a row ends with it, and computes some positions twice.
                let x = x.min(out.width - rows);
                tiles.push(Tile {
                    input: conv.window(y, x),
                    output: out.at(y, x),
                    residual: conv.residual.map_or(0, |(plane, _)| plane.at(y, x)),
                    position: y * out.width + x,
                });
            }
        }
        let [kh, kw] = conv.layer.kernel;
        let run = kw * conv.input.stride;
        let offsets = (0..kh)
            .flat_map(|ky| (0..run).step_by(ROW).map(move |i| (ky, i)))
            .map(|(ky, i)| (ky * conv.input.pitch() + i) as i64)
            .collect();
        Self {
            rows,
            tiles,
            offsets,
        }
    }
}

struct Prepared {
    conv: Conv,
    tiling: Tiling,
    epilogue: Epilogue,
    /// `[pair of blocks][step][block of the pair][16 × 64]`
    weights: AVec<i8, ConstAlign<64>>,
    /// Where the accumulators of a block start.
    start: Vec<Line<i32, LANES>>,
    config: Line<u8, 64>,
    body: unsafe fn(&Prepared, &Pointers),
}

impl Prepared {
    fn new(conv: Conv, _: Token) -> Self {
        let tiling = Tiling::new(&conv);
        let epilogue = Epilogue::new(&conv);
        let start = (0..epilogue.blocks()).map(|b| {
            let channel = |i| conv.start.get(b * LANES + i).copied().unwrap_or(0) as i32;
            Line(std::array::from_fn(channel))
        });
        Self {
            start: start.collect(),
            weights: pack(&conv, tiling.offsets.len()),
            config: config(tiling.rows, conv.layer.kernel[1] * conv.input.stride),
            body: for_case!(case(&conv), body),
            tiling,
            epilogue,
            conv,
        }
    }
}

/// Palette 1: C in tiles 0 to 3, A in 4 and 5, B in 6 and 7.
///
/// Of a kernel row with fewer bytes than a tile's, only those are loaded: a load that crosses a
/// cache line takes several times as long.
fn config(rows: usize, run: usize) -> Line<u8, 64> {
    let depth = run.min(ROW);
    let mut c = [0; 64];
    c[0] = 1;
    for tile in 0..8 {
        c[16 + 2 * tile] = if matches!(tile, 4 | 5) { depth } else { ROW } as u8;
        c[48 + tile] = if tile < 6 { rows } else { depth / 4 } as u8;
    }
    Line(c)
}

/// B tiles: row `r` holds inputs `4r` to `4r + 3` of a step for each of 16 output channels.
fn pack(conv: &Conv, steps: usize) -> AVec<i8, ConstAlign<64>> {
    let layer = &conv.layer;
    let [kh, kw] = layer.kernel;
    let blocks = layer.c_out.div_ceil(LANES);
    let (run, per_row) = (kw * conv.input.stride, steps / kh);
    let mut packed = AVec::with_capacity(64, blocks * steps * TILE);
    for pair in (0..blocks).step_by(2) {
        for step in 0..steps {
            let (ky, from) = (step / per_row, step % per_row * ROW);
            for block in pair..blocks.min(pair + 2) {
                for i in 0..TILE {
                    let (byte, lane) = (from + i / ROW * 4 + i % 4, i % ROW / 4);
                    let (kx, c_in) = (byte / conv.input.stride, byte % conv.input.stride);
                    let c_out = block * LANES + lane;
                    let inside = byte < run && c_in < layer.c_in && c_out < layer.c_out;
                    packed.push(match inside {
                        true => layer.channel(c_out)[(ky * kw + kx) * layer.c_in + c_in] as i8,
                        false => 0,
                    });
                }
            }
        }
    }
    packed
}

impl Run for Prepared {
    fn conv(&self) -> &Conv {
        &self.conv
    }

    fn run(&self, mut io: Io) {
        check(&self.conv, &io, 0);
        let pointers = Pointers::new(&mut io);
        // SAFETY: the token of `prepare` proves the instructions; `check` proved that the planes
        // lie inside the buffers, `TAIL` values behind them included.
        unsafe { (self.body)(self, &pointers) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn body<const C: Case>(p: &Prepared, io: &Pointers) {
    let mut c = Line([0i32; 4 * TILE / 4]);
    // SAFETY: a valid configuration of 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) p.config.0.as_ptr(), options(nostack, readonly)) };
    let (tiles, steps) = (&p.tiling.tiles, p.tiling.offsets.len());
    for pair in (0..p.epilogue.blocks()).step_by(2) {
        let weights = p.weights[pair * steps * TILE..].as_ptr();
        // SAFETY: tiles lie inside the planes; two blocks are there where two are used.
        unsafe {
            if pair + 1 < p.epilogue.blocks() {
                for two in tiles.chunks(2) {
                    let last = two[two.len() - 1];
                    two_by_two(p, io.input, [two[0], last], weights, pair, &mut c);
                    for (i, tile) in two.iter().enumerate() {
                        finish_two::<C>(p, io, tile, pair, &c.0[i * TILE / 2..]);
                    }
                }
            } else {
                for four in tiles.chunks(4) {
                    let tile = |i: usize| four[i.min(four.len() - 1)];
                    let inputs = [tile(0), tile(1), tile(2), tile(3)];
                    four_by_one(p, io.input, inputs, weights, pair, &mut c);
                    for (i, tile) in four.iter().enumerate() {
                        finish_one::<C>(p, io, tile, pair, &c.0[i * TILE / 4..]);
                    }
                }
            }
        }
    }
    // SAFETY: gives the tiles' state back.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// C tiles 0 to 3: tile 0 and 1 of positions × blocks `pair` and `pair + 1`.
///
/// # Safety
/// AMX, configured; the tiles' windows lie inside the input.
unsafe fn two_by_two(
    p: &Prepared,
    input: *const u8,
    tiles: [Tile; 2],
    weights: *const i8,
    pair: usize,
    c: &mut Line<i32, 1024>,
) {
    let step = p.conv.layer.stride * p.conv.input.stride;
    // SAFETY: the caller's; B has two tiles a step, C has room for four.
    unsafe {
        asm!(
            "tileloadd tmm0, [{s0} + {zero}]",
            "tileloadd tmm1, [{s1} + {zero}]",
            "tileloadd tmm2, [{s0} + {zero}]",
            "tileloadd tmm3, [{s1} + {zero}]",
            "2:",
            "mov {t}, [{offsets}]",
            "add {offsets}, 8",
            "lea {u}, [{a0} + {t}]",
            "tileloadd tmm4, [{u} + {step}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "lea {u}, [{a1} + {t}]",
            "tileloadd tmm5, [{u} + {step}]",
            "lea {u}, [{b} + 1024]",
            "tileloadd tmm7, [{u} + {row}]",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm1, tmm4, tmm7",
            "tdpbusd tmm3, tmm5, tmm7",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {row}], tmm0",
            "add {c}, 1024",
            "tilestored [{c} + {row}], tmm1",
            "add {c}, 1024",
            "tilestored [{c} + {row}], tmm2",
            "add {c}, 1024",
            "tilestored [{c} + {row}], tmm3",
            s0 = in(reg) p.start[pair].0.as_ptr(),
            s1 = in(reg) p.start[pair + 1].0.as_ptr(),
            zero = in(reg) 0usize,
            row = in(reg) ROW,
            step = in(reg) step,
            a0 = in(reg) input.add(tiles[0].input),
            a1 = in(reg) input.add(tiles[1].input),
            b = inout(reg) weights => _,
            offsets = inout(reg) p.tiling.offsets.as_ptr() => _,
            n = inout(reg) p.tiling.offsets.len() => _,
            c = inout(reg) c.0.as_mut_ptr() => _,
            t = out(reg) _,
            u = out(reg) _,
            options(nostack),
        );
    }
}

/// C tiles 0 to 3: four groups of positions × block `block`.
///
/// # Safety
/// As [`two_by_two`].
unsafe fn four_by_one(
    p: &Prepared,
    input: *const u8,
    tiles: [Tile; 4],
    weights: *const i8,
    block: usize,
    c: &mut Line<i32, 1024>,
) {
    let step = p.conv.layer.stride * p.conv.input.stride;
    // SAFETY: the caller's; B has one tile a step, C has room for four.
    unsafe {
        asm!(
            "tileloadd tmm0, [{s} + {zero}]",
            "tileloadd tmm1, [{s} + {zero}]",
            "tileloadd tmm2, [{s} + {zero}]",
            "tileloadd tmm3, [{s} + {zero}]",
            "mov {s}, {offsets}",
            "2:",
            "mov {t}, [{s}]",
            "add {s}, 8",
            "tileloadd tmm6, [{b} + {row}]",
            "lea {u}, [{a0} + {t}]",
            "tileloadd tmm4, [{u} + {step}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "lea {u}, [{a1} + {t}]",
            "tileloadd tmm5, [{u} + {step}]",
            "tdpbusd tmm1, tmm5, tmm6",
            "lea {u}, [{a2} + {t}]",
            "tileloadd tmm4, [{u} + {step}]",
            "tdpbusd tmm2, tmm4, tmm6",
            "lea {u}, [{a3} + {t}]",
            "tileloadd tmm5, [{u} + {step}]",
            "tdpbusd tmm3, tmm5, tmm6",
            "add {b}, 1024",
            "cmp {s}, {end}",
            "jne 2b",
            "tilestored [{c} + {row}], tmm0",
            "lea {u}, [{c} + 1024]",
            "tilestored [{u} + {row}], tmm1",
            "lea {u}, [{c} + 2048]",
            "tilestored [{u} + {row}], tmm2",
            "lea {u}, [{c} + 3072]",
            "tilestored [{u} + {row}], tmm3",
            s = inout(reg) p.start[block].0.as_ptr() => _,
            zero = inout(reg) 0usize => _,
            row = in(reg) ROW,
            step = in(reg) step,
            a0 = in(reg) input.add(tiles[0].input),
            a1 = in(reg) input.add(tiles[1].input),
            a2 = in(reg) input.add(tiles[2].input),
            a3 = in(reg) input.add(tiles[3].input),
            b = inout(reg) weights => _,
            offsets = in(reg) p.tiling.offsets.as_ptr(),
            end = in(reg) p.tiling.offsets.as_ptr_range().end,
            c = in(reg) c.0.as_mut_ptr(),
            t = out(reg) _,
            u = out(reg) _,
            options(nostack),
        );
    }
}

/// Loads vector `i` of a C tile.
#[target_feature(enable = "avx512f")]
#[inline]
fn vector(c: &[i32], i: usize) -> __m512i {
    let lanes = &c[i * LANES..(i + 1) * LANES];
    // SAFETY: 16 values.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

/// The epilogue of one tile × one block.
///
/// # Safety
/// The tile's positions lie inside the planes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
unsafe fn finish_one<const C: Case>(
    p: &Prepared,
    io: &Pointers,
    tile: &Tile,
    block: usize,
    c: &[i32],
) {
    let k = p.epilogue.constants(block);
    let at = Places::new::<C>(p, io, tile, block);
    let mut i = 0;
    // SAFETY: the caller's.
    unsafe {
        while !is_real(C) && i + 4 <= p.tiling.rows {
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
        for i in i..p.tiling.rows {
            k.store::<C>(vector(c, i), at.sum(i), at.residual(i), at.output(i));
        }
    }
}

/// The epilogue of one tile × blocks `block` and `block + 1`, whose C tiles follow one another.
///
/// # Safety
/// As [`finish_one`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
unsafe fn finish_two<const C: Case>(
    p: &Prepared,
    io: &Pointers,
    tile: &Tile,
    block: usize,
    c: &[i32],
) {
    let k = [p.epilogue.constants(block), p.epilogue.constants(block + 1)];
    let at = [
        Places::new::<C>(p, io, tile, block),
        Places::new::<C>(p, io, tile, block + 1),
    ];
    let c = [c, &c[TILE / 4..]];
    let mut i = 0;
    // SAFETY: the caller's.
    unsafe {
        while !is_real(C) && i + 2 <= p.tiling.rows {
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
        for i in i..p.tiling.rows {
            for j in 0..2 {
                let (sum, residual) = (at[j].sum(i), at[j].residual(i));
                k[j].store::<C>(vector(c[j], i), sum, residual, at[j].output(i));
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
    fn new<const C: Case>(p: &Prepared, io: &Pointers, tile: &Tile, block: usize) -> Self {
        let bytes = |real: bool| if real { 4 } else { 1 };
        let residual_bytes = bytes(C & 3 == 2);
        let output_bytes = bytes(is_real(C));
        let channel = block * LANES;
        let residual_step = p.conv.residual.map_or(0, |(plane, _)| plane.stride);
        Self {
            sums: io.sums.wrapping_add(tile.position),
            residual: (io.residual).wrapping_add((tile.residual + channel) * residual_bytes),
            residual_step: residual_step * residual_bytes,
            output: io
                .output
                .wrapping_add((tile.output + channel) * output_bytes),
            output_step: p.conv.output.stride * output_bytes,
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
