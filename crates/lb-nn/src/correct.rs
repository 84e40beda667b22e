//! Affine correction: a quantized layer whose output channels have the mean and standard deviation
//! that they have in the float network.
//!
//! ```text
//! g = σ / σ̂      y′ = g · (ŷ − μ̂) + μ
//! ```
//!
//! with μ and σ of the float layer's output and μ̂ and σ̂ of the quantized one's, both over
//! calibration images. The map costs nothing: `g` goes into the scale and offset of the weight,
//! the rest into the bias. It generalises the re-estimation of BatchNorm after quantization (Sun
//! et al. 2019; Finkelstein et al. 2019, arXiv 1906.03193) to networks whose BatchNorm is folded.

use burn::tensor::Tensor;
use lb_core::affine;
use lb_core::moments::ChannelMoments;
use lb_format::QParams;

use crate::{QuantConv2d, QuantLinear};

/// Gains outside are errors of estimation: a channel that is nearly constant in one of the two
/// networks.
const GAIN: std::ops::RangeInclusive<f64> = 0.25..=4.0;

/// `g` and the new bias, per channel.
struct Correction {
    gain: Vec<f32>,
    bias: Vec<f32>,
}

impl Correction {
    /// From the moments of the outputs; `bias` is the quantized layer's.
    fn new(float: &ChannelMoments, quantized: &ChannelMoments, bias: &[f32]) -> Self {
        let (mean, deviation) = (float.mean(), float.deviation());
        let (mean_q, deviation_q) = (quantized.mean(), quantized.deviation());
        let gain: Vec<f64> = deviation
            .iter()
            .zip(&deviation_q)
            .map(|(s, q)| if *q > 0.0 { s / q } else { 1.0 })
            .map(|g| g.clamp(*GAIN.start(), *GAIN.end()))
            .collect();
        let bias = (0..bias.len()).map(|c| {
            let without_bias = mean_q[c] - f64::from(bias[c]);
            (mean[c] - gain[c] * without_bias) as f32
        });
        Self {
            bias: bias.collect(),
            gain: gain.iter().map(|g| *g as f32).collect(),
        }
    }

    /// The weight with its grid stretched by the gain; codes stay as they are.
    fn apply<const D: usize>(&self, weight: Tensor<D>, q: &QParams) -> (Tensor<D>, QParams) {
        let codes = affine::quantize(weight, q);
        let affine = self.gain.iter().enumerate().map(|(c, g)| {
            let mut a = q.channel(c);
            a.scale *= g;
            a.offset *= g;
            a
        });
        let q = QParams {
            affine: affine.collect(),
            ..q.clone()
        };
        (affine::dequantize(codes, &q), q)
    }
}

/// `layer`, corrected; unchanged if its weight was left in float. The moments are those of the
/// layer's own output `[N, C_out, H, W]` in the float and in the quantized network.
pub fn conv2d(
    layer: QuantConv2d,
    float: &ChannelMoments,
    quantized: &ChannelMoments,
) -> QuantConv2d {
    let Some(q) = layer.qparams() else {
        return layer;
    };
    let (weight, bias) = (layer.weight.val(), layer.bias.val());
    let (weight, q, bias) = corrected(weight, q, bias, float, quantized);
    QuantConv2d::on_grid(weight, q, bias, layer.geometry())
}

/// As [`conv2d`], of a linear layer; outputs as `[N, out, 1, 1]`.
pub fn linear(
    layer: QuantLinear,
    float: &ChannelMoments,
    quantized: &ChannelMoments,
) -> QuantLinear {
    let Some(q) = layer.qparams() else {
        return layer;
    };
    let (weight, bias) = (layer.weight.val(), layer.bias.val());
    let (weight, q, bias) = corrected(weight, q, bias, float, quantized);
    QuantLinear::on_grid(weight, q, bias)
}

/// Weight, its parameters and bias.
fn corrected<const D: usize>(
    weight: Tensor<D>,
    q: &QParams,
    bias: Tensor<1>,
    float: &ChannelMoments,
    quantized: &ChannelMoments,
) -> (Tensor<D>, QParams, Tensor<1>) {
    let correction = Correction::new(float, quantized, &host(&bias));
    let (weight, q) = correction.apply(weight, q);
    let bias = Tensor::from_data(correction.bias.as_slice(), &bias.device());
    (weight, q, bias)
}

fn host(bias: &Tensor<1>) -> Vec<f32> {
    bias.clone()
        .try_into_vec_as()
        .expect("a bias is a small float tensor")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Conv;
    use crate::{ConvBnConfig, fold};
    use burn::tensor::{Device, Distribution};
    use lb_core::levels;
    use lb_core::weight::{self, WeightRule};
    use lb_core::{Granularity, QScheme, Symmetry};
    use lb_format::{BitWidth, Levels};

    #[test]
    fn moments_match_afterwards() {
        let device = Device::flex();
        let config = ConvBnConfig {
            channels: [8, 6],
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        let conv = fold::fold(config.init(&device));
        let scheme = QScheme::weight(
            BitWidth::new(2).unwrap(),
            Symmetry::Affine,
            Granularity::PerChannel,
        );
        let w = conv.weight.val();
        let uniform = weight::qparams(w.clone(), scheme, WeightRule::Mse).unwrap();
        let apot = Levels::additive_powers_of_two(scheme.bits).unwrap();
        let apot = levels::qparams(w, &apot, scheme, WeightRule::Mse).unwrap();
        for q in [uniform, apot] {
            check_moments(conv.clone(), q);
        }
    }

    fn check_moments(conv: burn::nn::conv::Conv2d, q: QParams) {
        let device = Device::flex();
        let x = Tensor::<4>::random([16, 8, 8, 8], Distribution::Uniform(0.0, 2.0), &device);
        let moments = |y: Tensor<4>| {
            let mut m = ChannelMoments::default();
            m.add(y).unwrap();
            m
        };
        let float = moments(Conv::forward(&conv, x.clone()));
        let quantized = QuantConv2d::quantize(conv, Some(q));
        let before = moments(quantized.forward(x.clone()));
        let corrected = conv2d(quantized.clone(), &float, &before);
        let after = moments(corrected.forward(x));
        let distance = |a: &ChannelMoments| {
            let mean = a
                .mean()
                .into_iter()
                .zip(float.mean())
                .map(|(a, b)| (a - b).abs());
            let deviation = a.deviation().into_iter().zip(float.deviation());
            mean.chain(deviation.map(|(a, b)| (a - b).abs()))
                .fold(0.0, f64::max)
        };
        assert!(distance(&before) > 0.01, "{}", distance(&before));
        assert!(distance(&after) < 1e-4, "{}", distance(&after));
        // Codes have not changed, so the file is as large as before.
        let codes =
            |l: &QuantConv2d| affine::quantize(l.weight.val(), l.qparams().unwrap()).into_data();
        assert_eq!(codes(&corrected), codes(&quantized));
    }
}
