//! From quantized to learned layers and back.

use std::collections::BTreeMap;

use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::Device;
use lb_format::FormatError;
use lb_nn::learned::{Dropping, LearnedAct, LearnedConv2d, LearnedLinear, Learning};
use lb_nn::{QuantAct, QuantConv2d, QuantLinear};

use crate::ResnetError;
use crate::model::{ActSite, ConvSite, FoldedNet, LearnedNet, QuantNet, Rewrite};

/// `net` as a network that learns, on its own device; `float` is the network that it came from.
///
/// # Errors
/// If a layer was left in float, or has a table of levels: names it.
pub(super) fn learn(
    net: &QuantNet,
    float: &FoldedNet,
    learning: Learning,
    dropping: &Dropping,
    device: &Device,
) -> Result<LearnedNet, ResnetError> {
    let convolutions = float.convolutions().into_iter();
    net.clone().rewrite(&mut Learn {
        convolutions: convolutions.map(|(n, c)| (n, c.clone())).collect(),
        linear: &float.linear,
        learning,
        dropping,
        device,
        places: 0,
    })
}

/// The quantized network that `net` has become; `net` without gradients (`valid`).
///
/// # Errors
/// If a parameter diverged.
pub(super) fn finish(net: LearnedNet) -> Result<QuantNet, ResnetError> {
    Ok(net.rewrite(&mut Finish)?)
}

/// After a step of an optimizer: brings latent codes that left their range back to its end.
pub(super) fn confine(net: &mut LearnedNet) {
    for i in 0..net.units() {
        let mut unit = net.unit(i);
        for (_, conv) in unit.convolutions_mut() {
            conv.confine();
        }
        if let Some(linear) = unit.linear_mut() {
            linear.confine();
        }
        net.set_unit(unit);
    }
}

struct Learn<'a> {
    convolutions: BTreeMap<String, Conv2d>,
    linear: &'a Linear,
    learning: Learning,
    dropping: &'a Dropping,
    device: &'a Device,
    places: u64,
}

/// Names the layer.
fn in_layer(layer: &str) -> impl FnOnce(FormatError) -> ResnetError {
    let layer = layer.to_owned();
    move |e| ResnetError::Invalid(format!("layer `{layer}`: {e}"))
}

impl Rewrite<QuantConv2d, QuantAct, QuantLinear> for Learn<'_> {
    type Conv = LearnedConv2d;
    type Act = LearnedAct;
    type Linear = LearnedLinear;
    type Error = ResnetError;

    fn conv(&mut self, site: &ConvSite, conv: QuantConv2d) -> Result<LearnedConv2d, ResnetError> {
        let float = self.convolutions.get(&site.name).ok_or_else(|| {
            ResnetError::Invalid(format!("layer `{}` is not in the float network", site.name))
        })?;
        LearnedConv2d::new(&conv, float, self.learning).map_err(in_layer(&site.name))
    }

    fn act(&mut self, _: &ActSite, act: QuantAct) -> Result<LearnedAct, ResnetError> {
        self.places += 1;
        Ok(LearnedAct::new(
            &act,
            self.dropping,
            self.places,
            self.learning.relative_rate,
            self.device,
        ))
    }

    fn linear(&mut self, linear: QuantLinear) -> Result<LearnedLinear, ResnetError> {
        LearnedLinear::new(&linear, self.linear, self.learning).map_err(in_layer("linear"))
    }
}

struct Finish;

impl Rewrite<LearnedConv2d, LearnedAct, LearnedLinear> for Finish {
    type Conv = QuantConv2d;
    type Act = QuantAct;
    type Linear = QuantLinear;
    type Error = FormatError;

    fn conv(&mut self, _: &ConvSite, conv: LearnedConv2d) -> Result<QuantConv2d, FormatError> {
        conv.finish()
    }

    fn act(&mut self, _: &ActSite, act: LearnedAct) -> Result<QuantAct, FormatError> {
        act.finish()
    }

    fn linear(&mut self, linear: LearnedLinear) -> Result<QuantLinear, FormatError> {
        linear.finish()
    }
}
