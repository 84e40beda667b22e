//! Signal to quantization noise ratio.

use burn::tensor::Tensor;

/// Accumulates signal and noise power over batches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sqnr {
    signal: f64,
    noise: f64,
}

impl Sqnr {
    /// Adds a batch: `signal` as it should be, `approximation` as it is.
    pub fn add<const D: usize>(&mut self, signal: Tensor<D>, approximation: Tensor<D>) {
        let power = |t: Tensor<D>| f64::from((t.clone() * t).sum().into_scalar::<f32>());
        self.noise += power(signal.clone() - approximation);
        self.signal += power(signal);
    }

    /// `10 log₁₀(Σ x² / Σ (x − x̂)²)` in dB; infinite without noise.
    pub fn db(&self) -> f64 {
        10.0 * (self.signal / self.noise).log10()
    }
}

/// SQNR of one approximation in dB.
pub fn sqnr<const D: usize>(signal: Tensor<D>, approximation: Tensor<D>) -> f64 {
    let mut s = Sqnr::default();
    s.add(signal, approximation);
    s.db()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn a_tenth_of_the_amplitude_is_20_db() {
        let x = Tensor::<1>::from_data([1.0f32, -2.0, 3.0], &Device::flex());
        assert!((sqnr(x.clone(), x.clone() * 1.1) - 20.0).abs() < 1e-4);
        assert_eq!(sqnr(x.clone(), x), f64::INFINITY);
    }
}
