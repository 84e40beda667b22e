//! AVX-512 VNNI: `vpdpbusd` adds the products of four input bytes with those of four weights, for
//! 16 output channels at once.
//!
//! Direct convolution: a kernel row of a window is contiguous in the input plane, so four bytes of
//! it are broadcast and multiplied with a register of weights. The accumulators of 16 positions, or
//! of 8 positions × 2 blocks of channels, stay in registers over the whole window; the loops are
//! assembly because compilers spill them.

use std::arch::asm;

use aligned_vec::{AVec, ConstAlign};

use super::avx512::{Case, LANES, Line, Pointers, case, for_case, multiply_add};
use super::isa::Avx512Vnni as Token;
use super::pack::{QUAD, Steps, starts, weights};
use super::tiles::{BLOCK, Finish, Tile, stored, tiles};
use super::window_sum::WindowSum;
use super::{Kernel, Run, check, check_together, must_take};
use crate::conv::{Conv, Io};

/// Input bytes that a round of the assembly takes: four broadcasts.
const ROUND: usize = 16;

/// The AVX-512 VNNI kernel.
pub struct Avx512Vnni(pub Token);

impl Kernel for Avx512Vnni {
    fn name(&self) -> &'static str {
        "avx512vnni"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        if !conv.is_narrow() {
            return None;
        }
        let out = conv.output;
        let positions = (out.height * out.width.next_multiple_of(Shape::of(conv).rows)) as f64;
        let vectors = positions * out.channels.div_ceil(LANES) as f64;
        // An instruction of 64 products in 0.15 (Sapphire Rapids and later) to 0.27 ns (Zen 4).
        Some(20.0 + vectors * (steps(conv).count(conv) as f64 * 0.2 + 1.0))
    }

    fn window_sum(&self, conv: &Conv) -> WindowSum {
        WindowSum::new(conv, Some(self.0))
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        Box::new(Prepared::new(conv, self.0))
    }
}

fn steps(conv: &Conv) -> Steps {
    Steps::new(conv, 4, ROUND)
}

/// Positions × blocks of channels whose accumulators are held in registers.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    blocks: usize,
    multiply: unsafe fn(&Window),
}

impl Shape {
    /// For tiles of neighbouring positions.
    fn of(conv: &Conv) -> Self {
        Self::for_rows(conv, conv.output.width)
    }

    /// For tiles of up to `rows` rows.
    fn for_rows(conv: &Conv, rows: usize) -> Self {
        let shape = |rows, blocks, multiply| Self {
            rows,
            blocks,
            multiply,
        };
        match (conv.output.channels.div_ceil(LANES), rows) {
            (1, 16..) => shape(16, 1, sixteen_by_one),
            (1, 8..) => shape(8, 1, eight_by_one),
            (1, 4..) => shape(4, 1, four_by_one),
            (1, _) => shape(1, 1, one_by_one),
            (_, 8..) => shape(8, 2, eight_by_two),
            (_, 4..) => shape(4, 2, four_by_two),
            _ => shape(1, 2, one_by_two),
        }
    }
}

struct Prepared {
    conv: Conv,
    /// Tiles of neighbouring positions of one image.
    neighbours: Walk,
    /// Tiles of the same position in several images, where rows are short.
    images: Option<Walk>,
    /// In groups of the shape's blocks and steps of four bytes; zeros make the last group whole.
    weights: AVec<i8, ConstAlign<64>>,
    start: Vec<Line<i32, LANES>>,
    body: unsafe fn(&Prepared, &Walk, &Pointers, usize),
}

/// A walk over all outputs in tiles.
struct Walk {
    tiles: Vec<Tile>,
    shape: Shape,
    /// Bytes of input from one row of a tile to the next.
    step: usize,
    finish: Finish,
}

impl Prepared {
    fn new(conv: Conv, _: Token) -> Self {
        let shape = Shape::of(&conv);
        let mut start = starts(&conv);
        start.resize(start.len().next_multiple_of(shape.blocks), Line([0; LANES]));
        let mut weights = weights(&conv, steps(&conv), shape.blocks);
        if start.len() > conv.layer.c_out.div_ceil(LANES) {
            // The last group has one block: spread its steps to those of two.
            let count = steps(&conv).count(&conv);
            let last = weights.len() - count * QUAD;
            let single = weights[last..].to_vec();
            weights.truncate(last);
            for step in single.chunks_exact(QUAD) {
                weights.extend_from_slice(step);
                weights.extend_from_slice(&[0; QUAD]);
            }
        }
        Self {
            images: (shape.rows < IMAGES).then(|| Walk {
                tiles: tiles(&conv, 1),
                shape: Shape::for_rows(&conv, IMAGES),
                step: conv.input.len(),
                finish: Finish::across_images(&conv),
            }),
            neighbours: Walk {
                tiles: tiles(&conv, shape.rows),
                shape,
                step: conv.layer.stride * conv.input.stride,
                finish: Finish::new(&conv, 1.0),
            },
            weights,
            start,
            body: for_case!(case(&conv), body),
            conv,
        }
    }
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
        unsafe {
            (self.body)(
                self,
                &self.neighbours,
                &pointers,
                self.neighbours.shape.rows,
            )
        }
    }

    fn likes_together(&self, images: usize) -> bool {
        // Fuller tiles, and weights that are loaded once for several images.
        self.images.is_some() && images >= IMAGES
    }

    fn run_together(&self, mut io: Io, images: usize) {
        let walk = self.images.as_ref().filter(|_| images >= IMAGES);
        let walk = walk.expect("the kernel likes it");
        check_together(&self.conv, &io, 0, images);
        let pointers = Pointers::new(&mut io);
        for first in (0..images).step_by(IMAGES) {
            // The last images may be computed a second time.
            let pointers = pointers.image(&self.conv, first.min(images - IMAGES));
            // SAFETY: as above, for so many images.
            unsafe { (self.body)(self, walk, &pointers, IMAGES) }
        }
    }
}

