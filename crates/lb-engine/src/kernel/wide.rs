//! Codes of 16 bits in vectors of 16-bit integers.
//!
//! ```text
//! x = x' + shift         x' in −2¹⁵ .. 2¹⁵; shift 2¹⁵ for codes of 16 bits, 0 for bytes
//! q = 256 q₁ + q₀        q₀ in −128..=127
//! Σ q x = 256 Σ q₁ x' + Σ q₀ x' + shift · Σ q
//! ```
//!
//! `vpmaddwd` (with VNNI `vpdpwssd`) multiplies two neighbouring inputs with their weights and adds
//! the products, in 32 bits. Before such sums could overflow they are added up in 64.

use std::arch::x86_64::*;

use aligned_vec::{AVec, ConstAlign};

use super::epilogue::{Epilogue, LANES};
use super::isa::{Avx2, Avx512Vnni};
use super::window_sum::WindowSum;
use super::{Kernel, Run, check, lanes, must_take};
use crate::conv::{Conv, Io, Kind, Values};

/// Weights of a pair of inputs and a block of channels: two for the `q₁` of each channel, then two for
/// each `q₀`.
const PAIR: usize = 4 * LANES;
/// Largest magnitude of `x'`.
const LARGEST_INPUT: i64 = 1 << 15;

/// With AVX-512 VNNI.
pub struct WideAvx512(pub Avx512Vnni);

/// With AVX2.
pub struct WideAvx2(pub Avx2);

/// `(q₁, q₀)`
fn digits(q: i32) -> (i32, i32) {
    let low = i32::from(q as i8);
    (q.wrapping_sub(low) >> 8, low)
}

/// Largest magnitude of a `q₁` or `q₀`.
fn largest_digit(conv: &Conv) -> i64 {
    let high = conv.layer.q.iter().map(|&q| digits(q).0.abs()).max();
    i64::from(high.unwrap_or(0)).max(128)
}

/// What is subtracted from every code of the input.
fn shift(conv: &Conv) -> i64 {
    match conv.input_kind {
        Kind::U16 => LARGEST_INPUT,
        Kind::U8 | Kind::F32 => 0,
    }
}

/// The pixel of the window and the first input channel of every pair.
fn pairs(conv: &Conv) -> impl Iterator<Item = (usize, usize)> {
    let ([kh, kw], c_in) = (conv.layer.kernel, conv.layer.c_in);
    (0..kh * kw).flat_map(move |pixel| (0..c_in).step_by(2).map(move |c| (pixel, c)))
}

/// Modelled nanoseconds, at so many for a pair's products with a block of channels, and for
/// requantizing the block, where so many positions share weights; `None` where bytes do, or a digit
/// does not fit 16 bits.
fn cost(conv: &Conv, positions: usize, pair: f64, block: f64) -> Option<f64> {
    // Sums over so many inputs stay far below 2⁶³.
    let fits = largest_digit(conv) < 1 << 15 && conv.layer.depth() < 1 << 24;
    if conv.is_narrow() || !fits {
        return None;
    }
    let out = conv.output;
    let blocks = out.height * out.width.next_multiple_of(positions) * out.channels.div_ceil(LANES);
    let products = pairs(conv).count() as f64 * pair;
    Some(blocks as f64 * (products + block) + conv.input.len() as f64 / 20.0)
}

/// Neighbouring positions that share a load of weights, as many as a row has and registers hold.
fn positions_512(conv: &Conv) -> usize {
    match conv.output.width {
        8.. => 8,
        4.. => 4,
        _ => 1,
    }
}

/// The same for half as many registers, of half the size.
fn positions_256(conv: &Conv) -> usize {
    conv.output.width.min(2)
}

impl Kernel for WideAvx512 {
    fn name(&self) -> &'static str {
        "wide-avx512"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        cost(conv, positions_512(conv), 0.43, 8.0)
    }

    fn window_sum(&self, conv: &Conv) -> WindowSum {
        WindowSum::new(conv, Some(self.0))
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        let run = match positions_512(&conv) {
            8 => avx512::<8>,
            4 => avx512::<4>,
            _ => avx512::<1>,
        };
        Box::new(Prepared::new(conv, run))
    }
}

impl Kernel for WideAvx2 {
    fn name(&self) -> &'static str {
        "wide-avx2"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        cost(conv, positions_256(conv), 1.05, 20.0)
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        let run = match positions_256(&conv) {
            2 => avx2::<2>,
            _ => avx2::<1>,
        };
        Box::new(Prepared::new(conv, run))
    }
}

struct Prepared {
    conv: Conv,
    /// Offset of every pair of inputs from a window's first.
    offsets: Vec<usize>,
    /// [`PAIR`] weights for every block of channels and pair.
    weights: AVec<i16, ConstAlign<64>>,
    /// Where the sums of each block start.
    start: Vec<[i64; LANES]>,
    /// Pairs whose products can be added in 32 bits.
    chunk: usize,
    epilogue: Epilogue,
    /// Its instructions are there: a token was.
    run: unsafe fn(&Self, Io),
}

