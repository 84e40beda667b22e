//! The quantization formula, scalar form. Its tensor twin is `lb_core::affine`, and a test there
//! holds the two equal code for code.

use serde::{Deserialize, Serialize};

use crate::{BitWidth, CodeRange, FormatError, Levels};

/// One affine map between real values and integer codes.
///
/// ```text
/// code = clamp(round_half_even((x − offset) / scale) + zero_point, lo, hi)
/// x̂    = scale · (code − zero_point) + offset
/// ```
///
/// Activations use the integer `zero_point`, so that zero (padding, a ReLU's floor) is exactly a
/// code. Weights use the real `offset`: it costs an integer engine one sum of input codes per
/// output position, shared by all channels, and lets two bits hold any four equidistant values.
/// All arithmetic is in `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Affine {
    /// Real distance between neighbouring codes; positive, finite and normal.
    pub scale: f32,
    /// The code of the real value `offset`.
    #[serde(default)]
    pub zero_point: i32,
    /// Real value at `zero_point`; 0 for activations.
    #[serde(default)]
    pub offset: f32,
}

impl Affine {
    /// The code of `x`. NaN has no code of its own and takes that of `offset`.
    pub fn quantize(self, x: f32, range: CodeRange) -> i32 {
        let steps = ((x - self.offset) / self.scale).round_ties_even();
        let code = if steps.is_nan() {
            self.zero_point as f32
        } else {
            steps + self.zero_point as f32
        };
        code.clamp(range.lo as f32, range.hi as f32) as i32
    }

    /// The real value that `code` stands for.
    pub fn dequantize(self, code: i32) -> f32 {
        (code - self.zero_point) as f32 * self.scale + self.offset
    }

    /// Checks what every consumer relies on.
    ///
    /// # Errors
    /// If the scale is not positive, finite and normal, the offset is not finite, or the zero
    /// point is not a code. `what` names the place.
    pub fn validate(self, what: &str, range: CodeRange) -> Result<(), FormatError> {
        if !(self.scale.is_normal() && self.scale > 0.0) {
            return Err(FormatError::invalid(
                format!("{what}, scale"),
                format!("{} is not a positive, normal number", self.scale),
            ));
        }
        if !self.offset.is_finite() {
            return Err(FormatError::invalid(
                format!("{what}, offset"),
                format!("{} is not finite", self.offset),
            ));
        }
        if !range.contains(self.zero_point) {
            return Err(FormatError::invalid(
                format!("{what}, zero point"),
                format!(
                    "{} is outside the codes {}..={}",
                    self.zero_point, range.lo, range.hi
                ),
            ));
        }
        Ok(())
    }
}

/// Quantization parameters of a tensor: width, signedness, one [`Affine`] for the whole tensor or
/// one per index of its first axis, and for weights perhaps a table of [`Levels`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QParams {
    /// Bits a code.
    pub bits: BitWidth,
    /// Whether codes are two's complement (`−2^(b−1) ..`) or start at 0.
    pub signed: bool,
    /// One entry: per tensor. `C` entries: per channel along axis 0.
    pub affine: Vec<Affine>,
    /// What codes stand for in steps of the scale, if not themselves: `x̂ = s · level[code] + o`,
    /// codes from 0 and zero points 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub levels: Option<Levels>,
}

impl QParams {
    /// Parameters shared by a whole tensor.
    pub fn per_tensor(bits: BitWidth, signed: bool, affine: Affine) -> Self {
        Self {
            bits,
            signed,
            affine: vec![affine],
            levels: None,
        }
    }

    /// The codes.
    pub fn range(&self) -> CodeRange {
        match &self.levels {
            None => self.bits.range(self.signed),
            Some(levels) => levels.range(),
        }
    }

    /// The codes of a tensor less its zero point, first and last: steps from 0.
    pub fn steps(&self) -> (i32, i32) {
        let (range, zero_point) = (self.range(), self.channel(0).zero_point);
        (range.lo - zero_point, range.hi - zero_point)
    }

    /// Of an activation with a table of levels, the equidistant parameters whose codes are the levels: what
    /// an engine holds. Without a table, these.
    pub fn held(&self) -> Self {
        let mut held = self.clone();
        if held.levels.take().is_some() {
            (held.bits, held.signed) = (BitWidth::SEVEN, false);
        }
        held
    }

    /// The code of `x` in channel `c`, of a weight.
    ///
    /// # Panics
    /// As [`channel`](Self::channel).
    pub fn quantize(&self, c: usize, x: f32) -> i32 {
        let a = self.channel(c);
        match &self.levels {
            None => a.quantize(x, self.range()),
            Some(levels) => levels.nearest((x - a.offset) / a.scale),
        }
    }

    /// The real value that `code` stands for in channel `c`.
    ///
    /// # Panics
    /// As [`channel`](Self::channel); also if `code` has no level.
    pub fn dequantize(&self, c: usize, code: i32) -> f32 {
        let steps = self.levels.as_ref().map_or(code, |l| l.level(code));
        self.channel(c).dequantize(steps)
    }

    /// The map of channel `c`.
    ///
    /// # Panics
    /// If the parameters are per channel and `c` is not one of them.
    pub fn channel(&self, c: usize) -> Affine {
        if self.affine.len() == 1 {
            self.affine[0]
        } else {
            self.affine[c]
        }
    }

