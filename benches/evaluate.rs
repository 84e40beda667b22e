//! Logits of ResNet-20, images/s, on every backend of this build: the folded float network, and
//! its W4A4 simulation (real arithmetic on rounded values, so slower than float, not faster).
//!
//! Software Vulkan (Mesa's lavapipe) shows that the wgpu path runs, not how fast a GPU is.

use burn::tensor::{Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lb_nn::layer::{Act, Conv, Dense};
use lb_resnet::model::ResNet;

const BATCH: usize = 32;

fn evaluate(c: &mut Criterion) {
    for (name, device) in lb_benches::devices() {
        let (folded, quantized) = lb_benches::resnet20_w4a4(&Device::flex());
        let x = lb_benches::image_tensor(BATCH, &device);
        let mut group = c.benchmark_group(format!("evaluate {name}, resnet20, batch {BATCH}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        let folded = burn::module::Module::to_device(folded, &device);
        let quantized = burn::module::Module::to_device(quantized, &device);
        group.bench_function("float", |b| b.iter(|| logits(&folded, &x)));
        group.bench_function("simulated W4A4", |b| b.iter(|| logits(&quantized, &x)));
        group.finish();
    }
}

/// Reading the result waits for the device.
fn logits<C: Conv, A: Act, L: Dense>(net: &ResNet<C, A, L>, x: &Tensor<4>) -> Vec<f32> {
    net.forward(x.clone())
        .try_into_vec_as()
        .expect("logits from the device")
}

criterion_group! {
    name = benches;
    config = lb_benches::criterion(2.0);
    targets = evaluate
}
criterion_main!(benches);
