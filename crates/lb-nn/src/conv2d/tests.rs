//! Ours against Burn's, values and gradients.

use burn::tensor::module::conv2d as burn_conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Distribution, Tensor};

use super::*;

fn relative<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    let scale = b.clone().abs().max().into_scalar::<f32>();
    (a - b).abs().max().into_scalar::<f32>() / scale
}

#[test]
fn values_and_gradients_are_those_of_burn() {
    let device = Device::flex().autodiff();
    for (c_in, c_out, size, k, stride, padding, bias) in [
        (3, 16, 30, 3, 1, 1, true),
        (6, 5, 14, 3, 1, 1, false),
        (16, 16, 9, 3, 1, 1, false),
        (5, 7, 9, 3, 2, 1, true),
        (5, 7, 8, 3, 2, 1, false),
        (6, 18, 30, 3, 2, 1, false),
        (2, 3, 1, 3, 2, 1, true),
        (4, 6, 8, 1, 2, 0, true),
        (3, 4, 7, 3, 1, 0, true),
        (2, 3, 5, 5, 1, 2, true),
        (2, 3, 6, 5, 3, 2, true),
        (2, 3, 1, 3, 1, 1, true),
        (2, 3, 3, 3, 1, 3, true),
    ] {
        let random =
            |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let geometry = Geometry { stride, padding };
        let x = random([11, c_in, size, size + 2]).require_grad();
        let w = random([c_out, c_in, k, k]).require_grad();
        let b = random([1, 1, 1, c_out])
            .reshape([c_out])
            .detach()
            .require_grad();
        let b_of = |b: &Tensor<1>| bias.then(|| b.clone());
        let run = |ours: bool| {
            let y = match ours {
                true => conv2d(x.clone(), w.clone(), b_of(&b), geometry),
                false => {
                    let options = ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1);
                    burn_conv2d(x.clone(), w.clone(), b_of(&b), options)
                }
            };
            // A loss whose gradient differs everywhere.
            let grads = (y.clone() * y.clone()).sum().backward();
            (
                y.inner(),
                x.grad(&grads).unwrap(),
                w.grad(&grads).unwrap(),
                bias.then(|| b.grad(&grads).unwrap()),
            )
        };
        let (ours, burns) = (run(true), run(false));
        let what = format!("{c_in}→{c_out}, {size} rows, k {k}, {geometry:?}");
        assert!(relative(ours.0, burns.0) < 1e-5, "output of {what}");
        assert!(relative(ours.1, burns.1) < 1e-5, "input gradient of {what}");
        assert!(
            relative(ours.2, burns.2) < 1e-5,
            "weight gradient of {what}"
        );
        if let (Some(a), Some(b)) = (ours.3, burns.3) {
            assert!(relative(a, b) < 1e-5, "bias gradient of {what}");
        }
    }
}

/// Rounded factors are within 2⁻⁹ of what they were, and the signs of the errors are mixed.
#[test]
fn in_bfloat16_values_and_gradients_are_nearly_the_same() {
    if !has_bf16() {
        eprintln!(
            "SKIPPED in_bfloat16_values_and_gradients_are_nearly_the_same: no AMX with bfloat16"
        );
        return;
    }
    let device = Device::flex().autodiff();
    for (c_in, c_out, size, stride, bias, rounds) in [
        (3, 16, 32, 1, false, true),
        (16, 16, 32, 1, true, true),
        (32, 32, 16, 1, false, true),
        (64, 64, 8, 1, false, true),
        (16, 32, 32, 2, false, false),
        (16, 18, 8, 1, false, false),
        (6, 16, 8, 1, false, true),
        (16, 16, 7, 1, true, false),
    ] {
        let normal = Distribution::Normal(0.0, 1.0);
        let random = |shape: [usize; 4]| Tensor::<4>::random(shape, normal, &device);
        let geometry = Geometry { stride, padding: 1 };
        let x = random([19, c_in, size, size]).require_grad();
        let w = random([c_out, c_in, 3, 3]).require_grad();
        let b = (bias).then(|| random([1, 1, 1, c_out]).reshape([c_out]).detach());
        let run = |bf16: bool| {
            in_bf16(bf16, || {
                let y = conv2d(x.clone(), w.clone(), b.clone(), geometry);
                let grads = (y.clone() * y.clone()).sum().backward();
                (y.inner(), x.grad(&grads).unwrap(), w.grad(&grads).unwrap())
            })
        };
        let (rounded, exact) = (run(true), run(false));
        let off = [
            relative(rounded.0, exact.0),
            relative(rounded.1, exact.1),
            relative(rounded.2, exact.2),
        ];
        let what = format!("{c_in}→{c_out}, {size} rows, stride {stride}: {off:?}");
        assert!(off.iter().all(|&off| off < 0.01), "{what}");
        assert_eq!(off.iter().any(|&off| off > 1e-4), rounds, "{what}");
    }
    assert!(!BF16.get());
}

