//! A training step of ResNet-20 on the CPU, images/s, and what it is made of.

use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{Device, Distribution, Int, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lb_nn::conv2d::{Geometry, conv2d};
use lb_nn::layer::Conv;
use lb_nn::{ConvBnConfig, FloatAct, Nonlinearity};

const BATCH: usize = 128;

fn step(c: &mut Criterion) {
    let device = Device::flex().autodiff();
    let mut net = lb_benches::resnet20(&device);
    let mut sgd = SgdConfig::new().init();
    let x = lb_benches::image_tensor(BATCH, &Device::flex()).autodiff();
    let labels: Vec<i32> = (0..BATCH as i32).map(|i| i % 10).collect();
    let labels = Tensor::<1, Int>::from_data(labels.as_slice(), &device);
    let criterion = CrossEntropyLossConfig::new().init(&device);
    let mut group = c.benchmark_group("train flex");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("step, resnet20, batch 128", |b| {
        b.iter(|| {
            let loss = criterion.forward(net.forward(x.clone()), labels.clone());
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            net = sgd.step(1e-3, net.clone(), gradients);
        });
    });
    group.finish();
}

/// Elements are multiply-accumulates.
fn layers(c: &mut Criterion) {
    let device = Device::flex().autodiff();
    let normal = Distribution::Normal(0.0, 1.0);
    for (channels, size) in [(16, 32), (32, 16), (64, 8)] {
        let mut group = c.benchmark_group(format!("train flex {channels}@{size}x{size}"));
        let x = Tensor::<4>::random([BATCH, channels, size, size], normal, &device);
        let x = x.require_grad();
        let w = Tensor::<4>::random([channels, channels, 3, 3], normal, &device).require_grad();
        let macs = BATCH * channels * channels * 9 * size * size;
        let geometry = Geometry {
            stride: 1,
            padding: 1,
        };
        group.throughput(Throughput::Elements(macs as u64));
        group.bench_function("conv forward", |b| {
            b.iter(|| conv2d(x.clone(), w.clone(), None, geometry));
        });
        group.throughput(Throughput::Elements(3 * macs as u64));
        group.bench_function("conv forward and backward", |b| {
            b.iter(|| {
                conv2d(x.clone(), w.clone(), None, geometry)
                    .sum()
                    .backward()
            });
        });
        let config = ConvBnConfig {
            channels: [channels; 2],
            kernel: 3,
            stride: 1,
            padding: 1,
        };
        let (layer, relu) = (config.init(&device), FloatAct::new(Nonlinearity::Relu));
        group.bench_function("with batch norm and relu, forward and backward", |b| {
            b.iter(|| layer.forward_then(&relu, x.clone()).sum().backward());
        });
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = lb_benches::criterion(3.0);
    targets = step, layers
}
criterion_main!(benches);