    /// Checks every map, that there is one or `channels` of them, and that levels have codes.
    ///
    /// # Errors
    /// Names `what` and the first value that is wrong.
    pub fn validate(&self, what: &str, channels: usize) -> Result<(), FormatError> {
        if self.affine.len() != 1 && self.affine.len() != channels {
            return Err(FormatError::invalid(
                format!("{what}, scales"),
                format!("{} for {channels} channels", self.affine.len()),
            ));
        }
        for (c, a) in self.affine.iter().enumerate() {
            a.validate(&format!("{what}[{c}]"), self.range())?;
        }
        let Some(levels) = &self.levels else {
            return Ok(());
        };
        let most = self.bits.levels() as usize;
        let problem = if levels.as_slice().len() > most {
            let n = levels.as_slice().len();
            format!("{n}, but {} bits have {most} codes", self.bits)
        } else if self.signed {
            "their codes start at 0, but are said to be signed".into()
        } else if self.affine.iter().any(|a| a.zero_point != 0) {
            "a zero point has no meaning with them".into()
        } else {
            return Ok(());
        };
        Err(FormatError::invalid(format!("{what}, levels"), problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(scale: f32, zero_point: i32) -> Affine {
        Affine {
            scale,
            zero_point,
            offset: 0.0,
        }
    }

    #[test]
    fn ties_go_to_the_even_step() {
        let r = BitWidth::EIGHT.range(true);
        for (x, code) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2)] {
            assert_eq!(plain(1.0, 0).quantize(x, r), code, "{x}");
        }
        // The zero point is added after rounding, so it does not move ties.
        assert_eq!(plain(1.0, 1).quantize(0.5, r), 1);
    }

    #[test]
    fn out_of_range_saturates_and_nan_is_zero() {
        let r = BitWidth::new(4).unwrap().range(false);
        let a = plain(0.1, 3);
        assert_eq!(a.quantize(f32::INFINITY, r), 15);
        assert_eq!(a.quantize(f32::NEG_INFINITY, r), 0);
        assert_eq!(a.quantize(1e30, r), 15);
        assert_eq!(a.quantize(f32::NAN, r), 3);
        assert_eq!(a.dequantize(3), 0.0);
    }

    #[test]
    fn binary_weights_are_sign_times_mean() {
        // One bit with scale 2m and offset −m has the two levels −m and +m.
        let m = 0.25;
        let a = Affine {
            scale: 2.0 * m,
            zero_point: 0,
            offset: -m,
        };
        let r = BitWidth::new(1).unwrap().range(false);
        assert_eq!(a.dequantize(a.quantize(0.01, r)), m);
        assert_eq!(a.dequantize(a.quantize(-0.01, r)), -m);
    }

    #[test]
    fn bad_parameters_are_named() {
        let r = BitWidth::EIGHT.range(false);
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
            let e = plain(scale, 0).validate("layer `x`", r).unwrap_err();
            assert!(e.to_string().contains("layer `x`, scale"), "{e}");
        }
        assert!(plain(1.0, 256).validate("x", r).is_err());
    }

    #[test]
    fn levels_need_codes_from_0() {
        let four = BitWidth::new(4).unwrap();
        let mut q = QParams::per_tensor(four, false, plain(0.5, 0));
        q.levels = Some(Levels::additive_powers_of_two(four).unwrap());
        q.validate("x", 1).unwrap();
        assert_eq!((q.range().lo, q.range().hi), (0, 14));
        assert_eq!(q.dequantize(0, q.quantize(0, 2.6)), 3.0); // 6 steps; 5 would be nearer
        type Change = fn(&mut QParams);
        let changes: [(Change, &str); 3] = [
            (|q| q.signed = true, "signed"),
            (|q| q.affine[0].zero_point = 1, "zero point"),
            (|q| q.bits = BitWidth::new(3).unwrap(), "8 codes"),
        ];
        for (change, said) in changes {
            let mut q = q.clone();
            change(&mut q);
            let e = q.validate("x", 1).unwrap_err().to_string();
            assert!(e.contains("x, levels") && e.contains(said), "{e}");
        }
    }

    proptest! {
        #[test]
        fn codes_survive_a_round_trip(
            w in 0usize..9, signed: bool, code in -40000i32..70000, zp in -40000i32..70000,
            scale in 1e-6f32..1e6,
        ) {
            let r = BitWidth::ALL[w].range(signed);
            let (code, zp) = (code.clamp(r.lo, r.hi), zp.clamp(r.lo, r.hi));
            let a = plain(scale, zp);
            prop_assert_eq!(a.quantize(a.dequantize(code), r), code);
        }

        #[test]
        fn error_is_at_most_half_a_step_inside_the_range(x in -10.0f32..10.0, steps in 21f32..1000.0) {
            let r = BitWidth::new(16).unwrap().range(true);
            let a = plain(20.0 / steps, 0);
            let err = (a.dequantize(a.quantize(x, r)) - x).abs();
            prop_assert!(err <= a.scale * 0.5 + 1e-5, "{err}");
        }
    }
}
