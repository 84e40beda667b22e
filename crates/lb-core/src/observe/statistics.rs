//! Everything that range rules and bias correction need to know of an activation.

use burn::tensor::Tensor;

use super::Histogram;
use crate::CoreError;

/// Weight of a new batch in the moving average of its extremes.
const MOMENTUM: f32 = 0.1;

/// Statistics of a stream of activations `[N, C, H, W]`; memory does not grow with the stream.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    total: u64,
    non_finite: u64,
    range: Option<(f32, f32)>,
    moving: Option<(f32, f32)>,
    histogram: Histogram,
    channel_sum: Vec<f64>,
    failed: Option<String>,
}

impl Statistics {
    /// Adds a batch. NaN, infinity and a failing device are reported by [`check`](Self::check),
    /// as a forward pass has no way to.
    ///
    /// # Shapes
    /// `x`: `[N, C, H, W]`
    pub fn observe(&mut self, x: Tensor<4>) {
        let [_, c, h, w] = x.dims();
        match x.try_to_vec_as::<f32>() {
            Ok(values) => self.add(&values, c, h * w),
            Err(e) => self.failed = Some(e.to_string()),
        }
    }

    fn add(&mut self, values: &[f32], channels: usize, plane: usize) {
        self.total += values.len() as u64;
        let (mut lo, mut hi, mut bad) = (f32::INFINITY, f32::NEG_INFINITY, 0);
        for &v in values {
            lo = lo.min(v);
            hi = hi.max(v);
            bad += u64::from(!v.is_finite());
        }
        self.non_finite += bad;
        if bad > 0 || values.is_empty() {
            return;
        }
        let (min, max) = self.range.unwrap_or((lo, hi));
        self.range = Some((min.min(lo), max.max(hi)));
        let (ema_lo, ema_hi) = self.moving.unwrap_or((lo, hi));
        let blend = |old: f32, new: f32| old + MOMENTUM * (new - old);
        self.moving = Some((blend(ema_lo, lo), blend(ema_hi, hi)));
        self.histogram.add(values, lo.abs().max(hi.abs()));
        self.channel_sum.resize(channels, 0.0);
        for image in values.chunks_exact(channels * plane) {
            for (sum, plane) in self.channel_sum.iter_mut().zip(image.chunks_exact(plane)) {
                *sum += plane.iter().map(|&v| f64::from(v)).sum::<f64>();
            }
        }
    }

    /// Whether the statistics can be used.
    ///
    /// # Errors
    /// If nothing was observed, NaN or infinity was, or the device failed.
    pub fn check(&self) -> Result<(), CoreError> {
        if let Some(e) = &self.failed {
            return Err(CoreError::Device(e.clone()));
        }
        match (self.non_finite, self.range) {
            (0, Some(_)) => Ok(()),
            (0, None) => Err(CoreError::NothingObserved),
            (count, _) => Err(CoreError::NonFinite {
                count,
                total: self.total,
            }),
        }
    }

    /// Smallest value; 0 before the first batch.
    pub fn min(&self) -> f32 {
        self.range.map_or(0.0, |r| r.0)
    }

    /// Largest value; 0 before the first batch.
    pub fn max(&self) -> f32 {
        self.range.map_or(0.0, |r| r.1)
    }

    /// Moving average of the batches' smallest and largest values.
    pub fn moving_range(&self) -> (f32, f32) {
        self.moving.unwrap_or((0.0, 0.0))
    }

    /// Distribution of the values.
    pub fn histogram(&self) -> &Histogram {
        &self.histogram
    }

    /// Mean of each channel, `[C]`.
    pub fn channel_mean(&self) -> Vec<f64> {
        let per_channel = self.total as f64 / self.channel_sum.len().max(1) as f64;
        self.channel_sum.iter().map(|s| s / per_channel).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn channel_means_and_extremes() {
        let x = Tensor::<4>::from_data(
            [
                [[[1.0f32, 3.0]], [[-4.0, 0.0]]],
                [[[5.0, 7.0]], [[2.0, 2.0]]],
            ],
            &Device::flex(),
        );
        let mut s = Statistics::default();
        s.observe(x.clone());
        s.observe(x);
        assert_eq!(s.channel_mean(), [4.0, 0.0]);
        assert_eq!((s.min(), s.max()), (-4.0, 7.0));
    }
}
