//! Narrow layers: every input row is loaded once and multiplied for the three output rows that it
//! reaches.
//!
//! Where a kernel row fits one step and there is one block of output channels, the weights of three
//! kernel rows stay in three tiles. A column of tiles then streams by:
//!
//! ```text
//! input row i:  C[i] = start + A·B₀    C[i−1] += A·B₁    C[i−2] += A·B₂, complete
//! ```
//!
//! Loading is what bounds these layers: half of their tile rows cross a cache line.

use std::arch::asm;

use super::super::avx512::{Case, LANES, Line, Pointers};
use super::super::tiles::{BLOCK, stored};
use super::{Prepared, ROW, TILE, steps};
use crate::conv::Conv;

/// Whether `conv` is such a layer.
pub fn fits(conv: &Conv) -> bool {
    let layer = &conv.layer;
    layer.kernel[0] == 3 && layer.stride == 1 && layer.c_out <= LANES && steps(conv).per_row == 1
}

/// C in tiles 0 to 2, A in 3, B in 5 to 7.
pub fn config(rows: usize, run: usize) -> Line<u8, 64> {
    super::config(rows, run, 3, 5)
}

/// Rows between multiplying and requantizing.
const LATER: usize = 1;
const RING: usize = LATER + 1;

/// Adds an input row to tiles `new`, `mid` and `old`, and stores the last.
macro_rules! add_row {
    ($p:ident, $a:ident, $c:ident, $new:literal, $mid:literal, $old:literal) => {
        asm!(
            "tileloadd tmm3, [{a} + {step}]",
            concat!("tileloadd tmm", $new, ", [{start} + {zero}]"),
            concat!("tdpbusd tmm", $new, ", tmm3, tmm5"),
            concat!("tdpbusd tmm", $mid, ", tmm3, tmm6"),
            concat!("tdpbusd tmm", $old, ", tmm3, tmm7"),
            concat!("tilestored [{c} + {row}], tmm", $old),
            a = in(reg) $a,
            step = in(reg) $p.conv.input.stride,
            start = in(reg) $p.start[0].0.as_ptr(),
            zero = in(reg) 0usize,
            c = in(reg) $c,
            row = in(reg) ROW,
            options(nostack),
        )
    };
}

/// The convolution.
///
/// # Safety
/// AMX; the buffers are those of the convolution, which [`fits`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
pub unsafe fn streamed<const C: Case>(p: &Prepared, io: &Pointers) {
    // Rows are requantized some rows later, when their stores have long left the store buffer.
    let mut c = Line([0i32; RING * BLOCK]);
    let c = c.0.as_mut_ptr();
    // SAFETY: a valid configuration of 64 bytes; three tiles of weights.
    unsafe {
        asm!(
            "ldtilecfg [{config}]",
            "tileloadd tmm5, [{b0} + {row}]",
            "tileloadd tmm6, [{b1} + {row}]",
            "tileloadd tmm7, [{b2} + {row}]",
            config = in(reg) p.config.0.as_ptr(),
            b0 = in(reg) p.weights.as_ptr(),
            b1 = in(reg) p.weights[TILE..].as_ptr(),
            b2 = in(reg) p.weights[2 * TILE..].as_ptr(),
            row = in(reg) ROW,
            options(nostack, readonly),
        );
    }
    let (height, pitch) = (p.conv.output.height, p.conv.input.pitch());
    let across = p.tiles.len() / height;
    for x in 0..across {
        for i in 0..height + 2 + LATER {
            let to = c.wrapping_add(i % RING * BLOCK);
            let a = io.input.wrapping_add(p.tiles[x].input + i * pitch);
            // SAFETY: the windows of a tile lie inside the plane, which has two more rows of them
            // than the output. Rows of C that are begun before the first input row or after the
            // last are never requantized.
            unsafe {
                match i % 3 {
                    _ if i >= height + 2 => {}
                    0 => add_row!(p, a, to, "0", "2", "1"),
                    1 => add_row!(p, a, to, "1", "0", "2"),
                    _ => add_row!(p, a, to, "2", "1", "0"),
                }
                if i >= 2 + LATER {
                    let tile = &p.tiles[(i - 2 - LATER) * across + x];
                    let c = c.wrapping_add((i - LATER) % RING * BLOCK);
                    (p.finish).one::<C>(io, tile, (p.rows, 0), |j, i| stored(c, j, i));
                }
            }
        }
    }
    // SAFETY: gives the tiles' state back.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}