/// Images whose same position is a tile: as many rows as two blocks of channels allow.
const IMAGES: usize = 8;

/// What the assembly multiplies, and where to.
#[repr(C)]
struct Window {
    /// Rounds a kernel row.
    rounds: usize,
    /// Bytes from the end of a kernel row to the start of the next.
    skip: usize,
    start: *const Line<i32, LANES>,
    /// Room for [`BLOCK`] accumulators for each block of channels.
    c: *mut i32,
    input: *const u8,
    weights: *const i8,
    /// Bytes from one position to the next.
    step: usize,
    /// Kernel rows.
    height: usize,
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn body<const C: Case>(p: &Prepared, w: &Walk, io: &Pointers, rows: usize) {
    let mut c = Line([0i32; 2 * BLOCK]);
    let (layer, plane) = (&p.conv.layer, &p.conv.input);
    let steps = steps(&p.conv);
    let row = steps.per_row * 4;
    for block in (0..w.finish.blocks()).step_by(w.shape.blocks) {
        for tile in &w.tiles {
            let window = Window {
                input: io.input.wrapping_add(tile.input),
                weights: p.weights[block * steps.count(&p.conv) * QUAD..].as_ptr(),
                start: p.start[block..].as_ptr(),
                c: c.0.as_mut_ptr(),
                step: w.step,
                rounds: row / ROUND,
                height: layer.kernel[0],
                skip: plane.pitch().wrapping_sub(row),
            };
            let c = c.0.as_ptr();
            // SAFETY: the tile's windows lie inside the input plane; `c` has room for two blocks.
            unsafe {
                (w.shape.multiply)(&window);
                let c = |j, i| stored(c, j, i);
                if w.shape.blocks == 2 && block + 1 < w.finish.blocks() {
                    w.finish.two::<C>(io, tile, (rows, block), c);
                } else {
                    w.finish.one::<C>(io, tile, (rows, block), c);
                }
            }
        }
    }
}

/// One input quad of a position × one or two blocks.
macro_rules! position {
    ($d:literal, $at:literal, $c0:literal) => {
        multiply_add!($d, $at, ($c0, "16"))
    };
    ($d:literal, $at:literal, $c0:literal, $c1:literal) => {
        multiply_add!($d, $at, ($c0, "16"), ($c1, "17"))
    };
}

/// The weights of input quad `n` of a round.
macro_rules! load {
    ($n:literal, "1") => {
        concat!("vmovdqa64 zmm16, zmmword ptr [{w} + 64*", $n, "]\n")
    };
    ($n:literal, "2") => {
        concat!(
            "vmovdqa64 zmm16, zmmword ptr [{w} + 128*",
            $n,
            "]\n",
            "vmovdqa64 zmm17, zmmword ptr [{w} + 128*",
            $n,
            " + 64]\n",
        )
    };
}

/// Starts the accumulators of a position.
macro_rules! start {
    ($c0:literal) => {
        concat!("vmovdqa64 zmm", $c0, ", zmmword ptr [{n}]\n")
    };
    ($c0:literal, $c1:literal) => {
        concat!(
            start!($c0),
            "vmovdqa64 zmm",
            $c1,
            ", zmmword ptr [{n} + 64]\n"
        )
    };
}

/// Stores the accumulators of position `row`.
macro_rules! store {
    ($row:literal, $c0:literal) => {
        concat!(
            "vmovdqa64 zmmword ptr [{n} + 64*",
            $row,
            "], zmm",
            $c0,
            "\n"
        )
    };
    ($row:literal, $c0:literal, $c1:literal) => {
        concat!(
            store!($row, $c0),
            "vmovdqa64 zmmword ptr [{n} + 1024 + 64*",
            $row,
            "], zmm",
            $c1,
            "\n"
        )
    };
}

/// A function that multiplies a window at some positions with one or two blocks of channels.
///
/// Positions are given as address and accumulators. Three positions share a base register: at it,
/// at it plus a step, and plus two.
macro_rules! multiply {
    (
        $name:ident, blocks $blocks:tt,
        bases [$($base:ident = $position:literal),*],
        positions [$(($at:literal, $row:literal, $($c:literal),*)),*]
    ) => {
        /// # Safety
        /// AVX-512 VNNI; the windows of all positions lie inside the input plane; `c` has a block
        /// of accumulators for each block of channels.
        unsafe fn $name(window: &Window) {
            // The layout that the assembly knows.
            const {
                assert!(std::mem::offset_of!(Window, skip) == 8);
                assert!(std::mem::offset_of!(Window, start) == 16);
                assert!(std::mem::offset_of!(Window, c) == 24);
            }
            // SAFETY: the caller's.
            unsafe {
                asm!(
                    "mov {n}, qword ptr [{window} + 16] // positions are {step} apart",
                    concat!($(start!($($c),*)),*),
                    "2:",
                    "mov {n}, qword ptr [{window}]",
                    "3:",
                    concat!(load!("0", $blocks), $(position!("0", $at, $($c),*)),*),
                    concat!(load!("1", $blocks), $(position!("4", $at, $($c),*)),*),
                    concat!(load!("2", $blocks), $(position!("8", $at, $($c),*)),*),
                    concat!(load!("3", $blocks), $(position!("12", $at, $($c),*)),*),
                    concat!("add {w}, 256*", $blocks),
                    $(concat!("add {", stringify!($base), "}, 16"),)*
                    "dec {n}",
                    "jnz 3b",
                    $(concat!("add {", stringify!($base), "}, qword ptr [{window} + 8]"),)*
                    "dec {height}",
                    "jnz 2b",
                    "mov {n}, qword ptr [{window} + 24]",
                    concat!($(store!($row, $($c),*)),*),
                    $($base = inout(reg) window.input.wrapping_add($position * window.step) => _,)*
                    step = in(reg) window.step,
                    w = inout(reg) window.weights => _,
                    n = out(reg) _,
                    height = inout(reg) window.height => _,
                    window = in(reg) window,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                    out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                    out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                    out("zmm16") _, out("zmm17") _, out("zmm24") _,
                    options(nostack),
                );
            }
        }
    };
}

multiply!(
    sixteen_by_one, blocks "1",
    bases [b0 = 0, b3 = 3, b6 = 6, b9 = 9, b12 = 12, b15 = 15],
    positions [
        ("{b0}", "0", "0"), ("{b0} + {step}", "1", "1"), ("{b0} + 2*{step}", "2", "2"),
        ("{b3}", "3", "3"), ("{b3} + {step}", "4", "4"), ("{b3} + 2*{step}", "5", "5"),
        ("{b6}", "6", "6"), ("{b6} + {step}", "7", "7"), ("{b6} + 2*{step}", "8", "8"),
        ("{b9}", "9", "9"), ("{b9} + {step}", "10", "10"), ("{b9} + 2*{step}", "11", "11"),
        ("{b12}", "12", "12"), ("{b12} + {step}", "13", "13"), ("{b12} + 2*{step}", "14", "14"),
        ("{b15}", "15", "15")
    ]
);

multiply!(
    eight_by_one, blocks "1",
    bases [b0 = 0, b3 = 3, b6 = 6],
    positions [
        ("{b0}", "0", "0"), ("{b0} + {step}", "1", "1"), ("{b0} + 2*{step}", "2", "2"),
        ("{b3}", "3", "3"), ("{b3} + {step}", "4", "4"), ("{b3} + 2*{step}", "5", "5"),
        ("{b6}", "6", "6"), ("{b6} + {step}", "7", "7")
    ]
);

multiply!(
    four_by_one, blocks "1",
    bases [b0 = 0, b3 = 3],
    positions [
        ("{b0}", "0", "0"), ("{b0} + {step}", "1", "1"), ("{b0} + 2*{step}", "2", "2"),
        ("{b3}", "3", "3")
    ]
);

multiply!(one_by_one, blocks "1", bases [b0 = 0], positions [("{b0}", "0", "0")]);

multiply!(
    eight_by_two, blocks "2",
    bases [b0 = 0, b3 = 3, b6 = 6],
    positions [
        ("{b0}", "0", "0", "1"), ("{b0} + {step}", "1", "2", "3"),
        ("{b0} + 2*{step}", "2", "4", "5"), ("{b3}", "3", "6", "7"),
        ("{b3} + {step}", "4", "8", "9"), ("{b3} + 2*{step}", "5", "10", "11"),
        ("{b6}", "6", "12", "13"), ("{b6} + {step}", "7", "14", "15")
    ]
);

multiply!(
    four_by_two, blocks "2",
    bases [b0 = 0, b3 = 3],
    positions [
        ("{b0}", "0", "0", "1"), ("{b0} + {step}", "1", "2", "3"),
        ("{b0} + 2*{step}", "2", "4", "5"), ("{b3}", "3", "6", "7")
    ]
);

multiply!(one_by_two, blocks "2", bases [b0 = 0], positions [("{b0}", "0", "0", "1")]);
