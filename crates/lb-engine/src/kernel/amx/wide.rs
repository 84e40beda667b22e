//! Codes of 16 bits on AMX, which multiplies bytes: each code and weight is two of them.
//!
//! ```text
//! x = 256 x₁ + x₀                  both in 0..=255
//! q = 256 q₁ + q₀                  q₁ in −128..=127, q₀ in 0..=255
//! Σ q x = 65536 Σ q₁ x₁ + 256 (Σ q₁ x₀ + Σ q₀ x₁) + Σ q₀ x₀
//! ```
//!
//! The inputs' bytes are copied into two planes of the input's layout; the four sums of a tile of
//! positions × a block of 16 channels are the four C tiles.

use std::arch::asm;
use std::arch::x86_64::*;

use aligned_vec::{AVec, ConstAlign};

use super::{ROW, TILE, config, offsets, rows, steps};
use crate::conv::{Conv, Io, Values};
use crate::kernel::epilogue::{Epilogue, LANES, Line};
use crate::kernel::isa::Amx as Token;
use crate::kernel::lanes;
use crate::kernel::pack::{bytes, streaming};
use crate::kernel::tiles::{BLOCK, stored};
use crate::kernel::window_sum::WindowSum;
use crate::kernel::{Kernel, Run, check, must_take};
use crate::plane::TAIL;

/// Most inputs a sum: two sums of products of bytes together fit 32 bits.
const DEEPEST: usize = 1 << 14;
const _: () = assert!(DEEPEST * 255 * (255 + 128) < 1 << 31);

/// The AMX kernel for what bytes do not hold.
pub struct WideAmx(pub Token);

impl Kernel for WideAmx {
    fn name(&self) -> &'static str {
        "wide-amx"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        let fits = |q: &i32| i16::try_from(*q).is_ok();
        if conv.is_narrow() || conv.layer.depth() > DEEPEST || !conv.layer.q.iter().all(fits) {
            return None;
        }
        let (out, rows) = (conv.output, rows(conv));
        let tiles = out.height * out.width.div_ceil(rows) * out.channels.div_ceil(LANES);
        // Measured: a row of a tile takes four products a step, and as long as 17 to requantize.
        let row = 4.0 * steps(conv).count(conv) as f64 + 17.0;
        let copied = conv.input.len() as f64 / 20.0;
        let weights = streaming(2 * conv.layer.q.len());
        Some(80.0 + (tiles * rows.max(8)) as f64 * row * 0.54 + copied + weights)
    }

    fn window_sum(&self, conv: &Conv) -> WindowSum {
        WindowSum::new(conv, Some(self.0.avx512()))
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        Box::new(Prepared::new(conv, self.0))
    }
}

struct Prepared {
    conv: Conv,
    /// Positions a tile.
    rows: usize,
    /// As [`offsets`] gives them.
    offsets: Vec<i64>,
    /// `[block][step]`, of each the tile of high bytes and that of low ones.
    weights: AVec<i8, ConstAlign<64>>,
    /// Where the sums of each block start.
    start: Vec<[Line<i64, { LANES / 2 }>; 2]>,
    epilogue: Epilogue,
}

impl Prepared {
    fn new(conv: Conv, _: Token) -> Self {
        let high = bytes(&conv, steps(&conv), 1, |q| (q >> 8) as i8);
        let low = bytes(&conv, steps(&conv), 1, |q| q as u8 as i8);
        let mut weights = AVec::with_capacity(64, 2 * high.len());
        for (high, low) in high.chunks_exact(TILE).zip(low.chunks_exact(TILE)) {
            weights.extend_from_slice(high);
            weights.extend_from_slice(low);
        }
        let start = |c: usize| conv.start.get(c).copied().unwrap_or(0);
        let epilogue = Epilogue::new(&conv, 1.0);
        Self {
            rows: rows(&conv),
            offsets: offsets(&conv),
            weights,
            start: (0..epilogue.blocks())
                .map(|b| {
                    [0, LANES / 2]
                        .map(|half| Line(std::array::from_fn(|i| start(b * LANES + half + i))))
                })
                .collect(),
            epilogue,
            conv,
        }
    }

    /// Bytes of one plane of bytes, the next one on a cache line.
    fn plane(&self) -> usize {
        (self.conv.input.len() + TAIL).next_multiple_of(ROW)
    }
}

impl Run for Prepared {
    fn conv(&self) -> &Conv {
        &self.conv
    }

    /// Two planes of bytes, from the first cache line on.
    fn scratch(&self) -> usize {
        ROW - 1 + 2 * self.plane()
    }

    fn run(&self, mut io: Io) {
        check(&self.conv, &io, self.scratch());
        let scratch = std::mem::take(&mut io.scratch);
        let skip = scratch.as_ptr().align_offset(ROW).min(ROW - 1);
        let planes = &mut scratch[skip..][..2 * self.plane()];
        let (high, low) = planes.split_at_mut(self.plane());
        let n = self.conv.input.len();
        // SAFETY: the token of `prepare` proves the instructions (every CPU with these has FMA);
        // `check` proved that the planes lie inside the buffers, and the planes of bytes have room
        // for what is read behind them.
        unsafe {
            match io.input {
                Values::U16(x) => split(&x[..n], high, low),
                Values::U8(x) => {
                    high[..n].fill(0);
                    low[..n].copy_from_slice(&x[..n]);
                }
                Values::F32(_) => unreachable!("convolutions read codes"),
            }
            walk(self, &mut io, high.as_ptr(), low.as_ptr());
        }
    }
}

