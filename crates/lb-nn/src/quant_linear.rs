//! A quantized linear layer, simulated.

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use lb_format::{FormatError, Layer, LayerKind, QParams};

use crate::layer::Dense;
use crate::quant_conv2d::host;
use crate::quant_weight;

/// A linear layer with quantized weight and real bias.
#[derive(Module, Debug)]
pub struct QuantLinear {
    /// Values on the grid of `qparams`, `[out, in]`: axis 0 is the output, as in convolutions
    /// (Burn's own linear stores the transpose).
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    qparams: Option<QParams>,
}

/// The weight of a Burn linear with the output on axis 0, `[out, in]`.
pub fn out_in(linear: &Linear) -> Tensor<2> {
    linear.weight.val().transpose()
}

impl QuantLinear {
    /// Rounds the weight (as [`out_in`]) to the grid of `qparams` (`None`: left in float).
    pub fn quantize(linear: Linear, qparams: Option<QParams>) -> Self {
        let weight = quant_weight::on_grid(out_in(&linear), qparams.as_ref());
        let [out, _] = weight.dims();
        let device = weight.device();
        // Laid out as it will be when it is read back: a transposed view multiplies in another
        // order, which shows in the last bit.
        let weight = Tensor::<2>::from_data(weight.into_data(), &device);
        let bias = match linear.bias {
            Some(bias) => bias,
            None => Param::from_tensor(Tensor::zeros([out], &device)),
        };
        Self {
            weight: Param::from_tensor(weight),
            bias,
            qparams,
        }
    }

    /// A layer whose `weight` `[out, in]` lies on the grid of `qparams` already.
    pub(crate) fn on_grid(weight: Tensor<2>, qparams: QParams, bias: Tensor<1>) -> Self {
        Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(bias),
            qparams: Some(qparams),
        }
    }

    /// Parameters of the weight; `None` if it was left in float.
    pub fn qparams(&self) -> Option<&QParams> {
        self.qparams.as_ref()
    }

    /// As stored in a packed file.
    ///
    /// # Errors
    /// If the weight cannot be read from its device.
    pub fn to_format(&self, name: &str) -> Result<Layer, FormatError> {
        Ok(Layer {
            name: name.into(),
            kind: LayerKind::Linear,
            weight: quant_weight::to_format(self.weight.val(), self.qparams.as_ref())?,
            bias: host(self.bias.val())?,
        })
    }

    /// From a packed file.
    ///
    /// # Errors
    /// If the layer is not linear.
    pub fn from_format(layer: &Layer, device: &Device) -> Result<Self, FormatError> {
        if layer.kind != LayerKind::Linear {
            return Err(FormatError::invalid(
                format!("layer `{}`", layer.name),
                "is not linear",
            ));
        }
        let (weight, qparams) = quant_weight::from_format(&layer.weight, device)?;
        Ok(Self {
            weight: Param::from_tensor(weight),
            bias: Param::from_tensor(Tensor::from_data(layer.bias.as_slice(), device)),
            qparams,
        })
    }
}

impl Dense for QuantLinear {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.val().transpose()) + self.bias.val().unsqueeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::LinearConfig;
    use burn::tensor::Distribution;

    #[test]
    fn without_parameters_it_is_the_float_layer() {
        let device = Device::flex();
        let linear = LinearConfig::new(6, 4).init(&device);
        let x = Tensor::<2>::random([3, 6], Distribution::Normal(0.0, 1.0), &device);
        let float = linear.forward(x.clone());
        let layer = QuantLinear::quantize(linear, None);
        let error = (layer.forward(x.clone()) - float)
            .abs()
            .max()
            .into_scalar::<f32>();
        assert!(error < 1e-6, "{error}");
        let back = QuantLinear::from_format(&layer.to_format("x").unwrap(), &device).unwrap();
        assert_eq!(
            back.forward(x.clone()).into_data(),
            layer.forward(x).into_data()
        );
    }
}
