//! What the direct convolutions of AVX2, AVX-VNNI and NEON share: everything but the instructions.
//!
//! ```text
//! tile   6 output positions × 16 output channels, whose accumulators stay in registers
//! step   a few neighbouring input channels of one pixel of the window: broadcast from each of the
//!        6 windows, multiplied by those inputs' weights for the 16 channels
//! ```
//!
//! Steps are a list of offsets from a window's first value, so kernels of every size, and pixels
//! with unused channels, are one loop. Positions are taken in reading order, whatever row they are
//! in: only the last tile of an image computes some of them twice.

use aligned_vec::{AVec, ConstAlign};

use super::epilogue::{Case, Epilogue, LANES, Line, Pointers, REALS, is_real};
use super::{Run, check};
use crate::conv::{Conv, Io, Values};

/// Output positions of a tile: with 16 channels, 12 accumulators of 256 bits, which leaves 4 of
/// AVX2's registers for operands.
pub const POSITIONS: usize = 6;

/// What one instruction set does.
pub trait Unit {
    /// The accumulators of one position: 16 channels.
    type Acc: Copy;
    /// The epilogue's constants of a block.
    type Constants;

    /// Loads the constants of `block`.
    ///
    /// # Safety
    /// The CPU has the instructions.
    unsafe fn constants(epilogue: &Epilogue, block: usize) -> Self::Constants;

    /// Accumulates the channels of `block` under the windows that start at `x`.
    ///
    /// # Safety
    /// The CPU has the instructions, and every step of `p` lies inside the input.
    unsafe fn tile(p: &Direct, block: usize, x: [*const u8; POSITIONS]) -> [Self::Acc; POSITIONS];

    /// Requantizes and stores 16 channels of a position.
    ///
    /// # Safety
    /// The CPU has the instructions, and `ends` points to what case `C` has: a sum, 16 values of
    /// the residual, room for 16 values of the output.
    unsafe fn store<const C: Case>(constants: &Self::Constants, acc: Self::Acc, ends: &Ends);
}

/// How a kernel wants its input, and the inputs of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// Four bytes, read where they are.
    Bytes,
    /// Four bytes minus 128, copied to scratch: signed, for dot products of signed bytes.
    #[cfg_attr(not(target_arch = "aarch64"), allow(dead_code))]
    Signed,
    /// Two of 16 bits, copied to scratch.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    Words,
}

impl Inputs {
    /// Input values of a step.
    const fn step(self) -> usize {
        match self {
            Self::Bytes | Self::Signed => 4,
            Self::Words => 2,
        }
    }

    /// Bytes of an input value, and of a weight.
    const fn bytes(self) -> usize {
        4 / self.step()
    }

    /// What is subtracted from every input.
    const fn shift(self) -> i64 {
        match self {
            Self::Signed => 128,
            Self::Bytes | Self::Words => 0,
        }
    }
}

/// A convolution prepared for tiles.
pub struct Direct {
    conv: Conv,
    inputs: Inputs,
    tiles: Vec<[Position; POSITIONS]>,
    /// Offset in bytes of every step from the window's first value.
    pub steps: Vec<u32>,
    /// Steps whose sums of pairs fit 16 bits, where a kernel wants to know.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub chunk: usize,
    /// `[block][step][16 channels][inputs of a step]`
    weights: AVec<u8, ConstAlign<64>>,
    /// Where the accumulators of each block start.
    pub start: Vec<Line<i32, LANES>>,
    epilogue: Epilogue,
    body: unsafe fn(&Self, &Pointers),
}

/// Bytes of a step's weights.
pub const STEP: usize = LANES * 4;

