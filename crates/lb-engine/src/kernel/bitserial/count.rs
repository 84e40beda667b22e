//! The inner loops: eight positions of sixteen output channels, one word of 32 inputs a step.

use std::arch::asm;
use std::arch::x86_64::*;

use super::digits::{Digits, Form};
use super::layout::Layout;
use super::pack::Packed;
use crate::conv::Conv;
use crate::kernel::avx512::pack4;
use crate::kernel::epilogue::{
    Case, Epilogue, LANES, Line, Pointers, REALS, case, for_case, is_real,
};

/// Positions a tile.
pub const TILE: usize = 8;

/// Tiles that are counted before they are requantized.
const TILES: usize = 4;

/// One word of 32 inputs of 16 output channels.
type Word = Line<u32, LANES>;

/// Accumulators of a tile.
type Acc = [__m512i; TILE];

/// A block's constants: what [`finish`] computes with.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Block {
    /// Where accumulators start.
    start: [i32; LANES],
    /// Factors of the counts, in the low halves.
    counted: [i32; LANES],
    /// Factors of the two halves of [`Packed::counts`].
    window: [i32; LANES],
}

/// Where the positions of a tile are. Behind the last position, it again: computing it twice is
/// cheaper than asking.
#[derive(Clone, Copy, Default)]
struct Tile {
    /// Byte of the first word.
    input: [u32; TILE],
    /// Index into [`Packed::counts`].
    window: [u32; TILE],
    position: [u32; TILE],
    /// Value.
    output: [u32; TILE],
    residual: [u32; TILE],
}

type Inner = unsafe fn(&Counter, &Pointers, &Packed);
type Finish = unsafe fn(&Counter, &Pointers, &[Tile], &[Acc], usize);

/// A convolution's weights as digits and the loops over them.
pub struct Counter {
    layout: Layout,
    /// Bytes from one digit of the input to the next.
    plane: usize,
    /// `[block][word][digit]`
    weights: Vec<Word>,
    blocks: Vec<Block>,
    tiles: Vec<Tile>,
    epilogue: Epilogue,
    /// Whether [`Packed::counts`] matters.
    pub counts: bool,
    inner: Inner,
    finish: Finish,
}

/// What no count may exceed: they are multiplied in 16 bits.
const LARGEST: usize = i16::MAX as usize;

/// Whether the counts of a window stay within 16 bits.
pub fn fits(layout: &Layout, digits: &Digits) -> bool {
    let largest = match (digits.form, digits.planes + digits.input_planes) {
        (Form::Three, _) => 5,
        (_, 2) => 1,
        _ => 3,
    };
    largest * layout.bits() <= LARGEST
}

impl Counter {
    /// Prepares `conv`, whose `digits` [fit](fits).
    pub fn new(conv: &Conv, digits: &Digits, layout: Layout, plane: usize) -> Self {
        let layer = &conv.layer;
        let blocks = layer.c_out.div_ceil(LANES);
        let (words, planes) = (layout.words(), digits.planes);
        let mut weights = vec![Line([0; LANES]); blocks * words * planes];
        if digits.form == Form::Three && layout.mask() != 0 {
            // What the last word of a run has beyond it: u = 2 counts nothing but `B`, see `step`.
            let ignored = !layout.mask();
            let last = words / layout.runs;
            for line in weights.chunks_exact_mut(last * planes) {
                line[last * planes - 1].0 = [ignored; LANES];
            }
        }
        let mut constants = vec![
            Block {
                start: [0; LANES],
                counted: [0; LANES],
                window: [0; LANES],
            };
            blocks
        ];
        let [kh, kw] = layer.kernel;
        for c in 0..layer.c_out {
            let (block, lane) = (c / LANES, c % LANES);
            // Set bits of every digit.
            let mut ones = [0i64; 2];
            let mut q = layer.channel(c).iter();
            for ky in 0..kh {
                for kx in 0..kw {
                    for channel in 0..layer.c_in {
                        let u = digits.code(c, *q.next().expect("a weight a tap"));
                        let (word, bit) = layout.place(conv, [ky, kx], channel);
                        for (plane, ones) in ones.iter_mut().enumerate().take(planes) {
                            let one = u >> plane & 1;
                            let line = &mut weights[(block * words + word) * planes + plane];
                            line.0[lane] |= one << bit;
                            *ones += i64::from(one);
                        }
                    }
                }
            }
            let levels = digits.levels[c];
            let (f, g) = (i64::from(levels.f), i64::from(levels.g));
            let (start, counted, x, high) = match digits.form {
                // Σ q x = f Σ u x + g Σ x
                Form::And => (0, f, g, 0),
                // q = f/2 Σ 2^i (2 u_i − 1) and (2 u_i − 1) x_j = u_i − (u_i ^ x_j)
                Form::Xor => {
                    let inputs = (1 << digits.input_planes) - 1;
                    (f / 2 * (ones[0] + 2 * ones[1]) * inputs, -f / 2, 0, 0)
                }
                // u x = count − 4 + 4 x₁ + 4 u₁, see `step`
                Form::Three => (4 * f * (ones[1] - layout.bits() as i64), f, g, 4 * f),
            };
            let constants = &mut constants[block];
            constants.start[lane] = (conv.start[c] + start) as i32;
            constants.counted[lane] = counted as i32 & 0xffff;
            constants.window[lane] = (x as i32 & 0xffff) | (high as i32) << 16;
        }
        let counts = constants.iter().any(|b| b.window != [0; LANES]);
        Self {
            layout,
            plane,
            weights,
            blocks: constants,
            tiles: tiles(conv, &layout),
            epilogue: Epilogue::new(conv, 1.0),
            counts,
            inner: inner(digits),
            finish: for_case!(case(conv), finish),
        }
    }

