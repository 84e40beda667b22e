//! Folding: batch normalization merged into its convolution (Jacob et al. 2018, arXiv 1712.05877,
//! section 3.2).

use burn::module::Param;
use burn::nn::conv::Conv2d;

use crate::ConvBn;

/// A convolution with bias that computes what `layer` computes with its running statistics:
///
/// ```text
/// g  = γ / √(σ² + ε)
/// w' = w · g            b' = β − μ · g
/// ```
///
/// with γ, β, the running mean μ and variance σ² of each output channel.
pub fn fold(layer: ConvBn) -> Conv2d {
    let ConvBn { mut conv, bn } = layer;
    let weight = conv.weight.val();
    let c_out = weight.dims()[0];
    let deviation = (bn.running_var.value() + bn.epsilon).sqrt();
    let gain = bn.gamma.val() / deviation;
    let bias = bn.beta.val() - bn.running_mean.value() * gain.clone();
    conv.weight = Param::from_tensor(weight * gain.reshape([c_out, 1, 1, 1]));
    conv.bias = Some(Param::from_tensor(bias));
    conv
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ConvBnConfig;
    use crate::layer::Conv;
    use burn::module::RunningState;
    use burn::tensor::{Device, Distribution, Tensor};

    #[test]
    fn folded_equals_unfolded() {
        let device = Device::flex();
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 2, 0), (3, 1, 0)] {
            let config = ConvBnConfig {
                channels: [5, 7],
                kernel,
                stride,
                padding,
            };
            let mut layer = config.init(&device);
            let random = |lo, hi| Tensor::<1>::random([7], Distribution::Uniform(lo, hi), &device);
            layer.bn.gamma = Param::from_tensor(random(-1.5, 1.5));
            layer.bn.beta = Param::from_tensor(random(-1.0, 1.0));
            layer.bn.running_mean = RunningState::new(random(-2.0, 2.0));
            layer.bn.running_var = RunningState::new(random(0.001, 4.0));
            let x = Tensor::random([2, 5, 9, 9], Distribution::Normal(0.0, 1.0), &device);
            let before = layer.forward(x.clone());
            let after = Conv::forward(&fold(layer), x);
            let scale = before.clone().abs().max().into_scalar::<f32>();
            let error = (after - before).abs().max().into_scalar::<f32>() / scale;
            assert!(error < 1e-5, "{config:?}: relative error {error}");
        }
    }
}
