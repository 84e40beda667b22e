//! Squared distance from a target, the loss of reconstruction.
//!
//! On the CPU value and gradient are one pass each; elsewhere they are Burn's operators.

#[cfg(feature = "flex")]
mod cpu;

use burn::tensor::Tensor;

/// `Σ (x − target)²`, `[1]`, with the gradient `2 (x − target)` of `x`.
///
/// `target` is on the device of `x`, with or without its gradients, and receives none.
pub fn squared<const D: usize>(x: Tensor<D>, target: Tensor<D>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::squared(&x, &target) {
        return y;
    }
    let target = match x.device().is_autodiff() && !target.device().is_autodiff() {
        true => target.autodiff(),
        false => target.detach(),
    };
    let d = x - target;
    (d.clone() * d).sum()
}

/// `Σ x²`, `[1]`.
pub fn squared_norm<const D: usize>(x: Tensor<D>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::squared_norm(&x) {
        return y;
    }
    (x.clone() * x).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn value_and_gradient_are_those_of_burn() {
        let device = Device::flex().autodiff();
        let random = || {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<4>::random([3, 5, 40, 61], normal, &device)
        };
        let (x, target) = (random().require_grad(), random());
        let run = |loss: Tensor<1>| {
            let grads = (loss.clone() * 0.5).backward();
            (loss.into_scalar::<f32>(), x.grad(&grads).unwrap())
        };
        let d = x.clone() - target.clone();
        let (loss, dx) = run((d.clone() * d).sum());
        for target in [target.clone(), target.inner()] {
            let (ours, ours_dx) = run(squared(x.clone(), target));
            assert!((ours - loss).abs() < 1e-4 * loss, "{ours} {loss}");
            let off = (ours_dx - dx.clone()).abs().max().into_scalar::<f32>();
            assert!(off < 1e-6, "{off}");
        }
        let plain = squared(x.clone().inner(), random().inner()).into_scalar::<f32>();
        assert!(plain > 0.0);
    }

    #[test]
    fn the_norm_is_the_distance_from_zero() {
        let device = Device::flex().autodiff();
        let x = Tensor::<4>::random([3, 5, 40, 61], Distribution::Normal(0.0, 1.0), &device);
        let x = x.require_grad();
        let tracked = squared_norm(x.clone());
        let dx = x.grad(&tracked.backward()).unwrap();
        let off = (dx - x.clone().inner() * 2.0).abs().max();
        assert!(off.into_scalar::<f32>() < 1e-6);

        let plain = x.inner();
        let distance = squared(plain.clone(), plain.zeros_like()).into_scalar::<f32>();
        assert_eq!(squared_norm(plain).into_scalar::<f32>(), distance);
    }
}
