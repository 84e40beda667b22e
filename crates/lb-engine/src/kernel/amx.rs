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
//! positions × one block of 16 channels, or two × two; narrow layers go another way, [`stream`].
//!
//! The compiler never uses tile registers, so their content survives between the `asm!` blocks of
//! one call.

mod stream;
pub mod wide;

use std::arch::asm;

use aligned_vec::{AVec, ConstAlign};

use stream::streamed;

use super::avx512::{Case, LANES, Line, Pointers, case, for_case};
use super::isa::Amx as Token;
use super::pack::{Steps, starts, streaming, weights};
use super::tiles::{BLOCK, Finish, MOST_ROWS, Tile, stored, tiles};
use super::window_sum::WindowSum;
use super::{Kernel, Run, check, check_together, must_take};
use crate::conv::{Conv, Io};

/// Bytes of a tile's row.
pub(super) const ROW: usize = 64;
/// Bytes of a tile.
pub(super) const TILE: usize = 16 * ROW;
/// Input bytes that a step may read behind the last pixel: within [`TAIL`](crate::plane::TAIL).
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
        let (out, rows) = (conv.output, rows(conv));
        let tiles = out.height * out.width.div_ceil(rows) * out.channels.div_ceil(LANES);
        // Measured: a row of a tile takes a cycle to multiply, at least half of 16, and about seven
        // to load and requantize, four where rows stream.
        let other = if stream::fits(conv) { 4.0 } else { 7.0 };
        let row = steps(conv).count(conv) as f64 + other;
        let weights = streaming(conv.layer.q.len());
        Some(60.0 + (tiles * rows.max(8)) as f64 * row * 0.27 + weights)
    }

    fn window_sum(&self, conv: &Conv) -> WindowSum {
        WindowSum::new(conv, Some(self.0.avx512()))
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        Box::new(Prepared::new(conv, self.0))
    }
}

struct Prepared {
    conv: Conv,
    /// Tiles of neighbouring positions of one image.
    neighbours: Walk,
    /// Tiles of the same position in several images.
    images: Walk,
    /// Offset of every step's bytes from a tile's first.
    offsets: Vec<i64>,
    /// In groups of two blocks and steps of 64 bytes.
    weights: AVec<i8, ConstAlign<64>>,
    start: Vec<Line<i32, LANES>>,
    run: Body,
    run_together: Body,
}

/// A walk over all outputs in tiles.
struct Walk {
    tiles: Vec<Tile>,
    /// Rows of a tile: positions or images.
    rows: usize,
    /// Bytes of input from one row to the next.
    step: usize,
    finish: Finish,
}

/// A convolution with so many rows a tile.
type Body = unsafe fn(&Prepared, &Pointers, usize);

/// Positions a tile.
fn rows(conv: &Conv) -> usize {
    conv.output.width.min(MOST_ROWS)
}

fn steps(conv: &Conv) -> Steps {
    Steps::new(conv, ROW, ROW)
}

/// Offset of every step's bytes from a tile's first.
fn offsets(conv: &Conv) -> Vec<i64> {
    let steps = steps(conv);
    let offset = |step: usize| {
        let (ky, i) = (step / steps.per_row, step % steps.per_row);
        (ky * conv.input.pitch() + i * ROW) as i64
    };
    (0..steps.count(conv)).map(offset).collect()
}

impl Prepared {
    fn new(conv: Conv, _: Token) -> Self {
        let rows = rows(&conv);
        let run: Body = if stream::fits(&conv) {
            for_case!(case(&conv), streamed)
        } else {
            for_case!(case(&conv), one_image)
        };
        Self {
            neighbours: Walk {
                tiles: tiles(&conv, rows),
                rows,
                step: conv.layer.stride * conv.input.stride,
                finish: Finish::new(&conv, 1.0),
            },
            images: Walk {
                // Only narrow outputs fill their tiles better this way.
                tiles: if rows < MOST_ROWS {
                    tiles(&conv, 1)
                } else {
                    Vec::new()
                },
                rows: MOST_ROWS,
                step: conv.input.len(),
                finish: Finish::across_images(&conv),
            },
            offsets: offsets(&conv),
            weights: weights(&conv, steps(&conv), 2),
            start: starts(&conv),
            run,
            run_together: for_case!(case(&conv), together),
            conv,
        }
    }
}