impl Direct {
    /// Prepares `conv` for `body`.
    ///
    /// # Safety
    /// The CPU has the instructions of `body`, which is [`body`] for `conv`'s case.
    ///
    /// # Panics
    /// May panic if it does not [take](takes) `conv`.
    pub unsafe fn new(
        conv: Conv,
        inputs: Inputs,
        chunk: usize,
        body: unsafe fn(&Self, &Pointers),
    ) -> Self {
        let epilogue = Epilogue::new(&conv, 1.0);
        let start = (0..epilogue.blocks()).map(|b| {
            // Modulo 2³² as the accumulators are: only their last value has to fit.
            Line(std::array::from_fn(|i| start(&conv, inputs, b * LANES + i)))
        });
        Self {
            start: start.collect(),
            weights: pack(&conv, inputs),
            tiles: tiles(&conv),
            steps: windows(&conv, inputs.step())
                .map(|(pixel, c)| {
                    let [_, kw] = conv.layer.kernel;
                    let at = conv.input.padded(pixel / kw, pixel % kw) + c;
                    u32::try_from(at * inputs.bytes()).expect("see `takes`")
                })
                .collect(),
            epilogue,
            conv,
            inputs,
            chunk,
            body,
        }
    }

    /// The weights of `block`: [`STEP`] bytes for each of [`steps`](Self::steps).
    pub fn weights(&self, block: usize) -> *const u8 {
        let len = self.steps.len() * STEP;
        self.weights[block * len..][..len].as_ptr()
    }
}

/// Every step's pixel of the window and first input channel.
fn windows(conv: &Conv, step: usize) -> impl Iterator<Item = (usize, usize)> {
    let ([kh, kw], c_in) = (conv.layer.kernel, conv.layer.c_in);
    (0..kh * kw).flat_map(move |pixel| (0..c_in).step_by(step).map(move |c| (pixel, c)))
}

/// Where the accumulator of channel `c` starts.
fn start(conv: &Conv, inputs: Inputs, c: usize) -> i32 {
    if c >= conv.layer.c_out {
        return 0;
    }
    let sum: i64 = conv.layer.channel(c).iter().map(|&q| i64::from(q)).sum();
    (conv.start[c] + inputs.shift() * sum) as i32
}

fn pack(conv: &Conv, inputs: Inputs) -> AVec<u8, ConstAlign<64>> {
    let layer = &conv.layer;
    let blocks = layer.c_out.div_ceil(LANES);
    let steps = windows(conv, inputs.step()).count();
    let mut packed = AVec::with_capacity(64, blocks * steps * STEP);
    for block in 0..blocks {
        for (pixel, from) in windows(conv, inputs.step()) {
            for c in block * LANES..(block + 1) * LANES {
                for i in from..from + inputs.step() {
                    let q = match c < layer.c_out && i < layer.c_in {
                        true => layer.channel(c)[pixel * layer.c_in + i],
                        false => 0,
                    };
                    packed.extend_from_slice(&q.to_le_bytes()[..inputs.bytes()]);
                }
            }
        }
    }
    packed
}

/// Whether tiles can run `conv`: bytes only, and planes that offsets of 32 bits reach.
pub fn takes(conv: &Conv) -> bool {
    let residual = conv.residual.map_or(0, |(plane, _)| plane.len());
    let longest = conv.input.len().max(conv.output.len()).max(residual);
    conv.is_narrow() && u32::try_from(2 * longest).is_ok()
}

/// Modelled nanoseconds of `conv`: products of whole tiles at `gmacs` a nanosecond, for each tile
/// 11 ns of epilogue and `tile`, and the copy of the input, if any, at 20 values a nanosecond.
pub fn cost(conv: &Conv, inputs: Inputs, gmacs: f64, tile: f64) -> f64 {
    let positions = conv.output.height * conv.output.width;
    let tiles = positions.div_ceil(POSITIONS) * conv.layer.c_out.div_ceil(LANES);
    let macs = windows(conv, inputs.step()).count() * inputs.step() * POSITIONS * LANES;
    let copied = match inputs {
        Inputs::Bytes => 0,
        Inputs::Signed | Inputs::Words => conv.input.len(),
    };
    tiles as f64 * (11.0 + tile + macs as f64 / gmacs) + copied as f64 / 20.0
}

impl Run for Direct {
    fn conv(&self) -> &Conv {
        &self.conv
    }

    fn scratch(&self) -> usize {
        match self.inputs {
            Inputs::Bytes => 0,
            Inputs::Signed | Inputs::Words => self.conv.input.len() * self.inputs.bytes(),
        }
    }

