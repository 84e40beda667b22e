//! Plain loops in safe Rust: runs everything, everywhere, and compilers vectorize some of it.

use std::ops::Range;

use super::{Kernel, Run, check};
use crate::conv::{Conv, Io, Values, ValuesMut};
use crate::requant::Requant;

/// Output channels that are accumulated together.
const BLOCK: usize = 64;

/// The kernel of last resort.
pub struct Scalar;

impl Kernel for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        Some(conv.macs() as f64 * 0.5)
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        if conv.is_narrow() {
            Box::new(Prepared::<Narrow>::new(conv))
        } else {
            Box::new(Prepared::<Wide>::new(conv))
        }
    }
}

/// Types of weights and accumulators.
trait Numbers: Send + Sync {
    type Weight: Copy + Send + Sync;
    type Acc: Copy + Default + Send + Sync;
    fn weight(q: i32) -> Self::Weight;
    fn start(acc: i64) -> Self::Acc;
    /// `acc[c] += x · w[c]`
    fn multiply_add(acc: &mut [Self::Acc], x: u16, w: &[Self::Weight]);
    fn real(acc: Self::Acc) -> f32;
}

/// Codes of at most 8 bits, sums within 32.
struct Narrow;

impl Numbers for Narrow {
    type Weight = i16;
    type Acc = i32;
    fn weight(q: i32) -> i16 {
        q as i16
    }
    fn start(acc: i64) -> i32 {
        acc as i32
    }
    fn multiply_add(acc: &mut [i32], x: u16, w: &[i16]) {
        let x = x as i16;
        for (acc, &w) in acc.iter_mut().zip(w) {
            // |x · w| ≤ 255 · 128 fits 16 bits, which vectorizes to twice the lanes.
            *acc += i32::from(x * w);
        }
    }
    fn real(acc: i32) -> f32 {
        acc as f32
    }
}

/// Anything.
struct Wide;

impl Numbers for Wide {
    type Weight = i32;
    type Acc = i64;
    fn weight(q: i32) -> i32 {
        q
    }
    fn start(acc: i64) -> i64 {
        acc
    }
    fn multiply_add(acc: &mut [i64], x: u16, w: &[i32]) {
        for (acc, &w) in acc.iter_mut().zip(w) {
            *acc += i64::from(x) * i64::from(w);
        }
    }
    fn real(acc: i64) -> f32 {
        acc as f32
    }
}

struct Prepared<N: Numbers> {
    conv: Conv,
    /// `[k_h, k_w, C_in, C_out]`
    weights: Vec<N::Weight>,
    /// `[C_out]`
    start: Vec<N::Acc>,
}

impl<N: Numbers> Prepared<N> {
    fn new(conv: Conv) -> Self {
        let depth = conv.layer.depth();
        let weights = (0..depth)
            .flat_map(|i| conv.layer.q.iter().skip(i).step_by(depth))
            .map(|&q| N::weight(q))
            .collect();
        let start = conv.start.iter().map(|&a| N::start(a)).collect();
        Self {
            conv,
            weights,
            start,
        }
    }

    /// Accumulates the output channels `block` at (`y`, `x`).
    fn position(&self, io: &Io, acc: &mut [N::Acc], block: Range<usize>, y: usize, x: usize) {
        let (conv, layer) = (&self.conv, &self.conv.layer);
        let [kh, kw] = layer.kernel;
        acc.copy_from_slice(&self.start[block.clone()]);
        let mut w = self.weights.chunks_exact(layer.c_out);
        for ky in 0..kh {
            for kx in 0..kw {
                let at = conv.window(y, x) + conv.input.padded(ky, kx);
                for i in at..at + layer.c_in {
                    let x = match io.input {
                        Values::U8(v) => u16::from(v[i]),
                        Values::U16(v) => v[i],
                        Values::F32(_) => unreachable!("convolutions read codes"),
                    };
                    let w = w.next().expect("one row of weights an input");
                    if x != 0 {
                        N::multiply_add(acc, x, &w[block.clone()]);
                    }
                }
            }
        }
    }
}

impl<N: Numbers> Run for Prepared<N> {
    fn conv(&self) -> &Conv {
        &self.conv
    }

    fn run(&self, mut io: Io) {
        check(&self.conv, &io, 0);
        let out = self.conv.output;
        let mut acc = [N::Acc::default(); BLOCK];
        for y in 0..out.height {
            for x in 0..out.width {
                for from in (0..out.channels).step_by(BLOCK) {
                    let block = from..out.channels.min(from + BLOCK);
                    let acc = &mut acc[..block.len()];
                    self.position(&io, acc, block, y, x);
                    for (c, &a) in acc.iter().enumerate() {
                        finish(&self.conv, &mut io, N::real(a), from + c, y, x);
                    }
                }
            }
        }
    }
}

/// Requantizes the accumulator of channel `c` at (`y`, `x`) and stores it.
#[inline(always)]
pub(crate) fn finish(conv: &Conv, io: &mut Io, acc: f32, c: usize, y: usize, x: usize) {
    let r: &Requant = &conv.requant;
    let sum = match r.sum {
        Some(_) => io.sums[y * conv.output.width + x],
        None => 0.0,
    };
    let residual = (io.residual.as_ref().zip(conv.residual))
        .map(|(values, (plane, _))| values.real(plane.at(y, x) + c));
    let at = conv.output.at(y, x) + c;
    match &mut io.output {
        ValuesMut::F32(v) => v[at] = r.real(c, acc, sum, residual),
        // Bounds make the code fit.
        ValuesMut::U8(v) => v[at] = r.code(c, acc, sum, residual) as u8,
        ValuesMut::U16(v) => v[at] = r.code(c, acc, sum, residual) as u16,
    }
}
