//! `max(x, 0)`, `a + b` and `max(a + b, 0)`, by all cores where Burn's CPU backend uses one.

#[cfg(feature = "flex")]
mod cpu;

use burn::tensor::Tensor;
#[cfg(feature = "flex")]
use lb_core::host::{self, OnHost};

/// `max(x, 0)`, of any shape; the gradient at 0 is 0.
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(host) = host::on_host(&x) {
        drop(x);
        return cpu::relu(host);
    }
    burn::tensor::activation::relu(x)
}

/// `a + b`, of one shape.
///
/// # Panics
/// If they are not.
pub fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    assert_eq!(a.dims(), b.dims(), "a sum of tensors of one shape");
    #[cfg(feature = "flex")]
    match (host::on_host(&a), host::on_host(&b)) {
        (Some(OnHost::Plain(x)), Some(OnHost::Plain(y))) => {
            drop((a, b));
            return cpu::add(x, y);
        }
        (Some(OnHost::Tracked(x)), Some(OnHost::Tracked(y))) => {
            drop((a, b));
            return cpu::add_tracked(x, y);
        }
        _ => {}
    }
    a + b
}

/// `max(a + b, 0)`, of one shape; the gradient at 0 is 0.
///
/// # Panics
/// If they are not.
pub fn add_relu<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    assert_eq!(a.dims(), b.dims(), "a sum of tensors of one shape");
    #[cfg(feature = "flex")]
    if let (Some(OnHost::Tracked(x)), Some(OnHost::Tracked(y))) =
        (host::on_host(&a), host::on_host(&b))
    {
        drop((a, b));
        return cpu::add_relu_tracked(x, y);
    }
    relu(add(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn values_and_gradients_are_those_of_burn() {
        let device = Device::flex().autodiff();
        // More than a chunk, and not a multiple of it.
        let random = || {
            let normal = Distribution::Normal(0.0, 1.0);
            Tensor::<4>::random([3, 5, 40, 61], normal, &device).require_grad()
        };
        let (a, b) = (random(), random());
        let run = |ours: bool, apart: bool| {
            let (a, b) = (a.clone(), b.clone());
            let y = match ours {
                true if apart => relu(add(a.clone(), b.clone())),
                true => add_relu(a.clone(), b.clone()),
                false => burn::tensor::activation::relu(a.clone() + b.clone()),
            };
            let grads = (y.clone() * y.clone()).sum().backward();
            let grad = |x: Tensor<4>| x.grad(&grads).unwrap().into_data();
            (y.inner().into_data(), grad(a), grad(b))
        };
        assert_eq!(run(true, true), run(false, false));
        assert_eq!(run(true, false), run(false, false));
        let (a, b) = (a.clone().inner(), b.clone().inner());
        let plain = relu(add(a.clone(), b.clone())).into_data();
        assert_eq!(plain, run(true, true).0);
        assert_eq!(plain, add_relu(a.clone(), b.clone()).into_data());
        let transposed = add(a.clone().transpose(), b.clone().transpose());
        assert_eq!(transposed.into_data(), (a + b).transpose().into_data());
    }

    #[test]
    fn what_is_not_a_number_is_not_hidden() {
        let x = Tensor::<1>::from_data([f32::NAN, -1.0, 0.0], &Device::flex());
        let y: Vec<f32> = relu(x).try_to_vec_as().unwrap();
        assert!(y[0].is_nan() && y[1..] == [0.0, 0.0], "{y:?}");
        let x = Tensor::<1>::from_data([f32::NAN, -1.0, 0.0], &Device::flex().autodiff());
        let y: Vec<f32> = add_relu(x.clone(), x).inner().try_to_vec_as().unwrap();
        assert!(y[0].is_nan() && y[1..] == [0.0, 0.0], "{y:?}");
    }

    #[test]
    fn a_value_used_twice_gets_both_gradients() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_data([1.0f32, -2.0], &device).require_grad();
        let grads = add(x.clone(), relu(x.clone())).sum().backward();
        let dx: Vec<f32> = x.grad(&grads).unwrap().try_to_vec_as().unwrap();
        assert_eq!(dx, [2.0, 1.0]);
        let grads = add_relu(x.clone(), x.clone()).sum().backward();
        let dx: Vec<f32> = x.grad(&grads).unwrap().try_to_vec_as().unwrap();
        assert_eq!(dx, [2.0, 0.0]);
    }
}
