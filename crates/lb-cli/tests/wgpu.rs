//! wgpu against flex: the same logits, the same training step, the same quantized network.
//!
//! Any adapter will do; in CI it is Mesa's software Vulkan (lavapipe). Without one the tests say
//! so and pass, unless `LB_REQUIRE_WGPU=1`. wgpu's autotune once chose a 1×1 convolution that
//! computes something else (tracel-ai/burn#5626), and this is what would notice.
//!
//! On lavapipe nearly all of the time (2 to 4 minutes of one core) goes into compiling the kernels
//! that autotune tries for each shape; `CUBECL_AUTOTUNE_LEVEL=minimal` does not lower it. So the
//! tests share one batch size, and with it what was tuned; Mesa's shader cache halves later runs.

#![cfg(feature = "wgpu")]

#[path = "../../lb-data/tests/common/shared.rs"]
mod shared;

use std::convert::Infallible;
use std::sync::Arc;

use burn::module::{Module, Param, RunningState};
use burn::nn::Linear;
use burn::tensor::{Device, DeviceType, Tensor, TensorData};
use lb_data::{AugmentConfig, ImageSet, Split, SyntheticConfig};
use lb_format::NetworkInfo;
use lb_nn::{ConvBn, FloatAct};
use lb_resnet::batch::images;
use lb_resnet::checkpoint::{self, normalization};
use lb_resnet::eval::top1;
use lb_resnet::model::{ActSite, Arch, ConvSite, FloatNet, QuantNet, Rewrite, Shortcut};
use lb_resnet::ptq::{self, DistillConfig, Distillation, Options};
use lb_resnet::train::{EpochMetrics, Monitor, Progress, RunFolder, TrainConfig, TrainData, train};

/// Images a batch, in every test.
const BATCH: usize = 4;

/// The wgpu device, or `None`, loudly, where there is no adapter.
fn wgpu(test: &str) -> Option<Device> {
    let adapters = Device::enumerate(DeviceType::Wgpu).into_vec();
    if adapters.is_empty() {
        let required = std::env::var("LB_REQUIRE_WGPU").is_ok_and(|v| v == "1");
        assert!(
            !required,
            "LB_REQUIRE_WGPU=1, but there is no Vulkan, Metal or DirectX adapter"
        );
        shared::skipped(
            test,
            "no Vulkan, Metal or DirectX adapter (Debian: mesa-vulkan-drivers)",
        );
        return None;
    }
    eprintln!("{test}: {adapters:?}");
    Some(Device::wgpu(Default::default()))
}

fn info(arch: Arch, shortcut: Shortcut) -> NetworkInfo {
    NetworkInfo {
        arch: arch.name.into(),
        shortcut: shortcut.to_string(),
        classes: (0..10).map(|c| format!("class {c}")).collect(),
        mean: [0.5; 3],
        std: [0.25; 3],
        trained_on: String::new(),
    }
}

fn image_set(n: usize) -> ImageSet {
    let config = SyntheticConfig {
        train: n,
        test: 1,
        ..Default::default()
    };
    config.generate(Split::Train).unwrap()
}

/// A network whose batch normalizations are not the identity, as after training.
fn network(arch: Arch, shortcut: Shortcut, device: &Device) -> FloatNet {
    let net = FloatNet::init(arch, shortcut, 10, 1, device);
    net.rewrite(&mut Statistics(0))
        .unwrap_or_else(|e| match e {})
}

/// Replaces the parameters and statistics of every batch normalization; counts the values.
struct Statistics(usize);

impl Statistics {
    fn draw(&mut self, channels: usize, lo: f32, hi: f32, device: &Device) -> Tensor<1> {
        let values = (0..channels).map(|_| {
            self.0 += 1;
            // Steps of the golden ratio fill 0..1 evenly.
            lo + (hi - lo) * (self.0 as f32 * 0.618_034).fract()
        });
        Tensor::from_data(TensorData::new(values.collect(), [channels]), device)
    }
}

impl Rewrite<ConvBn, FloatAct, Linear> for Statistics {
    type Conv = ConvBn;
    type Act = FloatAct;
    type Linear = Linear;
    type Error = Infallible;

    fn conv(&mut self, _: &ConvSite, mut layer: ConvBn) -> Result<ConvBn, Infallible> {
        let gamma = layer.bn.gamma.val();
        let (n, device) = (gamma.dims()[0], gamma.device());
        layer.bn.gamma = Param::from_tensor(self.draw(n, 0.5, 1.2, &device));
        layer.bn.beta = Param::from_tensor(self.draw(n, -0.3, 0.3, &device));
        layer.bn.running_mean = RunningState::new(self.draw(n, -0.5, 0.5, &device));
        layer.bn.running_var = RunningState::new(self.draw(n, 0.5, 2.0, &device));
        Ok(layer)
    }

    fn act(&mut self, _: &ActSite, act: FloatAct) -> Result<FloatAct, Infallible> {
        Ok(act)
    }

