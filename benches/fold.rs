//! Folding every batch normalization of ResNet-20 (19 convolutions, 268 k weights) on flex.

use std::hint::black_box;

use burn::tensor::Device;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use lb_resnet::ptq;

fn fold(c: &mut Criterion) {
    let net = lb_benches::resnet20(&Device::flex());
    let layers = net.convolutions().len() as u64;
    let mut group = c.benchmark_group("fold");
    group.throughput(Throughput::Elements(layers));
    group.bench_function("resnet20", |b| {
        b.iter_batched(
            || net.clone(),
            |net| black_box(ptq::fold(net)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = lb_benches::criterion(2.0);
    targets = fold
}
criterion_main!(benches);
