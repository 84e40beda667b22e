//! Outputs, and gradients of inputs, which are outputs of transposed weights.

use std::arch::asm;

use aligned_vec::{AVec, ConstAlign};

use crate::planes::Pairs;
use crate::tile::{ROW, configure, release};
use crate::{Image, SIDE, bf16, fills_steps};

/// Taps of a kernel.
const TAPS: usize = 9;
/// Values of a tile.
const TILE: usize = SIDE * ROW / 2;

/// Weights in tiles.
pub struct Weights {
    outputs: usize,
    inputs: usize,
    /// `[group of blocks][tap][step of 32 inputs][block of 16 outputs]`, tiles of 16 rows of 32 values.
    tiles: AVec<u16, ConstAlign<64>>,
}

impl Weights {
    /// Of `weight(output, input, tap)`.
    ///
    /// # Panics
    /// If outputs are no multiple of [`SIDE`], or inputs do not [fill](fills_steps) rows.
    pub fn new(outputs: usize, inputs: usize, weight: impl Fn(usize, usize, usize) -> f32) -> Self {
        assert!(outputs.is_multiple_of(SIDE) && outputs > 0 && fills_steps(inputs));
        let blocks = outputs / SIDE;
        let steps = inputs.div_ceil(2 * SIDE);
        let group = group(blocks);
        let mut tiles = AVec::from_iter(64, std::iter::repeat_n(0, blocks * TAPS * steps * TILE));
        for o in 0..outputs {
            let (first, block) = (o / SIDE / group, o / SIDE % group);
            for i in 0..inputs {
                let (step, column) = (i / (2 * SIDE), i % (2 * SIDE));
                for tap in 0..TAPS {
                    let tile = ((first * TAPS + tap) * steps + step) * group + block;
                    let at = tile * TILE + o % SIDE * 2 * SIDE + column;
                    tiles[at] = bf16(weight(o, i, tap)) as u16;
                }
            }
        }
        Self {
            outputs,
            inputs,
            tiles,
        }
    }

    /// Writes outputs, `[C_out, H, W]`.
    ///
    /// # Panics
    /// If the image has other channels, or `y` another size.
    pub fn multiply(&self, x: &Pairs, y: &mut [f32]) {
        let Image {
            channels,
            height,
            width,
        } = x.image;
        assert_eq!(channels, self.inputs);
        assert_eq!(y.len(), self.outputs * height * width);
        let n = width.min(SIDE);
        let pairs = channels.div_ceil(2);
        let steps = pairs.div_ceil(SIDE);
        let padded = x.padded;
        let offsets: Vec<usize> = (0..TAPS)
            .flat_map(|tap| {
                let at = tap / 3 * padded.pitch + tap % 3;
                (0..steps).map(move |step| 4 * (at + step * SIDE * padded.len))
            })
            .collect();
        // Row and column of a tile's first output, and, with the border, of what its first tap reads.
        let per_row = width / n;
        let tile = |t: usize| (t / per_row, t % per_row * n);
        let tiles = height * per_row;
        let blocks = self.outputs / SIDE;
        let group = group(blocks);
        let together = 4 / group;
        let (plane, y) = (height * width, y.as_mut_ptr());
        // SAFETY: a token made `x`. Tiles are whole, in groups of four; with the border, their taps lie
        // inside the planes, of which there are as many as the steps have pairs, and their outputs inside
        // `y`.
        unsafe {
            configure((SIDE, n, pairs.min(SIDE)), 4, 6);
            for (g, weights) in (0..blocks)
                .step_by(group)
                .zip(self.tiles.chunks_exact(group * TAPS * steps * TILE))
            {
                let job = Job {
                    offsets: &offsets,
                    step: 4 * padded.len,
                    weights: weights.as_ptr(),
                    plane: 4 * plane,
                };
                for t in (0..tiles).step_by(together) {
                    let from = |i: usize| {
                        let (row, column) = tile(t + i % together);
                        x.values().as_ptr().add(padded.at(row, column)).cast::<u8>()
                    };
                    let to = |i: usize, block: usize| {
                        let (row, column) = tile(t + i);
                        y.add((g + block) * SIDE * plane + row * width + column)
                    };
                    if group == 2 {
                        let to = [to(0, 0), to(0, 1), to(1, 0), to(1, 1)];
                        two_by_two(&job, [from(0), from(1)], to);
                    } else {
                        let to = [to(0, 0), to(1, 0), to(2, 0), to(3, 0)];
                        one_by_four(&job, [from(0), from(1), from(2), from(3)], to);
                    }
                }
            }
            release();
        }
    }
}