/// The high and the low bytes of `x`.
#[target_feature(enable = "avx512f,avx512bw")]
fn split(x: &[u16], high: &mut [u8], low: &mut [u8]) {
    for ((x, high), low) in x.iter().zip(high).zip(low) {
        *high = (x >> 8) as u8;
        *low = *x as u8;
    }
}

/// # Safety
/// AMX; the buffers are those of the convolution, `high` and `low` its input's bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,fma")]
unsafe fn walk(p: &Prepared, io: &mut Io, high: *const u8, low: *const u8) {
    let mut c = Line([0i32; 4 * BLOCK]);
    let (out, step) = (p.conv.output, p.conv.layer.stride * p.conv.input.stride);
    let run = p.conv.layer.kernel[1] * p.conv.input.stride;
    let config = config(p.rows, run, 4, 6);
    // SAFETY: a valid configuration of 64 bytes.
    unsafe { asm!("ldtilecfg [{}]", in(reg) config.0.as_ptr(), options(nostack, readonly)) };
    for (block, start) in p.start.iter().enumerate() {
        let weights = p.weights[2 * block * p.offsets.len() * TILE..].as_ptr();
        for y in 0..out.height {
            for x in (0..out.width).step_by(p.rows) {
                // The last tile of a row ends with it.
                let x = x.min(out.width - p.rows);
                let window = p.conv.window(y, x);
                let bytes = [high, low].map(|plane| plane.wrapping_add(window));
                // SAFETY: the windows of a row lie inside the planes.
                unsafe { multiply(p, bytes, step, weights, &mut c) };
                for i in 0..p.rows {
                    // SAFETY: four blocks of 16 positions.
                    let c = |j| unsafe { stored(c.0.as_ptr(), j, i) };
                    let middle = _mm512_add_epi32(c(1), c(2));
                    let acc = whole(c(0), middle, c(3), start);
                    lanes::finish((&p.conv, &p.epilogue), io, &acc, block, (y, x + i));
                }
            }
        }
    }
    // SAFETY: gives the tiles' state back.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}

/// C tiles 0 to 3: `Σ q₁ x₁`, `Σ q₀ x₁`, `Σ q₁ x₀`, `Σ q₀ x₀`.
///
/// # Safety
/// AMX, configured; the tile's windows lie inside the planes of high and low bytes, and the weights
/// are those of a block.
unsafe fn multiply(
    p: &Prepared,
    [high, low]: [*const u8; 2],
    step: usize,
    weights: *const i8,
    c: &mut Line<i32, { 4 * BLOCK }>,
) {
    // SAFETY: the caller's; B has two tiles a step, C has room for four.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "mov {t}, [{offsets}]",
            "add {offsets}, 8",
            "lea {u}, [{high} + {t}]",
            "tileloadd tmm4, [{u} + {step}]",
            "tileloadd tmm6, [{b} + {row}]",
            "tdpbusd tmm0, tmm4, tmm6",
            "lea {u}, [{b} + 1024]",
            "tileloadd tmm7, [{u} + {row}]",
            "tdpbuud tmm1, tmm4, tmm7",
            "lea {u}, [{low} + {t}]",
            "tileloadd tmm5, [{u} + {step}]",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbuud tmm3, tmm5, tmm7",
            "add {b}, 2048",
            "dec {n}",
            "jnz 2b",
            "tilestored [{c} + {row}], tmm0",
            "add {c}, 1024",
            "tilestored [{c} + {row}], tmm1",
            "add {c}, 1024",
            "tilestored [{c} + {row}], tmm2",
            "add {c}, 1024",
            "tilestored [{c} + {row}], tmm3",
            row = in(reg) ROW,
            step = in(reg) step,
            high = in(reg) high,
            low = in(reg) low,
            b = inout(reg) weights => _,
            offsets = inout(reg) p.offsets.as_ptr() => _,
            n = inout(reg) p.offsets.len() => _,
            c = inout(reg) c.0.as_mut_ptr() => _,
            t = out(reg) _,
            u = out(reg) _,
            options(nostack),
        );
    }
}

/// `65536 · high + 256 · middle + low + start`, exactly, then rounded to `f32`.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn whole(
    high: __m512i,
    middle: __m512i,
    low: __m512i,
    start: &[Line<i64, { LANES / 2 }>; 2],
) -> [f32; LANES] {
    let half = |[high, middle, low]: [__m256i; 3], start: &Line<i64, { LANES / 2 }>| {
        // SAFETY: a cache line of eight integers.
        let start = unsafe { _mm512_load_si512(start.0.as_ptr().cast()) };
        let high = _mm512_slli_epi64::<16>(_mm512_cvtepi32_epi64(high));
        let middle = _mm512_slli_epi64::<8>(_mm512_cvtepi32_epi64(middle));
        let low = _mm512_add_epi64(_mm512_cvtepi32_epi64(low), start);
        _mm512_cvtepi64_ps(_mm512_add_epi64(_mm512_add_epi64(high, middle), low))
    };
    let all = [high, middle, low];
    let first = half(all.map(|v| _mm512_castsi512_si256(v)), &start[0]);
    let second = half(all.map(|v| _mm512_extracti64x4_epi64::<1>(v)), &start[1]);
    let mut sums = [0.0; LANES];
    // SAFETY: two halves of 16 floats.
    unsafe {
        _mm256_storeu_ps(sums[..8].as_mut_ptr(), first);
        _mm256_storeu_ps(sums[8..].as_mut_ptr(), second);
    }
    sums
}
