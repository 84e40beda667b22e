//! What quantized convolutions and linears share: a weight on its grid, and its codes.

use burn::tensor::{Device, Tensor};
use lb_core::affine;
use lb_format::{FormatError, PackedTensor, QParams, Weight};

/// `weight` rounded to the grid of `qparams`, as real values; unchanged without parameters.
pub(crate) fn on_grid<const D: usize>(weight: Tensor<D>, qparams: Option<&QParams>) -> Tensor<D> {
    match qparams {
        Some(q) => affine::dequantize(affine::quantize(weight, q), q),
        None => weight,
    }
}

/// The packed form of a weight that lies on its grid.
pub(crate) fn to_format<const D: usize>(
    weight: Tensor<D>,
    qparams: Option<&QParams>,
) -> Result<Weight, FormatError> {
    let shape = weight.dims().to_vec();
    let host = |t: Tensor<D>| {
        t.try_into_vec_as::<f32>()
            .map_err(|e| FormatError::invalid("reading a weight from the device", e.to_string()))
    };
    Ok(match qparams {
        None => Weight::Float {
            shape,
            values: host(weight)?,
        },
        Some(q) => {
            let codes = host(affine::quantize(weight, q))?;
            let codes: Vec<i32> = codes.into_iter().map(|c| c as i32).collect();
            Weight::Codes {
                codes: PackedTensor::pack(&codes, &shape, q.bits, q.signed)?,
                qparams: q.clone(),
            }
        }
    })
}

/// The real values and parameters of a packed weight.
pub(crate) fn from_format<const D: usize>(
    weight: &Weight,
    device: &Device,
) -> Result<(Tensor<D>, Option<QParams>), FormatError> {
    let shape: [usize; D] = weight.shape().try_into().map_err(|_| {
        FormatError::invalid(
            "weight",
            format!("shape {:?}, expected {D} axes", weight.shape()),
        )
    })?;
    let values = weight.dequantize();
    let tensor = Tensor::<1>::from_data(values.as_slice(), device).reshape(shape);
    let qparams = match weight {
        Weight::Codes { qparams, .. } => Some(qparams.clone()),
        Weight::Float { .. } => None,
    };
    Ok((tensor, qparams))
}
