//! AVX2 has no exact product of bytes that sums into 32 bits, so there are three ways, of which
//! each layer takes the fastest that is exact for it:
//!
//! | way | instructions a step and 8 channels | when |
//! |---|---|---|
//! | [`Pairs`] | `vpmaddubsw`, `vpaddw` | sums of several steps fit 16 bits: few bits |
//! | [`Narrow`] | `vpmaddubsw`, `vpmaddwd`, `vpaddd` | sums of one step do: up to about 7-bit weights |
//! | [`Words`] | `vpmaddwd`, `vpaddd`, twice | always; inputs and weights take 16 bits |
//!
//! `vpmaddubsw` adds two neighbouring products and saturates at 16 bits. What the sums of a layer
//! can reach is known from its weights and its largest input code.
//!
//! Of 8-bit weights few pairs exceed 16 bits (2 to 4 % in a trained ResNet-20), but 22 to 49 % of
//! the registers hold one, as a register has 16: splitting those in two would save about a tenth of
//! the instructions of [`Words`] at most.
//! [`winograd-avx2`](super::winograd::WinogradAvx2) saves far more where it can run.

use std::arch::x86_64::*;

use super::direct::{Direct, Inputs, POSITIONS, STEP, body, cost, takes};
use super::epilogue::{Case, Pointers, case, for_case};
use super::isa::Avx2 as Token;
use super::ymm::{Step, Sum, Tile, Ymm, accumulate, start};
use super::{Kernel, Run, must_take};
use crate::conv::Conv;

/// Steps in 16 bits from which [`Pairs`] is faster than [`Narrow`]: between two chunks its 32-bit
/// sums come from memory and go back.
const PAIRS: usize = 3;

/// The AVX2 kernel.
pub struct Avx2(pub Token);

impl Kernel for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    /// Rates near the multipliers' limit at 3.7 GHz, and 3 ns to widen a tile's pairs.
    fn cost(&self, conv: &Conv) -> Option<f64> {
        takes(conv).then(|| match chunk(conv) {
            0 => cost(conv, Inputs::Words, 90.0, 0.0),
            1..PAIRS => cost(conv, Inputs::Bytes, 120.0, 0.0),
            chunk => {
                let chunks = steps(conv).div_ceil(chunk);
                cost(conv, Inputs::Bytes, 180.0, 3.0 * chunks as f64)
            }
        })
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        let case = case(&conv);
        let chunk = chunk(&conv);
        let (inputs, body) = match chunk {
            0 => (Inputs::Words, for_case!(case, words)),
            1..PAIRS => (Inputs::Bytes, for_case!(case, narrow)),
            _ => (Inputs::Bytes, for_case!(case, pairs)),
        };
        // SAFETY: the token proves the instructions.
        Box::new(unsafe { Direct::new(conv, inputs, chunk, body) })
    }
}

/// Steps of four inputs.
fn steps(conv: &Conv) -> usize {
    conv.layer.kernel.iter().product::<usize>() * conv.layer.c_in.div_ceil(4)
}

/// The most steps whose sums of pairs fit 16 bits, all chunks of steps being equally long; 0 if
/// not even one step's do.
fn chunk(conv: &Conv) -> usize {
    let steps = steps(conv);
    let mut chunk = steps;
    let mut chunks = 1;
    while !fits(conv, chunk) {
        if chunk == 1 {
            return 0;
        }
        // The next length that gives more chunks.
        while steps.div_ceil(chunks) == chunk {
            chunks += 1;
        }
        chunk = steps.div_ceil(chunks);
    }
    chunk
}

/// Whether sums over `chunk` steps fit 16 bits, in every lane and at every moment: products of one
/// sign only are the extremes.
fn fits(conv: &Conv, chunk: usize) -> bool {
    let (layer, largest) = (&conv.layer, i64::from(conv.input_max));
    (0..layer.c_out).all(|c| {
        let steps = (layer.channel(c).chunks(layer.c_in)).flat_map(|pixel| pixel.chunks(4));
        let mut sums = [(0i64, 0i64); 2];
        steps.enumerate().all(|(i, step)| {
            if i % chunk == 0 {
                sums = [(0, 0); 2];
            }
            for (i, &q) in step.iter().enumerate() {
                let (up, down) = &mut sums[i / 2];
                *up += i64::from(q).max(0) * largest;
                *down += i64::from(q).min(0) * largest;
            }
            let (lo, hi) = (i64::from(i16::MIN), i64::from(i16::MAX));
            sums.iter().all(|&(up, down)| up <= hi && down >= lo)
        })
    })
}

