//! `Σ u · v` over input channels, and the horizontal half of the output transform while the sums are
//! in registers.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::avx512::{LANES, Line, multiply_add};
use crate::conv::Conv;

/// Patches × blocks of channels whose sums are held in registers, for one row `i` of positions.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Neighbouring patches.
    pub patches: usize,
    /// Blocks of 16 output channels.
    pub blocks: usize,
    /// The function for it.
    ///
    /// # Safety
    /// AVX-512 VNNI; everything that the group points to is there.
    pub multiply: unsafe fn(&Group),
}

impl Shape {
    /// The shape for `conv`.
    pub fn of(conv: &Conv) -> Self {
        match conv.layer.c_out {
            ..=LANES => Self {
                patches: 4,
                blocks: 1,
                multiply: four_by_one,
            },
            _ => Self {
                patches: 2,
                blocks: 2,
                multiply: two_by_two,
            },
        }
    }
}

/// Sums after the horizontal transform, `[i][block][position][16 channels]`.
pub type Sums = Line<i32, { 4 * I }>;

/// Values from one `i` to the next.
const I: usize = 2 * BLOCK;
/// Values from one block to the next: up to 8 positions.
const BLOCK: usize = 8 * LANES;

/// Vector `i` of block `block` and position `position`.
#[target_feature(enable = "avx512f")]
#[inline]
fn vector(sums: &Sums, i: usize, block: usize, position: usize) -> __m512i {
    let lanes = &sums.0[i * I + block * BLOCK + position * LANES..][..LANES];
    // SAFETY: 16 values.
    unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
}

/// First row of `Aᵀ`: `z₀ + z₁ + z₂`, four times the accumulator of an upper position.
#[target_feature(enable = "avx512f")]
#[inline]
pub fn upper(sums: &Sums, block: usize, position: usize) -> __m512i {
    let [a, b, c] = [0, 1, 2].map(|i| vector(sums, i, block, position));
    _mm512_add_epi32(_mm512_add_epi32(a, b), c)
}

/// Second row of `Aᵀ`: `z₁ − z₂ − z₃`, four times the accumulator of a lower position.
#[target_feature(enable = "avx512f")]
#[inline]
pub fn lower(sums: &Sums, block: usize, position: usize) -> __m512i {
    let [b, c, d] = [1, 2, 3].map(|i| vector(sums, i, block, position));
    _mm512_sub_epi32(_mm512_sub_epi32(b, c), d)
}

/// What the assembly multiplies, and where to.
#[repr(C)]
pub struct Group {
    /// Quads of input channels, by four.
    pub rounds: usize,
    /// Bytes from the end of a position's channels to the same position of the next `i`.
    pub skip: usize,
    /// End of the sums.
    pub end: *const i32,
    /// Transformed patches, `[i][patch][j][channels]`.
    pub input: *const u8,
    /// `[i][quad][j][block][16 × 4]`
    pub weights: *const i8,
    /// `[i][j][block]`
    pub start: *const Line<i32, LANES>,
    /// Where to.
    pub sums: *mut i32,
    /// Bytes from one position to the next.
    pub step: usize,
}

/// Loads weights or starts, a cache line each, into registers.
macro_rules! lines {
    ($from:literal, $first:literal, $($n:literal = $r:literal),*) => {
        concat!($("vmovdqa64 zmm", $r, ", zmmword ptr [", $from, " + ", $first, " + 64*", $n, "]\n"),*)
    };
}

/// `m₀ + m₁ + m₂` and `m₁ − m₂ − m₃` of a patch's row, stored as two neighbouring positions.
macro_rules! horizontal {
    ($at:literal, $m0:literal, $m1:literal, $m2:literal, $m3:literal) => {
        concat!(
            "vpaddd zmm25, zmm",
            $m1,
            ", zmm",
            $m2,
            "\n",
            "vpsubd zmm26, zmm",
            $m1,
            ", zmm",
            $m2,
            "\n",
            "vpaddd zmm25, zmm25, zmm",
            $m0,
            "\n",
            "vpsubd zmm26, zmm26, zmm",
            $m3,
            "\n",
            "vmovdqa64 zmmword ptr [{z} + ",
            $at,
            "], zmm25\n",
            "vmovdqa64 zmmword ptr [{z} + ",
            $at,
            " + 64], zmm26\n",
        )
    };
}

/// One quad of input channels (bytes `d` of each position, weights at `w`): 4 patches × 1 block.
/// Position `4 patch + j` adds to the register of that number, with weights `j`.
macro_rules! quad_four_by_one {
    ($d:literal, $w:literal) => {
        concat!(
            lines!("{w}", $w, "0" = "16", "1" = "17", "2" = "18", "3" = "19"),
            multiply_add!($d, "{b0}", ("0", "16")),
            multiply_add!($d, "{b0} + {step}", ("1", "17")),
            multiply_add!($d, "{b0} + 2*{step}", ("2", "18")),
            multiply_add!($d, "{b3}", ("3", "19")),
            multiply_add!($d, "{b3} + {step}", ("4", "16")),
            multiply_add!($d, "{b3} + 2*{step}", ("5", "17")),
            multiply_add!($d, "{b6}", ("6", "18")),
            multiply_add!($d, "{b6} + {step}", ("7", "19")),
            multiply_add!($d, "{b6} + 2*{step}", ("8", "16")),
            multiply_add!($d, "{b9}", ("9", "17")),
            multiply_add!($d, "{b9} + {step}", ("10", "18")),
            multiply_add!($d, "{b9} + 2*{step}", ("11", "19")),
            multiply_add!($d, "{b12}", ("12", "16")),
            multiply_add!($d, "{b12} + {step}", ("13", "17")),
            multiply_add!($d, "{b12} + 2*{step}", ("14", "18")),
            multiply_add!($d, "{b15}", ("15", "19")),
        )
    };
}

