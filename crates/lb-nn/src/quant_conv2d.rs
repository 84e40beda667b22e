//! A quantized convolution, simulated: real arithmetic on weights that lie on their grid.

use burn::module::{Module, Param};
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use lb_format::{FormatError, Layer, LayerKind, QParams};

use crate::conv2d::{Geometry, conv2d_in_turn};
use crate::layer::Conv;
use crate::quant_weight;

/// A convolution with quantized weight and real bias.
#[derive(Module, Debug)]
pub struct QuantConv2d {
    /// Values on the grid of `qparams`, `[C_out, C_in, k, k]`.
    pub weight: Param<Tensor<4>>,
    /// `[C_out]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    geometry: Geometry,
    #[module(skip)]
    qparams: Option<QParams>,
}

impl QuantConv2d {
    /// Rounds the weight of a folded convolution to the grid of `qparams` (`None`: left in float).
    ///
    /// # Panics
    /// If the convolution is not square and dense ([`Geometry::of`]), or without bias: [`fold`](crate::fold)
    /// makes none of these.
    pub fn quantize(conv: Conv2d, qparams: Option<QParams>) -> Self {
        let geometry = Geometry::of(&conv).expect("folding makes square, dense convolutions");
        let weight = quant_weight::on_grid(conv.weight.val(), qparams.as_ref());
        Self {
            weight: Param::from_tensor(weight),
            bias: conv.bias.expect("folding adds a bias"),
            geometry,
            qparams,
        }
    }

    /// A convolution whose `weight` lies on the grid of `qparams` already.
    pub(crate) fn on_grid(
        weight: Tensor<4>,
        qparams: QParams,
        bias: Tensor<1>,
        geometry: Geometry,
    ) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(bias),
            geometry,
            qparams: Some(qparams),
        }
    }

    /// Parameters of the weight; `None` if it was left in float.
    pub fn qparams(&self) -> Option<&QParams> {
        self.qparams.as_ref()
    }

    /// Stride and padding.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// As stored in a packed file.
    ///
    /// # Errors
    /// If the weight cannot be read from its device.
    pub fn to_format(&self, name: &str) -> Result<Layer, FormatError> {
        Ok(Layer {
            name: name.into(),
            kind: LayerKind::Conv {
                stride: self.geometry.stride,
                padding: self.geometry.padding,
            },
            weight: quant_weight::to_format(self.weight.val(), self.qparams.as_ref())?,
            bias: host(self.bias.val())?,
        })
    }

    /// From a packed file.
    ///
    /// # Errors
    /// If the layer is not a convolution.
    pub fn from_format(layer: &Layer, device: &Device) -> Result<Self, FormatError> {
        let LayerKind::Conv { stride, padding } = layer.kind else {
            return Err(FormatError::invalid(
                format!("layer `{}`", layer.name),
                "is not a convolution",
            ));
        };
        let (weight, qparams) = quant_weight::from_format(&layer.weight, device)?;
        Ok(Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(Tensor::from_data(layer.bias.as_slice(), device)),
            geometry: Geometry { stride, padding },
            qparams,
        })
    }
}

impl Conv for QuantConv2d {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        conv2d_in_turn(x, self.weight.val(), Some(self.bias.val()), self.geometry)
    }
}

pub(crate) fn host(t: Tensor<1>) -> Result<Vec<f32>, FormatError> {
    t.try_into_vec_as()
        .map_err(|e| FormatError::invalid("reading a bias from the device", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConvBnConfig, fold};
    use burn::tensor::Distribution;
    use lb_core::levels;
    use lb_core::weight::{self, WeightRule};
    use lb_core::{Granularity, QScheme, Symmetry};
    use lb_format::{BitWidth, Levels};

    #[test]
    fn a_round_trip_through_the_file_format_changes_nothing() {
        let device = Device::flex();
        for bits in BitWidth::ALL {
            for rule in [WeightRule::MinMax, WeightRule::Mse] {
                let config = ConvBnConfig {
                    channels: [3, 5],
                    kernel: 3,
                    stride: 2,
                    padding: 1,
                };
                let conv = fold::fold(config.init(&device));
                let scheme = QScheme::weight(bits, Symmetry::Affine, Granularity::PerChannel);
                let mut all = vec![weight::qparams(conv.weight.val(), scheme, rule).unwrap()];
                if let Ok(apot) = Levels::additive_powers_of_two(bits) {
                    all.push(levels::qparams(conv.weight.val(), &apot, scheme, rule).unwrap());
                }
                for q in all {
                    let layer = QuantConv2d::quantize(conv.clone(), Some(q));
                    let stored = layer.to_format("x").unwrap();
                    let back = QuantConv2d::from_format(&stored, &device).unwrap();
                    let x = Tensor::random([1, 3, 8, 8], Distribution::Normal(0.0, 1.0), &device);
                    let (a, b) = (layer.forward(x.clone()), back.forward(x));
                    assert_eq!(a.into_data(), b.into_data(), "{bits} bits, {rule:?}");
                    assert_eq!(back.to_format("x").unwrap(), stored);
                }
            }
        }
    }
}
