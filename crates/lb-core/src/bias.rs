//! Bias correction (Nagel et al. 2019, arXiv 1906.04721, section 4.2; Finkelstein et al. 2019).

use burn::tensor::Tensor;

/// The bias change that cancels the mean output shift of quantized weights.
///
/// The weight error `ε = ŵ − w` moves output channel `c` by `Σ ε[c, i, …] · E[x_i]` on average, so
///
/// ```text
/// Δb[c] = − Σ_i E[x_i] · Σ_k ε[c, i, k]
/// ```
///
/// with `E[x_i]` the mean of input channel `i` over calibration images and positions. Borders are
/// taken like the inside, though padding is zero there.
///
/// # Shapes
/// - `weight`, `quantized`: `[C_out, C_in, …]`
/// - `input_mean`: `[C_in]`
/// - output: `[C_out]`
pub fn correction<const D: usize>(
    weight: Tensor<D>,
    quantized: Tensor<D>,
    input_mean: &[f64],
) -> Tensor<1> {
    let [c_out, c_in] = [weight.dims()[0], weight.dims()[1]];
    assert_eq!(c_in, input_mean.len(), "one mean per input channel");
    let mean: Vec<f32> = input_mean.iter().map(|&m| m as f32).collect();
    let mean = Tensor::<1>::from_data(mean.as_slice(), &weight.device()).reshape([1, c_in]);
    let error = (quantized - weight).reshape([c_out as i32, c_in as i32, -1]);
    let per_input: Tensor<2> = error.sum_dim(2).reshape([c_out, c_in]);
    -(per_input * mean).sum_dim(1).reshape([c_out])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn constant_inputs_are_corrected_exactly() {
        let device = Device::flex();
        let w = Tensor::<3>::from_data([[[0.1f32, 0.2], [0.3, 0.4]]], &device);
        let q = Tensor::<3>::from_data([[[0.0f32, 0.25], [0.25, 0.5]]], &device);
        // Channel 0 is always 2, channel 1 always −1.
        let out = |w: [f32; 4]| 2.0 * (w[0] + w[1]) - (w[2] + w[3]);
        let shift = out([0.0, 0.25, 0.25, 0.5]) - out([0.1, 0.2, 0.3, 0.4]);
        let delta: f32 = correction(w, q, &[2.0, -1.0]).into_scalar();
        assert!((delta + shift).abs() < 1e-6, "{delta} vs {shift}");
    }
}
