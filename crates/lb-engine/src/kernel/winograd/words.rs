//! Winograd convolution on AVX2, in 16-bit integers: exact for all codes of up to 8 bits.
//!
//! AVX2's exact product of 8-bit codes is `vpmaddwd` on 16-bit copies, at half the rate of bytes.
//! Its operands have room for what Winograd's transforms give: `v = Bᵀ d B` of bytes is within
//! ±1020, `u = (2G) g (2G)ᵀ` of `i8` within ±1152. 16 products instead of 36 then more than make up
//! for the rate, and transformed inputs are 16-bit copies anyway.
//!
//! Sums are modulo 2³², in which additions and subtractions commute with the output transform: only
//! what comes out of it, four times the accumulator, has to fit 32 bits.
//!
//! ```text
//! group     6 patches of 2×2 output positions
//! tile      a position of the transformed patches: 6 patches × 16 output channels, whose sums
//!           over the input channels stay in registers
//! ```
//!
//! A group at a time is transformed into scratch memory. For each block of output channels, the
//! sums of all transformed positions go to scratch memory; from there they are transformed and
//! requantized. Several groups at a time would read the weights less often, but were no faster: the
//! first-level cache holds no more, and the second gives weights as fast as they are multiplied.

use std::arch::x86_64::*;

use aligned_vec::{AVec, ConstAlign};

use super::transform::CENTRE;
use super::{POSITIONS, weights};
use crate::conv::{Conv, Io};
use crate::kernel::avx2::Words;
use crate::kernel::direct::{Ends, POSITIONS as PATCHES, Position, STEP, takes};
use crate::kernel::epilogue::{Case, Epilogue, LANES, Line, Pointers, case, for_case};
use crate::kernel::isa::Avx2 as Token;
use crate::kernel::ymm::{Constants, accumulate};
use crate::kernel::{Kernel, Run, check, must_take};

/// Channels that are transformed at once: a pixel's are a multiple of it.
const CHANNELS: usize = 16;
/// 32-bit sums of a group and a block, `[transformed position][patch][channel]`.
const SUMS: usize = POSITIONS * PATCHES * LANES;

/// The Winograd kernel on AVX2.
pub struct WinogradAvx2(pub Token);

impl Kernel for WinogradAvx2 {
    fn name(&self) -> &'static str {
        "winograd-avx2"
    }

    /// Products of whole groups at 83 a nanosecond, a little below [`Words`] in a direct
    /// convolution as their sums are short; for each patch, 8 ns to transform 16 channels of the
    /// input, and 16 ns for 16 of the output.
    fn cost(&self, conv: &Conv) -> Option<f64> {
        let fits = takes(conv)
            && conv.layer.kernel == [3, 3]
            && conv.layer.stride == 1
            && conv.input.stride.is_multiple_of(CHANNELS)
            && four_fold_sums_fit(conv)
            // Scaling by a quarter must not leave the normal numbers.
            && conv.requant.acc.iter().all(|a| *a == 0.0 || a.abs() > 1e-30);
        if !fits {
            return None;
        }
        let out = conv.output;
        let patches = out.height.div_ceil(2) * out.width.div_ceil(2);
        let patches = patches.next_multiple_of(PATCHES) as f64;
        let blocks = out.channels.div_ceil(LANES) as f64;
        let products = (POSITIONS * conv.layer.c_in.next_multiple_of(2) * LANES) as f64;
        let inputs = conv.layer.c_in.div_ceil(CHANNELS) as f64;
        Some(patches * (blocks * (products / 83.0 + 16.0) + inputs * 8.0))
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        Box::new(Prepared::new(conv, self.0))
    }
}

/// Whether four times any accumulator fits 32 bits.
fn four_fold_sums_fit(conv: &Conv) -> bool {
    (0..conv.layer.c_out).all(|c| {
        let magnitudes = conv.layer.channel(c).iter().map(|&q| i64::from(q).abs());
        let most = magnitudes.sum::<i64>() * i64::from(conv.input_max) + conv.start[c].abs();
        4 * most <= i64::from(i32::MAX)
    })
}

/// 2×2 output positions and the 4×4 pixels under them.
#[derive(Clone, Copy)]
struct Patch {
    /// Where the rows of pixels start.
    rows: [u32; 4],
    /// From a row's first pixel to its last.
    last: u32,
    outputs: [Position; 4],
}

