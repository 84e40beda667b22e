//! Ours against Burn's, values, gradients and statistics.

use super::*;
use burn::module::Module;
use burn::tensor::Distribution;

fn relative<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    let scale = b.clone().abs().max().into_scalar::<f32>();
    (a - b).abs().max().into_scalar::<f32>() / scale
}

/// The layer in Burn's operators.
fn burns(layer: &ConvBn, x: Tensor<4>, relu: bool) -> Tensor<4> {
    let y = layer.bn.forward(layer.conv.forward(x));
    match relu {
        true => burn::tensor::activation::relu(y),
        false => y,
    }
}

/// As wide as its input at stride 1.
fn config(channels: [usize; 2], kernel: usize, stride: usize) -> ConvBnConfig {
    ConvBnConfig {
        channels,
        kernel,
        stride,
        padding: kernel / 2,
    }
}

/// As after some training: scales of either sign and none, and shifts.
fn trained(config: ConvBnConfig, device: &Device) -> ConvBn {
    let [_, c] = config.channels;
    let values = |of: &dyn Fn(f32) -> f32| {
        let values: Vec<f32> = (0..c).map(|c| of(c as f32)).collect();
        Tensor::<1>::from_data(values.as_slice(), device)
    };
    let mut layer = config.init(device);
    layer.bn.gamma = layer
        .bn
        .gamma
        .map(|_| values(&|c| 0.7 * c - 1.4).require_grad());
    layer.bn.beta = layer
        .bn
        .beta
        .map(|_| values(&|c| 0.5 - 0.3 * c).require_grad());
    layer
}

#[test]
fn values_gradients_and_statistics_are_those_of_burn() {
    let device = Device::flex().autodiff();
    for (relu, kernel, stride, c_in) in [
        (true, 3, 1, 4),
        (false, 3, 1, 3),
        (true, 3, 2, 4),
        (false, 1, 2, 4),
    ] {
        let config = config([c_in, 5], kernel, stride);
        let layer = trained(config, &device);
        let (ours, other) = (layer.clone().fork(&device), layer.fork(&device));
        for step in 0..3 {
            let normal = |mean| Distribution::Normal(mean, 2.0);
            let mut x = Tensor::<4>::random([19, 6, 9, c_in], normal(4.0), &device);
            if step > 0 {
                // The first image of a network tracks nothing.
                x = x.require_grad();
            }
            let run = |layer: &ConvBn, ours: bool| {
                let view = x.clone().permute([0, 3, 1, 2]);
                let y = match ours {
                    true => layer.normalized(view, relu),
                    false => burns(layer, view, relu),
                };
                // A loss whose gradient differs everywhere.
                let grads = (y.clone() * y.clone() * y.clone()).sum().backward();
                let of = |p: Tensor<1>| p.grad(&grads).unwrap();
                (
                    y.inner(),
                    x.grad(&grads),
                    layer.conv.weight.val().grad(&grads).unwrap(),
                    of(layer.bn.gamma.val()),
                    of(layer.bn.beta.val()),
                )
            };
            let (a, b) = (run(&ours, true), run(&other, false));
            let what = format!("{kernel}×{kernel} at stride {stride}, ReLU {relu}, step {step}");
            assert!(relative(a.0, b.0) < 1e-5, "output of {what}");
            assert_eq!(a.1.is_some(), step > 0);
            if let (Some(a), Some(b)) = (a.1, b.1) {
                assert!(relative(a, b) < 1e-4, "gradient of x, {what}");
            }
            // Sums of hundreds of cubes of either sign, which Burn takes in another order.
            assert!(relative(a.2, b.2) < 1e-4, "gradient of the weight, {what}");
            assert!(relative(a.3, b.3) < 1e-4, "gradient of gamma, {what}");
            assert!(relative(a.4, b.4) < 1e-4, "gradient of beta, {what}");
        }
        let (ours, other) = (ours.valid(), other.valid());
        let value = |r: &burn::module::RunningState<Tensor<1>>| r.value();
        let means = (&ours.bn.running_mean, &other.bn.running_mean);
        assert!(relative(value(means.0), value(means.1)) < 1e-6);
        let variances = (&ours.bn.running_var, &other.bn.running_var);
        assert!(relative(value(variances.0), value(variances.1)) < 1e-6);
        let normal = Distribution::Normal(0.0, 1.0);
        let x = Tensor::<4>::random([2, c_in, 3, 3], normal, &Device::flex());
        let (a, b) = (ours.normalized(x.clone(), relu), burns(&other, x, relu));
        assert!(relative(a, b) < 1e-5, "after training");
    }
}

#[test]
fn what_does_not_learn_is_left_alone() {
    let device = Device::flex().autodiff();
    let config = config([3, 5], 3, 1);
    let normal = Distribution::Normal(0.0, 1.0);
    let x = Tensor::<4>::random([9, 3, 8, 8], normal, &device);
    let whole = trained(config, &device);
    let gradients = |layer: &ConvBn| {
        let y = layer.normalized(x.clone(), true);
        let grads = (y.clone() * y).sum().backward();
        let gamma = layer.bn.gamma.val().grad(&grads).map(Tensor::into_data);
        let weight = layer.conv.weight.val().grad(&grads).map(Tensor::into_data);
        (weight, gamma)
    };
    let mut fixed_weight = whole.clone().fork(&device);
    fixed_weight.conv = fixed_weight.conv.no_grad();
    let mut fixed_norm = whole.clone().fork(&device);
    fixed_norm.bn = fixed_norm.bn.no_grad();
    let (weight, gamma) = gradients(&whole);
    assert!(weight.is_some() && gamma.is_some());
    assert_eq!(gradients(&fixed_weight), (None, gamma));
    assert_eq!(gradients(&fixed_norm), (weight, None));
}

#[test]
#[should_panic(expected = "cannot pass in pieces")]
fn a_convolution_that_would_be_normalized_by_the_piece_is_refused() {
    let device = Device::flex().autodiff();
    let config = config([2, 2], 1, 1);
    let mut layer = config.init(&device);
    layer.conv.dilation = [2, 2];
    let x = Tensor::<4>::zeros([2, 2, 4, 4], &device);
    Group::new(1, 1).join(0, || layer.normalized(x, true));
}

#[test]
fn a_large_mean_does_not_swallow_the_variance() {
    let device = Device::flex().autodiff();
    let config = config([1, 1], 1, 1);
    let mut layer = config.init(&device);
    layer.conv.weight = layer.conv.weight.map(|w| w.ones_like());
    let normal = Distribution::Normal(1e3, 1.0);
    let x = Tensor::<4>::random([4, 1, 16, 16], normal, &device);
    let y = Conv::forward(&layer, x).inner();
    let variance = (y.clone() * y).mean().into_scalar::<f32>();
    assert!((variance - 1.0).abs() < 1e-3, "{variance}");
}

#[test]
fn what_is_not_a_number_is_not_hidden() {
    let device = Device::flex().autodiff();
    let config = config([1, 1], 1, 1);
    let x = Tensor::<4>::from_data([[[[f32::NAN, -1.0, 0.0]]]], &device);
    let y = config.init(&device).normalized(x, true);
    let y: Vec<f32> = y.inner().try_into_vec_as().unwrap();
    assert!(y[0].is_nan(), "{y:?}");
}
