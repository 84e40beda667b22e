//! Tensor form of the formula, per bit width, on flex: codes, values of codes, and both in one.
//!
//! Element throughput counts the values of the input tensor once.

use std::hint::black_box;

use burn::tensor::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lb_benches::activation_tensor;
use lb_core::weight::{self, WeightRule};
use lb_core::{Granularity, QScheme, Symmetry, affine, range};
use lb_format::{BitWidth, QParams};

/// One operation on a tensor.
type Op<const D: usize> = fn(Tensor<D>, &QParams) -> Tensor<D>;

/// An activation of ResNet-20's first stage, batch 32; one scale.
fn activation(c: &mut Criterion) {
    let x = activation_tensor([32, 16, 32, 32], &Device::flex());
    let ops: [(&str, Op<4>); 3] = [
        ("quantize", affine::quantize),
        ("dequantize", affine::dequantize),
        ("fake_quantize", affine::fake_quantize),
    ];
    for (name, op) in ops {
        let mut group = c.benchmark_group(format!("activation 32x16x32x32/{name}"));
        group.throughput(Throughput::Elements(x.shape().num_elements() as u64));
        for bits in BitWidth::ALL {
            let q = range::activation(0.0, 4.0, bits);
            let input = match name {
                "dequantize" => affine::quantize(x.clone(), &q),
                _ => x.clone(),
            };
            group.bench_function(BenchmarkId::from_parameter(bits), |b| {
                b.iter(|| black_box(op(input.clone(), &q)));
            });
        }
        group.finish();
    }
}

/// A weight of ResNet-20's last stage; a scale and an offset for each output channel.
fn weight(c: &mut Criterion) {
    let w = activation_tensor([64, 64, 3, 3], &Device::flex()) - 1.0;
    let mut group = c.benchmark_group("weight 64x64x3x3 per channel/fake_quantize");
    group.throughput(Throughput::Elements(w.shape().num_elements() as u64));
    for bits in BitWidth::ALL {
        let scheme = QScheme::weight(bits, Symmetry::Affine, Granularity::PerChannel);
        let q = weight::qparams(w.clone(), scheme, WeightRule::MinMax).expect("finite weights");
        group.bench_function(BenchmarkId::from_parameter(bits), |b| {
            b.iter(|| black_box(affine::fake_quantize(w.clone(), &q)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = lb_benches::criterion(1.0);
    targets = activation, weight
}
criterion_main!(benches);
