//! What the epilogues of all vector kernels share: constants in blocks of 16 output channels, the
//! cases that are compiled apart, and where an image's values are.

use crate::conv::{Conv, Io, Kind, Values, ValuesMut};

/// Output channels a block.
pub const LANES: usize = 16;

/// A cache line of weights or accumulators.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Line<T, const N: usize>(pub [T; N]);

/// The epilogue's constants for each block of 16 channels; channels beyond the last are zero.
pub struct Epilogue {
    /// Factors of [`requant`](crate::requant), block by block.
    pub blocks: Vec<Block>,
    /// `C`
    pub residual: f32,
    /// Bounds of `t`.
    pub bounds: (f32, f32),
    /// `z_y`
    pub zero_point: i32,
}

/// The constants of 16 output channels, by their names in [`requant`](crate::requant).
#[derive(Clone, Copy)]
pub struct Block {
    /// `A`
    pub acc: Line<f32, LANES>,
    /// `B`
    pub sum: Line<f32, LANES>,
    /// `D`
    pub bias: Line<f32, LANES>,
}

/// What a layer has, as constants, so that each case is compiled apart: bits 0 and 1 the kind of
/// residual, bit 2 whether there are sums, bit 3 whether the output is real, bit 4 whether rounding
/// alone gives a code that only needs clamping: no zero point, and no value beyond 32 bits.
pub type Case = u8;
/// The residual is codes.
pub const CODES: Case = 1;
/// The residual is real values.
pub const REALS: Case = 2;
/// Weights have offsets, so there are sums of inputs.
pub const SUM: Case = 4;
/// The output is real.
pub const REAL_OUTPUT: Case = 8;
/// Rounding alone gives a code that only needs clamping.
pub const PLAIN: Case = 16;

/// The case of `conv`.
pub fn case(conv: &Conv) -> Case {
    let residual = match conv.residual {
        None => 0,
        Some((_, Kind::F32)) => REALS,
        Some(_) => CODES,
    };
    let sum = if conv.requant.sum.is_some() { SUM } else { 0 };
    let real = match conv.output_kind {
        Kind::F32 => REAL_OUTPUT,
        _ => 0,
    };
    let plain = match conv.requant.zero_point == 0 && real == 0 && conv.is_bounded() {
        true => PLAIN,
        false => 0,
    };
    residual | sum | real | plain
}

/// Whether case `c` has a real output.
pub const fn is_real(c: Case) -> bool {
    c & REAL_OUTPUT != 0
}

/// The instance of a function generic over [`Case`] that belongs to a case.
macro_rules! for_case {
    ($case:expr, $function:ident) => {
        match $case {
            0 => $function::<0>,
            1 => $function::<1>,
            2 => $function::<2>,
            4 => $function::<4>,
            5 => $function::<5>,
            6 => $function::<6>,
            8 => $function::<8>,
            9 => $function::<9>,
            10 => $function::<10>,
            12 => $function::<12>,
            13 => $function::<13>,
            14 => $function::<14>,
            16 => $function::<16>,
            17 => $function::<17>,
            20 => $function::<20>,
            21 => $function::<21>,
            _ => unreachable!("there is no such case"),
        }
    };
}
pub(crate) use for_case;

/// Where an image's values are, checked once ([`check`](super::check)).
#[derive(Clone, Copy)]
pub struct Pointers {
    /// First input value.
    pub input: *const u8,
    /// Residual: bytes or floats.
    pub residual: *const u8,
    /// Sums of windows.
    pub sums: *const f32,
    /// Output: bytes or floats.
    pub output: *mut u8,
}

impl Pointers {
    /// The pointers of image `i` of `conv`'s.
    pub fn image(self, conv: &Conv, i: usize) -> Self {
        let residual = (conv.residual).map_or(0, |(plane, kind)| plane.len() * kind.bytes());
        let output = conv.output.len() * conv.output_kind.bytes();
        Self {
            input: self
                .input
                .wrapping_add(i * conv.input.len() * conv.input_kind.bytes()),
            residual: self.residual.wrapping_add(i * residual),
            sums: self.sums.wrapping_add(i * super::sums_apart(conv)),
            output: self.output.wrapping_add(i * output),
        }
    }

    /// The pointers of `io`.
    pub fn new(io: &mut Io) -> Self {
        let bytes = |v: &Values| match v {
            Values::U8(v) => v.as_ptr(),
            Values::U16(v) => v.as_ptr().cast(),
            Values::F32(v) => v.as_ptr().cast(),
        };
        Self {
            input: bytes(&io.input),
            residual: io.residual.as_ref().map_or(std::ptr::null(), bytes),
            sums: io.sums.as_ptr(),
            output: match &mut io.output {
                ValuesMut::U8(v) => v.as_mut_ptr(),
                ValuesMut::U16(v) => v.as_mut_ptr().cast(),
                ValuesMut::F32(v) => v.as_mut_ptr().cast(),
            },
        }
    }
}

impl Epilogue {
    /// The constants of `conv`, for accumulators that are `factor` times what they should be.
    /// With a power of two, (6) has the same bits: scaling by it commutes with rounding.
    pub fn new(conv: &Conv, factor: f32) -> Self {
        let r = &conv.requant;
        let lanes = |v: &[f32], block: usize| {
            Line(std::array::from_fn(|i| {
                v.get(block * LANES + i).copied().unwrap_or(0.0)
            }))
        };
        let blocks = (0..conv.layer.c_out.div_ceil(LANES)).map(|b| Block {
            acc: Line(lanes(&r.acc, b).0.map(|a| a / factor)),
            sum: lanes(r.sum.as_deref().unwrap_or(&[]), b),
            bias: lanes(&r.bias, b),
        });
        Self {
            blocks: blocks.collect(),
            residual: r.residual,
            bounds: r.bounds,
            zero_point: r.zero_point,
        }
    }

    /// Blocks of 16 output channels.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// The smallest and the largest code. Real outputs have none; their bounds may be infinite and
    /// saturate here.
    pub fn codes(&self) -> (u8, u8) {
        let code = |bound: f32| (bound as i32).wrapping_add(self.zero_point) as u8;
        (code(self.bounds.0), code(self.bounds.1))
    }
}