    fn linear(&mut self, linear: Linear) -> Result<Linear, Infallible> {
        Ok(linear)
    }
}

fn host<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    t.try_into_vec_as().unwrap()
}

fn max_abs(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |m, v| m.max(v.abs()))
}

/// Largest difference, as a part of the largest magnitude in `expected`.
fn relative(got: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let difference: Vec<f32> = got.iter().zip(expected).map(|(a, b)| a - b).collect();
    max_abs(&difference) / max_abs(expected)
}

#[test]
fn logits_are_those_of_flex() {
    let Some(wgpu) = wgpu("logits_are_those_of_flex") else {
        return;
    };
    for (arch, shortcut) in [("resnet8", Shortcut::B), ("resnet20", Shortcut::A)] {
        let arch: Arch = arch.parse().unwrap();
        let net = network(arch, shortcut, &Device::flex());
        let set = image_set(BATCH);
        let n = normalization(&info(arch, shortcut));
        let expected = host(net.forward(images(&set, 0, BATCH, &n, &Device::flex())));
        let moved = net.clone().to_device(&wgpu);
        let got = host(moved.forward(images(&set, 0, BATCH, &n, &wgpu)));
        let folded = host(ptq::fold(moved).forward(images(&set, 0, BATCH, &n, &wgpu)));
        let (error, folding) = (relative(&got, &expected), relative(&folded, &expected));
        eprintln!(
            "{arch} {shortcut}: logits up to {}, relative error {error:.1e}, folded on wgpu {folding:.1e}",
            max_abs(&expected)
        );
        assert!(
            error < 1e-3 && folding < 1e-3,
            "{arch} {shortcut}: {error} {folding}"
        );
    }
}

#[test]
fn quantized_networks_give_the_classes_of_flex() {
    const BATCHES: usize = 4;
    let Some(wgpu) = wgpu("quantized_networks_give_the_classes_of_flex") else {
        return;
    };
    let (arch, flex) = ("resnet8".parse().unwrap(), Device::flex());
    let info = info(arch, Shortcut::B);
    let (n, set) = (normalization(&info), image_set(64));
    let folded = ptq::fold(network(arch, Shortcut::B, &flex));
    let calibration = ptq::observe(&folded, &set, &n, &flex, &mut |_| true).unwrap();
    for bits in ["8", "4"] {
        let options = Options::new(bits.parse().unwrap());
        let net = ptq::quantize(&folded, &calibration, &options).unwrap();
        let packed = ptq::pack(&net, info.clone(), Default::default()).unwrap();
        let logits = |device: &Device| {
            let net = ptq::unpack(&packed, device).unwrap();
            let batch = |i| net.forward(images(&set, i * BATCH, BATCH, &n, device));
            Tensor::cat((0..BATCHES).map(batch).collect(), 0)
        };
        let (expected, got) = (logits(&flex), logits(&wgpu));
        let (classes, got_classes) = (top1(expected.clone()).unwrap(), top1(got.clone()).unwrap());
        let (expected, got) = (host(expected), host(got));
        // A sum that differs in its last bit can round to the neighbouring code, and that step
        // travels on: it may move logits a little, but none of these classes.
        let error = relative(&got, &expected);
        let moved = (got.iter().zip(&expected))
            .filter(|(a, b)| (*a - *b).abs() > 1e-4 * max_abs(&expected))
            .count();
        let differing = classes
            .iter()
            .zip(&got_classes)
            .filter(|(a, b)| a != b)
            .count();
        eprintln!(
            "W{bits}A{bits}: relative error {error:.1e}, {moved} of {} logits moved by a rounding, {differing} of {} classes differ",
            got.len(),
            classes.len()
        );
        assert_eq!(differing, 0, "W{bits}A{bits}: {classes:?} {got_classes:?}");
        assert!(error < 0.05, "W{bits}A{bits}: {error}");
    }
}

