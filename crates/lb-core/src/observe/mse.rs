//! The MSE rule: the clipping range with the least mean squared quantization error.

use lb_format::BitWidth;

use super::{Histogram, Statistics};
use crate::range;

/// Fractions of the full range that are tried, a side.
const ONE_SIDED: usize = 128;
const TWO_SIDED: usize = 24;

/// Searches `hi` alone where no value is negative, and both ends otherwise.
pub(super) fn range(stats: &Statistics, bits: BitWidth) -> (f32, f32) {
    let (min, max) = (stats.min().min(0.0), stats.max().max(0.0));
    let h = stats.histogram();
    let mut best = (error(h, min, max, bits), (min, max));
    let mut consider = |lo: f32, hi: f32| {
        let e = error(h, lo, hi, bits);
        if e < best.0 {
            best = (e, (lo, hi));
        }
    };
    if min == 0.0 {
        // Finer towards zero: at one bit the optimum can be a small part of a long tail.
        for i in 1..ONE_SIDED {
            let f = i as f32 / ONE_SIDED as f32;
            consider(0.0, max * f);
            consider(0.0, max * f * f);
        }
    } else {
        for i in 1..=TWO_SIDED {
            for j in 1..=TWO_SIDED {
                consider(
                    min * i as f32 / TWO_SIDED as f32,
                    max * j as f32 / TWO_SIDED as f32,
                );
            }
        }
    }
    best.1
}

/// Sum over the histogram of the squared error of quantizing to `lo ..= hi`.
///
/// Where a step is narrower than some bins, bin centres say nothing of rounding: inside the range
/// the error is then `step² / 12` a value, as for a uniform distribution.
fn error(h: &Histogram, lo: f32, hi: f32, bits: BitWidth) -> f64 {
    let q = range::activation(lo, hi, bits);
    let (a, codes) = (q.channel(0), q.range());
    let fine = a.scale < 4.0 * h.bin_width();
    let (real_lo, real_hi) = (a.dequantize(codes.lo), a.dequantize(codes.hi));
    let rounding = f64::from(a.scale) * f64::from(a.scale) / 12.0;
    h.bins()
        .map(|(x, n)| {
            let e = f64::from(if fine {
                x - x.clamp(real_lo, real_hi)
            } else {
                x - a.dequantize(a.quantize(x, codes))
            });
            n as f64 * if fine && e == 0.0 { rounding } else { e * e }
        })
        .sum()
}