/// Sums of a block at `P` positions.
type Sums<const P: usize> = [[i64; LANES]; P];

/// Pairs of inputs and their weights.
struct Pairs<'a> {
    /// How far behind a window's first value every pair starts, in ascending order.
    offsets: &'a [usize],
    weights: &'a [i16],
    /// `x'` of the first window's first input, and everything behind it.
    inputs: &'a [i16],
    /// From one position's window to the next.
    step: usize,
}

impl Prepared {
    fn new(conv: Conv, run: unsafe fn(&Self, Io)) -> Self {
        let (layer, [_, kw]) = (&conv.layer, conv.layer.kernel);
        let weight = |channel: usize, pixel: usize, c: usize| {
            digits(match channel < layer.c_out && c < layer.c_in {
                true => layer.channel(channel)[pixel * layer.c_in + c],
                false => 0,
            })
        };
        let start = |channel: usize| match channel < layer.c_out {
            true => {
                let sum: i64 = layer.channel(channel).iter().map(|&q| i64::from(q)).sum();
                conv.start[channel] + shift(&conv) * sum
            }
            false => 0,
        };
        let blocks = layer.c_out.div_ceil(LANES);
        let mut weights = AVec::with_capacity(64, blocks * pairs(&conv).count() * PAIR);
        for block in 0..blocks {
            for (pixel, c) in pairs(&conv) {
                let both = (block * LANES..(block + 1) * LANES)
                    .flat_map(|channel| [c, c + 1].map(|c| weight(channel, pixel, c)));
                let (high, low): (Vec<_>, Vec<_>) = both.unzip();
                high.iter()
                    .chain(&low)
                    .for_each(|&q| weights.push(q as i16));
            }
        }
        let chunk = i64::from(i32::MAX) / (2 * LARGEST_INPUT * largest_digit(&conv));
        let starts = (0..blocks).map(|b| std::array::from_fn(|i| start(b * LANES + i)));
        let offset = |(pixel, c): (usize, usize)| conv.input.padded(pixel / kw, pixel % kw) + c;
        Self {
            offsets: pairs(&conv).map(offset).collect(),
            weights,
            start: starts.collect(),
            chunk: chunk.max(1) as usize,
            epilogue: Epilogue::new(&conv, 1.0),
            run,
            conv,
        }
    }

    /// All outputs, `P` neighbours at a time; `add` adds products to sums. Always inlined: callers
    /// compile it for their instructions.
    #[inline(always)]
    fn positions<const P: usize>(&self, mut io: Io, add: impl Fn(&Pairs, &mut Sums<P>)) {
        let scratch = std::mem::take(&mut io.scratch);
        let inputs = self.inputs(io.input, scratch);
        let (conv, out) = (&self.conv, self.conv.output);
        let weights = self.weights.chunks_exact(self.offsets.len() * PAIR);
        for (block, (weights, start)) in weights.zip(&self.start).enumerate() {
            for y in 0..out.height {
                for x in (0..out.width).step_by(P) {
                    // The last positions of a row may be computed twice.
                    let x = x.min(out.width - P);
                    let mut sums = [*start; P];
                    let chunks = weights.chunks(self.chunk * PAIR);
                    for (offsets, weights) in self.offsets.chunks(self.chunk).zip(chunks) {
                        let pairs = Pairs {
                            offsets,
                            weights,
                            inputs: &inputs[conv.window(y, x)..],
                            step: conv.layer.stride * conv.input.stride,
                        };
                        add(&pairs, &mut sums);
                    }
                    for (i, sums) in sums.iter().enumerate() {
                        let acc = sums.map(|sum| sum as f32);
                        lanes::finish((conv, &self.epilogue), &mut io, &acc, block, (y, x + i));
                    }
                }
            }
        }
    }

    /// `x'` of every input, and one more: the last pair may end behind the last value.
    #[inline(always)]
    fn inputs<'a>(&self, input: Values, scratch: &'a mut [u8]) -> &'a [i16] {
        // SAFETY: any bytes are integers.
        let (_, to, _) = unsafe { scratch.align_to_mut::<i16>() };
        let to = &mut to[..=self.conv.input.len()];
        match input {
            Values::U8(v) => to.iter_mut().zip(v).for_each(|(x, &v)| *x = v.into()),
            Values::U16(v) => {
                let lowered = |v: u16| (v ^ 0x8000) as i16;
                to.iter_mut().zip(v).for_each(|(x, &v)| *x = lowered(v));
            }
            Values::F32(_) => unreachable!("convolutions read codes"),
        }
        to
    }
}