    /// Convolves `packed` input.
    ///
    /// # Safety
    /// The CPU has what [`Avx512Popcnt`](crate::kernel::isa::Avx512Popcnt) says; the pointers are
    /// those of the convolution's checked buffers, and `packed` its input.
    pub unsafe fn run(&self, pointers: &Pointers, packed: &Packed) {
        // SAFETY: the caller's.
        unsafe { (self.inner)(self, pointers, packed) }
    }
}

fn tiles(conv: &Conv, layout: &Layout) -> Vec<Tile> {
    let out = conv.output;
    let n = out.height * out.width;
    let tile = |t: usize| {
        let mut tile = Tile::default();
        for i in 0..TILE {
            let position = (t * TILE + i).min(n - 1);
            let (y, x) = (position / out.width, position % out.width);
            let narrow = |v: usize| u32::try_from(v).expect("an image of less than 4 GiB");
            tile.position[i] = narrow(position);
            tile.input[i] = narrow(layout.window(conv, y, x));
            tile.window[i] = narrow(layout.pixel(conv, y, x));
            tile.output[i] = narrow(out.at(y, x));
            tile.residual[i] = narrow(conv.residual.map_or(0, |(plane, _)| plane.at(y, x)));
        }
        tile
    };
    (0..n.div_ceil(TILE)).map(tile).collect()
}

/// Chooses the loops for the digits.
fn inner(digits: &Digits) -> Inner {
    match (digits.planes, digits.input_planes, digits.form) {
        (1, 1, Form::Xor) => run::<1, 1, true>,
        (1, 1, _) => run::<1, 1, false>,
        (1, _, Form::Xor) => run::<1, 2, true>,
        (1, _, _) => run::<1, 2, false>,
        (_, 1, Form::Xor) => run::<2, 1, true>,
        (_, 1, _) => run::<2, 1, false>,
        (_, _, _) => run::<2, 2, false>,
    }
}

/// # Safety
/// As [`Counter::run`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vpopcntdq")]
unsafe fn run<const W: usize, const X: usize, const XOR: bool>(
    c: &Counter,
    pointers: &Pointers,
    packed: &Packed,
) {
    let words = c.layout.words() * W;
    for (block, constants) in c.blocks.iter().enumerate() {
        let weights = &c.weights[block * words..][..words];
        // Some tiles at a time, because counting and requantizing are compiled apart: one for each
        // kind of digits, the other for each kind of output.
        for tiles in c.tiles.chunks(TILES) {
            // SAFETY: tiles lie inside the image, whose buffers were checked; the caller's.
            unsafe {
                let mut accs = [[_mm512_setzero_si512(); TILE]; TILES];
                for (accs, tile) in accs.iter_mut().zip(tiles) {
                    let counted = count::<W, X, XOR>(c, weights, packed.digits, &tile.input);
                    for i in 0..TILE {
                        let mut start = load(&constants.start);
                        if c.counts {
                            let n = *packed.counts.get_unchecked(tile.window[i] as usize);
                            let n = _mm512_set1_epi32(n);
                            start = _mm512_dpwssd_epi32(start, n, load(&constants.window));
                        }
                        accs[i] = _mm512_dpwssd_epi32(start, counted[i], load(&constants.counted));
                    }
                }
                (c.finish)(c, pointers, tiles, &accs, block);
            }
        }
    }
}