    fn run(&self, mut io: Io) {
        check(&self.conv, &io, self.scratch());
        let mut pointers = Pointers::new(&mut io);
        let Values::U8(input) = io.input else {
            unreachable!("narrow convolutions read bytes");
        };
        match self.inputs {
            Inputs::Bytes => {}
            Inputs::Signed => {
                for (to, from) in io.scratch[..self.scratch()].iter_mut().zip(input) {
                    *to = from ^ 0x80;
                }
                pointers.input = io.scratch.as_ptr();
            }
            Inputs::Words => {
                let scratch = io.scratch[..self.scratch()].as_chunks_mut().0;
                for (to, from) in scratch.iter_mut().zip(input) {
                    *to = u16::from(*from).to_le_bytes();
                }
                pointers.input = io.scratch.as_ptr();
            }
        }
        // SAFETY: `new` was promised the instructions; `check` proved that the planes lie inside
        // the buffers, and that they and the scratch are long enough for every window.
        unsafe { (self.body)(self, &pointers) }
    }
}

/// Runs the convolution with `U`'s instructions. To be instantiated inside a function that is
/// compiled for them.
///
/// # Safety
/// The CPU has the instructions; `io` was checked; `C` is the convolution's case.
#[inline(always)]
pub unsafe fn body<U: Unit, const C: Case>(p: &Direct, io: &Pointers) {
    let bytes = p.inputs.bytes();
    for block in 0..p.epilogue.blocks() {
        // SAFETY: the caller's: windows lie inside the input, positions inside the planes, whose
        // output has room for whole blocks and whose residual may be read beyond its end.
        unsafe {
            let constants = U::constants(&p.epilogue, block);
            for tile in &p.tiles {
                let x = tile.map(|at| io.input.add(at.input as usize * bytes));
                let acc = U::tile(p, block, x);
                for (acc, at) in acc.into_iter().zip(tile) {
                    U::store::<C>(&constants, acc, &Ends::new::<C>(io, at, block));
                }
            }
        }
    }
}

/// Where the epilogue of one position reads and writes.
pub struct Ends {
    /// Sum of the window's inputs.
    pub sum: *const f32,
    /// Residual: bytes or floats.
    pub residual: *const u8,
    /// Output: bytes or floats.
    pub output: *mut u8,
}

impl Ends {
    /// Those of the position `at` and the channels of `block`.
    #[inline(always)]
    pub fn new<const C: Case>(io: &Pointers, at: &Position, block: usize) -> Self {
        let at_index = |bytes: *const u8, i: u32, is_float: bool| {
            let size = if is_float { 4 } else { 1 };
            bytes.wrapping_add(block * LANES * size + i as usize * size)
        };
        // What a case lacks may point nowhere.
        Self {
            sum: io.sums.wrapping_add(at.number as usize),
            residual: at_index(io.residual, at.residual, C & REALS != 0),
            output: at_index(io.output, at.output, is_real(C)).cast_mut(),
        }
    }
}

/// Indices of what belongs to one output position, in values.
#[derive(Clone, Copy)]
pub struct Position {
    /// The first of its window.
    pub input: u32,
    output: u32,
    residual: u32,
    /// In reading order.
    pub number: u32,
}

impl Position {
    /// Output position (`y`, `x`) of a convolution that [`takes`] said yes to.
    pub fn new(conv: &Conv, y: usize, x: usize) -> Self {
        let index = |i: usize| u32::try_from(i).expect("see `takes`");
        Self {
            input: index(conv.window(y, x)),
            output: index(conv.output.at(y, x)),
            residual: index(conv.residual.map_or(0, |(plane, _)| plane.at(y, x))),
            number: index(y * conv.output.width + x),
        }
    }
}

/// Output positions in reading order, a tile at a time; the last tile repeats the last one.
fn tiles(conv: &Conv) -> Vec<[Position; POSITIONS]> {
    let out = conv.output;
    let positions = out.height * out.width;
    let position = |n: usize| Position::new(conv, n / out.width, n % out.width);
    (0..positions)
        .step_by(POSITIONS)
        .map(|from| std::array::from_fn(|i| position((from + i).min(positions - 1))))
        .collect()
}
