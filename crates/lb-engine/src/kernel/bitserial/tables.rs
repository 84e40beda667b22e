//! One- and two-bit weights without `vpopcntd`: sums by table, in AVX2.
//!
//! Counting ones costs AVX2 seven instructions. Looking sums up costs one: four input codes have
//! sixteen partial sums, a vector of bytes; a binary digit of four weights of an output channel is
//! an index into it, and `vpshufb` looks up sixteen channels of two positions at once.
//!
//! ```text
//! Σ u x = Σ_i 2^i Σ_groups table[group][digit i of the group's four weights]
//! table[n] = Σ x_k over the bits k of n
//! ```
//!
//! Input codes may have up to four bits. Tables are made row by row as they are needed, and shared
//! by all output channels. Sums are bytes as long as they cannot overflow, then 16 bits. (The idea
//! is T-MAC's, Wei et al. 2024, there for matrix-vector products of language models.)

use std::arch::x86_64::*;

use super::digits::{Digits, Levels};
use crate::conv::{Conv, Io, Values};
use crate::kernel::direct::Ends;
use crate::kernel::epilogue::{Case, Epilogue, LANES, Pointers, REALS, case, for_case, is_real};
use crate::kernel::isa::Avx2;
use crate::kernel::ymm::Constants;
use crate::kernel::{Kernel, Run, check, must_take};

/// Pairs of positions of a tile, at most: a register each, two with two digits.
const PAIRS: usize = 8;
/// The largest input code.
const LARGEST: i32 = 15;

/// Weights of one or two bits by `vpshufb`.
pub struct Tables(pub Avx2);

impl Kernel for Tables {
    fn name(&self) -> &'static str {
        "bitserial-avx2"
    }

    /// Measured: 0.11 ns a look-up and twice that to widen, 2.4 ns for the epilogue of 16
    /// channels, 0.6 a table; 1.2 a pixel if sums are wanted.
    fn cost(&self, conv: &Conv) -> Option<f64> {
        let digits = Digits::plain(conv)?;
        let sum = conv.layer.depth() as i64 * i64::from(conv.input_max);
        let fits = conv.input_max <= LARGEST
            && sum <= i64::from(i16::MAX)
            && u32::try_from(8 * conv.input.len()).is_ok();
        if !fits {
            return None;
        }
        let shape = Shape::new(conv, digits.planes);
        let lookups = (shape.offsets.len() * digits.planes) as f64;
        let positions = conv.output.height * conv.output.width.next_multiple_of(2 * shape.pairs);
        let vectors = (positions * conv.layer.c_out.div_ceil(LANES)) as f64;
        let lookup = 0.11 * (1.0 + 2.0 / shape.interval as f64);
        let tables = (shape.rows * shape.columns * shape.groups) as f64;
        let summed = match own_sums(conv, &digits) {
            true => (shape.rows * shape.columns) as f64,
            false => 0.0,
        };
        Some(vectors * (lookups * lookup + 2.4) + tables * 0.6 + summed * 1.2)
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        let digits = Digits::plain(&conv).expect("`cost` was asked");
        Box::new(Prepared::new(conv, &digits, self.0))
    }
}

/// Whether sums of windows matter.
fn with_sums(digits: &Digits) -> bool {
    digits.levels.iter().any(|l| l.g != 0)
}

/// Whether they matter and nobody else makes them.
fn own_sums(conv: &Conv, digits: &Digits) -> bool {
    with_sums(digits) && conv.requant.sum.is_none()
}

/// Where tables are.
///
/// ```text
/// tables[row][group][column mod stride][column / stride][16]
/// ```
///
/// so that neighbouring outputs use neighbouring tables, whatever the stride.
struct Shape {
    rows: usize,
    columns: usize,
    /// Groups of four channels.
    groups: usize,
    stride: usize,
    /// Columns between the border's corner and the first window.
    inset: usize,
    /// Bytes from one residue of columns to the next.
    phase: usize,
    /// Of every tap and group, the table's distance in bytes from the window's first.
    offsets: Vec<u32>,
    /// Pairs of positions a tile.
    pairs: usize,
    /// Look-ups that a byte holds.
    interval: usize,
}