impl Patch {
    /// The patch whose first output is (`y`, `x`). Behind an odd height or width the last row or
    /// column of pixels only reaches outputs that are not there, so that the one before will do;
    /// those outputs have the place of one that is there.
    fn new(conv: &Conv, y: usize, x: usize) -> Self {
        let (out, input) = (conv.output, conv.input);
        let at = |i: usize, j: usize| {
            Position::new(
                conv,
                (y + i).min(out.height - 1),
                (x + j).min(out.width - 1),
            )
        };
        let outputs = [at(0, 0), at(0, 1), at(1, 0), at(1, 1)];
        let index = |i: usize| u32::try_from(i).expect("see `takes`");
        let last = |pixel: usize, size: usize| if pixel + 1 < size { 3 } else { 2 };
        let rows = [0, 1, 2, last(y, out.height)];
        Self {
            rows: rows.map(|row| outputs[0].input + index(row * input.pitch())),
            last: index(last(x, out.width) * input.stride),
            outputs,
        }
    }
}

struct Prepared {
    conv: Conv,
    /// Input channels, rounded up to [`CHANNELS`].
    channels: usize,
    /// Offset in bytes of every two channels from the first.
    steps: Vec<u32>,
    /// All patches in reading order; the last group repeats the last one.
    groups: Vec<[Patch; PATCHES]>,
    /// `[block][transformed position][step][16 channels][2]`
    weights: AVec<u8, ConstAlign<64>>,
    /// What the sums of [`CENTRE`] start with, block by block.
    start: Vec<Line<i32, LANES>>,
    epilogue: Epilogue,
    body: unsafe fn(&Self, &Pointers, *mut u8),
}

impl Prepared {
    fn new(conv: Conv, _: Token) -> Self {
        let channels = conv.layer.c_in.next_multiple_of(CHANNELS);
        // Modulo 2³², as all sums.
        let start = |c: usize| 4 * conv.start.get(c).copied().unwrap_or(0);
        Self {
            channels,
            steps: (0..conv.layer.c_in as u32)
                .step_by(2)
                .map(|c| 2 * c)
                .collect(),
            groups: groups(&conv),
            weights: pack(&conv),
            start: (0..conv.layer.c_out.div_ceil(LANES))
                .map(|b| Line(std::array::from_fn(|i| start(b * LANES + i) as i32)))
                .collect(),
            epilogue: Epilogue::new(&conv, 4.0),
            body: for_case!(case(&conv), body),
            conv,
        }
    }

    /// Bytes of a group's transformed inputs, `[transformed position][patch][channel]`.
    fn inputs(&self) -> usize {
        2 * POSITIONS * PATCHES * self.channels
    }
}

fn groups(conv: &Conv) -> Vec<[Patch; PATCHES]> {
    let out = conv.output;
    let (rows, columns) = (out.height.div_ceil(2), out.width.div_ceil(2));
    let patch = |n: usize| {
        let n = n.min(rows * columns - 1);
        Patch::new(conv, 2 * (n / columns), 2 * (n % columns))
    };
    (0..rows * columns)
        .step_by(PATCHES)
        .map(|from| std::array::from_fn(|i| patch(from + i)))
        .collect()
}

fn pack(conv: &Conv) -> AVec<u8, ConstAlign<64>> {
    let (layer, u) = (&conv.layer, weights(conv));
    let blocks = layer.c_out.div_ceil(LANES);
    let bytes = blocks * POSITIONS * layer.c_in.div_ceil(2) * STEP;
    let mut packed = AVec::with_capacity(64, bytes);
    for block in 0..blocks {
        for position in 0..POSITIONS {
            for from in (0..layer.c_in).step_by(2) {
                for c in block * LANES..(block + 1) * LANES {
                    for i in from..from + 2 {
                        let u = match c < layer.c_out && i < layer.c_in {
                            true => u[(c * POSITIONS + position) * layer.c_in + i],
                            false => 0,
                        };
                        packed.extend_from_slice(&(u as i16).to_le_bytes());
                    }
                }
            }
        }
    }
    packed
}

impl Run for Prepared {
    fn conv(&self) -> &Conv {
        &self.conv
    }

