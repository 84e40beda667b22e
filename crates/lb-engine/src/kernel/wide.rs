//! Codes of 16 bits in vectors, exactly, in double precision: products of 17 and 16 bits and their
//! sums over up to a million inputs stay below 2⁵³, where every integer is a `f64`, and fused
//! multiply-adds are what vector units do fastest with 64 bits.

use std::arch::x86_64::*;

use super::isa::{Avx2, Avx512Vnni};
use super::{Kernel, Run, check, must_take, scalar};
use crate::conv::{Conv, Io, Values};

/// Output channels that are summed together.
const LANES: usize = 16;
/// Neighbouring positions that share a load of weights.
const POSITIONS: usize = 4;

/// With AVX-512.
pub struct WideAvx512(pub Avx512Vnni);

/// With AVX2.
pub struct WideAvx2(pub Avx2);

/// Modelled nanoseconds, at so many for 16 products and for requantizing a channel; `None` where
/// bytes do, or sums could leave 2⁵³.
fn cost(conv: &Conv, products: f64, channel: f64) -> Option<f64> {
    let largest = conv.layer.depth().checked_mul(1 << 33);
    if conv.is_narrow() || largest.is_none_or(|l| l > 1 << 53) {
        return None;
    }
    let out = conv.output;
    let positions = (out.height * out.width.next_multiple_of(POSITIONS)) as f64;
    let blocks = out.channels.div_ceil(LANES) as f64;
    let products = conv.layer.depth() as f64 * blocks * products;
    Some(positions * (products + out.channels as f64 * channel))
}

impl Kernel for WideAvx512 {
    fn name(&self) -> &'static str {
        "wide-avx512"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        cost(conv, 0.3, 6.0)
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        Box::new(Run512(Prepared::new(conv), self.0))
    }
}

impl Kernel for WideAvx2 {
    fn name(&self) -> &'static str {
        "wide-avx2"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        cost(conv, 0.6, 6.0)
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        Box::new(Run256(Prepared::new(conv), self.0))
    }
}

struct Prepared {
    conv: Conv,
    /// `[block of channels][k_h, k_w, C_in]`
    weights: Vec<[f64; LANES]>,
    /// `[block of channels]`
    start: Vec<[f64; LANES]>,
}

impl Prepared {
    fn new(conv: Conv) -> Self {
        let layer = &conv.layer;
        let lanes = |block: usize, value: &dyn Fn(usize) -> f64| {
            std::array::from_fn(|lane| match block * LANES + lane {
                c if c < layer.c_out => value(c),
                _ => 0.0,
            })
        };
        let (mut weights, mut start) = (Vec::new(), Vec::new());
        for block in 0..layer.c_out.div_ceil(LANES) {
            start.push(lanes(block, &|c| conv.start[c] as f64));
            for i in 0..layer.depth() {
                weights.push(lanes(block, &|c| f64::from(layer.channel(c)[i])));
            }
        }
        Self {
            weights,
            start,
            conv,
        }
    }

    /// Bytes: every input as a `f64`, wherever the memory starts.
    fn scratch(&self) -> usize {
        8 * self.conv.input.len() + 7
    }

    /// All positions, of which `sum` sums those it is given, one or [`POSITIONS`] in a row. Always
    /// inlined: callers compile the rest, too, for their instructions.
    #[inline(always)]
    fn run(&self, mut io: Io, sum: impl Fn(&[f64], Block, usize) -> [[f64; LANES]; POSITIONS]) {
        check(&self.conv, &io, self.scratch());
        let scratch = std::mem::take(&mut io.scratch);
        // SAFETY: any bytes are a `f64`.
        let (_, inputs, _) = unsafe { scratch.align_to_mut::<f64>() };
        let inputs = &mut inputs[..self.conv.input.len()];
        match io.input {
            Values::U8(v) => inputs.iter_mut().zip(v).for_each(|(x, &v)| *x = v.into()),
            Values::U16(v) => inputs.iter_mut().zip(v).for_each(|(x, &v)| *x = v.into()),
            Values::F32(_) => unreachable!("convolutions read codes"),
        }
        let (out, depth) = (self.conv.output, self.conv.layer.depth());
        let together = match out.width {
            POSITIONS.. => POSITIONS,
            _ => 1,
        };
        let blocks = self.weights.chunks_exact(depth).zip(&self.start);
        for (b, (weights, start)) in blocks.enumerate() {
            let block = Block { weights, start };
            let channels = b * LANES..out.channels.min((b + 1) * LANES);
            for y in 0..out.height {
                for x in (0..out.width).step_by(together) {
                    // The last positions of a row may be computed twice.
                    let x = x.min(out.width - together);
                    let sums = sum(inputs, block, self.conv.window(y, x));
                    for (p, sums) in sums[..together].iter().enumerate() {
                        for (c, &acc) in channels.clone().zip(sums) {
                            // An exact integer, so rounding it to `f32` rounds the sum.
                            scalar::finish(&self.conv, &mut io, acc as f32, c, y, x + p);
                        }
                    }
                }
            }
        }
    }
}

