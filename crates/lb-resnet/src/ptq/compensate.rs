//! Rounding of a unit's layers with errors that cancel.

use burn::tensor::Tensor;
use lb_core::compensate::LayerMoments;
use lb_core::{CoreError, levels, weight};
use lb_format::QParams;

use super::chain::Chain;
use super::{FloatUnit, Method, QuantUnit};
use crate::batch::spans;
use crate::model::Seen;

/// Images a forward pass: inputs are copied once for every tap.
const BATCH: usize = 64;

/// Images that are enough, if they bring [`POSITIONS`] positions for every weight of a channel:
/// the early layers see thousands of positions an image.
const IMAGES: usize = 256;
const POSITIONS: usize = 400;

/// Rounds layer `index` of [`convolutions_mut`](crate::model::Unit::convolutions_mut) anew, or the
/// linear layer of the head ([`lb_core::compensate`]).
pub(super) fn compensate(
    unit: &mut QuantUnit,
    float: &FloatUnit,
    index: usize,
    chain: &Chain,
) -> Result<(), CoreError> {
    let mut source = float.clone();
    let mut layers = source.convolutions_mut();
    if index < layers.len() {
        let (name, float_layer) = layers.swap_remove(index);
        let layer = unit.convolutions_mut().swap_remove(index).1.clone();
        let mut moments = LayerMoments::default();
        let [_, inputs, height, width] = layer.weight.dims();
        let what = (name.as_str(), inputs * height * width);
        see(unit, float, what, chain, &mut |x, y| {
            layer.gather(&mut moments, x, y)
        })?;
        let found = layer.compensated(&float_layer.weight.val(), &moments, grid)?;
        *unit.convolutions_mut().swap_remove(index).1 = found;
    } else if let (Some(layer), Some(float_layer)) = (unit.linear().cloned(), float.linear()) {
        let mut moments = LayerMoments::default();
        let [_, inputs] = layer.weight.dims();
        see(unit, float, ("linear", inputs), chain, &mut |x, y| {
            layer.gather(&mut moments, x.flatten(1, 3), y.flatten(1, 3))
        })?;
        let found = layer.compensated(&lb_nn::out_in(float_layer), &moments, grid)?;
        if let Some(layer) = unit.linear_mut() {
            *layer = found;
        }
    }
    Ok(())
}

/// Calls `f` with the inputs of layer `name` in the quantized network and its outputs in the float
/// one, batch after batch; `taps` is the number of its weights for each output channel.
fn see(
    unit: &QuantUnit,
    float: &FloatUnit,
    (name, taps): (&str, usize),
    chain: &Chain,
    f: &mut dyn FnMut(Tensor<4>, Tensor<4>) -> Result<(), CoreError>,
) -> Result<(), CoreError> {
    let mut enough = chain.len();
    for (from, n) in spans(chain.len(), BATCH) {
        if from >= enough {
            break;
        }
        let part = |x: &Tensor<4>| x.clone().narrow(0, from, n);
        let (mut x, mut y) = (None, None);
        unit.forward_traced(part(&chain.quantized), &mut |seen, at, value| {
            if seen == Seen::LayerInput && at == name {
                x = Some(value.clone());
            }
            value
        });
        float.forward_traced(part(&chain.float), &mut |seen, at, value| {
            if seen == Seen::Layer && at == name {
                y = Some(value.clone());
            }
            value
        });
        if let (Some(x), Some(y)) = (x, y) {
            let [_, _, height, width] = y.dims();
            enough = IMAGES.max((POSITIONS * taps).div_ceil(height * width));
            f(x, y)?;
        }
    }
    Ok(())
}

/// Parameters for a weight with the bits and levels of `q`.
fn grid<const D: usize>(weight: Tensor<D>, q: &QParams) -> Result<QParams, CoreError> {
    let (scheme, rule) = Method::Affine.weight_scheme(q.bits);
    match &q.levels {
        Some(table) => levels::qparams(weight, table, scheme, rule),
        None => weight::qparams(weight, scheme, rule),
    }
}
