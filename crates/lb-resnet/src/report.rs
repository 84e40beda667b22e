//! Per-layer signal to quantization noise ratio.

use std::collections::HashMap;

use burn::tensor::{Device, Tensor};
use lb_core::sqnr::{Sqnr, sqnr};
use lb_data::{ImageSet, Normalization};
use lb_format::{QuantizedNetwork, Weight};
use serde::{Deserialize, Serialize};

use crate::ResnetError;
use crate::batch::{images, spans};
use crate::model::{FoldedNet, QuantNet, Seen};

/// Images that the output SQNR is measured on.
const IMAGES: usize = 64;

/// What quantization did to one layer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LayerReport {
    /// Path.
    pub layer: String,
    /// Bits of the weight, or `float`.
    pub weight_bits: String,
    /// Bytes of the packed weight.
    pub bytes: usize,
    /// SQNR of the weight against the folded float weight, in dB.
    pub weight_db: f64,
    /// SQNR of the layer's output against the float network's, in dB: this layer's noise and all
    /// that came before it.
    pub output_db: f64,
}

/// Compares `quantized` with `float` layer by layer, on the first images of `set` (calibration
/// images).
///
/// # Errors
/// If a layer of one is not in the other.
pub fn layers(
    float: &FoldedNet,
    quantized: &QuantNet,
    packed: &QuantizedNetwork,
    set: &ImageSet,
    normalization: &Normalization,
    device: &Device,
) -> Result<Vec<LayerReport>, ResnetError> {
    let mut output: HashMap<String, Sqnr> = HashMap::new();
    for (from, n) in spans(set.len().min(IMAGES), 32) {
        let x = images(set, from, n, normalization, device);
        let mut expected: HashMap<String, Tensor<4>> = HashMap::new();
        float.forward_traced(x.clone(), &mut |seen, name, y| {
            if seen == Seen::Layer {
                expected.insert(name.into(), y.clone());
            }
        });
        quantized.forward_traced(x, &mut |seen, name, y| {
            if seen != Seen::Layer {
                return;
            }
            if let Some(e) = expected.remove(name) {
                output.entry(name.into()).or_default().add(e, y.clone());
            }
        });
    }
    let mut weights = HashMap::new();
    let mut keep = |name: &str, w: Tensor<1>| {
        weights.insert(name.to_string(), w);
    };
    for (name, conv) in float.convolutions() {
        keep(&name, conv.weight.val().flatten(0, 3));
    }
    keep("linear", lb_nn::out_in(&float.linear).flatten(0, 1));
    packed
        .layers
        .iter()
        .map(|layer| {
            let missing = || ResnetError::Invalid(format!("layer `{}` is unknown", layer.name));
            let values = layer.weight.dequantize();
            let on_grid = Tensor::<1>::from_data(values.as_slice(), device);
            Ok(LayerReport {
                layer: layer.name.clone(),
                weight_bits: layer.weight.width(),
                bytes: match &layer.weight {
                    Weight::Codes { codes, .. } => codes.bytes().len(),
                    Weight::Float { values, .. } => values.len() * 4,
                },
                weight_db: sqnr(weights.remove(&layer.name).ok_or_else(missing)?, on_grid),
                output_db: output.get(&layer.name).ok_or_else(missing)?.db(),
            })
        })
        .collect()
}
