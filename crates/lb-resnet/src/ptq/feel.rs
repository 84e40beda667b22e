//! Which errors of an image a network feels.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData, activation};
use lb_core::diffusion::Felt;

use crate::ResnetError;
use crate::divergence;
use crate::model::FoldedNet;

/// Adds what `net` feels of errors of `images`, normalised, of which the first has index `first`.
///
/// The gradient of `Σ_y √p_y r_y log p_y` with random signs r has the second moment of Fisher's information,
/// `Σ_y p_y ∇log p_y ∇log p_yᵀ`: all classes in one backward pass.
///
/// # Errors
/// If a logit is not finite, or the device fails.
pub(super) fn feel(
    felt: &mut Felt,
    net: &FoldedNet,
    images: Tensor<4>,
    first: usize,
) -> Result<(), ResnetError> {
    let [_, _, height, width] = images.dims();
    let net = net.clone().train().no_grad();
    let x = images.autodiff().require_grad();
    let logits = net.forward(x.clone());
    let [n, classes] = logits.dims();
    let p = activation::softmax(logits.clone().inner(), 1);
    let mut upstream = divergence::host(p)?;
    for (image, p) in upstream.chunks_exact_mut(classes).enumerate() {
        let sign = |class: usize| sign((first + image) * classes + class);
        let mean: f32 = (p.iter().enumerate())
            .map(|(y, p)| p.sqrt() * sign(y))
            .sum();
        for (y, p) in p.iter_mut().enumerate() {
            *p = p.sqrt() * sign(y) - *p * mean;
        }
    }
    let upstream = TensorData::new(upstream, [n, classes]);
    let upstream = Tensor::<2>::from_data(upstream, &logits.device());
    let gradients = (logits * upstream).sum().backward();
    let Some(gradient) = x.grad(&gradients) else {
        return Ok(());
    };
    let values = gradient.try_into_vec_as::<f32>();
    let values = values.map_err(|e| ResnetError::Device(e.to_string()))?;
    felt.add(&values, (height, width));
    Ok(())
}

/// 1 or −1, the same of an index in every run (a step of SplitMix64).
fn sign(index: usize) -> f32 {
    let mut z = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    if (z ^ (z >> 31)) & 1 == 0 { 1.0 } else { -1.0 }
}
