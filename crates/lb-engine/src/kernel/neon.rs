//! NEON with the dot product: `sdot` sums four products of signed bytes into 32 bits, exactly.
//!
//! Input codes are unsigned. Those of at most 7 bits are signed bytes as they are; of larger ones
//! 128 is subtracted, and the accumulators start `128 Σ q` higher ([`Inputs::Signed`]).

use std::arch::aarch64::*;
use std::arch::asm;

use super::direct::{Direct, Ends, Inputs, POSITIONS, STEP, Unit, body, cost, takes};
use super::epilogue::{CODES, Case, Epilogue, LANES, Line, Pointers, REALS, SUM};
use super::epilogue::{case, for_case, is_real};
use super::isa::NeonDot as Token;
use super::{Kernel, Run, must_take};
use crate::conv::Conv;

/// The NEON kernel.
pub struct Neon(pub Token);

impl Kernel for Neon {
    fn name(&self) -> &'static str {
        "neon"
    }

    /// Two `sdot` of 16 products a cycle at 3 GHz; not measured.
    fn cost(&self, conv: &Conv) -> Option<f64> {
        takes(conv).then(|| cost(conv, inputs(conv), 96.0, 0.0))
    }

    fn prepare(&self, conv: Conv) -> Box<dyn Run> {
        must_take(self, &conv);
        let body = for_case!(case(&conv), dot);
        let inputs = inputs(&conv);
        // SAFETY: the token proves the instructions.
        Box::new(unsafe { Direct::new(conv, inputs, 0, body) })
    }
}

fn inputs(conv: &Conv) -> Inputs {
    match conv.input_max <= i32::from(i8::MAX) {
        true => Inputs::Bytes,
        false => Inputs::Signed,
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn dot<const C: Case>(p: &Direct, io: &Pointers) {
    // SAFETY: the caller's.
    unsafe { body::<Dot, C>(p, io) }
}

/// Adds the products of four inputs and the weights of four channels. `vdotq_s32` is not stable
/// yet (rust-lang/rust#117224).
#[target_feature(enable = "neon,dotprod")]
#[inline]
fn add(acc: int32x4_t, x: int32x4_t, w: int8x16_t) -> int32x4_t {
    let mut sum = acc;
    // SAFETY: the instruction is the dot product's, and touches nothing but these registers.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum,
            w = in(vreg) w,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// A block in registers of four channels.
struct Dot;

/// The epilogue's constants of a block.
struct Constants {
    acc: [float32x4_t; 4],
    sum: [float32x4_t; 4],
    bias: [float32x4_t; 4],
    residual: float32x4_t,
    bounds: (float32x4_t, float32x4_t),
    zero_point: int16x8_t,
    /// Smallest code.
    lowest: uint8x16_t,
}

impl Unit for Dot {
    type Acc = [int32x4_t; 4];
    type Constants = Constants;

    #[inline(always)]
    unsafe fn constants(epilogue: &Epilogue, block: usize) -> Constants {
        let b = &epilogue.blocks[block];
        // SAFETY: the caller's, and arrays of 16 floats.
        unsafe {
            let load =
                |Line(v): &Line<f32, LANES>| [0, 4, 8, 12].map(|i| vld1q_f32(v[i..].as_ptr()));
            Constants {
                acc: load(&b.acc),
                sum: load(&b.sum),
                bias: load(&b.bias),
                residual: vdupq_n_f32(epilogue.residual),
                bounds: (
                    vdupq_n_f32(epilogue.bounds.0),
                    vdupq_n_f32(epilogue.bounds.1),
                ),
                zero_point: vdupq_n_s16(epilogue.zero_point as i16),
                lowest: vdupq_n_u8(epilogue.codes().0),
            }
        }
    }

    #[inline(always)]
    unsafe fn tile(p: &Direct, block: usize, x: [*const u8; POSITIONS]) -> [Self::Acc; POSITIONS] {
        let Line(start) = &p.start[block];
        // SAFETY: the caller's; every step has its weights.
        unsafe {
            let start = [0, 4, 8, 12].map(|i| vld1q_s32(start[i..].as_ptr()));
            let mut tile = [start; POSITIONS];
            let mut weights = p.weights(block);
            for &at in &p.steps {
                let w = [0, 16, 32, 48].map(|i| vld1q_s8(weights.add(i).cast()));
                for (acc, x) in tile.iter_mut().zip(x) {
                    let x = x.add(at as usize).cast::<i32>().read_unaligned();
                    let x = vdupq_n_s32(x);
                    for (acc, w) in acc.iter_mut().zip(w) {
                        *acc = add(*acc, x, w);
                    }
                }
                weights = weights.add(STEP);
            }
            tile
        }
    }

    #[inline(always)]
    unsafe fn store<const C: Case>(k: &Constants, acc: [int32x4_t; 4], ends: &Ends) {
        // SAFETY: the caller's.
        unsafe {
            let t = k.real::<C>(acc, ends);
            if is_real(C) {
                for (i, t) in t.into_iter().enumerate() {
                    // Not `vmaxq`, which orders zeros by their sign: see `Requant::real`.
                    let t = vbslq_f32(vcgtq_f32(t, k.bounds.0), t, k.bounds.0);
                    let t = vbslq_f32(vcltq_f32(t, k.bounds.1), t, k.bounds.1);
                    vst1q_f32(ends.output.cast::<f32>().add(4 * i), t);
                }
                return;
            }
            // Every conversion saturates, which clamps as long as the upper bound comes first (it
            // may be below 255) and the lower one last.
            let t = t.map(|t| vcvtnq_s32_f32(vminq_f32(t, k.bounds.1)));
            let pack = |a, b| {
                let codes = vcombine_s16(vqmovn_s32(a), vqmovn_s32(b));
                vqmovun_s16(vqaddq_s16(codes, k.zero_point))
            };
            let bytes = vcombine_u8(pack(t[0], t[1]), pack(t[2], t[3]));
            vst1q_u8(ends.output, vmaxq_u8(bytes, k.lowest));
        }
    }
}

impl Constants {
    /// Formula (6) of [`requant`](crate::requant) for a block, not yet clamped.
    ///
    /// # Safety
    /// As [`Unit::store`].
    #[inline(always)]
    unsafe fn real<const C: Case>(&self, acc: [int32x4_t; 4], ends: &Ends) -> [float32x4_t; 4] {
        // SAFETY: the caller's.
        unsafe {
            let mut t = self.bias;
            if C & SUM != 0 {
                let sum = vdupq_n_f32(*ends.sum);
                t = std::array::from_fn(|i| vfmaq_f32(t[i], self.sum[i], sum));
            }
            t = std::array::from_fn(|i| vfmaq_f32(t[i], self.acc[i], vcvtq_f32_s32(acc[i])));
            let r = match C & (CODES | REALS) {
                CODES => {
                    let codes = vld1q_u8(ends.residual);
                    let (low, high) = (vmovl_u8(vget_low_u8(codes)), vmovl_high_u8(codes));
                    let [a, b] = [low, high]
                        .map(|half| [vmovl_u16(vget_low_u16(half)), vmovl_high_u16(half)]);
                    [a[0], a[1], b[0], b[1]].map(|r| vcvtq_f32_u32(r))
                }
                REALS => [0, 4, 8, 12].map(|i| vld1q_f32(ends.residual.cast::<f32>().add(i))),
                _ => return t,
            };
            std::array::from_fn(|i| vfmaq_f32(t[i], self.residual, r[i]))
        }
    }
}
