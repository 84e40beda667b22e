//! What the benchmarks share: inputs, networks, devices and measuring times.
//!
//! Run all of them with `cargo bench`, one with `cargo bench --bench pack`, some with
//! `cargo bench --bench quantize -- fake`. Figures of one machine are in `benches/README.md`.

use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use criterion::Criterion;
use lb_data::{ImageSet, Split, SyntheticConfig};
use lb_format::NetworkInfo;
use lb_resnet::batch::images;
use lb_resnet::checkpoint::normalization;
use lb_resnet::model::{Arch, FloatNet, FoldedNet, QuantNet, Shortcut};
use lb_resnet::ptq::{self, Options};

/// Measures in about `seconds` a benchmark, warm-up and analysis apart.
pub fn criterion(seconds: f64) -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs_f64(seconds))
        .configure_from_args()
}

/// Every device that this build and this machine offer, with the name of its backend.
#[allow(clippy::vec_init_then_push)] // each line is there only with its feature
pub fn devices() -> Vec<(&'static str, Device)> {
    #[allow(unused_mut)]
    let mut devices = Vec::new();
    #[cfg(feature = "flex")]
    devices.push(("flex", Device::flex()));
    #[cfg(feature = "ndarray")]
    #[allow(deprecated)] // by Burn, in favour of flex; kept because our user named it
    devices.push(("ndarray", Device::ndarray()));
    #[cfg(feature = "wgpu")]
    match Device::enumerate(burn::tensor::DeviceType::Wgpu)
        .into_vec()
        .is_empty()
    {
        false => devices.push(("wgpu", Device::wgpu(Default::default()))),
        true => eprintln!("SKIPPED wgpu: no Vulkan, Metal or DirectX adapter was found"),
    }
    #[cfg(feature = "cuda")]
    devices.push(("cuda", Device::cuda(0)));
    devices
}

/// Values like activations after a ReLU: about half of them zero, the others up to 4.
pub fn activations(n: usize) -> Vec<f32> {
    // Steps of the golden ratio: spread evenly, and without pattern between neighbours.
    (0..n)
        .map(|i| (8.0 * (i as f32 * 0.618_034).fract() - 4.0).max(0.0))
        .collect()
}

/// [`activations`] on a device.
pub fn activation_tensor<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = activations(shape.iter().product());
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Normalised synthetic images `[n, 3, 32, 32]`.
pub fn image_tensor(n: usize, device: &Device) -> Tensor<4> {
    images(&image_set(n), 0, n, &normalization(&info()), device)
}

/// Synthetic images.
pub fn image_set(n: usize) -> ImageSet {
    let config = SyntheticConfig {
        train: n,
        test: 1,
        ..Default::default()
    };
    config
        .generate(Split::Train)
        .expect("the generator has no bad input")
}

/// ResNet-20 with option A, random weights.
pub fn resnet20(device: &Device) -> FloatNet {
    FloatNet::init(arch(), Shortcut::A, 10, 1, device)
}

/// [`resnet20`] folded, and quantized to 4 bits.
pub fn resnet20_w4a4(device: &Device) -> (FoldedNet, QuantNet) {
    let folded = ptq::fold(resnet20(device));
    let go_on = &mut |_| true;
    let calibration = ptq::observe(
        &folded,
        &image_set(64),
        &normalization(&info()),
        device,
        go_on,
    )
    .expect("images to observe");
    let options = Options::new("4".parse().expect("a width"));
    let quantized = ptq::quantize(&folded, &calibration, &options).expect("finite values");
    (folded, quantized)
}

/// Ten classes, and the normalisation of the benchmarks' images.
pub fn info() -> NetworkInfo {
    NetworkInfo {
        arch: arch().name.into(),
        shortcut: Shortcut::A.to_string(),
        classes: (0..10).map(|c| c.to_string()).collect(),
        mean: [0.5; 3],
        std: [0.25; 3],
        trained_on: String::new(),
    }
}

fn arch() -> Arch {
    "resnet20".parse().expect("a known architecture")
}