    fn scratch(&self) -> usize {
        self.inputs() + 4 * SUMS
    }

    fn run(&self, mut io: Io) {
        check(&self.conv, &io, self.scratch());
        let pointers = Pointers::new(&mut io);
        let scratch = io.scratch.as_mut_ptr();
        // SAFETY: the token of `prepare` proves the instructions; `check` proved that the planes
        // lie inside the buffers, and the scratch memory.
        unsafe { (self.body)(self, &pointers, scratch) }
    }
}

/// # Safety
/// AVX2 and FMA; the buffers are those of the convolution.
#[target_feature(enable = "avx2,fma")]
unsafe fn body<const C: Case>(p: &Prepared, io: &Pointers, scratch: *mut u8) {
    let sums = scratch.wrapping_add(p.inputs()).cast::<i32>();
    let of_position = p.steps.len() * STEP;
    for group in &p.groups {
        // SAFETY: patches lie inside the planes; the scratch memory has room for a group; blocks
        // and positions have weights.
        unsafe {
            for (i, patch) in group.iter().enumerate() {
                transform(p, patch, io.input, scratch.add(2 * i * p.channels));
            }
            for block in 0..p.epilogue.blocks() {
                for position in 0..POSITIONS {
                    let weights = (block * POSITIONS + position) * of_position;
                    let weights = p.weights[weights..][..of_position].as_ptr();
                    let start = match position {
                        CENTRE => &p.start[block],
                        _ => &Line([0; LANES]),
                    };
                    let x = scratch.add(2 * position * PATCHES * p.channels);
                    multiply(p, x, weights, start, sums.add(position * PATCHES * LANES));
                }
                let constants = Constants::new(&p.epilogue, block);
                for (i, patch) in group.iter().enumerate() {
                    finish::<C>(io, &constants, patch, block, sums.add(i * LANES));
                }
            }
        }
    }
}

/// `Bᵀ` of a column or row.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn forth([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: the caller's.
    unsafe {
        [
            _mm256_sub_epi16(a, c),
            _mm256_add_epi16(b, c),
            _mm256_sub_epi16(c, b),
            _mm256_sub_epi16(b, d),
        ]
    }
}

/// `Aᵀ` of a column or row.
///
/// # Safety
/// The CPU has AVX2.
#[inline(always)]
unsafe fn back([a, b, c, d]: [__m256i; 4]) -> [__m256i; 2] {
    // SAFETY: the caller's.
    unsafe {
        let (sum, difference) = (_mm256_add_epi32(b, c), _mm256_sub_epi32(b, c));
        [_mm256_add_epi32(a, sum), _mm256_sub_epi32(difference, d)]
    }
}

/// Rows from columns.
#[inline(always)]
fn transpose([a, b, c, d]: [[__m256i; 4]; 4]) -> [[__m256i; 4]; 4] {
    [
        [a[0], b[0], c[0], d[0]],
        [a[1], b[1], c[1], d[1]],
        [a[2], b[2], c[2], d[2]],
        [a[3], b[3], c[3], d[3]],
    ]
}

/// `Bᵀ d B` of a patch, to its place in each transformed position.
///
/// # Safety
/// The CPU has AVX2; the patch lies inside the input, and the positions of a group behind `to`.
#[inline(always)]
unsafe fn transform(p: &Prepared, patch: &Patch, input: *const u8, to: *mut u8) {
    let pixel = p.conv.input.stride;
    let columns = [0, pixel, 2 * pixel, patch.last as usize];
    let apart = 2 * PATCHES * p.channels;
    for c in (0..p.channels).step_by(CHANNELS) {
        // SAFETY: the caller's; a pixel has whole sixteens of channels.
        unsafe {
            let mut d = [[_mm256_setzero_si256(); 4]; 4];
            for (d, column) in d.iter_mut().zip(columns) {
                for (d, row) in d.iter_mut().zip(patch.rows) {
                    let at = input.add(row as usize + column + c);
                    *d = _mm256_cvtepu8_epi16(_mm_loadu_si128(at.cast()));
                }
                *d = forth(*d);
            }
            let mut to = to.add(2 * c);
            for row in transpose(d) {
                for v in forth(row) {
                    _mm256_storeu_si256(to.cast(), v);
                    to = to.wrapping_add(apart);
                }
            }
        }
    }
}

