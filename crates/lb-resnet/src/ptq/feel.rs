//! Which errors of an image a network feels.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData, activation};

use crate::ResnetError;
use crate::model::FoldedNet;

/// Gradients of what `net` says of `images`, normalised, in the images, `[N, 3, H, W]`. The first has index
/// `first`, which its signs depend on.
///
/// That of `Σ_y √p_y r_y log p_y` with random signs r has the second moment of Fisher's information,
/// `Σ_y p_y ∇log p_y ∇log p_yᵀ`: all classes in one backward pass.
///
/// # Errors
/// If the device fails. (Logits that are not finite have such gradients.)
pub(super) fn gradients(
    net: &FoldedNet,
    images: Tensor<4>,
    first: usize,
) -> Result<Vec<f32>, ResnetError> {
    let net = net.clone().train().no_grad();
    let x = images.autodiff().require_grad();
    let logits = net.forward(x.clone());
    let [n, classes] = logits.dims();
    let p = activation::softmax(logits.clone().inner(), 1);
    let mut upstream: Vec<f32> =
        (p.try_into_vec_as()).map_err(|e| ResnetError::Device(e.to_string()))?;
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
    let gradient = x.grad(&gradients).expect("logits depend on the image");
    let values = gradient.try_into_vec_as::<f32>();
    values.map_err(|e| ResnetError::Device(e.to_string()))
}

/// 1 or −1, the same of an index in every run (a step of SplitMix64).
fn sign(index: usize) -> f32 {
    let mut z = (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    if (z ^ (z >> 31)) & 1 == 0 { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;
    use crate::divergence::{self, Divergence};
    use crate::model::Shortcut;
    use crate::ptq::fold;
    use crate::test_data::network;

    /// `KL(x ‖ x + e) ≈ ½ eᵀ F e`, with F the mean of `g gᵀ` over signs.
    #[test]
    fn the_second_moment_is_what_small_errors_cost() {
        let device = burn::tensor::Device::flex();
        let net = fold(network("resnet8".parse().unwrap(), Shortcut::A, &device));
        let normal = Distribution::Normal(0.0, 1.0);
        let x = Tensor::<4>::random([4, 3, 32, 32], normal, &device);
        let e = Tensor::<4>::random([4, 3, 32, 32], normal, &device) * 3e-3;
        let logits = |x: Tensor<4>| divergence::host(net.forward(x)).unwrap();
        let kl = Divergence::of(&logits(x.clone()), &logits(x.clone() + e.clone()), 10).kl;
        let errors: Vec<f32> = e.try_into_vec_as().unwrap();
        let (mut sum, draws) = (0.0, 400);
        for draw in 0..draws {
            let g = gradients(&net, x.clone(), 4 * draw).unwrap();
            for (g, e) in g.chunks(3 * 1024).zip(errors.chunks(3 * 1024)) {
                let product: f32 = g.iter().zip(e).map(|(g, e)| g * e).sum();
                sum += f64::from(product * product);
            }
        }
        let predicted = 0.5 * sum / (4 * draws) as f64;
        // Its standard error is some 5 %, and the numbers are others in every run.
        assert!((predicted / kl - 1.0).abs() < 0.3, "{predicted} {kl}");
    }
}
