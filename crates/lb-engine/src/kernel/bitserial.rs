//! Bit-serial: products of binary digits are `and` or `xor`, their sums are counts of ones.
//!
//! Weights `q` of at most four equidistant values are `f·u + g` with a code `u` of one or two
//! binary digits ([`digits`]); input codes have one or two digits as they are. Then
//!
//! ```text
//! Σ q x = f Σ u x + g Σ x,    Σ u x = Σ 2^(i+j) popcount(u_i & x_j)
//! ```
//!
//! with one `vpopcntd` for 32 inputs of 16 output channels; [`count`] says how `g Σ x` and one of
//! four counts are saved. Inputs are packed anew for each convolution ([`pack`]); [`layout`] says
//! where the bits lie. (Larq Compute Engine does the same for one bit, on ARM.) Where there is no
//! `vpopcntd`, [`tables`] looks sums up instead.

mod count;
mod digits;
mod layout;
mod pack;
mod tables;

use super::epilogue::Pointers;
use super::isa::Avx512Popcnt;
use super::window_sum::WindowSum;
use super::{Kernel, Run, check, must_take};
use crate::conv::{Conv, Io, Values};
use count::{Counter, TILE};
use digits::{Digits, Form};
use layout::Layout;
use pack::Packer;
pub use tables::Tables;

/// Weights and inputs of one or two bits by `vpopcntd`.
pub struct BitSerial(pub Avx512Popcnt);

impl Kernel for BitSerial {
    fn name(&self) -> &'static str {
        "bitserial"
    }

    /// Cycles of two vector units at 3.9 GHz: three instructions a count, twelve or so for the
    /// epilogue of 16 channels; and five cycles to pack a digit of 64 codes.
    fn cost(&self, conv: &Conv) -> Option<f64> {
        let digits = Digits::of(conv)?;
        let layout = Layout::new(conv);
        if !count::fits(&layout, &digits) || u32::try_from(layout.bytes(conv)).is_err() {
            return None;
        }
        let counts = match digits.form {
            Form::Three => 3,
            _ => digits.planes * digits.input_planes,
        };
        let positions = (conv.output.height * conv.output.width).next_multiple_of(TILE);
        let vectors = (positions * conv.layer.c_out.div_ceil(16)) as f64;
        let cycles = vectors * ((3 * counts * layout.words() + 12) as f64 / 2.0)
            + (conv.input.len() * digits.input_planes) as f64 * 5.0 / 64.0;
        Some(cycles / 3.9 + 100.0)
    }

    fn window_sum(&self, conv: &Conv) -> WindowSum {
        WindowSum::new(conv, Some(self.0.avx512()))
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        let digits = Digits::of(&conv).expect("`cost` was asked");
        let layout = Layout::new(&conv);
        let packer = |counts| Packer::new(&conv, layout, digits.input_planes, counts);
        let counter = Counter::new(&conv, &digits, layout, packer(false).plane());
        let packer = packer(counter.counts);
        Box::new(Prepared {
            conv,
            packer,
            counter,
            _isa: self.0,
        })
    }
}

struct Prepared {
    conv: Conv,
    packer: Packer,
    counter: Counter,
    _isa: Avx512Popcnt,
}

impl Run for Prepared {
    fn conv(&self) -> &Conv {
        &self.conv
    }

    fn scratch(&self) -> usize {
        self.packer.scratch(&self.conv)
    }

    fn run(&self, mut io: Io) {
        check(&self.conv, &io, self.scratch());
        let pointers = Pointers::new(&mut io);
        let Values::U8(input) = io.input else {
            unreachable!("narrow convolutions read bytes")
        };
        // SAFETY: the token says that the CPU has the instructions; `check` saw the buffers.
        unsafe {
            let packed = self.packer.pack(&self.conv, input, io.scratch);
            self.counter.run(&pointers, &packed);
        }
    }
}
