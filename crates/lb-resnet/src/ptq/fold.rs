//! The first step: batch normalization disappears into the convolutions.

use std::convert::Infallible;

use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use lb_nn::{ConvBn, FloatAct};

use crate::model::{ActSite, ConvSite, FloatNet, FoldedNet, Rewrite};

/// Folds every batch normalization ([`lb_nn::fold`]).
pub fn fold(net: FloatNet) -> FoldedNet {
    net.rewrite(&mut Fold).unwrap_or_else(|e| match e {})
}

struct Fold;

impl Rewrite<ConvBn, FloatAct, Linear> for Fold {
    type Conv = Conv2d;
    type Act = FloatAct;
    type Linear = Linear;
    type Error = Infallible;

    fn conv(&mut self, _: &ConvSite, conv: ConvBn) -> Result<Conv2d, Infallible> {
        Ok(lb_nn::fold::fold(conv))
    }

    fn act(&mut self, _: &ActSite, act: FloatAct) -> Result<FloatAct, Infallible> {
        Ok(act)
    }

    fn linear(&mut self, linear: Linear) -> Result<Linear, Infallible> {
        Ok(linear)
    }
}
