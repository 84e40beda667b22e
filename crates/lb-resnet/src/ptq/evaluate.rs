//! A learning network with its weights computed, once a step.

use std::convert::Infallible;

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use lb_nn::learned::{
    EvaluatedConv2d, EvaluatedLinear, LearnedAct, LearnedConv2d, LearnedLinear, Origin,
};

use crate::model::{ActSite, ConvSite, EvaluatedNet, LearnedNet, Rewrite};

/// `net` as it computes now, and the way back to what it learns.
pub(super) fn evaluate(net: LearnedNet) -> (EvaluatedNet, Origins) {
    let mut origins = Origins::default();
    let net = match net.rewrite(&mut origins) {
        Ok(net) => net,
        Err(never) => match never {},
    };
    (net, origins)
}

/// What the weights and biases of a network were computed by.
#[derive(Default)]
pub(super) struct Origins {
    convolutions: Vec<Origin<4>>,
    linear: Option<Origin<2>>,
    biases: Vec<Origin<1>>,
}

impl Origins {
    /// The gradients of what `net` learns, from those of the evaluated network's parameters. Steps of
    /// activations are parameters of both.
    pub(super) fn backward(
        self,
        net: &LearnedNet,
        mut gradients: GradientsParams,
    ) -> GradientsParams {
        let convolutions = self.convolutions.into_iter();
        let mut products: Vec<Option<Tensor<1>>> =
            convolutions.map(|o| o.product(&mut gradients)).collect();
        products.extend(self.linear.map(|o| o.product(&mut gradients)));
        products.extend(self.biases.into_iter().map(|o| o.product(&mut gradients)));
        let mut all = GradientsAccumulator::new();
        if let Some(sum) = products.into_iter().flatten().reduce(|a, b| a + b) {
            all.accumulate(net, GradientsParams::from_grads(sum.backward(), net));
        }
        all.accumulate(net, gradients);
        all.grads()
    }
}

impl Rewrite<LearnedConv2d, LearnedAct, LearnedLinear> for Origins {
    type Conv = EvaluatedConv2d;
    type Act = LearnedAct;
    type Linear = EvaluatedLinear;
    type Error = Infallible;

    fn conv(&mut self, _: &ConvSite, conv: LearnedConv2d) -> Result<EvaluatedConv2d, Infallible> {
        let (conv, weight, bias) = EvaluatedConv2d::new(&conv);
        self.convolutions.push(weight);
        self.biases.push(bias);
        Ok(conv)
    }

    fn act(&mut self, _: &ActSite, act: LearnedAct) -> Result<LearnedAct, Infallible> {
        Ok(act)
    }

    fn linear(&mut self, linear: LearnedLinear) -> Result<EvaluatedLinear, Infallible> {
        let (linear, weight, bias) = EvaluatedLinear::new(&linear);
        self.linear = Some(weight);
        self.biases.push(bias);
        Ok(linear)
    }
}
