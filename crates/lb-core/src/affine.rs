//! The quantization formula, tensor form. Its scalar twin is [`lb_format::Affine`].
//!
//! ```text
//! code = clamp(round_half_even((x − offset) / scale) + zero_point, lo, hi)
//! x̂    = scale · (code − zero_point) + offset
//! ```
//!
//! With a table of [`Levels`], the code is that of the level nearest to `(x − offset) / scale`, and
//! the level takes the place of `code − zero_point`.
//!
//! Codes are held in float tensors: exact up to 2²⁴, wider than any code here, and every backend
//! computes on floats. Inputs are finite; NaN stays NaN (the scalar form maps it to the zero
//! point).

#[cfg(feature = "flex")]
mod cpu;

#[cfg(feature = "flex")]
use burn::backend::Flex;
use burn::tensor::{Device, Tensor};
use lb_format::{Affine, Levels, QParams};

#[cfg(feature = "flex")]
use crate::host::{self, OnHost};

/// Codes of `x`, as floats. With a table of levels those of a weight; an activation is rounded to whole steps first
/// ([`activation_levels`](crate::activation_levels)).
///
/// # Shapes
/// `x`: any; per-channel parameters run along axis 0. Output: as `x`.
///
/// # Panics
/// If per-channel parameters do not match axis 0.
pub fn quantize<const D: usize>(x: Tensor<D>, q: &QParams) -> Tensor<D> {
    let range = q.range();
    if let Some(levels) = &q.levels {
        return nearest(steps(x, q), levels);
    }
    let steps = match per_tensor(q) {
        Some(a) => {
            let x = if a.offset == 0.0 {
                x
            } else {
                x.sub_scalar(a.offset)
            };
            let steps = x.div_scalar(a.scale).round();
            if a.zero_point == 0 {
                steps
            } else {
                steps.add_scalar(a.zero_point as f32)
            }
        }
        None => {
            let p = Broadcast::<D>::new(q, &x.device());
            ((x - p.offset) / p.scale).round() + p.zero_point
        }
    };
    steps.clamp(range.lo as f32, range.hi as f32)
}

/// `(x − offset) / scale`
fn steps<const D: usize>(x: Tensor<D>, q: &QParams) -> Tensor<D> {
    let p = Broadcast::<D>::new(q, &x.device());
    (x - p.offset) / p.scale
}

/// The codes of the nearest levels: how many boundaries lie below. A pass for each, so this is for
/// weights, not for activations.
fn nearest<const D: usize>(steps: Tensor<D>, levels: &Levels) -> Tensor<D> {
    let none = steps.zeros_like();
    (levels.boundaries()).fold(none, |n, b| n + steps.clone().greater_scalar(b).float())
}

/// The levels of `codes`.
fn look_up<const D: usize>(codes: Tensor<D>, levels: &Levels) -> Tensor<D> {
    let table: Vec<f32> = levels.as_slice().iter().map(|&l| l as f32).collect();
    let table = Tensor::<1>::from_data(table.as_slice(), &codes.device());
    let shape = codes.dims();
    table.select(0, codes.reshape([-1]).int()).reshape(shape)
}

/// The real values that `codes` stand for.
///
/// # Shapes
/// As [`quantize`].
pub fn dequantize<const D: usize>(codes: Tensor<D>, q: &QParams) -> Tensor<D> {
    // Zero points are 0 with levels.
    let codes = match &q.levels {
        Some(levels) => look_up(codes, levels),
        None => codes,
    };
    match per_tensor(q) {
        Some(a) => {
            let k = if a.zero_point == 0 {
                codes
            } else {
                codes.sub_scalar(a.zero_point as f32)
            };
            let x = k.mul_scalar(a.scale);
            if a.offset == 0.0 {
                x
            } else {
                x.add_scalar(a.offset)
            }
        }
        None => {
            let p = Broadcast::<D>::new(q, &codes.device());
            (codes - p.zero_point) * p.scale + p.offset
        }
    }
}

