//! Mean and standard deviation of each channel, gathered over batches.

use burn::tensor::Tensor;
#[cfg(feature = "flex")]
use rayon::prelude::*;

use crate::CoreError;
#[cfg(feature = "flex")]
use crate::host::{self, OnHost};

/// Sums of every channel, in double precision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelMoments {
    count: f64,
    sum: Vec<f64>,
    squares: Vec<f64>,
}

impl ChannelMoments {
    /// Adds the values of `x`, `[N, C, H, W]`.
    ///
    /// # Errors
    /// If they cannot be read from their device.
    ///
    /// # Panics
    /// If the number of channels changes.
    pub fn add(&mut self, x: Tensor<4>) -> Result<(), CoreError> {
        let [n, c, h, w] = x.dims();
        #[cfg(feature = "flex")]
        if let Some(OnHost::Plain(x)) = host::on_host(&x) {
            let sums = channel_sums(host::values(&x.to_contiguous()), c, h * w);
            self.merge(n * h * w, &sums);
            return Ok(());
        }
        let rows = x.swap_dims(0, 1).reshape([c, n * h * w]);
        // Around the batch's mean, as squares of large means would swallow a small deviation.
        let mean = rows.clone().mean_dim(1);
        let centred = rows - mean.clone();
        let variance = read((centred.clone() * centred).mean_dim(1))?;
        let count = (n * h * w) as f64;
        let sums: Vec<[f64; 2]> = read(mean)?
            .into_iter()
            .zip(variance)
            .map(|(mean, variance)| [count * mean, count * (variance + mean * mean)])
            .collect();
        self.merge(n * h * w, &sums);
        Ok(())
    }

    /// Adds sums of values and of squares over `count` values a channel.
    fn merge(&mut self, count: usize, sums: &[[f64; 2]]) {
        self.sum.resize(sums.len(), 0.0);
        self.squares.resize(sums.len(), 0.0);
        for (i, [sum, squares]) in sums.iter().enumerate() {
            self.sum[i] += sum;
            self.squares[i] += squares;
        }
        self.count += count as f64;
    }

    /// Mean of each channel.
    pub fn mean(&self) -> Vec<f64> {
        self.sum.iter().map(|s| s / self.count.max(1.0)).collect()
    }

    /// Standard deviation of each channel.
    pub fn deviation(&self) -> Vec<f64> {
        let square = self.squares.iter().map(|s| s / self.count.max(1.0));
        square
            .zip(self.mean())
            .map(|(square, mean)| (square - mean * mean).max(0.0).sqrt())
            .collect()
    }
}

/// `Σ x` and `Σ x²` of every channel, `x` being images of channels of `plane` values.
///
/// Each plane's own mean is taken off before squaring, and planes are joined in `f64`, so that a
/// large mean costs no digits.
#[cfg(feature = "flex")]
fn channel_sums(x: &[f32], channels: usize, plane: usize) -> Vec<[f64; 2]> {
    let images = x.par_chunks((channels * plane).max(1));
    host::per_channel(images, channels, |c, image| {
        plane_sums(&image[c * plane..][..plane])
    })
}

/// Those of a plane.
#[cfg(feature = "flex")]
#[inline(always)]
pub fn plane_sums(values: &[f32]) -> [f64; 2] {
    const LANES: usize = 16;
    let count = values.len();
    let mean = host::sum(values) / count as f32;
    let mut squares = [0f32; LANES];
    for chunk in values.chunks(LANES) {
        for (s, x) in squares.iter_mut().zip(chunk) {
            *s += (x - mean) * (x - mean);
        }
    }
    let squares = f64::from(squares.iter().sum::<f32>());
    let (mean, count) = (f64::from(mean), count as f64);
    [mean * count, squares + mean * mean * count]
}

fn read(x: Tensor<2>) -> Result<Vec<f64>, CoreError> {
    x.try_into_vec_as()
        .map_err(|e| CoreError::Device(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn batches_add_up() {
        let values = [1.0f32, 3.0, 100.0, 100.5, 5.0, 7.0, 101.0, 101.5];
        let x = Tensor::<1>::from_data(values, &Device::flex()).reshape([2, 2, 1, 2]);
        let mut moments = ChannelMoments::default();
        for i in 0..2 {
            moments.add(x.clone().narrow(0, i, 1)).unwrap();
        }
        assert_eq!(moments.mean(), [4.0, 100.75]);
        let deviation = moments.deviation();
        assert!((deviation[0] - 5f64.sqrt()).abs() < 1e-9);
        assert!(
            (deviation[1] - 0.3125f64.sqrt()).abs() < 1e-9,
            "{deviation:?}"
        );
    }
}