/// Sixteen output channels.
#[derive(Clone, Copy)]
struct Block<'a> {
    weights: &'a [[f64; LANES]],
    start: &'a [f64; LANES],
}

/// A function that sums a block at [`POSITIONS`] positions, or only at the first where a row has
/// fewer, with vectors of one kind.
macro_rules! sum {
    ($name:ident, $features:literal, $lanes:literal, $load:ident, $set:ident, $fma:ident, $store:ident) => {
        #[target_feature(enable = $features)]
        fn $name(
            conv: &Conv,
            inputs: &[f64],
            block: Block,
            window: usize,
        ) -> [[f64; LANES]; POSITIONS] {
            let (layer, plane) = (&conv.layer, conv.input);
            let [kh, kw] = layer.kernel;
            let step = match conv.output.width {
                POSITIONS.. => layer.stride * plane.stride,
                _ => 0, // the same position again
            };
            const VECTORS: usize = LANES / $lanes;
            let mut sums = [[0.0; LANES]; POSITIONS];
            // SAFETY: vectors are loaded from and stored to whole arrays of 16.
            unsafe {
                let start: [_; VECTORS] =
                    std::array::from_fn(|v| $load(block.start[v * $lanes..].as_ptr()));
                let mut acc = [start; POSITIONS];
                let mut weights = block.weights.chunks_exact(layer.c_in);
                for ky in 0..kh {
                    for kx in 0..kw {
                        let weights = weights.next().expect("a row of weights an input pixel");
                        let at = window + plane.padded(ky, kx);
                        let pixels: [&[f64]; POSITIONS] =
                            std::array::from_fn(|p| &inputs[at + p * step..][..layer.c_in]);
                        for (i, w) in weights.iter().enumerate() {
                            let w: [_; VECTORS] =
                                std::array::from_fn(|v| $load(w[v * $lanes..].as_ptr()));
                            for (acc, pixel) in acc.iter_mut().zip(&pixels) {
                                let x = $set(pixel[i]);
                                for (acc, w) in acc.iter_mut().zip(w) {
                                    *acc = $fma(x, w, *acc);
                                }
                            }
                        }
                    }
                }
                for (sums, acc) in sums.iter_mut().zip(acc) {
                    for (v, acc) in acc.into_iter().enumerate() {
                        $store(sums[v * $lanes..].as_mut_ptr(), acc);
                    }
                }
            }
            sums
        }
    };
}

sum!(
    sum_avx512,
    "avx512f",
    8,
    _mm512_loadu_pd,
    _mm512_set1_pd,
    _mm512_fmadd_pd,
    _mm512_storeu_pd
);
sum!(
    sum_avx2,
    "avx2,fma",
    4,
    _mm256_loadu_pd,
    _mm256_set1_pd,
    _mm256_fmadd_pd,
    _mm256_storeu_pd
);

struct Run512(Prepared, Avx512Vnni);
struct Run256(Prepared, Avx2);

#[target_feature(enable = "avx512f,fma")]
fn avx512(p: &Prepared, io: Io) {
    p.run(io, |inputs, block, at| {
        sum_avx512(&p.conv, inputs, block, at)
    });
}

#[target_feature(enable = "avx2,fma")]
fn avx2(p: &Prepared, io: Io) {
    p.run(io, |inputs, block, at| sum_avx2(&p.conv, inputs, block, at));
}

impl Run for Run512 {
    fn conv(&self) -> &Conv {
        &self.0.conv
    }

    fn scratch(&self) -> usize {
        self.0.scratch()
    }

    fn run(&self, io: Io) {
        // SAFETY: the token proves the instructions; every CPU with these has FMA.
        unsafe { avx512(&self.0, io) }
    }
}

impl Run for Run256 {
    fn conv(&self) -> &Conv {
        &self.0.conv
    }

    fn scratch(&self) -> usize {
        self.0.scratch()
    }

    fn run(&self, io: Io) {
        // SAFETY: the token proves the instructions; every CPU with these has FMA.
        unsafe { avx2(&self.0, io) }
    }
}