/// Quantizes and dequantizes, with a straight-through gradient where the tensor tracks one:
/// 1 inside the representable range and 0 where `x` is clipped (Bengio et al. 2013,
/// arXiv 1308.3432, with clipping as in PACT, arXiv 1805.06085).
///
/// Without autodiff the result is exactly `dequantize(quantize(x))`; with it, the detour through
/// `x + (x̂ − x)` can differ in the last bit of the float.
///
/// # Shapes
/// As [`quantize`].
pub fn fake_quantize<const D: usize>(x: Tensor<D>, q: &QParams) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let (Some(a), Some(OnHost::Plain(host))) = (per_tensor(q), host::on_host(&x)) {
        drop(x);
        return Tensor::from_primitive::<Flex>(cpu::fake_quantize(host, a, q.range()));
    }
    if !x.device().is_autodiff() {
        return dequantize(quantize(x, q), q);
    }
    let (lo, hi) = match (&q.levels, q.range()) {
        (Some(levels), r) => (levels.level(r.lo), levels.level(r.hi)),
        (None, r) => (r.lo, r.hi),
    };
    let quantized = dequantize(quantize(x.clone().detach(), q), q);
    let clipped = match per_tensor(q) {
        Some(a) => x.clamp(a.dequantize(lo), a.dequantize(hi)),
        None => {
            let p = Broadcast::<D>::new(q, &x.device());
            let bound = |code: i32| {
                (p.zero_point.clone() * -1.0 + code as f32) * p.scale.clone() + p.offset.clone()
            };
            x.max_pair(bound(lo)).min_pair(bound(hi))
        }
    };
    clipped.clone() + (quantized - clipped).detach()
}

/// The one map of a whole tensor, if its codes are equidistant: what can be done with scalars.
fn per_tensor(q: &QParams) -> Option<Affine> {
    match (q.affine.as_slice(), &q.levels) {
        ([a], None) => Some(*a),
        _ => None,
    }
}

/// Parameters of shape `[C, 1, …, 1]`, `C = 1` if one map is for all.
struct Broadcast<const D: usize> {
    scale: Tensor<D>,
    zero_point: Tensor<D>,
    offset: Tensor<D>,
}