impl Run for Prepared {
    fn conv(&self) -> &Conv {
        &self.conv
    }

    /// Bytes: an `i16` for every input and one more, wherever the memory starts.
    fn scratch(&self) -> usize {
        2 * (self.conv.input.len() + 1) + 1
    }

    fn run(&self, io: Io) {
        check(&self.conv, &io, self.scratch());
        // SAFETY: the kernel's token proves the instructions; every CPU with these has FMA.
        unsafe { (self.run)(self, io) }
    }
}

impl Pairs<'_> {
    /// Every pair's offset and weights.
    ///
    /// # Panics
    /// If a pair of the first `P` positions lies outside the inputs.
    #[inline(always)]
    fn each<const P: usize>(&self) -> impl Iterator<Item = (&usize, &[i16])> {
        let last = self.offsets.last().map_or(0, |last| last + 2);
        assert!(last + (P - 1) * self.step <= self.inputs.len());
        self.offsets.iter().zip(self.weights.chunks_exact(PAIR))
    }

    /// The two inputs at `offset` of position `i`.
    ///
    /// # Safety
    /// `offset` is from [`each`](Self::each), which knows position `i`.
    #[inline(always)]
    unsafe fn inputs(&self, offset: usize, i: usize) -> i32 {
        // SAFETY: `each` has seen that the last pair lies inside, and the last position's.
        unsafe {
            let pair = self.inputs.as_ptr().add(offset + i * self.step);
            pair.cast::<i32>().read_unaligned()
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
fn avx512<const P: usize>(p: &Prepared, io: Io) {
    p.positions::<P>(io, |pairs, sums| add_512(pairs, sums));
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")]
#[inline]
fn add_512<const P: usize>(pairs: &Pairs, sums: &mut Sums<P>) {
    let (mut high, mut low) = ([_mm512_setzero_si512(); P], [_mm512_setzero_si512(); P]);
    for (&offset, weights) in pairs.each::<P>() {
        // SAFETY: two cache lines of weights.
        let [q1, q0] = unsafe {
            [0, 2 * LANES].map(|i| _mm512_loadu_si512(weights[i..][..2 * LANES].as_ptr().cast()))
        };
        for i in 0..P {
            // SAFETY: an offset from `each::<P>`.
            let x = _mm512_set1_epi32(unsafe { pairs.inputs(offset, i) });
            high[i] = _mm512_dpwssd_epi32(high[i], x, q1);
            low[i] = _mm512_dpwssd_epi32(low[i], x, q0);
        }
    }
    for (sums, (high, low)) in sums.iter_mut().zip(high.into_iter().zip(low)) {
        let (mut of_high, mut of_low) = ([0i32; LANES], [0i32; LANES]);
        // SAFETY: sixteen integers each.
        unsafe {
            _mm512_storeu_si512(of_high.as_mut_ptr().cast(), high);
            _mm512_storeu_si512(of_low.as_mut_ptr().cast(), low);
        }
        add(sums, of_high, of_low);
    }
}

/// `256 · high + low`
#[inline(always)]
fn add(sums: &mut [i64; LANES], high: [i32; LANES], low: [i32; LANES]) {
    for (sum, (high, low)) in sums.iter_mut().zip(high.into_iter().zip(low)) {
        *sum += (i64::from(high) << 8) + i64::from(low);
    }
}

#[target_feature(enable = "avx2,fma")]
fn avx2<const P: usize>(p: &Prepared, io: Io) {
    p.positions::<P>(io, |pairs, sums| add_256(pairs, sums));
}

#[target_feature(enable = "avx2,fma")]
#[inline]
fn add_256<const P: usize>(pairs: &Pairs, sums: &mut Sums<P>) {
    // Of each position the high digits of both halves of the channels, then the low ones.
    let mut acc = [[_mm256_setzero_si256(); 4]; P];
    for (&offset, weights) in pairs.each::<P>() {
        // SAFETY: four halves of a cache line of weights.
        let weights = unsafe {
            [0, LANES, 2 * LANES, 3 * LANES]
                .map(|i| _mm256_loadu_si256(weights[i..][..LANES].as_ptr().cast()))
        };
        for (i, acc) in acc.iter_mut().enumerate() {
            // SAFETY: an offset from `each::<P>`.
            let x = _mm256_set1_epi32(unsafe { pairs.inputs(offset, i) });
            for (acc, weights) in acc.iter_mut().zip(weights) {
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(x, weights));
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        let mut parts = [[0i32; LANES]; 2];
        for (part, acc) in parts.as_flattened_mut().chunks_exact_mut(8).zip(acc) {
            // SAFETY: eight integers.
            unsafe { _mm256_storeu_si256(part.as_mut_ptr().cast(), acc) };
        }
        add(sums, parts[0], parts[1]);
    }
}
