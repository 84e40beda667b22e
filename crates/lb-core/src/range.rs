//! A real range becomes quantization parameters.

use lb_format::{Affine, BitWidth, QParams};

/// Unsigned per-tensor parameters that cover `lo ..= hi`, with zero exactly representable
/// (padding, ReLU floors and the padded channels of option-A shortcuts are exact zeros).
///
/// ```text
/// lo' = min(lo, 0), hi' = max(hi, 0)
/// scale = (hi' − lo') / (2^b − 1),  zero_point = round(−lo' / scale)
/// ```
///
/// A range without extent (an activation that is always zero) gets scale 1.
///
/// # Panics
/// If a bound is not finite.
pub fn activation(lo: f32, hi: f32, bits: BitWidth) -> QParams {
    assert!(
        lo.is_finite() && hi.is_finite(),
        "range {lo}..{hi} is not finite"
    );
    let (lo, hi) = (lo.min(0.0), hi.max(0.0));
    unsigned(lo, (hi - lo) / bits.range(false).steps() as f32, bits)
}

/// Symmetric signed parameters of one channel: `scale = max|x| / (2^(b−1) − 1)`, so that both
/// ends are codes and `−2^(b−1)` stays unused. Needs at least 2 bits.
///
/// # Panics
/// If `bits` is 1 (see [`binary`]) or `max_abs` is not finite.
pub fn symmetric(max_abs: f32, bits: BitWidth) -> Affine {
    assert!(max_abs.is_finite(), "range {max_abs} is not finite");
    let hi = bits.range(true).hi;
    assert!(hi > 0, "one bit has no symmetric integer range");
    Affine {
        scale: usable_scale(max_abs / hi as f32),
        zero_point: 0,
        offset: 0.0,
    }
}

/// Signed parameters of one channel that cover `lo ..= hi` with a real offset: the smallest code
/// stands for `lo`, the largest for `hi`.
pub fn affine(lo: f32, hi: f32, bits: BitWidth) -> Affine {
    let range = bits.range(true);
    let scale = usable_scale((hi - lo) / range.steps() as f32);
    Affine {
        scale,
        zero_point: 0,
        offset: lo - scale * range.lo as f32,
    }
}

/// One-bit weights, sign × mean (XNOR-Net, arXiv 1603.05279): codes −1 and 0 stand for
/// `−mean_abs` and `+mean_abs`.
pub fn binary(mean_abs: f32) -> Affine {
    let m = usable_scale(mean_abs);
    Affine {
        scale: 2.0 * m,
        zero_point: 0,
        offset: m,
    }
}

/// The predecessor's scheme, as it was: `scale = (max − min) / 2^b` (one step too many, so that
/// the largest value is always clipped), `zero_point = round(−min / scale)`, unsigned.
pub fn lbtorch(min: f32, max: f32, bits: BitWidth) -> QParams {
    unsigned(min, (max - min) / bits.levels() as f32, bits)
}

/// Unsigned codes in steps of `scale`, with the zero point that puts `lo` at code 0.
fn unsigned(lo: f32, scale: f32, bits: BitWidth) -> QParams {
    let range = bits.range(false);
    let scale = usable_scale(scale);
    let zero_point = ((-lo / scale).round_ties_even() as i32).clamp(range.lo, range.hi);
    let affine = Affine {
        scale,
        zero_point,
        offset: 0.0,
    };
    QParams::per_tensor(bits, false, affine)
}

/// `scale`, or 1 where it is too small to divide by: then all codes are the same anyway.
fn usable_scale(scale: f32) -> f32 {
    if scale.is_normal() && scale > 0.0 {
        scale
    } else {
        1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activation_ranges_hold_zero_and_both_ends() {
        for bits in BitWidth::ALL {
            for (lo, hi) in [(0.0f32, 6.0f32), (-2.1, 2.7), (0.5, 3.0), (-3.0, -1.0)] {
                let q = activation(lo, hi, bits);
                let a = q.channel(0);
                q.validate("test", 1).unwrap();
                assert_eq!(a.dequantize(a.quantize(0.0, q.range())), 0.0);
                for x in [lo, hi] {
                    let err = (a.dequantize(a.quantize(x, q.range())) - x).abs();
                    // Rounding the zero point moves an end by up to half a step more.
                    assert!(err <= a.scale * 1.001, "{bits} bits, {x}: {err}");
                }
            }
        }
    }

    #[test]
    fn flat_ranges_do_not_divide_by_zero() {
        activation(0.0, 0.0, BitWidth::EIGHT)
            .validate("test", 1)
            .unwrap();
        let r = BitWidth::EIGHT.range(true);
        symmetric(0.0, BitWidth::EIGHT).validate("test", r).unwrap();
        affine(0.3, 0.3, BitWidth::EIGHT)
            .validate("test", r)
            .unwrap();
        binary(0.0)
            .validate("test", BitWidth::new(1).unwrap().range(true))
            .unwrap();
    }

    #[test]
    fn affine_ends_are_codes() {
        let bits = BitWidth::new(2).unwrap();
        let a = affine(-0.3, 0.9, bits);
        assert!((a.dequantize(-2) + 0.3).abs() < 1e-6);
        assert!((a.dequantize(1) - 0.9).abs() < 1e-6);
    }

    #[test]
    fn lbtorch_clips_its_own_maximum() {
        let q = lbtorch(0.0, 4.0, BitWidth::new(2).unwrap());
        let a = q.channel(0);
        assert_eq!(a.dequantize(a.quantize(4.0, q.range())), 3.0);
    }
}