/// Gradients through quantized weights and activations, and the distances that they come from.
#[test]
fn tuning_is_that_of_flex() {
    let Some(wgpu) = wgpu("tuning_is_that_of_flex") else {
        return;
    };
    let (arch, flex) = ("resnet8".parse().unwrap(), Device::flex());
    let info = info(arch, Shortcut::A);
    let (n, set) = (normalization(&info), Arc::new(image_set(3 * BATCH)));
    let float = network(arch, Shortcut::A, &flex);
    let folded = ptq::fold(float.clone());
    let calibration = ptq::observe(&folded, &set, &n, &flex, &mut |_| true).unwrap();
    let options = Options::new("4".parse().unwrap());
    let start = ptq::quantize(&folded, &calibration, &options).unwrap();
    let packed = ptq::pack(&start, info.clone(), Default::default()).unwrap();
    let config = DistillConfig {
        batch: BATCH,
        augment: AugmentConfig::none(),
        mixup: true,
        ..DistillConfig::new(3, 1)
    };
    let tuned = |device: &Device| {
        let teacher = ptq::fold(float.clone().to_device(device));
        let start = ptq::unpack(&packed, device).unwrap();
        let mut run = Distillation::new(&start, &teacher, set.clone(), n, &config, device).unwrap();
        let mut first_loss = f64::NAN;
        run.run(&mut |p| {
            first_loss = p.loss;
            true
        })
        .unwrap();
        let net = run.finish().unwrap();
        let logits = |net: &QuantNet| host(net.forward(images(&set, 0, BATCH, &n, device)));
        (first_loss, logits(&start), logits(&net))
    };
    let (loss, before, expected) = tuned(&flex);
    let (got_loss, _, got) = tuned(&wgpu);
    let (error, change) = (relative(&got, &expected), relative(&before, &expected));
    eprintln!(
        "loss {got_loss} against {loss}; logits moved by {change:.1e} of the largest, and differ by {error:.1e}"
    );
    assert!((got_loss - loss).abs() < 1e-3 * loss, "{got_loss} {loss}");
    // Adam's first steps have one size whatever the gradient's, so the smallest gradients go either
    // way; a wrong direction would differ by more than the change itself.
    assert!(error < 0.5 * change, "{error} of a change of {change}");
}

struct Quiet;

impl Monitor for Quiet {
    fn step(&mut self, _: &Progress) -> bool {
        true
    }
    fn epoch(&mut self, _: &EpochMetrics) {}
}

#[test]
fn a_training_step_is_that_of_flex() {
    let Some(wgpu) = wgpu("a_training_step_is_that_of_flex") else {
        return;
    };
    same_steps(1, &[Device::flex()], &[wgpu]);
}

/// Two of one kind, and one of each: gradients and statistics then travel between devices.
#[test]
fn a_training_step_on_two_devices_is_that_of_flex_on_two() {
    let Some(wgpu) = wgpu("a_training_step_on_two_devices_is_that_of_flex_on_two") else {
        return;
    };
    let two = [Device::flex(), Device::flex()];
    same_steps(1, &two, &[wgpu.clone(), wgpu.clone()]);
    same_steps(3, &two, &[wgpu, Device::flex()]);
}

/// Steps of training move every parameter and statistic alike, those of the average included.
fn same_steps(steps: usize, expected: &[Device], others: &[Device]) {
    let arch: Arch = "resnet8".parse().unwrap();
    let info = info(arch, Shortcut::A);
    let config = TrainConfig {
        epochs: steps,
        batch: BATCH,
        warmup_epochs: 0.0,
        learning_rate: 0.01,
        ema: (steps > 1).then_some(0.9),
        augment: AugmentConfig::none(),
        seed: 1,
        ..Default::default()
    };
    let data = TrainData {
        train: Arc::new(image_set(BATCH)),
        held_out: None,
    };
    let dir = tempfile::tempdir().unwrap();
    let step = |name: &str, devices: &[Device]| {
        let folder = RunFolder::new(dir.path().join(name));
        let outcome = train(&config, &info, &data, &folder, devices, &mut Quiet).unwrap();
        let net = checkpoint::load(&folder.last(), &Device::flex())
            .unwrap()
            .net;
        (outcome.epochs[steps - 1].train_loss, parts(&net))
    };
    let start = parts(&FloatNet::init(
        arch,
        Shortcut::A,
        10,
        config.seed,
        &Device::flex(),
    ));
    let (loss, expected) = step("expected", expected);
    let (got_loss, got) = step("others", others);
    assert!(
        got_loss.is_finite() && (got_loss - loss).abs() < 1e-3 * loss,
        "{got_loss} {loss}"
    );
    let mut worst: f32 = 0.0;
    for ((name, start), ((_, expected), (_, got))) in
        start.into_iter().zip(expected.into_iter().zip(got))
    {
        let change: Vec<f32> = expected.iter().zip(&start).map(|(a, b)| a - b).collect();
        let got_change: Vec<f32> = got.iter().zip(&start).map(|(a, b)| a - b).collect();
        assert!(max_abs(&change) > 0.0, "{name} did not move on flex");
        let error = relative(&got_change, &change);
        worst = worst.max(error);
        assert!(
            error < 0.01 * steps as f32,
            "{name}: the step differs by {error} of its largest part"
        );
    }
    eprintln!(
        "loss {got_loss} against {loss}; largest relative difference of a parameter's step {worst:.1e}"
    );
}

/// Parameters and statistics from the first layer to the last.
fn parts(net: &FloatNet) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    for (name, c) in net.convolutions() {
        all.push((format!("{name}, weight"), host(c.conv.weight.val())));
        all.push((format!("{name}, gamma"), host(c.bn.gamma.val())));
        all.push((format!("{name}, beta"), host(c.bn.beta.val())));
        all.push((
            format!("{name}, running mean"),
            host(c.bn.running_mean.value()),
        ));
        all.push((
            format!("{name}, running variance"),
            host(c.bn.running_var.value()),
        ));
    }
    all.push(("linear".into(), host(net.linear.weight.val())));
    all
}