impl Shape {
    fn new(conv: &Conv, planes: usize) -> Self {
        let layer = &conv.layer;
        let [kh, kw] = layer.kernel;
        let (stride, inset) = (layer.stride, conv.input.border - layer.padding);
        let columns = conv.input.width + 2 * conv.input.border;
        let pairs = match (conv.output.width, planes) {
            (1..=2, _) => 1,
            (3..=4, _) => 2,
            (5..=8, _) | (_, 2) => 4,
            _ => PAIRS,
        };
        let taps = columns
            .div_ceil(stride)
            .max(2 * pairs + (kw - 1 + inset) / stride);
        let mut shape = Self {
            rows: conv.input.height + 2 * conv.input.border,
            columns,
            groups: layer.c_in.div_ceil(4),
            stride,
            inset,
            phase: taps.next_multiple_of(2) * 16,
            offsets: Vec::new(),
            pairs,
            interval: (255 / (4 * conv.input_max.max(1))).max(1) as usize,
        };
        for ky in 0..kh {
            for kx in 0..kw {
                for group in 0..shape.groups {
                    let at = ky * shape.row() + shape.table(group, kx + inset);
                    let at = u32::try_from(at).expect("tables of less than 4 GiB");
                    shape.offsets.push(at);
                }
            }
        }
        shape
    }

    /// Bytes of a row's tables.
    fn row(&self) -> usize {
        self.groups * self.stride * self.phase
    }

    /// Where a table is in its row.
    fn table(&self, group: usize, column: usize) -> usize {
        let (slot, phase) = (column / self.stride, column % self.stride);
        (group * self.stride + phase) * self.phase + slot * 16
    }
}

/// A block's constants: what [`Prepared::accumulate`] computes with.
#[derive(Clone, Copy)]
struct Block {
    /// Where accumulators start.
    start: [i32; LANES],
    /// Factors of the sums, of two halves each: those of both digits, or of the only digit and the
    /// window.
    digits: [i32; LANES],
    /// Factors of the window, if there are two digits.
    window: [i32; LANES],
}

struct Prepared {
    conv: Conv,
    shape: Shape,
    planes: usize,
    /// `[block][tap and group][digit][16]`; channel c of a block is at byte 2c, or 2c − 15 from 8.
    indices: Vec<[u8; LANES]>,
    blocks: Vec<Block>,
    /// Whether sums of windows matter.
    with_sums: bool,
    /// Whether nobody else sums them.
    own_sums: bool,
    epilogue: Epilogue,
    finish: Finish,
    _isa: Avx2,
}

/// Sums of a tile in 16 bits: of each pair and digit, channels 0 to 7 and 8 to 15 of both
/// positions.
type Sums<const W: usize> = [[[__m256i; 2]; W]; PAIRS];
/// Accumulators of a tile: of each position, channels 0 to 7 and 8 to 15.
type Accs = [[__m256i; 2]; 2 * PAIRS];
type Finish = unsafe fn(&Prepared, &Pointers, &Accs, [usize; 3]);