/// Two steps of 16-bit operands: exact for everything.
pub struct Words;

impl Step for Words {
    #[inline(always)]
    unsafe fn add(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(x, w)) }
    }
}

/// Sums of pairs, widened at once. With the ones that `vpmaddwd` needs this takes 17 registers, so
/// that the compiler keeps one accumulator in memory; `asm!` with none there was no faster, as the
/// multipliers are the limit.
struct Narrow;

impl Step for Narrow {
    #[inline(always)]
    unsafe fn add(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { widen(acc, _mm256_maddubs_epi16(x, w)) }
    }
}

/// Sums of pairs, widened after [`Direct::chunk`] steps.
struct Pairs;

impl Step for PairsOnly {
    #[inline(always)]
    unsafe fn add(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_add_epi16(acc, _mm256_maddubs_epi16(x, w)) }
    }
}

/// The 16-bit sums of [`Pairs`].
struct PairsOnly;

impl Sum for Pairs {
    #[inline(always)]
    unsafe fn tile(p: &Direct, block: usize, x: [*const u8; POSITIONS]) -> Tile {
        // SAFETY: the caller's.
        unsafe {
            let mut acc = [start(p, block); POSITIONS];
            let mut weights = p.weights(block);
            for steps in p.steps.chunks(p.chunk) {
                let zero = [[_mm256_setzero_si256(); 2]; POSITIONS];
                let pairs = accumulate::<PairsOnly>(zero, x, steps, weights);
                for (acc, pairs) in acc.iter_mut().zip(pairs) {
                    *acc = [widen(acc[0], pairs[0]), widen(acc[1], pairs[1])];
                }
                weights = weights.wrapping_add(steps.len() * STEP);
            }
            acc
        }
    }
}

/// Adds neighbouring 16-bit sums to `acc`.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn widen(acc: __m256i, pairs: __m256i) -> __m256i {
    // SAFETY: the caller's.
    unsafe { _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn words<const C: Case>(p: &Direct, io: &Pointers) {
    // SAFETY: the caller's.
    unsafe { body::<Ymm<Words>, C>(p, io) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn narrow<const C: Case>(p: &Direct, io: &Pointers) {
    // SAFETY: the caller's.
    unsafe { body::<Ymm<Narrow>, C>(p, io) }
}

#[target_feature(enable = "avx2,fma")]
unsafe fn pairs<const C: Case>(p: &Direct, io: &Pointers) {
    // SAFETY: the caller's.
    unsafe { body::<Ymm<Pairs>, C>(p, io) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Codes, Recipe};

    fn conv(weight_bits: u8, input_bits: u8, codes: Codes) -> Conv {
        let body = Recipe::body(16, 8, weight_bits);
        Recipe {
            input_bits,
            codes,
            ..body
        }
        .conv()
    }

    #[test]
    fn the_layer_decides_how_long_sums_stay_in_16_bits() {
        // 255 · (127 + 127) does not fit, 255 · (63 + 63) does: once.
        assert_eq!(chunk(&conv(8, 8, Codes::Largest)), 0);
        assert_eq!(chunk(&conv(7, 8, Codes::Largest)), 1);
        // 15 · (7 + 7) a step: all 36.
        assert_eq!(chunk(&conv(4, 4, Codes::Largest)), 36);
        // 255 · (7 + 7) a step: 9, and four chunks of 9.
        assert_eq!(chunk(&conv(4, 8, Codes::Largest)), 9);
    }

    #[test]
    fn negative_sums_have_one_more() {
        let mut conv = conv(7, 8, Codes::Zero);
        conv.input_max = 256;
        conv.layer.q[..2].copy_from_slice(&[-64, -64]);
        assert!(fits(&conv, 1));
        conv.layer.q[..2].copy_from_slice(&[64, 64]);
        assert!(!fits(&conv, 1));
        // The two pairs of a step are summed apart.
        conv.layer.q[..4].copy_from_slice(&[63, 64, 64, 63]);
        assert!(fits(&conv, 1));
        // And over the steps of a chunk.
        conv.layer.q[4] = 1;
        assert!(fits(&conv, 1) && !fits(&conv, 2));
    }
}