/// Palette 1: C in the first tiles, A in those from `a`, B in those from `b`.
///
/// Of a kernel row with fewer bytes than a tile's, only those are loaded: a load that crosses a
/// cache line takes several times as long.
pub(super) fn config(rows: usize, run: usize, a: usize, b: usize) -> Line<u8, 64> {
    let depth = run.min(ROW);
    let mut c = [0; 64];
    c[0] = 1;
    for tile in 0..8 {
        let (rows, bytes) = match tile {
            _ if tile < a => (rows, ROW),
            _ if tile < b => (rows, depth),
            _ => (depth / 4, ROW),
        };
        c[16 + 2 * tile] = bytes as u8;
        c[48 + tile] = rows as u8;
    }
    Line(c)
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
        unsafe { (self.run)(self, &pointers, self.neighbours.rows) }
    }

    fn likes_together(&self, images: usize) -> bool {
        // Fuller tiles, and weights that are loaded once for all images.
        let positions = self.neighbours.rows;
        images > 1 && positions < MOST_ROWS && images >= positions
    }

    fn run_together(&self, mut io: Io, images: usize) {
        assert!(self.likes_together(images), "as the trait says");
        check_together(&self.conv, &io, 0, images);
        let pointers = Pointers::new(&mut io);
        for first in (0..images).step_by(MOST_ROWS) {
            let rows = MOST_ROWS.min(images - first);
            let pointers = pointers.image(&self.conv, first);
            // SAFETY: as above, for so many images.
            unsafe { (self.run_together)(self, &pointers, rows) }
        }
    }
}

/// # Safety
/// AMX; the buffers are those of the convolution.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn one_image<const C: Case>(p: &Prepared, io: &Pointers, rows: usize) {
    // SAFETY: the caller's.
    unsafe { walk::<C>(p, &p.neighbours, io, rows) }
}

/// # Safety
/// AMX; the buffers are those of the convolution, for `images` images.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn together<const C: Case>(p: &Prepared, io: &Pointers, images: usize) {
    // SAFETY: the caller's.
    unsafe { walk::<C>(p, &p.images, io, images) }
}

/// # Safety
/// AMX; the buffers are those of the convolution, with `rows` rows a tile.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
#[inline]
unsafe fn walk<const C: Case>(p: &Prepared, w: &Walk, io: &Pointers, rows: usize) {
    let mut c = Line([0i32; 4 * BLOCK]);
    let run = p.conv.layer.kernel[1] * p.conv.input.stride;
    let config = config(rows, run, 4, 6);
    // SAFETY: a valid configuration of 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) config.0.as_ptr(), options(nostack, readonly)) };
    for block in (0..w.finish.blocks()).step_by(2) {
        let weights = p.weights[block * p.offsets.len() * TILE..].as_ptr();
        let two = block + 1 < w.finish.blocks();
        let size = if two { 2 } else { 4 };
        for group in w.tiles.chunks(size) {
            let input = |i: usize| io.input.wrapping_add(group[i.min(group.len() - 1)].input);
            // SAFETY: tiles lie inside the planes; two blocks are there where two are used.
            unsafe {
                if two {
                    two_by_two(p, [input(0), input(1)], w.step, weights, block, &mut c);
                } else {
                    let inputs = [input(0), input(1), input(2), input(3)];
                    four_by_one(p, inputs, w.step, weights, block, &mut c);
                }
                for (i, tile) in group.iter().enumerate() {
                    let c = c.0.as_ptr().add(i * 4 / size * BLOCK);
                    if two {
                        (w.finish).two::<C>(io, tile, (rows, block), |j, i| stored(c, j, i));
                    } else {
                        (w.finish).one::<C>(io, tile, (rows, block), |j, i| stored(c, j, i));
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
    tiles: [*const u8; 2],
    step: usize,
    weights: *const i8,
    pair: usize,
    c: &mut Line<i32, { 4 * BLOCK }>,
) {
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
            a0 = in(reg) tiles[0],
            a1 = in(reg) tiles[1],
            b = inout(reg) weights => _,
            offsets = inout(reg) p.offsets.as_ptr() => _,
            n = inout(reg) p.offsets.len() => _,
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
    tiles: [*const u8; 4],
    step: usize,
    weights: *const i8,
    block: usize,
    c: &mut Line<i32, { 4 * BLOCK }>,
) {
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
            a0 = in(reg) tiles[0],
            a1 = in(reg) tiles[1],
            a2 = in(reg) tiles[2],
            a3 = in(reg) tiles[3],
            b = inout(reg) weights => _,
            offsets = in(reg) p.offsets.as_ptr(),
            end = in(reg) p.offsets.as_ptr_range().end,
            c = in(reg) c.0.as_mut_ptr(),
            t = out(reg) _,
            u = out(reg) _,
            options(nostack),
        );
    }
}
