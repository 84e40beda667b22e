//! A unit improved without gradients, layer by layer: compensated rounding, then affine correction.

use std::collections::BTreeMap;

use lb_core::CoreError;
use lb_core::moments::ChannelMoments;
use lb_nn::correct;
use lb_nn::layer::{Act, Conv, Dense};

use burn::tensor::Tensor;

use super::chain::{self, Chain};
use super::compensate::compensate;
use super::{FloatUnit, QuantUnit};
use crate::model::Unit;

/// Rounds every layer with errors that cancel ([`lb_core::compensate`]), if `compensates`, and
/// matches mean and standard deviation of its output channels to the float network's
/// ([`lb_nn::correct`]). A later layer makes up for what the earlier ones leave.
pub(super) fn correct(
    unit: &mut QuantUnit,
    float: &FloatUnit,
    chain: &Chain,
    compensates: bool,
) -> Result<(), CoreError> {
    let expected = moments(float, &chain.float)?;
    let names: Vec<String> = unit.convolutions_mut().into_iter().map(|c| c.0).collect();
    for (i, name) in names.iter().enumerate() {
        if compensates {
            compensate(unit, float, i, chain)?;
        }
        let actual = moments(unit, &chain.quantized)?;
        let layer = &mut *unit.convolutions_mut().swap_remove(i).1;
        *layer = correct::conv2d(layer.clone(), &expected[name], &actual[name]);
    }
    if unit.linear().is_some() {
        if compensates {
            compensate(unit, float, names.len(), chain)?;
        }
        let actual = moments(unit, &chain.quantized)?;
        if let Some(layer) = unit.linear_mut() {
            *layer = correct::linear(layer.clone(), &expected["linear"], &actual["linear"]);
        }
    }
    Ok(())
}

fn moments<C: Conv, A: Act, L: Dense>(
    unit: &Unit<C, A, L>,
    x: &Tensor<4>,
) -> Result<BTreeMap<String, ChannelMoments>, CoreError> {
    let mut all: BTreeMap<String, ChannelMoments> = BTreeMap::new();
    let mut result = Ok(());
    chain::layers(unit, x, &mut |name, y| {
        let added = all.entry(name.into()).or_default().add(y.clone());
        if result.is_ok() {
            result = added;
        }
    });
    result.map(|()| all)
}
