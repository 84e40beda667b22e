//! 3×3 convolutions in bfloat16 on AMX, forward and both gradients, on slices.
//!
//! ```text
//! y[o, p]     = Σ_{i, k} w[o, i, k] · x[i, p + k − 1]
//! dx[i, p]    = Σ_{o, k} w[o, i, k] · dy[o, p + 1 − k]
//! dw[o, i, k] = Σ_p dy[o, p] · x[i, p + k − 1]
//! ```
//!
//! of one image, at stride 1 with a border of one. Factors are rounded to bfloat16, `f32` without the
//! last 16 bits of its mantissa; products are added in `f32`. `tdpbf16ps` multiplies up to 16 rows of 32
//! values (A) with 32 rows of 16 (B), of which two follow each other in one row, and adds to 16 × 16
//! sums (C):
//!
//! | | A | B | C |
//! |---|---|---|---|
//! | `y`, `dx`: [`Weights`] | weights of 16 outputs × 32 inputs | 32 channels × 16 positions: [`Pairs`] | 16 channels × 16 positions, as they lie in `y` |
//! | `dw`: [`Gradient`] | 16 channels of `x` × 32 positions: [`Rows`] | 32 positions × 16 channels of `dy`: [`Transposed`] | 16 inputs × 16 outputs |
//!
//! A tap is an address: images have borders of zeros. Where an image holds such values the processor has
//! the instructions, as only a token makes it. Subnormal numbers count as zero. On other processors than
//! x86-64 there is nothing of this.

#[cfg(target_arch = "x86_64")]
mod gradient;
#[cfg(target_arch = "x86_64")]
mod planes;
#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(target_arch = "x86_64")]
mod tile;

#[cfg(target_arch = "x86_64")]
pub use {
    gradient::Gradient,
    lb_engine::kernel::isa::AmxBf16,
    planes::{Pairs, Rows, Transposed},
    product::Weights,
};

/// Rows of a tile, at most, and its columns of sums.
pub const SIDE: usize = 16;

/// Most channels, and most rows of an image: sizes then stay far inside a `usize`.
const MOST: usize = 1 << 16;

/// Channels and size of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Image {
    /// Values of all channels.
    pub fn values(&self) -> usize {
        self.channels * self.plane()
    }

    /// Values of one.
    pub fn plane(&self) -> usize {
        self.height * self.width
    }

    /// Whether images of this size are taken: rows that fill tiles, and tiles in groups of four.
    pub fn is_taken(&self) -> bool {
        let sizes = [self.channels, self.height];
        sizes.iter().all(|n| (1..=MOST).contains(n))
            && matches!(self.width, 8 | 16 | 32)
            && self.plane().is_multiple_of(4 * SIDE)
    }
}

/// Whether so many channels fill the rows of B: a part of one, or whole ones.
pub fn fills_steps(channels: usize) -> bool {
    channels > 0 && (channels <= 2 * SIDE || channels.is_multiple_of(2 * SIDE))
}

/// `x` rounded to bfloat16, to the nearest and of two to the even: its bits. What is no number stays none.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    (if x.is_nan() { bits | 1 << 22 } else { rounded }) >> 16
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
