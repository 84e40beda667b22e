//! Learned layers on small random weights.

use burn::module::{Module, Param};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Tensor};
use lb_core::weight::{self, WeightRule};
use lb_core::{Granularity, QScheme, Symmetry};
use lb_format::{Affine, BitWidth, Diffusion, Levels, QParams};

use super::*;
use crate::layer::{Act, Conv};
use crate::{ConvBnConfig, Nonlinearity, QuantAct, QuantConv2d, fold};

/// The same numbers in 0..1 in every run: a device's own generator is shared with other tests.
fn uniform(shape: [usize; 4], seed: u64) -> Tensor<4> {
    let mut state = seed;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        })
        .collect();
    Tensor::<1>::from_data(values.as_slice(), &Device::flex()).reshape(shape)
}

fn layers(bits: u8, rule: WeightRule) -> (burn::nn::conv::Conv2d, QuantConv2d) {
    let device = Device::flex();
    let config = ConvBnConfig {
        channels: [4, 6],
        kernel: 3,
        stride: 1,
        padding: 1,
    };
    let mut conv = fold::fold(config.init(&device));
    conv.weight = Param::from_tensor(uniform([6, 4, 3, 3], 1) - 0.5);
    let scheme = QScheme::weight(
        BitWidth::new(bits).unwrap(),
        Symmetry::Affine,
        Granularity::PerChannel,
    );
    let q = weight::qparams(conv.weight.val(), scheme, rule).unwrap();
    (conv.clone(), QuantConv2d::quantize(conv, Some(q)))
}

fn learning(rounding: Rounding) -> Learning {
    Learning {
        rounding,
        relative_rate: 1.0,
    }
}

#[test]
fn what_cannot_learn_is_refused_and_says_why() {
    let (float, _) = layers(4, WeightRule::Mse);
    let bits = BitWidth::new(4).unwrap();
    let scheme = QScheme::weight(bits, Symmetry::Affine, Granularity::PerChannel);
    let levels = Levels::additive_powers_of_two(bits).unwrap();
    let q = lb_core::levels::qparams(float.weight.val(), &levels, scheme, WeightRule::Mse).unwrap();
    for (q, said) in [(Some(q), "--levels apot"), (None, "left in float")] {
        let quantized = QuantConv2d::quantize(float.clone(), q);
        let e = LearnedConv2d::new(&quantized, &float, learning(Rounding::Straight)).unwrap_err();
        assert!(e.to_string().contains(said), "{e}");
    }
}

fn max_difference(a: Tensor<4>, b: Tensor<4>) -> f32 {
    (a - b).abs().max().into_scalar()
}

#[test]
fn an_untrained_layer_comes_back_as_it_was() {
    for bits in [1, 2, 4, 8] {
        for rounding in [Rounding::Straight, Rounding::AdaRound] {
            let (float, quantized) = layers(bits, WeightRule::Mse);
            let learned = LearnedConv2d::new(&quantized, &float, learning(rounding)).unwrap();
            let back = learned.finish().unwrap();
            let difference = max_difference(back.weight.val(), quantized.weight.val());
            assert!(difference < 1e-6, "{bits} bits, {rounding:?}: {difference}");
            let stored = back.to_format("x").unwrap();
            assert_eq!(
                stored.weight.dequantize(),
                back.weight
                    .val()
                    .into_data()
                    .try_to_vec_as::<f32>()
                    .unwrap()
            );
        }
    }
}

/// Training must reach weights that rounding to the nearest does not: the error of the outputs
/// falls, and what is exported computes what was trained.
#[test]
fn training_lowers_the_error_and_is_exported() {
    // From the full range there are scales and offsets to learn, and codes that they change.
    for (rounding, peak) in [(Rounding::Straight, 0.003), (Rounding::AdaRound, 0.02)] {
        let (float, quantized) = layers(2, WeightRule::MinMax);
        // Inputs that are much alike, as neighbouring pixels are: rounding errors of a channel add
        // up on them, which rounding each weight to the nearest does not see.
        let x = uniform([16, 1, 1, 1], 2).expand([16, 4, 8, 8]) + uniform([16, 4, 8, 8], 3) * 0.3;
        let target = Conv::forward(&float, x.clone());
        let error = |y: Tensor<4>| {
            let d = y - target.clone();
            (d.clone() * d).mean().into_scalar::<f32>()
        };
        let before = error(quantized.forward(x.clone()));
        let mut layer = LearnedConv2d::new(&quantized, &float, learning(rounding))
            .unwrap()
            .set_require_grad(true)
            .train();
        let mut adam = AdamConfig::new().init();
        let (xa, ta) = (x.clone().autodiff(), target.clone().autodiff());
        for i in 0..300u16 {
            let d = layer.forward(xa.clone()) - ta.clone();
            let mut loss = (d.clone() * d).mean() * 10.0;
            if i > 60
                && let Some(r) = layer.indecision(2.0)
            {
                loss = loss + r * 0.01;
            }
            let grads = GradientsParams::from_grads(loss.backward(), &layer);
            let rate = peak * (1.0 - f64::from(i) / 300.0);
            layer = adam.step(rate, layer, grads);
        }
        let exported = layer.valid().finish().unwrap();
        let after = error(exported.forward(x.clone()));
        assert!(after < before * 0.8, "{rounding:?}: {before} to {after}");
    }
}