/// Requantizes tiles of a block and stores them.
///
/// # Safety
/// The tiles lie inside the image that the pointers belong to; the CPU has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn finish<const C: Case>(
    c: &Counter,
    pointers: &Pointers,
    tiles: &[Tile],
    accs: &[Acc],
    block: usize,
) {
    let k = c.epilogue.constants(block);
    let channel = block * LANES;
    let residual_bytes = if C & REALS != 0 { 4 } else { 1 };
    for (tile, acc) in tiles.iter().zip(accs) {
        let sum = |i: usize| pointers.sums.wrapping_add(tile.position[i] as usize);
        let residual = |i: usize| {
            let value = tile.residual[i] as usize + channel;
            pointers.residual.wrapping_add(value * residual_bytes)
        };
        // SAFETY: the caller's.
        unsafe {
            if is_real(C) {
                for (i, &acc) in acc.iter().enumerate() {
                    let value = tile.output[i] as usize + channel;
                    let to = pointers.output.cast::<f32>().wrapping_add(value);
                    k.store::<C>(acc, sum(i), residual(i), to.cast());
                }
                continue;
            }
            for i in (0..TILE).step_by(4) {
                let mut codes = pack4::<C>(
                    [&k; 4],
                    std::array::from_fn(|j| acc[i + j]),
                    std::array::from_fn(|j| sum(i + j)),
                    std::array::from_fn(|j| residual(i + j)),
                );
                let to = |j| {
                    pointers
                        .output
                        .wrapping_add(tile.output[i + j] as usize + channel)
                };
                // The last position is there more than once, so two distances are needed.
                let distance = |j| to(j).wrapping_sub(to(0) as usize) as usize;
                if (distance(1), distance(3)) == (LANES, 3 * LANES) {
                    _mm512_storeu_si512(to(0).cast(), codes);
                    continue;
                }
                // Opaque, or the compiler permutes anew for each of the four.
                asm!("/* {0} */", inout(zmm_reg) codes, options(pure, nomem, nostack, preserves_flags));
                _mm_storeu_si128(to(0).cast(), _mm512_castsi512_si128(codes));
                _mm_storeu_si128(to(1).cast(), _mm512_extracti32x4_epi32::<1>(codes));
                _mm_storeu_si128(to(2).cast(), _mm512_extracti32x4_epi32::<2>(codes));
                _mm_storeu_si128(to(3).cast(), _mm512_extracti32x4_epi32::<3>(codes));
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn load(v: &[i32; LANES]) -> __m512i {
    // SAFETY: an array of 16 integers.
    unsafe { _mm512_loadu_si512(v.as_ptr().cast()) }
}

/// The counts of a tile. Always inlined, so that they stay in registers: therefore without
/// features of its own.
///
/// # Safety
/// Those of [`run`]; the windows at `at` lie within `digits`, as the layout says.
#[inline(always)]
unsafe fn count<const W: usize, const X: usize, const XOR: bool>(
    c: &Counter,
    weights: &[Word],
    digits: &[u8],
    at: &[u32; TILE],
) -> [__m512i; TILE] {
    let layout = &c.layout;
    let mask = layout.mask();
    let mut pixels = [digits.as_ptr(); TILE];
    for (pixel, &at) in pixels.iter_mut().zip(at) {
        *pixel = pixel.wrapping_add(at as usize);
    }
    let mut line = weights.as_ptr();
    // SAFETY: the caller's; there are `W` lines of weights a word.
    unsafe {
        let mut acc = [_mm512_setzero_si512(); TILE];
        for run in 0..layout.runs {
            let from = run * layout.pitch;
            let to = from + layout.whole() * 4;
            let mut bytes = [from; X];
            bytes[X - 1] += (X - 1) * c.plane;
            while bytes[0] < to {
                step::<W, X, XOR, false>(&mut acc, line, &pixels, bytes, 0);
                line = line.add(W);
                for byte in &mut bytes {
                    *byte += 4;
                    // Opaque, or the compiler keeps a pointer for each digit of each pixel, and
                    // runs out of registers.
                    asm!(
                        "/* {0} */",
                        inout(reg) * byte,
                        options(pure, nomem, nostack, preserves_flags)
                    );
                }
            }
            if mask != 0 {
                step::<W, X, XOR, true>(&mut acc, line, &pixels, bytes, mask);
                line = line.add(W);
            }
        }
        acc
    }
}

/// Counts one word. Two bits by two bits take three counts, because
///
/// ```text
/// u x = u₀x₀ + 2 u₀x₁ + 2 u₁x₀ + 4 u₁x₁
///     = u₀x₀ + 2 u₁ (x₀ + x₁ − 1) + 2 x₁ (u₀ + u₁ − 1) + 2 u₁ + 2 x₁
///     = A    + 2 (B − 1 + x₁)     + 2 (C − 1 + u₁)     + 2 u₁ + 2 x₁
/// A = u₀ & x₀,   B = u₁ ? x₀ : ~x₁,   C = x₁ ? u₀ : ~u₁
/// ```
///
/// where `u₁ (x₀ + x₁ − 1)` and its twin have three values, −1, 0 and 1, and so are a binary digit
/// plus something that depends on `x` alone. Each digit is one `vpternlogd`. (Two counts are not
/// enough: among four values the differences that the products need do not occur.)
///
/// # Safety
/// Those of [`run`]; there are `W` lines at `line` and a word of each digit at `bytes` of each
/// pixel.
#[inline(always)]
unsafe fn step<const W: usize, const X: usize, const XOR: bool, const MASKED: bool>(
    acc: &mut [__m512i; TILE],
    line: *const Word,
    pixels: &[*const u8; TILE],
    bytes: [usize; X],
    mask: u32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mask = _mm512_set1_epi32(mask as i32);
        let twos = _mm512_set1_epi32(2);
        let u0 = _mm512_load_si512(line.cast());
        let u1 = _mm512_load_si512(line.add(W - 1).cast());
        for i in 0..TILE {
            let word = |byte| pixels[i].add(byte).cast::<i32>().read_unaligned();
            let x0 = _mm512_set1_epi32(word(bytes[0]));
            let x1 = _mm512_set1_epi32(word(bytes[X - 1]));
            acc[i] = _mm512_add_epi32(acc[i], ones::<XOR, MASKED>(u0, x0, mask));
            // Doubling and adding in one: counts are less than 256, so that a byte holds them.
            let twice = match (W, X) {
                (1, 1) => continue,
                (1, _) => ones::<XOR, MASKED>(u0, x1, mask),
                (_, 1) => ones::<XOR, MASKED>(u1, x0, mask),
                (_, _) => {
                    let mut b = _mm512_ternarylogic_epi32::<CHOOSE>(u1, x0, x1);
                    if MASKED {
                        b = _mm512_and_si512(b, mask);
                    }
                    let c = _mm512_ternarylogic_epi32::<CHOOSE>(x1, u0, u1);
                    _mm512_add_epi32(_mm512_popcnt_epi32(b), _mm512_popcnt_epi32(c))
                }
            };
            acc[i] = _mm512_dpbusd_epi32(acc[i], twice, twos);
        }
    }
}

/// Counts the ones of a product of digits. Beyond the run `u` is 0, so that only `xor` sees what
/// is there.
///
/// # Safety
/// Those of [`run`].
#[inline(always)]
unsafe fn ones<const XOR: bool, const MASKED: bool>(
    u: __m512i,
    x: __m512i,
    mask: __m512i,
) -> __m512i {
    // SAFETY: the caller's.
    unsafe {
        _mm512_popcnt_epi32(match (XOR, MASKED) {
            (false, _) => _mm512_and_si512(u, x),
            (true, false) => _mm512_xor_si512(u, x),
            (true, true) => _mm512_ternarylogic_epi32::<XOR_AND>(u, x, mask),
        })
    }
}

/// `(a ^ b) & c`: bit `4a + 2b + c` of the table.
const XOR_AND: i32 = 0b0010_1000;
/// `a ? b : ~c`
const CHOOSE: i32 = 0b1100_0101;
