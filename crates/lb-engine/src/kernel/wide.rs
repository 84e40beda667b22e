//! Codes of 16 bits in vectors: the plain loops of [`scalar`](super::scalar), compiled for newer
//! instructions, whose 32 × 32 → 64-bit products sum four or eight channels at once.

use super::isa::{Avx2, Avx512Vnni};
use super::scalar::{Prepared, Wide};
use super::{Kernel, Run};
use crate::conv::{Conv, Io};

/// With AVX-512.
pub struct WideAvx512(pub Avx512Vnni);

/// With AVX2.
pub struct WideAvx2(pub Avx2);

/// Nanoseconds a product, a little more in narrow layers.
fn cost(conv: &Conv, product: f64) -> Option<f64> {
    let wide = !conv.is_narrow();
    wide.then(|| conv.macs() as f64 * product * (1.0 + 8.0 / conv.layer.c_out as f64))
}

impl Kernel for WideAvx512 {
    fn name(&self) -> &'static str {
        "wide-avx512"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        cost(conv, 0.05)
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        Box::new(Run512(Prepared::new(conv), self.0))
    }
}

impl Kernel for WideAvx2 {
    fn name(&self) -> &'static str {
        "wide-avx2"
    }

    fn cost(&self, conv: &Conv) -> Option<f64> {
        cost(conv, 0.1)
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        Box::new(Run256(Prepared::new(conv), self.0))
    }
}

struct Run512(Prepared<Wide>, Avx512Vnni);
struct Run256(Prepared<Wide>, Avx2);

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma")]
fn avx512(p: &Prepared<Wide>, io: Io) {
    p.positions(io);
}

#[target_feature(enable = "avx2,fma")]
fn avx2(p: &Prepared<Wide>, io: Io) {
    p.positions(io);
}

impl Run for Run512 {
    fn conv(&self) -> &Conv {
        self.0.conv()
    }

    fn run(&self, io: Io) {
        // SAFETY: the token proves the instructions; every CPU with AVX-512 has AVX2 and FMA.
        unsafe { avx512(&self.0, io) }
    }
}

impl Run for Run256 {
    fn conv(&self) -> &Conv {
        self.0.conv()
    }

    fn run(&self, io: Io) {
        // SAFETY: the token proves the instructions.
        unsafe { avx2(&self.0, io) }
    }
}