impl Prepared {
    fn new(conv: Conv, digits: &Digits, isa: Avx2) -> Self {
        let shape = Shape::new(&conv, digits.planes);
        let layer = &conv.layer;
        let blocks = layer.c_out.div_ceil(LANES);
        let (n, planes) = (shape.offsets.len(), digits.planes);
        let mut indices = vec![[0; LANES]; blocks * n * planes];
        let zero = Block {
            start: [0; LANES],
            digits: [0; LANES],
            window: [0; LANES],
        };
        let mut constants = vec![zero; blocks];
        for c in 0..layer.c_out {
            let (block, lane) = (c / LANES, c % LANES);
            let byte = 2 * (lane % 8) + lane / 8;
            for (tap, q) in layer.channel(c).chunks_exact(layer.c_in).enumerate() {
                for (channel, &q) in q.iter().enumerate() {
                    let u = digits.code(c, q);
                    let at = block * n + tap * shape.groups + channel / 4;
                    for plane in 0..planes {
                        let one = (u >> plane & 1) as u8;
                        indices[at * planes + plane][byte] |= one << (channel % 4);
                    }
                }
            }
            // acc = start + f Σ u x + g Σ x
            let Levels { f, g } = digits.levels[c];
            let b = &mut constants[block];
            b.start[lane] = conv.start[c] as i32;
            let second = if planes == 2 { 2 * f } else { g };
            b.digits[lane] = f & 0xffff | second << 16;
            b.window[lane] = g & 0xffff;
        }
        Self {
            with_sums: with_sums(digits),
            own_sums: own_sums(&conv, digits),
            epilogue: Epilogue::new(&conv, 1.0),
            finish: for_case!(case(&conv), finish),
            conv,
            shape,
            planes,
            indices,
            blocks: constants,
            _isa: isa,
        }
    }

    /// Integers of scratch: sums of pixels, and of the windows of a row with what the last tile has
    /// behind it.
    fn sums(&self) -> [usize; 2] {
        let pixels = self.shape.rows * self.shape.columns;
        let windows = self.conv.output.width + 2 * PAIRS;
        [
            if self.own_sums { pixels } else { 0 },
            if self.with_sums { windows } else { 0 },
        ]
    }

    fn tables(&self) -> usize {
        self.shape.rows * self.shape.row() + 64
    }
}

impl Run for Prepared {
    fn conv(&self) -> &Conv {
        &self.conv
    }

    fn scratch(&self) -> usize {
        self.tables() + 4 * self.sums().iter().sum::<usize>() + 4
    }

    fn run(&self, mut io: Io) {
        check(&self.conv, &io, self.scratch());
        let pointers = Pointers::new(&mut io);
        let (tables, rest) = io.scratch.split_at_mut(self.tables());
        // SAFETY: any four bytes are an integer.
        let (_, integers, _) = unsafe { rest.align_to_mut::<i32>() };
        let [pixels, windows] = self.sums();
        let (pixels, rest) = integers.split_at_mut(pixels);
        let scratch = Scratch {
            tables,
            pixels,
            windows: &mut rest[..windows],
        };
        let Values::U8(input) = io.input else {
            unreachable!("narrow convolutions read bytes")
        };
        // SAFETY: the token says that the CPU has the instructions; `check` saw the buffers.
        unsafe {
            match self.planes {
                1 => self.image::<1>(input, scratch, io.sums, &pointers),
                _ => self.image::<2>(input, scratch, io.sums, &pointers),
            }
        }
    }
}

/// Scratch memory, cut up.
struct Scratch<'a> {
    tables: &'a mut [u8],
    /// `Σ x` of every pixel, if needed for windows.
    pixels: &'a mut [i32],
    /// `Σ x` of the windows of an output row, if they matter.
    windows: &'a mut [i32],
}

