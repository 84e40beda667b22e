//! A histogram of a stream, in constant memory.

/// Bins a side. 4096 keep the narrowest useful clipping search (8 bits) well resolved.
const BINS: usize = 4096;

/// Magnitudes of positive and negative values, `BINS` equal bins a side, and exact zeros apart.
///
/// The bins cover `0 .. limit`, a power of two. A larger value doubles the limit by merging
/// neighbours, which is exact; so the result does not depend on how the stream was cut into
/// batches.
#[derive(Clone, Debug)]
pub struct Histogram {
    limit: f32,
    positive: Vec<u64>,
    negative: Vec<u64>,
    zeros: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            limit: 0.0,
            positive: vec![0; BINS],
            negative: vec![0; BINS],
            zeros: 0,
        }
    }
}

impl Histogram {
    /// Adds finite values whose magnitude is at most `max_abs`.
    pub fn add(&mut self, values: &[f32], max_abs: f32) {
        self.cover(max_abs);
        let per_unit = if self.limit > 0.0 {
            BINS as f32 / self.limit
        } else {
            0.0
        };
        for &v in values {
            if v == 0.0 {
                self.zeros += 1;
            } else {
                let bin = ((v.abs() * per_unit) as usize).min(BINS - 1);
                let side = if v > 0.0 {
                    &mut self.positive
                } else {
                    &mut self.negative
                };
                side[bin] += 1;
            }
        }
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.zeros + self.positive.iter().chain(&self.negative).sum::<u64>()
    }

    /// Width of a bin.
    pub fn bin_width(&self) -> f32 {
        self.limit / BINS as f32
    }

    /// `(centre, count)` of every bin that holds something, most negative first; zeros are left
    /// out, as they are always exact.
    pub fn bins(&self) -> impl Iterator<Item = (f32, u64)> + '_ {
        let w = self.bin_width();
        let centre = move |i: usize| (i as f32 + 0.5) * w;
        let negative = self
            .negative
            .iter()
            .enumerate()
            .rev()
            .map(move |(i, &n)| (-centre(i), n));
        let positive = self
            .positive
            .iter()
            .enumerate()
            .map(move |(i, &n)| (centre(i), n));
        negative.chain(positive).filter(|&(_, n)| n > 0)
    }

    /// The value below which `fraction` of the values lie, to the upper edge of a bin.
    pub fn quantile(&self, fraction: f64) -> f32 {
        let target = (fraction * self.count() as f64).ceil() as u64;
        let w = self.bin_width();
        let mut seen = 0;
        for (i, n) in self.negative.iter().enumerate().rev() {
            seen += n;
            if seen >= target && *n > 0 {
                return -(i as f32) * w;
            }
        }
        seen += self.zeros;
        if seen >= target {
            return 0.0;
        }
        for (i, n) in self.positive.iter().enumerate() {
            seen += n;
            if seen >= target {
                return (i + 1) as f32 * w;
            }
        }
        self.limit
    }

    fn cover(&mut self, max_abs: f32) {
        if max_abs <= self.limit || max_abs == 0.0 {
            return;
        }
        if self.limit == 0.0 {
            // Smallest power of two that is not below; subnormals share the smallest normal one.
            self.limit = max_abs
                .max(f32::MIN_POSITIVE)
                .log2()
                .ceil()
                .min(127.0)
                .exp2();
        }
        while self.limit < max_abs && self.limit < f32::MAX / 2.0 {
            self.limit *= 2.0;
            for side in [&mut self.positive, &mut self.negative] {
                for i in 0..BINS {
                    side[i] = match 2 * i {
                        j if j < BINS => side[j] + side[j + 1],
                        _ => 0,
                    };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_do_not_matter() {
        let x: Vec<f32> = (0..4000)
            .map(|i| (i as f32 * 0.37).sin() * (1.0 + i as f32 * 0.01))
            .collect();
        let max = |v: &[f32]| v.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let mut whole = Histogram::default();
        whole.add(&x, max(&x));
        for size in [1, 7, 1000] {
            let mut parts = Histogram::default();
            for part in x.chunks(size) {
                parts.add(part, max(part));
            }
            assert_eq!(parts.limit, whole.limit);
            assert_eq!(parts.positive, whole.positive);
            assert_eq!(parts.negative, whole.negative);
        }
        assert_eq!(whole.count(), 4000);
    }

    #[test]
    fn quantiles_walk_from_negative_to_positive() {
        let x: Vec<f32> = (-50..=50).map(|i| i as f32).collect();
        let mut h = Histogram::default();
        h.add(&x, 50.0);
        assert!((h.quantile(0.1) + 40.0).abs() <= 1.0, "{}", h.quantile(0.1));
        assert!(h.quantile(0.5).abs() <= 0.1);
        assert!((h.quantile(0.9) - 40.0).abs() <= 1.0);
    }

    #[test]
    fn extreme_magnitudes_do_not_overflow() {
        let mut h = Histogram::default();
        h.add(&[1e-42], 1e-42);
        h.add(&[f32::MAX], f32::MAX);
        assert_eq!(h.count(), 2);
    }
}
