//! Tiles.

use std::arch::asm;

use crate::SIDE;

/// Bytes of a tile's row, at most.
pub const ROW: usize = 64;

/// A cache line.
#[repr(C, align(64))]
struct Config([u8; 64]);

/// Configures C tiles before `a`, A tiles before `b`, and B tiles from there on: C is `m × n`, A `m ×
/// 2k` and B `2k × n`, with `k` pairs.
///
/// # Safety
/// The CPU has AMX, and the system grants it. Sizes are at most 16.
pub unsafe fn configure((m, n, k): (usize, usize, usize), a: usize, b: usize) {
    debug_assert!(m <= SIDE && n <= SIDE && k <= SIDE);
    let mut c = Config([0; 64]);
    c.0[0] = 1;
    for tile in 0..8 {
        let (rows, columns) = match tile {
            _ if tile < a => (m, n),
            _ if tile < b => (m, k),
            _ => (k, n),
        };
        c.0[16 + 2 * tile] = 4 * columns as u8;
        c.0[48 + tile] = rows as u8;
    }
    // SAFETY: a valid configuration of 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) c.0.as_ptr(), options(nostack, readonly)) };
}

/// # Safety
/// As [`configure`].
pub unsafe fn release() {
    // SAFETY: gives the tiles' state back.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}
