//! Batch normalization, as networks are trained with it.
//!
//! On the CPU a pass over memory for the statistics and one for the output, all cores at work, and
//! as many for the gradients. On other devices it is Burn's.

#[cfg(feature = "flex")]
mod cpu;
#[cfg_attr(not(feature = "flex"), allow(dead_code))]
mod group;
#[cfg(feature = "flex")]
mod tracked;

pub use group::Group;

use burn::nn::BatchNorm;
use burn::tensor::Tensor;

/// ```text
/// y = γ · (x − μ) / √(σ² + ε) + β
/// ```
///
/// with mean μ and (biased) variance σ² over images and positions. While training (a device that
/// tracks gradients, and the layer in training mode) they are those of the batch, and the layer's
/// running statistics move towards them; else they are the running ones. A batch on the CPU may pass
/// in pieces ([`Group`]).
///
/// # Shapes
/// - `x`: `[N, C, H, W]`
/// - output: the same
pub fn batch_norm(layer: &BatchNorm, x: Tensor<4>) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if layer.training.is_enabled()
        && let Some(normalized) = tracked::batch_norm(
            &x,
            &layer.gamma.val(),
            &layer.beta.val(),
            layer.epsilon as f32,
        )
    {
        // All pieces have the same statistics, and share the layer's.
        if group::Member::current().is_none_or(|m| m.is_first()) {
            update(layer, normalized.mean, normalized.variance);
        }
        return normalized.y;
    }
    layer.forward(x)
}

/// Moves the running statistics, as Burn does.
#[cfg(feature = "flex")]
fn update(layer: &BatchNorm, mean: Tensor<1>, variance: Tensor<1>) {
    let momentum = layer.momentum;
    for (running, now) in [(&layer.running_mean, mean), (&layer.running_var, variance)] {
        let now = now.autodiff();
        // Another device may have moved them last.
        let before = running.value_sync().to_device(&now.device());
        let moved = before * (1.0 - momentum) + now * momentum;
        running.update(moved.detach());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Module;
    use burn::nn::BatchNormConfig;
    use burn::tensor::{Device, Distribution};

    fn relative<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
        let scale = b.clone().abs().max().into_scalar::<f32>();
        (a - b).abs().max().into_scalar::<f32>() / scale
    }

    #[test]
    fn values_gradients_and_statistics_are_those_of_burn() {
        let device = Device::flex().autodiff();
        let new = || BatchNormConfig::new(5).init(&device);
        let (ours, burns) = (new(), new());
        for step in 0..3 {
            let normal = |mean| Distribution::Normal(mean, 2.0);
            let x = Tensor::<4>::random([7, 5, 6, 9], normal(4.0), &device).require_grad();
            let run = |layer: &BatchNorm, ours: bool| {
                let y = match ours {
                    true => batch_norm(layer, x.clone()),
                    false => layer.forward(x.clone()),
                };
                // A loss whose gradient differs everywhere.
                let grads = (y.clone() * y.clone() * y.clone()).sum().backward();
                let of = |p: Tensor<1>| p.grad(&grads).unwrap();
                (
                    y.inner(),
                    x.grad(&grads).unwrap(),
                    of(layer.gamma.val()),
                    of(layer.beta.val()),
                )
            };
            let (a, b) = (run(&ours, true), run(&burns, false));
            assert!(relative(a.0, b.0) < 1e-5, "output {step}");
            assert!(relative(a.1, b.1) < 1e-4, "gradient of x {step}");
            // Sums of hundreds of cubes of either sign, which Burn takes in another order.
            assert!(relative(a.2, b.2) < 1e-4, "gradient of gamma {step}");
            assert!(relative(a.3, b.3) < 1e-4, "gradient of beta {step}");
        }
        let (ours, burns) = (ours.valid(), burns.valid());
        let value = |r: &burn::module::RunningState<Tensor<1>>| r.value();
        assert!(relative(value(&ours.running_mean), value(&burns.running_mean)) < 1e-6);
        assert!(relative(value(&ours.running_var), value(&burns.running_var)) < 1e-6);
        let x = Tensor::<4>::random(
            [2, 5, 3, 3],
            Distribution::Normal(0.0, 1.0),
            &Device::flex(),
        );
        let inference = (batch_norm(&ours, x.clone()), burns.forward(x));
        assert!(relative(inference.0, inference.1) < 1e-6, "after training");
    }

    #[test]
    fn a_large_mean_does_not_swallow_the_variance() {
        let device = Device::flex().autodiff();
        let layer = BatchNormConfig::new(1).init(&device);
        let x = Tensor::<4>::random([4, 1, 16, 16], Distribution::Normal(1e3, 1.0), &device);
        let y = batch_norm(&layer, x).inner();
        let variance = (y.clone() * y).mean().into_scalar::<f32>();
        assert!((variance - 1.0).abs() < 1e-3, "{variance}");
    }
}
