//! The truth that every kernel is tested against: a convolution as its definition says, one
//! product at a time, in 64 bits.
//!
//! It shares nothing with the kernels but the meaning of a [`Conv`] and the requantization of one
//! value, [`Requant`](crate::requant::Requant).

use crate::conv::{Conv, Io, Values};
use crate::kernel::{Kernel, Run, scalar};

/// Naive loops. Not in [`available`](crate::kernel::available): it is for tests.
pub struct Reference;

impl Kernel for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn cost(&self, _: &Conv) -> Option<f64> {
        Some(f64::INFINITY)
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        Box::new(Prepared(conv))
    }
}

struct Prepared(Conv);

impl Run for Prepared {
    fn conv(&self) -> &Conv {
        &self.0
    }

    fn run(&self, mut io: Io) {
        let conv = &self.0;
        for y in 0..conv.output.height {
            for x in 0..conv.output.width {
                for c in 0..conv.layer.c_out {
                    let acc = accumulate(conv, &io.input, c, y, x);
                    scalar::finish(conv, &mut io, acc as f32, c, y, x);
                }
            }
        }
    }
}

/// `Σ q (x − z_x)` of output channel `c` at (`y`, `x`).
fn accumulate(conv: &Conv, input: &Values, c: usize, y: usize, x: usize) -> i64 {
    let layer = &conv.layer;
    let [kh, kw] = layer.kernel;
    let zero = i64::from(conv.input.fill);
    let mut acc = 0;
    for ky in 0..kh {
        for kx in 0..kw {
            for i in 0..layer.c_in {
                let at = conv.window(y, x) + conv.input.padded(ky, kx) + i;
                let code = match input {
                    Values::U8(v) => i64::from(v[at]),
                    Values::U16(v) => i64::from(v[at]),
                    Values::F32(_) => panic!("a convolution reads codes"),
                };
                let q = layer.channel(c)[(ky * kw + kx) * layer.c_in + i];
                acc += i64::from(q) * (code - zero);
            }
        }
    }
    acc
}
