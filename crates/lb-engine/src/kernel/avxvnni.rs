//! AVX-VNNI: 256-bit `vpdpbusd` sums four products of bytes into 32 bits, exactly, on CPUs without
//! AVX-512.

use std::arch::x86_64::*;

use super::direct::{Direct, Inputs, body, cost, takes};
use super::epilogue::{Case, Pointers, case, for_case};
use super::isa::AvxVnni as Token;
use super::ymm::{Step, Ymm};
use super::{Kernel, Run, must_take};
use crate::conv::Conv;

/// The AVX-VNNI kernel.
pub struct AvxVnni(pub Token);

impl Kernel for AvxVnni {
    fn name(&self) -> &'static str {
        "avxvnni"
    }

    /// The multipliers' limit at 3.7 GHz.
    fn cost(&self, conv: &Conv) -> Option<f64> {
        takes(conv).then(|| cost(conv, Inputs::Bytes, 240.0, 0.0))
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        let body = for_case!(case(&conv), dot);
        // SAFETY: the token proves the instructions.
        Box::new(unsafe { Direct::new(conv, Inputs::Bytes, 0, body) })
    }
}

/// Four products at once.
struct Dot;

impl Step for Dot {
    #[inline(always)]
    unsafe fn add(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // SAFETY: the caller's.
        unsafe { _mm256_dpbusd_avx_epi32(acc, x, w) }
    }
}

#[target_feature(enable = "avx2,fma,avxvnni")]
unsafe fn dot<const C: Case>(p: &Direct, io: &Pointers) {
    // SAFETY: the caller's.
    unsafe { body::<Ymm<Dot>, C>(p, io) }
}