/// The sums of a transformed position over the input channels.
///
/// # Safety
/// The CPU has AVX2; inputs and weights of the position are there, and room for its sums.
#[inline(always)]
unsafe fn multiply(
    p: &Prepared,
    x: *const u8,
    weights: *const u8,
    start: &Line<i32, LANES>,
    to: *mut i32,
) {
    // SAFETY: the caller's, and an aligned array of 16.
    unsafe {
        let start = start.0.as_ptr();
        let start = [
            _mm256_load_si256(start.cast()),
            _mm256_load_si256(start.add(8).cast()),
        ];
        let x = std::array::from_fn(|i| x.add(2 * i * p.channels));
        let acc = accumulate::<Words>([start; PATCHES], x, &p.steps, weights);
        for (i, acc) in acc.iter().enumerate() {
            _mm256_storeu_si256(to.add(LANES * i).cast(), acc[0]);
            _mm256_storeu_si256(to.add(LANES * i + 8).cast(), acc[1]);
        }
    }
}

/// `Aᵀ M A` of eight channels of a patch.
///
/// # Safety
/// The CPU has AVX2; the sums of the patch's positions lie behind `sums`.
#[inline(always)]
unsafe fn outputs(sums: *const i32) -> [__m256i; 4] {
    // Loops, as closures that hold vectors would be compiled without the caller's instructions.
    // SAFETY: the caller's.
    unsafe {
        let mut rows = [[_mm256_setzero_si256(); 2]; 4];
        for (i, row) in rows.iter_mut().enumerate() {
            let mut m = [_mm256_setzero_si256(); 4];
            for (j, m) in m.iter_mut().enumerate() {
                *m = _mm256_loadu_si256(sums.add((4 * i + j) * PATCHES * LANES).cast());
            }
            *row = back(m);
        }
        let [a, b, c, d] = rows;
        let left = back([a[0], b[0], c[0], d[0]]);
        let right = back([a[1], b[1], c[1], d[1]]);
        [left[0], right[0], left[1], right[1]]
    }
}

/// `Aᵀ M A` of a patch, and the epilogue.
///
/// # Safety
/// The CPU has AVX2 and FMA; the patch's outputs lie inside the planes, and the sums of its
/// positions behind `sums`.
#[inline(always)]
unsafe fn finish<const C: Case>(
    io: &Pointers,
    constants: &Constants,
    patch: &Patch,
    block: usize,
    sums: *const i32,
) {
    // SAFETY: the caller's.
    unsafe {
        let (low, high) = (outputs(sums), outputs(sums.add(8)));
        // Backwards: an output that is not there has the place of one before it, which is written
        // later.
        for i in (0..4).rev() {
            let ends = Ends::new::<C>(io, &patch.outputs[i], block);
            constants.store::<C>([low[i], high[i]], &ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Codes, Recipe};

    #[test]
    fn four_times_an_accumulator_has_to_fit() {
        let conv = |channels| {
            let body = Recipe::body(channels, 1, 8);
            let codes = Codes::Largest;
            Recipe {
                c_out: 1,
                codes,
                ..body
            }
            .conv()
        };
        // 4 · 9 · 1840 · 127 · 255 < 2³¹ < 4 · 9 · 1856 · 127 · 255.
        assert!(four_fold_sums_fit(&conv(1840)));
        assert!(!four_fold_sums_fit(&conv(1856)));
    }

    #[test]
    fn outputs_behind_an_odd_size_are_written_before_what_is_there() {
        let conv = Recipe::body(16, 5, 8).conv();
        let groups = groups(&conv);
        // 3 × 3 patches in groups of 6.
        assert_eq!(groups.len(), 2);
        let mut last = vec![None; 25];
        for patch in groups.iter().flatten() {
            for i in (0..4).rev() {
                last[patch.outputs[i].number as usize] = Some((patch.outputs[0].number, i));
            }
        }
        for (number, last) in last.into_iter().enumerate() {
            let (y, x) = (number / 5, number % 5);
            let first = (y / 2 * 2 * 5 + x / 2 * 2) as u32;
            assert_eq!(last, Some((first, y % 2 * 2 + x % 2)));
        }
    }
}
