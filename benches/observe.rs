//! Calibration: values that an observer takes in, ranges that a rule finds, and images through the
//! whole observed network, on flex.

use std::hint::black_box;

use burn::tensor::Device;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lb_core::observe::{RangeRule, Statistics};
use lb_format::BitWidth;
use lb_resnet::checkpoint::normalization;
use lb_resnet::ptq;

/// One batch of one activation; the throughput is in values.
fn statistics(c: &mut Criterion) {
    let x = lb_benches::activation_tensor([32, 16, 32, 32], &Device::flex());
    let mut statistics = Statistics::default();
    let mut group = c.benchmark_group("statistics");
    group.throughput(Throughput::Elements(x.shape().num_elements() as u64));
    group.bench_function("observe 32x16x32x32", |b| {
        b.iter(|| statistics.observe(x.clone()))
    });
    group.finish();
}

/// From statistics to a 4-bit range: what each width of each activation costs.
fn ranges(c: &mut Criterion) {
    let mut statistics = Statistics::default();
    statistics.observe(lb_benches::activation_tensor(
        [32, 16, 32, 32],
        &Device::flex(),
    ));
    let four = BitWidth::new(4).expect("a width");
    let mut group = c.benchmark_group("range of 4 bits");
    let rules = [
        ("percentile", RangeRule::Percentile(0.999)),
        ("mse", RangeRule::Mse),
        ("kl", RangeRule::Kl),
    ];
    for (name, rule) in rules {
        group.bench_function(name, |b| {
            b.iter(|| rule.range(black_box(&statistics), four))
        });
    }
    group.finish();
}

/// ResNet-20 with an observer at every activation; the throughput is in images.
fn network(c: &mut Criterion) {
    let device = Device::flex();
    let folded = ptq::fold(lb_benches::resnet20(&device));
    let set = lb_benches::image_set(64);
    let normalization = normalization(&lb_benches::info());
    let mut group = c.benchmark_group("calibrate");
    group.throughput(Throughput::Elements(set.len() as u64));
    group.bench_function("resnet20, 64 images", |b| {
        b.iter(|| ptq::observe(&folded, &set, &normalization, &device, &mut |_| true));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = lb_benches::criterion(2.0);
    targets = statistics, ranges, network
}
criterion_main!(benches);
