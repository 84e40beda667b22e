//! The Kullback–Leibler rule (Migacz, "8-bit inference with TensorRT", GTC 2017).
//!
//! For each clipping threshold the distribution is compared with itself after quantization:
//! values above the threshold pile up in the last bin of the reference, and each level of the
//! quantized distribution spreads its mass evenly over the bins that were occupied. Two-sided
//! data is clipped by the same fraction on both sides.

use lb_format::BitWidth;

use super::Statistics;

/// Bins that the search works on, the choice of the original for 8 bits.
const BINS: usize = 2048;
/// Thresholds that are tried.
const STEPS: usize = 128;

pub(super) fn range(stats: &Statistics, bits: BitWidth) -> (f32, f32) {
    let (min, max) = (stats.min().min(0.0), stats.max().max(0.0));
    let levels = bits.levels() as usize;
    if levels >= BINS || max - min <= 0.0 {
        return (min, max);
    }
    let density = resample(stats, min, max);
    // Bin of zero, from which both sides shrink.
    let origin = (-min / (max - min) * BINS as f32) as usize;
    let mut best = (f64::INFINITY, 1.0f32);
    for step in 1..=STEPS {
        let f = step as f32 / STEPS as f32;
        let lo = origin - (origin as f32 * f) as usize;
        let hi = origin + (((BINS - origin) as f32 * f).ceil() as usize).max(1);
        if hi - lo < levels {
            continue;
        }
        let d = divergence(&density, lo, hi.min(BINS), levels);
        if d < best.0 {
            best = (d, f);
        }
    }
    (min * best.1, max * best.1)
}

/// The histogram on `BINS` bins over `min ..= max`.
fn resample(stats: &Statistics, min: f32, max: f32) -> Vec<f64> {
    let mut density = vec![0.0; BINS];
    for (x, n) in stats.histogram().bins() {
        let i = ((x - min) / (max - min) * BINS as f32) as usize;
        density[i.min(BINS - 1)] += n as f64;
    }
    density
}

/// KL(P ‖ Q) of the bins `lo .. hi`: P with the clipped mass in its end bins, Q quantized.
fn divergence(density: &[f64], lo: usize, hi: usize, levels: usize) -> f64 {
    let kept = &density[lo..hi];
    let mut p = kept.to_vec();
    p[0] += density[..lo].iter().sum::<f64>();
    p[hi - lo - 1] += density[hi..].iter().sum::<f64>();
    let mut q = vec![0.0; kept.len()];
    for level in 0..levels {
        let (from, to) = (
            level * kept.len() / levels,
            (level + 1) * kept.len() / levels,
        );
        let mass: f64 = kept[from..to].iter().sum();
        let occupied = kept[from..to].iter().filter(|&&n| n > 0.0).count();
        for i in from..to {
            if kept[i] > 0.0 {
                q[i] = mass / occupied as f64;
            }
        }
    }
    let (p_sum, q_sum): (f64, f64) = (p.iter().sum(), q.iter().sum());
    if q_sum == 0.0 {
        return f64::INFINITY;
    }
    // Mass that Q lacks altogether is penalised by a floor instead of infinity.
    let floor = 1e-9;
    p.iter()
        .zip(&q)
        .filter(|(p, _)| **p > 0.0)
        .map(|(p, q)| {
            let p = p / p_sum;
            p * (p / (q / q_sum).max(floor)).ln()
        })
        .sum()
}