impl<const D: usize> Broadcast<D> {
    fn new(q: &QParams, device: &Device) -> Self {
        let make = |f: fn(&Affine) -> f32| {
            let values: Vec<f32> = q.affine.iter().map(f).collect();
            let mut shape = [1; D];
            shape[0] = values.len();
            Tensor::<1>::from_data(values.as_slice(), device).reshape(shape)
        };
        Self {
            scale: make(|a| a.scale),
            zero_point: make(|a| a.zero_point as f32),
            offset: make(|a| a.offset),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_format::BitWidth;
    use proptest::prelude::*;

    fn tensor(values: &[f32]) -> Tensor<2> {
        Tensor::<1>::from_data(values, &Device::flex()).reshape([1, values.len()])
    }

    fn check_equal(x: &[f32], q: &QParams) {
        let codes: Vec<f32> = quantize(tensor(x), q).try_to_vec_as().unwrap();
        let back: Vec<f32> = fake_quantize(tensor(x), q).try_to_vec_as().unwrap();
        for ((&x, code), back) in x.iter().zip(codes).zip(back) {
            let expected = q.quantize(0, x);
            assert_eq!(code, expected as f32, "{x} under {q:?}");
            assert_eq!(back, q.dequantize(0, expected), "{x} under {q:?}");
        }
    }

    #[test]
    fn tensor_and_scalar_forms_agree_on_every_tie_width_and_zero_point() {
        for bits in BitWidth::ALL {
            for signed in [false, true] {
                let r = bits.range(signed);
                for zero_point in [r.lo, r.lo / 2, 0, r.hi / 2, r.hi] {
                    for offset in [0.0, -0.75, 0.3] {
                        let a = Affine {
                            scale: 0.5,
                            zero_point,
                            offset,
                        };
                        let q = QParams::per_tensor(bits, signed, a);
                        // Quarter steps: every code, every tie, and beyond both ends.
                        let x: Vec<f32> = (-600..600).map(|i| i as f32 * 0.125).collect();
                        check_equal(&x, &q);
                    }
                }
            }
        }
    }

    #[test]
    fn tensor_and_scalar_forms_agree_on_every_tie_between_levels() {
        for bits in (2..=6).map(|b| BitWidth::new(b).unwrap()) {
            for offset in [0.0, -0.75, 0.3] {
                let a = Affine {
                    scale: 0.5,
                    zero_point: 0,
                    offset,
                };
                let mut q = QParams::per_tensor(bits, false, a);
                q.levels = Some(Levels::additive_powers_of_two(bits).unwrap());
                q.validate("test", 1).unwrap();
                let x: Vec<f32> = (-600..600).map(|i| i as f32 * 0.125).collect();
                check_equal(&x, &q);
            }
        }
    }

    proptest! {
        #[test]
        fn tensor_and_scalar_forms_of_tables_agree(
            table in proptest::collection::btree_set(-127i32..=127, 2..40),
            scale in 1e-5f32..1e3, offset in -2.0f32..2.0, per_channel: bool,
            x in proptest::collection::vec(-1e3f32..1e3, 1..64),
        ) {
            let a = Affine { scale, zero_point: 0, offset };
            let mut q = QParams::per_tensor(BitWidth::EIGHT, false, a);
            q.levels = Some(Levels::new(table.into_iter().collect()).unwrap());
            if per_channel {
                q.affine = vec![a; x.len()];
            }
            check_equal(&x, &q);
        }

        #[test]
        fn tensor_and_scalar_forms_agree(
            w in 0usize..9, signed: bool, zp in -70000i32..70000, scale in 1e-5f32..1e3,
            offset in -2.0f32..2.0, x in proptest::collection::vec(-1e3f32..1e3, 1..64),
        ) {
            let bits = BitWidth::ALL[w];
            let r = bits.range(signed);
            let a = Affine { scale, zero_point: zp.clamp(r.lo, r.hi), offset };
            check_equal(&x, &QParams::per_tensor(bits, signed, a));
        }
    }

    #[test]
    fn per_channel_parameters_run_along_axis_0() {
        let q = QParams {
            bits: BitWidth::new(3).unwrap(),
            signed: true,
            affine: vec![
                Affine {
                    scale: 1.0,
                    zero_point: 0,
                    offset: 0.0,
                },
                Affine {
                    scale: 0.1,
                    zero_point: 1,
                    offset: 0.25,
                },
            ],
            levels: None,
        };
        let x = [[-2.4f32, 0.5, 9.0], [-0.2, 0.26, 0.5]];
        let t = Tensor::<2>::from_data(x, &Device::flex());
        let codes: Vec<f32> = quantize(t.clone(), &q).try_to_vec_as().unwrap();
        let back: Vec<f32> = fake_quantize(t, &q).try_to_vec_as().unwrap();
        for (i, (code, back)) in codes.into_iter().zip(back).enumerate() {
            let a = q.channel(i / 3);
            let expected = a.quantize(x[i / 3][i % 3], q.range());
            assert_eq!(code, expected as f32);
            assert_eq!(back, a.dequantize(expected));
        }
    }

    #[test]
    fn gradient_passes_inside_and_stops_outside() {
        let device = Device::flex().autodiff();
        let per_tensor = QParams::per_tensor(
            BitWidth::new(2).unwrap(),
            false,
            Affine {
                scale: 1.0,
                zero_point: 0,
                offset: 0.0,
            },
        );
        let per_channel = QParams {
            affine: vec![per_tensor.affine[0]; 2],
            ..per_tensor.clone()
        };
        // The levels 0, 1 and 3 instead: no different on these values.
        let mut levels = per_channel.clone();
        levels.levels = Some(Levels::new(vec![0, 1, 3]).unwrap());
        for q in [per_tensor, per_channel, levels] {
            let x = Tensor::<2>::from_data([[-0.6f32, 0.4], [1.2, 3.4]], &device).require_grad();
            let y = fake_quantize(x.clone(), &q);
            let values: Vec<f32> = y.clone().try_to_vec_as().unwrap();
            assert_eq!(values, [0.0, 0.0, 1.0, 3.0]);
            let grads = (y * 2.0).sum().backward();
            let g: Vec<f32> = x.grad(&grads).unwrap().try_to_vec_as().unwrap();
            assert_eq!(g, [0.0, 2.0, 2.0, 0.0]);
        }
    }
}