/// All weights are driven to their lowest code, far longer than it takes, and then to their highest.
#[test]
fn codes_that_left_their_range_come_back() {
    let (float, quantized) = layers(2, WeightRule::Mse);
    let codes_alone = Learning {
        relative_rate: 0.0,
        ..learning(Rounding::Straight)
    };
    let mut layer = LearnedConv2d::new(&quantized, &float, codes_alone)
        .unwrap()
        .set_require_grad(true)
        .train();
    let mut adam = AdamConfig::new().init();
    let x = Tensor::<4>::ones([1, 4, 3, 3], &Device::flex()).autodiff();
    let mut sums = Vec::new();
    for sign in [1.0, -1.0] {
        for _ in 0..40 {
            let loss = layer.forward(x.clone()).sum() * sign;
            let grads = GradientsParams::from_grads(loss.backward(), &layer);
            layer = adam.step(0.5, layer, grads);
            layer.confine();
        }
        let weight = layer.valid().finish().unwrap().weight.val();
        let channels = weight.reshape([6, -1]);
        let spread = channels.clone().max_dim(1) - channels.clone().min_dim(1);
        assert_eq!(spread.max().into_scalar::<f32>(), 0.0, "sign {sign}");
        sums.push(channels.sum().into_scalar::<f32>());
    }
    assert!(sums[1] > sums[0], "{sums:?}");
}

#[test]
fn an_activation_learns_its_step() {
    let device = Device::flex();
    for (unit, levels) in [(1.0f32, None), (40.0, Some(vec![0, 40, 80, 120]))] {
        let affine = Affine {
            scale: 0.1 / unit,
            zero_point: 0,
            offset: 0.0,
        };
        let mut q = QParams::per_tensor(BitWidth::new(2).unwrap(), false, affine);
        q.levels = levels.map(|l| Levels::new(l).unwrap());
        let start = QuantAct::new(Nonlinearity::Relu, Some(q.clone()));
        let x = uniform([4, 4, 8, 8], 4) * 4.0 - 1.0;
        let dropping = Dropping::default();
        let mut act = LearnedAct::new(&start, &dropping, 0, 0.1, &device)
            .set_require_grad(true)
            .train();
        let (before, expected) = (act.valid().forward(x.clone()), start.forward(x.clone()));
        assert!(max_difference(before, expected) < 1e-6);
        let mut adam = AdamConfig::new().init();
        let xa = x.clone().autodiff();
        for i in 0..200 {
            dropping.set(0.5, i);
            let d = act.forward(xa.clone()) - burn::tensor::activation::relu(xa.clone());
            let grads = GradientsParams::from_grads((d.clone() * d).mean().backward(), &act);
            act = adam.step(0.1, act, grads);
        }
        let learned = act.valid().finish().unwrap().qparams.unwrap();
        assert_eq!(learned.levels, q.levels);
        // The best step for values spread over 0..3 puts the last code near 3.
        let step = learned.affine[0].scale * unit;
        assert!((0.7..1.1).contains(&step), "{step}");
    }
}

#[test]
fn a_dithered_or_diffused_image_stays_one_while_its_step_is_learned() {
    let affine = Affine {
        scale: 0.7,
        zero_point: 1,
        offset: 0.0,
    };
    let q = QParams::per_tensor(BitWidth::new(2).unwrap(), false, affine);
    let plain = QuantAct::new(Nonlinearity::Identity, Some(q));
    let mut diffusion = Diffusion::NONE;
    diffusion.pixel[1][0] = -200;
    diffusion.left[2][2] = -120;
    let image = uniform([2, 3, 6, 7], 5) * 2.0 - 0.7;
    let device = Device::flex();
    for start in [
        plain.clone().with_dither(true),
        plain.clone().with_diffusion(Some(diffusion)),
    ] {
        let act = LearnedAct::new(&start, &Dropping::default(), 0, 0.1, &device).valid();
        let (learned, added) = (act.forward(image.clone()), start.forward(image.clone()));
        assert!(max_difference(learned, added.clone()) < 1e-6);
        assert!(
            max_difference(plain.forward(image.clone()), added) > 0.6,
            "a step"
        );
        for same in [
            act.finish().unwrap(),
            QuantAct::from_format(&start.to_format("input")),
        ] {
            assert_eq!(same.dither, start.dither);
            assert_eq!(same.diffusion, start.diffusion);
        }
    }
}

/// The step is felt through what rounding leaves, errors of others included.
#[test]
fn a_diffused_image_learns_its_step() {
    let scale = 0.7;
    let affine = Affine {
        scale,
        zero_point: 0,
        offset: 0.0,
    };
    let q = QParams::per_tensor(BitWidth::new(2).unwrap(), false, affine);
    let mut diffusion = Diffusion::NONE;
    diffusion.pixel[1][0] = -256;
    let act = QuantAct::new(Nonlinearity::Identity, Some(q)).with_diffusion(Some(diffusion));
    let device = Device::flex();
    let act = LearnedAct::new(&act, &Dropping::default(), 0, 1.0, &device);
    let act = act.set_require_grad(true).train();
    // Red is 0.4 too little, so green is given 0.4 more: 1.6, of which 2 is 0.4 too much. Blue is clamped.
    let x = Tensor::<1>::from_data([1.4f32, 1.2, 9.0], &device);
    let x = (x * scale).reshape([1, 3, 1, 1]).autodiff();
    let y = act.forward(x);
    let codes: Vec<f32> = (y.clone() / scale).try_into_vec_as().unwrap();
    for (code, expected) in codes.iter().zip([1.0, 2.0, 3.0]) {
        assert!((code - expected).abs() < 1e-5, "{codes:?}");
    }
    let grads = GradientsParams::from_grads(y.sum().backward(), &act);
    let theta = burn::module::list_param_ids(&act)[0];
    let gradient: f32 = grads.get::<1>(theta).unwrap().into_scalar();
    // d/dθ of s: ρ · s, of each: n − v inside the range, n at its end.
    let expected = scale * ((1.0 - 1.4) + (2.0 - 1.6) + 3.0);
    assert!((gradient - expected).abs() < 2e-3, "{gradient} {expected}");
}
