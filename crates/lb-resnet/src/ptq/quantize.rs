//! The third step: parameters for every weight and activation, and weights on their grid.

use burn::module::Param;
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use lb_core::{CoreError, activation_levels, affine, bias, levels, range, weight};
use lb_format::{BitWidth, QParams};
use lb_nn::{FloatAct, QuantAct, QuantConv2d, QuantLinear, out_in};

use super::{ActivationLevels, Calibration, ImageRounding, Method, Options};
use crate::ResnetError;
use crate::model::{ActRole, ActSite, ConvSite, FoldedNet, QuantNet, Rewrite};

/// Quantizes `net` with the statistics of `calibration`.
///
/// # Errors
/// Names the place that could not be quantized: NaN in its weights or activations; or the name in
/// an assignment that is no place; or levels that the method or the width cannot have.
pub fn quantize(
    net: &FoldedNet,
    calibration: &Calibration,
    options: &Options,
) -> Result<QuantNet, ResnetError> {
    options.assignment.check(net)?;
    options.check_levels().map_err(ResnetError::Invalid)?;
    net.clone().rewrite(&mut Quantize {
        calibration,
        options,
    })
}

struct Quantize<'a> {
    calibration: &'a Calibration,
    options: &'a Options,
}

impl Quantize<'_> {
    fn weight_qparams<const D: usize>(
        &self,
        weight: Tensor<D>,
        bits: BitWidth,
    ) -> Result<QParams, CoreError> {
        if self.options.method == Method::Lbtorch {
            let extreme = |t: Tensor<1>| t.into_scalar::<f32>();
            let (min, max) = (extreme(weight.clone().min()), extreme(weight.max()));
            return Ok(range::lbtorch(min, max, bits));
        }
        let (scheme, rule) = self.options.method.weight_scheme(bits);
        match self.options.levels.table(bits) {
            Some(table) => levels::qparams(weight, &table, scheme, rule),
            None => weight::qparams(weight, scheme, rule),
        }
    }

    /// The bias plus its correction, where that is asked for.
    fn correct<const D: usize>(
        &self,
        bias: Param<Tensor<1>>,
        weight: Tensor<D>,
        qparams: &QParams,
        input: &str,
    ) -> Result<Param<Tensor<1>>, ResnetError> {
        if !self.options.bias_correction {
            return Ok(bias);
        }
        let mean = self.calibration.of(input)?.channel_mean();
        let on_grid = affine::dequantize(affine::quantize(weight.clone(), qparams), qparams);
        Ok(bias.map(|b| b + bias::correction(weight, on_grid, &mean)))
    }
}

impl Rewrite<Conv2d, FloatAct, Linear> for Quantize<'_> {
    type Conv = QuantConv2d;
    type Act = QuantAct;
    type Linear = QuantLinear;
    type Error = ResnetError;

    fn conv(&mut self, site: &ConvSite, mut conv: Conv2d) -> Result<QuantConv2d, ResnetError> {
        let Some(bits) = self.options.conv_bits(site) else {
            return Ok(QuantConv2d::quantize(conv, None));
        };
        let weight = conv.weight.val();
        let q = self
            .weight_qparams(weight.clone(), bits)
            .map_err(at(&site.name))?;
        if let Some(b) = conv.bias.take() {
            conv.bias = Some(self.correct(b, weight, &q, &site.input)?);
        }
        Ok(QuantConv2d::quantize(conv, Some(q)))
    }

    fn act(&mut self, site: &ActSite, act: FloatAct) -> Result<QuantAct, ResnetError> {
        let Some(bits) = self.options.act_bits(site) else {
            return Ok(QuantAct::new(act.nonlinearity, None));
        };
        let statistics = self.calibration.of(&site.name)?;
        if self.options.activation_levels == ActivationLevels::Fitted
            && site.role != ActRole::Image
            && let Some(q) = activation_levels::fit(statistics, bits).map_err(at(&site.name))?
        {
            return Ok(QuantAct::new(act.nonlinearity, Some(q)));
        }
        let rule = self.options.method.activation_rule();
        let (lo, hi) = rule.range(statistics, bits).map_err(at(&site.name))?;
        let q = match self.options.method {
            Method::Lbtorch => range::lbtorch(lo, hi, bits),
            _ => range::activation(lo, hi, bits),
        };
        let act = QuantAct::new(act.nonlinearity, Some(q));
        Ok(match self.options.rounding(site.role, bits) {
            ImageRounding::Nearest => act,
            ImageRounding::Dither => act.with_dither(true),
            ImageRounding::Diffusion => {
                let weights = self.calibration.felt.weights();
                act.with_diffusion(Some(weights.map_err(at(&site.name))?))
            }
        })
    }

    fn linear(&mut self, mut linear: Linear) -> Result<QuantLinear, ResnetError> {
        let Some(bits) = self.options.linear_bits() else {
            return Ok(QuantLinear::quantize(linear, None));
        };
        let weight = out_in(&linear);
        let q = self
            .weight_qparams(weight.clone(), bits)
            .map_err(at("linear"))?;
        if let Some(b) = linear.bias.take() {
            linear.bias = Some(self.correct(b, weight, &q, "pooled")?);
        }
        Ok(QuantLinear::quantize(linear, Some(q)))
    }
}

fn at(site: &str) -> impl FnOnce(CoreError) -> ResnetError {
    let site = site.to_owned();
    move |source| ResnetError::Site { site, source }
}
