//! Statistics of activations, and the rules that turn them into a range.
//!
//! [`Statistics`] gathers everything in one pass over the calibration images, in constant memory;
//! each [`RangeRule`] then decides on a range for any number of widths, without another pass.

mod histogram;
mod kl;
mod mse;
mod percentile;
mod statistics;

pub use histogram::Histogram;
pub use statistics::Statistics;

use lb_format::BitWidth;
use serde::{Deserialize, Serialize};

use crate::CoreError;

/// How a range is chosen from statistics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RangeRule {
    /// Smallest and largest value seen.
    MinMax,
    /// Exponential moving average of each batch's smallest and largest value.
    MovingAverage,
    /// The central part of the distribution: this fraction of it, e.g. 0.9999, is not clipped.
    Percentile(f64),
    /// The range with the least mean squared quantization error.
    Mse,
    /// The range whose quantized distribution is nearest in Kullback–Leibler divergence.
    Kl,
}

impl RangeRule {
    /// The range `(lo, hi)` for codes of `bits` bits; it always contains 0.
    ///
    /// # Errors
    /// If nothing was observed, or NaN or infinity was.
    pub fn range(self, stats: &Statistics, bits: BitWidth) -> Result<(f32, f32), CoreError> {
        stats.check()?;
        let (lo, hi) = match self {
            Self::MinMax => (stats.min(), stats.max()),
            Self::MovingAverage => stats.moving_range(),
            Self::Percentile(keep) => percentile::range(stats, keep),
            Self::Mse => mse::range(stats, bits),
            Self::Kl => kl::range(stats, bits),
        };
        Ok((lo.min(0.0), hi.max(0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{affine, range};
    use burn::tensor::{Device, Tensor};

    /// Deterministic half-normal values with rare outliers, the shape of ReLU outputs.
    fn activations(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut uniform = move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n)
            .map(|i| {
                let normal: f32 = (0..12).map(|_| uniform()).sum::<f32>() - 6.0;
                if i % 5000 == 17 {
                    12.0
                } else {
                    normal.max(0.0)
                }
            })
            .collect()
    }

    fn stats(x: &[f32]) -> Statistics {
        let mut s = Statistics::default();
        for part in x.chunks(1000) {
            let t = Tensor::<1>::from_data(part, &Device::flex());
            s.observe(t.reshape([1, 1, 1, part.len()]));
        }
        s
    }

    fn error(x: &[f32], hi: f32, bits: BitWidth) -> f64 {
        let q = range::activation(0.0, hi, bits);
        let t = Tensor::<1>::from_data(x, &Device::flex());
        let d = affine::fake_quantize(t.clone(), &q) - t;
        f64::from((d.clone() * d).mean().into_scalar::<f32>())
    }

    #[test]
    fn mse_beats_every_clipping_on_a_grid() {
        let x = activations(20_000);
        let s = stats(&x);
        for bits in [1, 2, 3, 4, 6, 8].map(|b| BitWidth::new(b).unwrap()) {
            let (_, hi) = RangeRule::Mse.range(&s, bits).unwrap();
            let best = (1..=200)
                .map(|i| error(&x, 12.0 * i as f32 / 200.0, bits))
                .fold(f64::INFINITY, f64::min);
            let got = error(&x, hi, bits);
            assert!(
                got <= best * 1.03,
                "{bits} bits: {got} against {best} on the grid"
            );
        }
    }

    #[test]
    fn clipping_rules_cut_outliers_and_minmax_does_not() {
        let s = stats(&activations(20_000));
        let four = BitWidth::new(4).unwrap();
        let hi = |rule: RangeRule| rule.range(&s, four).unwrap().1;
        assert_eq!(hi(RangeRule::MinMax), 12.0);
        assert!(hi(RangeRule::Mse) < 11.0);
        assert!(hi(RangeRule::Kl) < 8.0);
        let p = hi(RangeRule::Percentile(0.999));
        assert!((2.5..4.5).contains(&p), "{p}");
        assert!(hi(RangeRule::MovingAverage) < 12.0);
    }

    #[test]
    fn wide_codes_lose_next_to_nothing() {
        let x = activations(20_000);
        let s = stats(&x);
        let sixteen = BitWidth::new(16).unwrap();
        for rule in [RangeRule::Mse, RangeRule::MinMax] {
            let (_, hi) = rule.range(&s, sixteen).unwrap();
            assert!(error(&x, hi, sixteen) < 1e-8, "{rule:?} {hi}");
        }
    }

    #[test]
    fn two_sided_data_keeps_both_sides() {
        let x: Vec<f32> = (-200..300).map(|i| i as f32 * 0.01).collect();
        let s = stats(&x);
        for rule in [
            RangeRule::MinMax,
            RangeRule::Mse,
            RangeRule::Kl,
            RangeRule::Percentile(0.9999),
        ] {
            let (lo, hi) = rule.range(&s, BitWidth::EIGHT).unwrap();
            assert!(
                (-2.05..-1.9).contains(&lo) && (2.9..3.05).contains(&hi),
                "{rule:?}: {lo} {hi}"
            );
        }
    }

    #[test]
    fn nothing_and_nan_are_errors() {
        let rule = RangeRule::Mse;
        let e = rule
            .range(&Statistics::default(), BitWidth::EIGHT)
            .unwrap_err();
        assert!(matches!(e, CoreError::NothingObserved));
        let e = rule
            .range(&stats(&[1.0, f32::NAN]), BitWidth::EIGHT)
            .unwrap_err();
        assert!(matches!(e, CoreError::NonFinite { count: 1, total: 2 }));
    }

    #[test]
    fn constant_zero_has_a_range() {
        for rule in [
            RangeRule::MinMax,
            RangeRule::Mse,
            RangeRule::Kl,
            RangeRule::Percentile(0.99),
        ] {
            assert_eq!(
                rule.range(&stats(&[0.0; 10]), BitWidth::EIGHT).unwrap(),
                (0.0, 0.0)
            );
        }
    }
}