/// The same for 2 patches × 2 blocks: block `k` of position `p` is in register `2p + k`.
macro_rules! quad_two_by_two {
    ($d:literal, $w:literal) => {
        concat!(
            lines!(
                "{w}",
                $w,
                "0" = "16",
                "1" = "17",
                "2" = "18",
                "3" = "19",
                "4" = "20",
                "5" = "21",
                "6" = "22",
                "7" = "23"
            ),
            multiply_add!($d, "{b0}", ("0", "16"), ("1", "17")),
            multiply_add!($d, "{b0} + {step}", ("2", "18"), ("3", "19")),
            multiply_add!($d, "{b0} + 2*{step}", ("4", "20"), ("5", "21")),
            multiply_add!($d, "{b3}", ("6", "22"), ("7", "23")),
            multiply_add!($d, "{b3} + {step}", ("8", "16"), ("9", "17")),
            multiply_add!($d, "{b3} + 2*{step}", ("10", "18"), ("11", "19")),
            multiply_add!($d, "{b6}", ("12", "20"), ("13", "21")),
            multiply_add!($d, "{b6} + {step}", ("14", "22"), ("15", "23")),
        )
    };
}

/// The function of a [`Shape`], of `$quad` at each of the four places of a round.
macro_rules! multiply {
    (
        $name:ident, $quad:ident at $w0:literal, $w1:literal, $w2:literal, $w3:literal,
        round $round:literal, starts $starts:literal,
        bases [$($base:ident = $position:literal),*],
        start [$($start:expr),*],
        finish [$($finish:expr),*]
    ) => {
        /// # Safety
        /// As [`Shape::multiply`].
        unsafe fn $name(g: &Group) {
            // The layout that the assembly knows.
            const {
                assert!(std::mem::offset_of!(Group, rounds) == 0);
                assert!(std::mem::offset_of!(Group, skip) == 8);
                assert!(std::mem::offset_of!(Group, end) == 16);
                assert!(I * 4 == 1024 && BLOCK * 4 == 512);
            }
            // SAFETY: the caller's.
            unsafe {
                asm!(
                    "2:",
                    $($start,)*
                    "mov {n}, qword ptr [{g}]",
                    "3:",
                    $quad!("0", $w0),
                    $quad!("4", $w1),
                    $quad!("8", $w2),
                    $quad!("12", $w3),
                    concat!("add {w}, ", $round),
                    $(concat!("add {", stringify!($base), "}, 16"),)*
                    "dec {n}",
                    "jnz 3b",
                    $($finish,)*
                    $(concat!("add {", stringify!($base), "}, qword ptr [{g} + 8]"),)*
                    concat!("add {s}, ", $starts),
                    "add {z}, 1024",
                    "cmp {z}, qword ptr [{g} + 16]",
                    "jne 2b",
                    $($base = inout(reg) g.input.wrapping_add($position * g.step) => _,)*
                    step = in(reg) g.step,
                    w = inout(reg) g.weights => _,
                    s = inout(reg) g.start => _,
                    z = inout(reg) g.sums => _,
                    n = out(reg) _,
                    g = in(reg) g,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
                    out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                    out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
                    out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                    out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
                    out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                    out("zmm24") _, out("zmm25") _, out("zmm26") _,
                    options(nostack),
                );
            }
        }
    };
}

multiply!(
    four_by_one, quad_four_by_one at "0", "256", "512", "768", round "1024", starts "256",
    bases [b0 = 0, b3 = 3, b6 = 6, b9 = 9, b12 = 12, b15 = 15],
    start [
        lines!("{s}", "0", "0" = "0", "1" = "1", "2" = "2", "3" = "3"),
        lines!("{s}", "0", "0" = "4", "1" = "5", "2" = "6", "3" = "7"),
        lines!("{s}", "0", "0" = "8", "1" = "9", "2" = "10", "3" = "11"),
        lines!("{s}", "0", "0" = "12", "1" = "13", "2" = "14", "3" = "15")
    ],
    finish [
        horizontal!("0", "0", "1", "2", "3"),
        horizontal!("128", "4", "5", "6", "7"),
        horizontal!("256", "8", "9", "10", "11"),
        horizontal!("384", "12", "13", "14", "15")
    ]
);

multiply!(
    two_by_two, quad_two_by_two at "0", "512", "1024", "1536", round "2048", starts "512",
    bases [b0 = 0, b3 = 3, b6 = 6],
    start [
        lines!(
            "{s}", "0", "0" = "0", "1" = "1", "2" = "2", "3" = "3", "4" = "4", "5" = "5",
            "6" = "6", "7" = "7"
        ),
        lines!(
            "{s}", "0", "0" = "8", "1" = "9", "2" = "10", "3" = "11", "4" = "12", "5" = "13",
            "6" = "14", "7" = "15"
        )
    ],
    finish [
        horizontal!("0", "0", "2", "4", "6"),
        horizontal!("512", "1", "3", "5", "7"),
        horizontal!("128", "8", "10", "12", "14"),
        horizontal!("640", "9", "11", "13", "15")
    ]
);