/// Scratch that a thread goes on with has something of the images before in it.
#[cfg(feature = "flex")]
#[test]
fn one_thread_computes_what_many_do() {
    let device = Device::flex().autodiff();
    for (c_in, stride) in [(3, 1), (3, 2), (6, 1), (6, 2)] {
        let geometry = Geometry { stride, padding: 1 };
        let normal = Distribution::Normal(0.0, 1.0);
        let x = Tensor::<4>::random([70, c_in, 16, 16], normal, &device).require_grad();
        let w = Tensor::<4>::random([c_in + 1, c_in, 3, 3], normal, &device).require_grad();
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            pool.build().unwrap().install(|| {
                let y = conv2d(x.clone(), w.clone(), None, geometry);
                let grads = (y.clone() * y.clone()).sum().backward();
                let of = |t: &Tensor<4>| t.grad(&grads).unwrap().into_data();
                (y.inner().into_data(), of(&x), of(&w))
            })
        };
        assert_eq!(run(1), run(64), "{c_in} channels, stride {stride}");
    }
}

#[test]
fn without_gradients_the_values_are_the_same_bit_for_bit() {
    let plain = Device::flex();
    let x = Tensor::<4>::random([3, 4, 8, 8], Distribution::Normal(0.0, 1.0), &plain);
    let w = Tensor::<4>::random([5, 4, 3, 3], Distribution::Normal(0.0, 1.0), &plain);
    let g = Geometry {
        stride: 1,
        padding: 1,
    };
    let a = conv2d(x.clone(), w.clone(), None, g);
    let b = conv2d(x.autodiff(), w.autodiff(), None, g).inner();
    assert_eq!(a.into_data(), b.into_data());
}

#[test]
fn sums_in_turn_are_the_same_sums_and_round_less() {
    let device = Device::flex();
    let x = Tensor::<4>::random([3, 32, 16, 16], Distribution::Normal(0.0, 1.0), &device);
    let w = Tensor::<4>::random([32, 32, 3, 3], Distribution::Normal(0.0, 1.0), &device);
    let g = Geometry {
        stride: 1,
        padding: 1,
    };
    // Integers, whose sums f32 holds exactly.
    let (x, w) = ((x * 4.0).round(), (w * 4.0).round());
    let in_turn = conv2d_in_turn(x.clone(), w.clone(), None, g);
    assert_eq!(in_turn.to_data(), in_turn.clone().round().to_data());
    let any = conv2d(x, w, None, g);
    assert!(relative(any, in_turn) < 1e-5);
}

#[test]
fn views_are_read_as_what_they_show() {
    let device = Device::flex();
    let x = Tensor::<4>::random([2, 6, 6, 3], Distribution::Normal(0.0, 1.0), &device);
    let w = Tensor::<4>::random([3, 3, 3, 5], Distribution::Normal(0.0, 1.0), &device);
    let g = Geometry {
        stride: 1,
        padding: 1,
    };
    let (xv, wv) = (x.permute([0, 3, 1, 2]), w.permute([3, 0, 1, 2]));
    let copy = |t: &Tensor<4>| Tensor::<4>::from_data(t.to_data(), &device);
    let a = conv2d(xv.clone(), wv.clone(), None, g);
    let b = conv2d(copy(&xv), copy(&wv), None, g);
    assert_eq!(a.into_data(), b.into_data());
}

#[test]
fn moments_are_those_of_the_columns() {
    let device = Device::flex();
    let normal = Distribution::Normal(0.3, 1.0);
    for (k, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 2, 0)] {
        let geometry = Geometry { stride, padding };
        let x = Tensor::<4>::random([11, 3, 8, 8], normal, &device);
        let w = Tensor::<4>::random([5, 3, k, k], normal, &device);
        let y = conv2d(x.clone(), w.clone(), None, geometry);
        let (mut ours, mut generic) = (LayerMoments::default(), LayerMoments::default());
        gather(&mut ours, x.clone(), y.clone(), k, geometry).unwrap();
        let columns = columns(x, k, stride, padding);
        generic
            .add(columns, y.swap_dims(0, 1).flatten(1, 3))
            .unwrap();
        let off = ours.distance(&generic);
        assert!(off < 1e-5, "kernel {k}, {geometry:?}: {off}");
    }
}
