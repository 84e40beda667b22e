//! Mean and standard deviation of each channel, gathered over batches.

use burn::tensor::Tensor;

use crate::CoreError;

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
        let rows = x.swap_dims(0, 1).reshape([c, n * h * w]);
        // Around the batch's mean, as squares of large means would swallow a small deviation.
        let mean = rows.clone().mean_dim(1);
        let centred = rows - mean.clone();
        let variance = host((centred.clone() * centred).mean_dim(1))?;
        let mean = host(mean)?;
        self.sum.resize(c, 0.0);
        self.squares.resize(c, 0.0);
        let count = (n * h * w) as f64;
        for (i, (mean, variance)) in mean.into_iter().zip(variance).enumerate() {
            self.sum[i] += count * mean;
            self.squares[i] += count * (variance + mean * mean);
        }
        self.count += count;
        Ok(())
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

fn host(x: Tensor<2>) -> Result<Vec<f64>, CoreError> {
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
