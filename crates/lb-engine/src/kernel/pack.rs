//! Weights in the order in which 16-channel kernels read them.

use aligned_vec::{AVec, ConstAlign};

use super::avx512::{LANES, Line};
use crate::conv::Conv;

/// Bytes of four inputs of 16 output channels: a register, or a row of an AMX tile.
pub const QUAD: usize = 4 * LANES;

/// How the bytes of a kernel row are cut.
#[derive(Clone, Copy)]
pub struct Steps {
    /// Bytes a step.
    pub bytes: usize,
    /// Steps a kernel row.
    pub per_row: usize,
}

impl Steps {
    /// Steps of `bytes` over the `k_w · stride` bytes of `conv`'s windows in a row, rounded up to
    /// `multiple` bytes.
    pub fn new(conv: &Conv, bytes: usize, multiple: usize) -> Self {
        let run = (conv.layer.kernel[1] * conv.input.stride).next_multiple_of(multiple);
        Self {
            bytes,
            per_row: run.div_ceil(bytes),
        }
    }

    /// Steps of the whole window.
    pub fn count(self, conv: &Conv) -> usize {
        conv.layer.kernel[0] * self.per_row
    }
}

/// `[group of blocks][step][block of the group][four inputs][16 output channels][4]`, where a block
/// is 16 output channels and the last group may have fewer blocks. Zero where there is no weight:
/// behind the last channel, and behind the end of a kernel row.
pub fn weights(conv: &Conv, steps: Steps, group: usize) -> AVec<i8, ConstAlign<64>> {
    bytes(conv, steps, group, |q| q as i8)
}

/// [`weights`], of each weight only the byte that `byte` gives.
pub fn bytes(
    conv: &Conv,
    steps: Steps,
    group: usize,
    byte: impl Fn(i32) -> i8,
) -> AVec<i8, ConstAlign<64>> {
    let layer = &conv.layer;
    let blocks = layer.c_out.div_ceil(LANES);
    let (stride, kw) = (conv.input.stride, layer.kernel[1]);
    let weight = |c_out: usize, ky: usize, at: usize| {
        let (kx, c_in) = (at / stride, at % stride);
        match kx < kw && c_in < layer.c_in && c_out < layer.c_out {
            true => byte(layer.channel(c_out)[(ky * kw + kx) * layer.c_in + c_in]),
            false => 0,
        }
    };
    let mut packed = AVec::with_capacity(64, blocks * steps.count(conv) * steps.bytes * LANES);
    for first in (0..blocks).step_by(group) {
        for step in 0..steps.count(conv) {
            let (ky, from) = (step / steps.per_row, step % steps.per_row * steps.bytes);
            for block in first..blocks.min(first + group) {
                for i in 0..steps.bytes * LANES {
                    let at = from + i / QUAD * 4 + i % 4;
                    packed.push(weight(block * LANES + i % QUAD / 4, ky, at));
                }
            }
        }
    }
    packed
}

/// Modelled nanoseconds to load so many bytes of weights once more than a second-level cache keeps.
pub fn streaming(bytes: usize) -> f64 {
    bytes.saturating_sub(1 << 20) as f64 * 0.03
}

/// Where the accumulators of each block start.
pub fn starts(conv: &Conv) -> Vec<Line<i32, LANES>> {
    let start = |c: usize| conv.start.get(c).copied().unwrap_or(0) as i32;
    (0..conv.layer.c_out.div_ceil(LANES))
        .map(|b| Line(std::array::from_fn(|i| start(b * LANES + i))))
        .collect()
}
