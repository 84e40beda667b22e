//! Initial weights from a seed, the same on every backend.
//!
//! A device's own generator is global, and differs between backends; so the numbers are drawn on
//! the host.

use std::convert::Infallible;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Tensor, TensorData};
use lb_nn::{ConvBn, FloatAct};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};

use super::{ActSite, ConvSite, FloatNet, Rewrite};

/// Convolutions: normal with variance 2 / fan_in (He et al. 2015). Linear: uniform within
/// 1 / √in, bias zero.
pub(super) fn seeded(net: FloatNet, seed: u64) -> FloatNet {
    let mut init = Init(ChaCha8Rng::seed_from_u64(seed));
    net.rewrite(&mut init).unwrap_or_else(|e| match e {})
}

struct Init(ChaCha8Rng);

impl Init {
    fn draw<const D: usize>(
        &mut self,
        param: Param<Tensor<D>>,
        dist: impl Distribution<f32>,
    ) -> Param<Tensor<D>> {
        let (shape, device) = (param.val().shape(), param.val().device());
        let values = (0..shape.num_elements())
            .map(|_| dist.sample(&mut self.0))
            .collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &device))
    }
}

impl Rewrite<ConvBn, FloatAct, Linear> for Init {
    type Conv = ConvBn;
    type Act = FloatAct;
    type Linear = Linear;
    type Error = Infallible;

    fn conv(&mut self, _: &ConvSite, mut layer: ConvBn) -> Result<ConvBn, Infallible> {
        let [_, c_in, kh, kw] = layer.conv.weight.val().dims();
        let deviation = (2.0 / (c_in * kh * kw) as f32).sqrt();
        let normal = Normal::new(0.0, deviation).expect("a finite deviation");
        layer.conv.weight = self.draw(layer.conv.weight, normal);
        Ok(layer)
    }

    fn act(&mut self, _: &ActSite, act: FloatAct) -> Result<FloatAct, Infallible> {
        Ok(act)
    }

    fn linear(&mut self, mut linear: Linear) -> Result<Linear, Infallible> {
        let [features, _] = linear.weight.val().dims();
        let bound = 1.0 / (features as f32).sqrt();
        let uniform = Uniform::new(-bound, bound).expect("a finite bound");
        linear.weight = self.draw(linear.weight, uniform);
        linear.bias = linear
            .bias
            .map(|b| Param::from_tensor(b.val().zeros_like()));
        Ok(linear)
    }
}
