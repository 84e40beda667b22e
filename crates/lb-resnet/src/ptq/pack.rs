//! The last step: a quantized network to and from its packed form.

use burn::nn::Linear;
use burn::tensor::Device;
use lb_format::network::Recipe;
use lb_format::{Activation, FormatError, Layer, NetworkInfo, QuantizedNetwork};
use lb_nn::{ConvBn, FloatAct, Nonlinearity, QuantAct, QuantConv2d, QuantLinear};

use super::lower::lower;
use crate::ResnetError;
use crate::checkpoint::arch_of;
use crate::model::{ActSite, ConvSite, FloatNet, QuantNet, Rewrite};

/// The packed form of `net`.
///
/// # Errors
/// If a weight cannot be read from its device.
pub fn pack(
    net: &QuantNet,
    info: NetworkInfo,
    recipe: Recipe,
) -> Result<QuantizedNetwork, ResnetError> {
    let mut pack = Pack::default();
    net.clone().rewrite(&mut pack)?;
    let network = QuantizedNetwork {
        info,
        recipe,
        layers: pack.layers,
        activations: pack.activations,
        graph: lower(net),
    };
    network.validate()?;
    Ok(network)
}

/// The simulated network of a packed one, on `device`.
///
/// # Errors
/// If the file's layers are not those of the architecture that it names.
pub fn unpack(packed: &QuantizedNetwork, device: &Device) -> Result<QuantNet, ResnetError> {
    packed.validate()?;
    let (arch, shortcut) = arch_of(&packed.info)?;
    let skeleton = FloatNet::init(arch, shortcut, packed.info.classes.len(), 0, device);
    let mut unpack = Unpack {
        packed,
        device,
        seen: 0,
    };
    let net = skeleton.rewrite(&mut unpack)?;
    let stored = packed.layers.len() + packed.activations.len();
    if unpack.seen != stored {
        let problem = format!("{stored} parts, {arch} has {}", unpack.seen);
        return Err(FormatError::invalid("layers and activations", problem).into());
    }
    // An engine runs the graph, the simulation the architecture: they must be the same network.
    if lower(&net) != packed.graph {
        return Err(FormatError::invalid("graph", format!("is not that of {arch}")).into());
    }
    Ok(net)
}

#[derive(Default)]
struct Pack {
    layers: Vec<Layer>,
    activations: Vec<Activation>,
}

impl Rewrite<QuantConv2d, QuantAct, QuantLinear> for Pack {
    type Conv = QuantConv2d;
    type Act = QuantAct;
    type Linear = QuantLinear;
    type Error = FormatError;

    fn conv(&mut self, site: &ConvSite, conv: QuantConv2d) -> Result<QuantConv2d, FormatError> {
        self.layers.push(conv.to_format(&site.name)?);
        Ok(conv)
    }

    fn act(&mut self, site: &ActSite, act: QuantAct) -> Result<QuantAct, FormatError> {
        self.activations.push(act.to_format(&site.name));
        Ok(act)
    }

    fn linear(&mut self, linear: QuantLinear) -> Result<QuantLinear, FormatError> {
        self.layers.push(linear.to_format("linear")?);
        Ok(linear)
    }
}

/// Replaces every part of a skeleton by the stored one, which must have its geometry.
struct Unpack<'a> {
    packed: &'a QuantizedNetwork,
    device: &'a Device,
    seen: usize,
}

impl Unpack<'_> {
    fn layer(&mut self, name: &str, shape: &[usize]) -> Result<&Layer, FormatError> {
        self.seen += 1;
        let layer = self.packed.layer(name)?;
        if layer.weight.shape() != shape {
            return Err(FormatError::invalid(
                format!("layer `{name}`"),
                format!("shape {:?}, expected {shape:?}", layer.weight.shape()),
            ));
        }
        Ok(layer)
    }
}

impl Rewrite<ConvBn, FloatAct, Linear> for Unpack<'_> {
    type Conv = QuantConv2d;
    type Act = QuantAct;
    type Linear = QuantLinear;
    type Error = FormatError;

    fn conv(&mut self, site: &ConvSite, skeleton: ConvBn) -> Result<QuantConv2d, FormatError> {
        let device = self.device;
        let layer = self.layer(&site.name, &skeleton.conv.weight.val().dims())?;
        let conv = QuantConv2d::from_format(layer, device)?;
        // The geometry is the architecture's, so a file cannot ask for another.
        let expected = QuantConv2d::quantize(lb_nn::fold::fold(skeleton), None);
        if conv.geometry() != expected.geometry() {
            return Err(FormatError::invalid(
                format!("layer `{}`", site.name),
                format!("{:?}, expected {:?}", conv.geometry(), expected.geometry()),
            ));
        }
        Ok(conv)
    }

    fn act(&mut self, site: &ActSite, skeleton: FloatAct) -> Result<QuantAct, FormatError> {
        self.seen += 1;
        let stored = self.packed.activation(&site.name)?;
        if stored.relu != (skeleton.nonlinearity == Nonlinearity::Relu) {
            return Err(FormatError::invalid(
                format!("activation `{}`", site.name),
                format!("relu {}, the architecture says otherwise", stored.relu),
            ));
        }
        Ok(QuantAct::from_format(stored))
    }

    fn linear(&mut self, skeleton: Linear) -> Result<QuantLinear, FormatError> {
        let device = self.device;
        let [features, classes] = skeleton.weight.val().dims();
        QuantLinear::from_format(self.layer("linear", &[classes, features])?, device)
    }
}
