//! From an accumulator to a code, in numbered algebra first and fused second.
//!
//! A convolution (or linear) of codes `x` with zero point `z_x` and scale `s_x`, and weights
//! `w = s·q + o` with integers `q` and a real offset `o` per output channel, has the real output
//!
//! ```text
//! (1)  y = Σ w · s_x (x − z_x) + bias
//! (2)    = s_x s · Σ q (x − z_x)  +  s_x o · Σ (x − z_x)  +  bias
//! (3)    = s_x s · acc            +  s_x o · sum          +  bias
//!          acc = Σ q x − z_x Σ q          integer; the second term starts the accumulator
//!          sum = Σ x  − z_x K             integer; the same for all channels of a position
//! ```
//!
//! Padding holds the code `z_x`, so padded positions contribute exactly nothing to either. A
//! residual `r`, codes of scale `s_r` and zero point `z_r`, is added; ReLU clamps at zero; and the
//! result becomes a code of scale `s_y` and zero point `z_y`:
//!
//! ```text
//! (4)  code = clamp(round_half_even((y + s_r (r − z_r)) / s_y) + z_y, lo, hi)
//! (5)       = round_half_even(clamp(t, lo − z_y, hi − z_y)) + z_y
//!      t    = A·acc + B·sum + C·r + D,   A = s_x s / s_y,  B = s_x o / s_y,  C = s_r / s_y,
//!                                        D = (bias − s_r z_r) / s_y
//! ```
//!
//! (5) equals (4) because the bounds are integers: clamping before or after rounding is the same.
//! With ReLU, `lo` is at least `z_y`. `A` to `D` are computed in `f64` and rounded to `f32` once;
//! `acc` and `sum` are exact. Every kernel evaluates `t` in `f32` in this order, each step one
//! fused multiply-add, so that all kernels give the same bits:
//!
//! ```text
//! (6)  t = fma(C, r, fma(A, acc, fma(B, sum, D)))
//! ```
//!
//! (a step whose term is absent is left out). The simulation computes (1) and (4) in `f32`
//! throughout; it can fall on the other side of a rounding tie, by one code.

/// The constants of (6) for every output channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Requant {
    /// `A`, one per output channel.
    pub acc: Vec<f32>,
    /// `B`, one per output channel; `None` where every offset is zero.
    pub sum: Option<Vec<f32>>,
    /// `C`: codes or real values of the residual to units of the output.
    pub residual: f32,
    /// `D`, one per output channel.
    pub bias: Vec<f32>,
    /// Bounds of `t`: `lo − z_y` and `hi − z_y`, or those of a real output.
    pub bounds: (f32, f32),
    /// `z_y`
    pub zero_point: i32,
}

impl Requant {
    /// (6), clamped: the real output in units of the output's scale.
    ///
    /// `sum` and `residual` are ignored where the layer has none.
    #[inline]
    pub fn real(&self, c: usize, acc: f32, sum: f32, residual: Option<f32>) -> f32 {
        let mut t = self.bias[c];
        if let Some(b) = &self.sum {
            t = b[c].mul_add(sum, t);
        }
        t = self.acc[c].mul_add(acc, t);
        if let Some(r) = residual {
            t = self.residual.mul_add(r, t);
        }
        // As `maxps` and `minps` choose, so that zeros have the same sign everywhere.
        let (lo, hi) = self.bounds;
        let t = if t > lo { t } else { lo };
        if t < hi { t } else { hi }
    }

    /// (5): the code.
    #[inline]
    pub fn code(&self, c: usize, acc: f32, sum: f32, residual: Option<f32>) -> i32 {
        // Ties to even, as the `f32` → `i32` conversion of every vector unit does.
        self.real(c, acc, sum, residual).round_ties_even() as i32 + self.zero_point
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requant(bounds: (f32, f32), zero_point: i32) -> Requant {
        Requant {
            acc: vec![0.5],
            sum: Some(vec![-0.25]),
            residual: 2.0,
            bias: vec![0.25],
            bounds,
            zero_point,
        }
    }

    #[test]
    fn the_terms_add_up() {
        let r = requant((-100.0, 100.0), 0);
        assert_eq!(r.real(0, 6.0, 4.0, None), 3.0 - 1.0 + 0.25);
        assert_eq!(r.real(0, 6.0, 4.0, Some(3.0)), 3.0 - 1.0 + 0.25 + 6.0);
        assert_eq!(r.code(0, 6.0, 4.0, Some(3.0)), 8);
    }

    #[test]
    fn ties_go_to_even_before_the_zero_point() {
        let r = requant((-100.0, 100.0), 1);
        // t = 0.5, 1.5, 2.5
        let code = |acc| r.code(0, acc, 1.0, None);
        assert_eq!([code(1.0), code(3.0), code(5.0)], [1, 3, 3]);
    }

    #[test]
    fn bounds_are_those_of_the_codes() {
        // 4-bit codes with zero point 3 behind a ReLU: t in 0..=12, codes in 3..=15.
        let r = requant((0.0, 12.0), 3);
        assert_eq!(r.code(0, -1e9, 0.0, None), 3);
        assert_eq!(r.code(0, 1e9, 0.0, None), 15);
    }
}
