//! `max(x, 0)` and `a + b`, by all cores where Burn's CPU backend uses one.

#[cfg(feature = "flex")]
mod cpu;

use burn::tensor::Tensor;

/// `max(x, 0)`, of any shape; the gradient at 0 is 0.
pub fn relu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    let x = match cpu::relu(x) {
        Ok(y) => return y,
        Err(x) => x,
    };
    burn::tensor::activation::relu(x)
}

/// `a + b`, of one shape.
pub fn add<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    let (a, b) = match cpu::add(a, b) {
        Ok(y) => return y,
        Err(both) => both,
    };
    a + b
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
        let run = |ours: bool| {
            let (a, b) = (a.clone(), b.clone());
            let y = match ours {
                true => relu(add(a.clone(), b.clone())),
                false => burn::tensor::activation::relu(a.clone() + b.clone()),
            };
            let grads = (y.clone() * y.clone()).sum().backward();
            let grad = |x: Tensor<4>| x.grad(&grads).unwrap().into_data();
            (y.inner().into_data(), grad(a), grad(b))
        };
        assert_eq!(run(true), run(false));
        let (a, b) = (a.clone().inner(), b.clone().inner());
        let plain = relu(add(a.clone(), b.clone())).into_data();
        assert_eq!(plain, run(true).0);
        let transposed = add(a.clone().transpose(), b.clone().transpose());
        assert_eq!(transposed.into_data(), (a + b).transpose().into_data());
    }

    #[test]
    fn a_value_used_twice_gets_both_gradients() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_data([1.0f32, -2.0], &device).require_grad();
        let grads = add(x.clone(), relu(x.clone())).sum().backward();
        let dx: Vec<f32> = x.grad(&grads).unwrap().try_to_vec_as().unwrap();
        assert_eq!(dx, [2.0, 1.0]);
    }
}