/// Blocks of outputs that are computed together: two, each at two positions, where there are, else one at
/// four. Two load every tile of inputs and of weights for two products.
fn group(blocks: usize) -> usize {
    if blocks.is_multiple_of(2) { 2 } else { 1 }
}

/// What the tiles of a group have in common.
struct Job<'a> {
    /// Bytes from a tile's first input to those of every tap and step.
    offsets: &'a [usize],
    /// Bytes from one pair of channels to the next.
    step: usize,
    /// Tiles for every tap and step.
    weights: *const u16,
    /// Bytes from one output channel to the next.
    plane: usize,
}

/// C tiles 0 to 3: two tiles of positions × two blocks of outputs.
///
/// # Safety
/// AMX, configured; offsets lead from `x` to tiles inside the planes, which have as many weights, and `y`
/// to whole tiles of outputs.
unsafe fn two_by_two(job: &Job, x: [*const u8; 2], y: [*mut f32; 4]) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "mov {t}, [{offsets}]",
            "add {offsets}, 8",
            "lea {u}, [{x0} + {t}]",
            "tileloadd tmm6, [{u} + {step}]",
            "tileloadd tmm4, [{w} + {row}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "lea {u}, [{w} + 1024]",
            "tileloadd tmm5, [{u} + {row}]",
            "tdpbf16ps tmm1, tmm5, tmm6",
            "lea {u}, [{x1} + {t}]",
            "tileloadd tmm7, [{u} + {step}]",
            "tdpbf16ps tmm2, tmm4, tmm7",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {w}, 2048",
            "cmp {offsets}, {end}",
            "jne 2b",
            x0 = in(reg) x[0],
            x1 = in(reg) x[1],
            w = inout(reg) job.weights => _,
            row = in(reg) ROW,
            step = in(reg) job.step,
            offsets = inout(reg) job.offsets.as_ptr() => _,
            end = in(reg) job.offsets.as_ptr_range().end,
            t = out(reg) _,
            u = out(reg) _,
            options(nostack),
        );
        store(job, y);
    }
}

/// C tiles 0 to 3: four tiles of positions × one block of outputs.
///
/// # Safety
/// As [`two_by_two`].
unsafe fn one_by_four(job: &Job, x: [*const u8; 4], y: [*mut f32; 4]) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "mov {t}, [{offsets}]",
            "add {offsets}, 8",
            "tileloadd tmm4, [{w} + {row}]",
            "lea {u}, [{x0} + {t}]",
            "tileloadd tmm6, [{u} + {step}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "lea {u}, [{x1} + {t}]",
            "tileloadd tmm7, [{u} + {step}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "lea {u}, [{x2} + {t}]",
            "tileloadd tmm6, [{u} + {step}]",
            "tdpbf16ps tmm2, tmm4, tmm6",
            "lea {u}, [{x3} + {t}]",
            "tileloadd tmm7, [{u} + {step}]",
            "tdpbf16ps tmm3, tmm4, tmm7",
            "add {w}, 1024",
            "cmp {offsets}, {end}",
            "jne 2b",
            x0 = in(reg) x[0],
            x1 = in(reg) x[1],
            x2 = in(reg) x[2],
            x3 = in(reg) x[3],
            w = inout(reg) job.weights => _,
            row = in(reg) ROW,
            step = in(reg) job.step,
            offsets = inout(reg) job.offsets.as_ptr() => _,
            end = in(reg) job.offsets.as_ptr_range().end,
            t = out(reg) _,
            u = out(reg) _,
            options(nostack),
        );
        store(job, y);
    }
}

/// C tiles to outputs.
///
/// # Safety
/// As [`two_by_two`].
unsafe fn store(job: &Job, y: [*mut f32; 4]) {
    // SAFETY: the caller's.
    unsafe {
        asm!(
            "tilestored [{y0} + {plane}], tmm0",
            "tilestored [{y1} + {plane}], tmm1",
            "tilestored [{y2} + {plane}], tmm2",
            "tilestored [{y3} + {plane}], tmm3",
            y0 = in(reg) y[0],
            y1 = in(reg) y[1],
            y2 = in(reg) y[2],
            y3 = in(reg) y[3],
            plane = in(reg) job.plane,
            options(nostack),
        );
    }
}