impl Prepared {
    /// # Safety
    /// The buffers are as [`check`] wants them.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn image<const W: usize>(
        &self,
        input: &[u8],
        Scratch {
            tables,
            pixels,
            windows,
        }: Scratch,
        sums: &[f32],
        pointers: &Pointers,
    ) {
        let (shape, out) = (&self.shape, self.conv.output);
        let mut made = 0;
        let zero = _mm256_setzero_si256();
        let mut found = [[[zero; 2]; W]; PAIRS];
        let mut accs = [[zero; 2]; 2 * PAIRS];
        let step = 2 * shape.pairs;
        let indices = shape.offsets.len() * W;
        for y in 0..out.height {
            let top = y * shape.stride + shape.inset;
            for row in made.max(top)..top + self.conv.layer.kernel[0] {
                // SAFETY: the caller's.
                unsafe { self.make_tables(input, row, &mut tables[row * shape.row()..], pixels) };
                made = row + 1;
            }
            if self.own_sums {
                self.sum_windows(top, pixels, windows);
            } else if self.with_sums {
                let start = self.conv.sum_start as i32;
                for (window, sum) in windows.iter_mut().zip(&sums[y * out.width..][..out.width]) {
                    *window = (*sum as i32).wrapping_add(start);
                }
            }
            for block in 0..self.blocks.len() {
                let indices = &self.indices[block * indices..][..indices];
                for x in (0..out.width).step_by(step) {
                    // The last tile goes back as far as it can, and does some positions twice.
                    let x = x.min(out.width.saturating_sub(step));
                    let from = &tables[top * shape.row() + x * 16..];
                    // SAFETY: tiles lie inside the image, whose buffers were checked.
                    unsafe {
                        match shape.pairs {
                            1 => self.look_up::<W, 1>(from, indices, &mut found),
                            2 => self.look_up::<W, 2>(from, indices, &mut found),
                            4 => self.look_up::<W, 4>(from, indices, &mut found),
                            _ => self.look_up::<W, PAIRS>(from, indices, &mut found),
                        }
                        self.accumulate::<W>(
                            &found,
                            &windows[x.min(windows.len())..],
                            block,
                            &mut accs,
                        );
                        (self.finish)(self, pointers, &accs, [block, y, x]);
                    }
                }
            }
        }
    }

    /// The tables of one row, those of two pixels at once, side by side; and the sums of its pixels.
    ///
    /// # Safety
    /// `input` is the convolution's.
    #[target_feature(enable = "avx2")]
    unsafe fn make_tables(&self, input: &[u8], row: usize, tables: &mut [u8], pixels: &mut [i32]) {
        /// Where a sum of a pair of codes is, in eight bytes `x₀ x₁ x₀+x₁ · x₂ x₃ x₂+x₃ ·`.
        const fn order(half: u8, shift: u8) -> [u8; 16] {
            let places = [0x80, 8 * half, 8 * half + 1, 8 * half + 2];
            let mut order = [0; 16];
            let mut n = 0;
            while n < 16 {
                // 0x80 gives a zero.
                let place = places[n >> shift & 3];
                order[n] = if shift == 0 || place == 0x80 {
                    place
                } else {
                    place + 4
                };
                n += 1;
            }
            order
        }
        const ORDERS: [[[u8; 16]; 2]; 2] = [[order(0, 0), order(0, 2)], [order(1, 0), order(1, 2)]];
        /// From 16 − n on, keeps n bytes.
        const KEEP: [u8; 32] = {
            let mut keep = [0; 32];
            let mut i = 0;
            while i < 16 {
                keep[i] = 0xff;
                i += 1;
            }
            keep
        };
        let shape = &self.shape;
        let plane = self.conv.input;
        assert!(input.len() >= plane.len() + 16 && tables.len() >= shape.row());
        let from = row * plane.pitch();
        for phase in 0..shape.stride {
            let columns = (phase..shape.columns).step_by(2 * shape.stride);
            let mut to = tables.as_mut_ptr().wrapping_add(phase * shape.phase);
            for column in columns {
                let next = (column + shape.stride).min(shape.columns - 1);
                let mut sums = _mm256_setzero_si256();
                for c in (0..plane.channels).step_by(16) {
                    // SAFETY: pixels inside the plane and its tail; tables inside the row.
                    unsafe {
                        let at = |column| input.as_ptr().add(from + column * plane.stride + c);
                        let x = _mm256_loadu2_m128i(at(next).cast(), at(column).cast());
                        if self.own_sums {
                            let n = (plane.channels - c).min(16);
                            let keep = _mm_loadu_si128(KEEP[16 - n..].as_ptr().cast());
                            let kept = _mm256_and_si256(x, _mm256_broadcastsi128_si256(keep));
                            let eights = _mm256_sad_epu8(kept, _mm256_setzero_si256());
                            sums = _mm256_add_epi64(sums, eights);
                        }
                        let pairs = _mm256_maddubs_epi16(x, _mm256_set1_epi8(1));
                        let halves = [
                            _mm256_unpacklo_epi16(x, pairs),
                            _mm256_unpackhi_epi16(x, pairs),
                        ];
                        for g in 0..(shape.groups - c / 4).min(4) {
                            let order = |i: usize| {
                                let order = ORDERS[g % 2][i].as_ptr();
                                _mm256_broadcastsi128_si256(_mm_loadu_si128(order.cast()))
                            };
                            let low = _mm256_shuffle_epi8(halves[g / 2], order(0));
                            let high = _mm256_shuffle_epi8(halves[g / 2], order(1));
                            let to = to.add((c / 4 + g) * shape.stride * shape.phase);
                            _mm256_storeu_si256(to.cast(), _mm256_add_epi8(low, high));
                        }
                    }
                }
                if self.own_sums {
                    let halves = _mm256_shuffle_epi32::<0b01_00_11_10>(sums);
                    let sums = _mm256_add_epi64(sums, halves);
                    let pixels = &mut pixels[row * shape.columns..][..shape.columns];
                    pixels[column] = _mm256_cvtsi256_si32(sums);
                    pixels[next] = _mm256_extract_epi32::<4>(sums);
                }
                to = to.wrapping_add(32);
            }
        }
    }

    /// Sums the windows of an output row, whose first input row is `top`.
    #[target_feature(enable = "avx2")]
    fn sum_windows(&self, top: usize, pixels: &[i32], windows: &mut [i32]) {
        let (shape, width) = (&self.shape, self.conv.output.width);
        let [kh, kw] = self.conv.layer.kernel;
        let windows = &mut windows[..width];
        windows.fill(0);
        for row in pixels[top * shape.columns..]
            .chunks_exact(shape.columns)
            .take(kh)
        {
            for column in shape.inset..shape.inset + kw {
                let row = &row[column..][..(width - 1) * shape.stride + 1];
                if shape.stride == 1 {
                    for (window, pixel) in windows.iter_mut().zip(row) {
                        *window += pixel;
                    }
                } else {
                    for (window, pixel) in windows.iter_mut().zip(row.iter().step_by(shape.stride))
                    {
                        *window += pixel;
                    }
                }
            }
        }
    }

    /// Sums of `P` pairs of positions of 16 channels.
    ///
    /// # Safety
    /// `tables` start at the first window's and go on for the whole tile; `indices` are a block's.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn look_up<const W: usize, const P: usize>(
        &self,
        tables: &[u8],
        indices: &[[u8; LANES]],
        wide: &mut Sums<W>,
    ) {
        let zero = _mm256_setzero_si256();
        wide[..P].fill([[zero; 2]; W]);
        let mut indices = indices.as_ptr();
        for offsets in self.shape.offsets.chunks(self.shape.interval) {
            let mut acc = [[zero; W]; P];
            for &offset in offsets {
                // SAFETY: the caller's.
                unsafe {
                    let mut index = [zero; W];
                    for index in &mut index {
                        let one = _mm_loadu_si128(indices.cast());
                        *index = _mm256_broadcastsi128_si256(one);
                        indices = indices.add(1);
                    }
                    for (p, acc) in acc.iter_mut().enumerate() {
                        let at = tables.as_ptr().add(offset as usize + 32 * p);
                        let table = _mm256_loadu_si256(at.cast());
                        for w in 0..W {
                            let sums = _mm256_shuffle_epi8(table, index[w]);
                            acc[w] = _mm256_add_epi8(acc[w], sums);
                        }
                    }
                }
            }
            for p in 0..P {
                for w in 0..W {
                    let low = _mm256_and_si256(acc[p][w], _mm256_set1_epi16(0xff));
                    let high = _mm256_srli_epi16::<8>(acc[p][w]);
                    wide[p][w][0] = _mm256_add_epi16(wide[p][w][0], low);
                    wide[p][w][1] = _mm256_add_epi16(wide[p][w][1], high);
                }
            }
        }
    }

    /// Accumulators from sums; `windows` are those of the tile and more, or none.
    ///
    /// # Safety
    /// The CPU has AVX2.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn accumulate<const W: usize>(
        &self,
        sums: &Sums<W>,
        windows: &[i32],
        block: usize,
        accs: &mut Accs,
    ) {
        let b = &self.blocks[block];
        for (pair, sums) in sums.iter().enumerate().take(self.shape.pairs) {
            let window = match windows.get(2 * pair..) {
                // Behind the last position is something that means nothing.
                Some(&[x0, x1, ..]) => _mm256_setr_m128i(_mm_set1_epi32(x0), _mm_set1_epi32(x1)),
                _ => _mm256_setzero_si256(),
            };
            // Vectors of four channels of both positions.
            let mut quads = [_mm256_setzero_si256(); 4];
            for (quad, acc) in quads.iter_mut().enumerate() {
                let four = |v: &[i32; LANES]| {
                    // SAFETY: four of an array's 16 integers.
                    let v = unsafe { _mm_loadu_si128(v.as_ptr().add(4 * quad).cast()) };
                    _mm256_broadcastsi128_si256(v)
                };
                let second = match W {
                    // Sixteen bits of it everywhere.
                    1 => _mm256_packs_epi32(window, window),
                    _ => sums[W - 1][quad / 2],
                };
                let factors = match quad % 2 {
                    0 => _mm256_unpacklo_epi16(sums[0][quad / 2], second),
                    _ => _mm256_unpackhi_epi16(sums[0][quad / 2], second),
                };
                *acc = _mm256_madd_epi16(factors, four(&b.digits));
                if W == 2 {
                    let window = _mm256_madd_epi16(window, four(&b.window));
                    *acc = _mm256_add_epi32(*acc, window);
                }
                *acc = _mm256_add_epi32(*acc, four(&b.start));
            }
            for half in 0..2 {
                let (low, high) = (quads[2 * half], quads[2 * half + 1]);
                accs[2 * pair][half] = _mm256_permute2x128_si256::<0x20>(low, high);
                accs[2 * pair + 1][half] = _mm256_permute2x128_si256::<0x31>(low, high);
            }
        }
    }
}

/// Requantizes a tile and stores it.
///
/// # Safety
/// The CPU has AVX2 and FMA; the tile begins inside the image that the pointers belong to.
#[target_feature(enable = "avx2,fma")]
unsafe fn finish<const C: Case>(
    p: &Prepared,
    pointers: &Pointers,
    accs: &Accs,
    [block, y, x]: [usize; 3],
) {
    let out = p.conv.output;
    let bytes = |float: bool| if float { 4 } else { 1 };
    // SAFETY: the caller's; positions behind the row's last are left out.
    unsafe {
        let k = Constants::new(&p.epilogue, block);
        for (i, &acc) in accs
            .iter()
            .enumerate()
            .take((out.width - x).min(2 * p.shape.pairs))
        {
            let x = x + i;
            let residual = p.conv.residual.map_or(0, |(plane, _)| plane.at(y, x));
            let value = |at: usize, float| (at + block * LANES) * bytes(float);
            let ends = Ends {
                sum: pointers.sums.wrapping_add(y * out.width + x),
                residual: (pointers.residual).wrapping_add(value(residual, C & REALS != 0)),
                output: (pointers.output).wrapping_add(value(out.at(y, x), is_real(C))),
            };
            k.store::<C>(acc, &ends);
        }
    }
}
