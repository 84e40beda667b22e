//! The background loader alone: shuffled, augmented, normalised batches, images/s. It must be far
//! above what training takes, so that the device never waits for it.

use std::sync::Arc;

use burn::tensor::Device;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lb_data::AugmentConfig;
use lb_resnet::batch::{Epochs, NormalizedBatcher};
use lb_resnet::checkpoint::normalization;

const IMAGES: usize = 4096;
const BATCH: usize = 128;

fn load(c: &mut Criterion) {
    let set = Arc::new(lb_benches::image_set(IMAGES));
    let batcher = NormalizedBatcher {
        normalization: normalization(&lb_benches::info()),
        size: (set.height(), set.width()),
    };
    let mut group = c.benchmark_group(format!("load, batch {BATCH}, one worker"));
    group.throughput(Throughput::Elements(IMAGES as u64));
    for (name, augment) in [
        ("as they are", AugmentConfig::none()),
        ("crop and flip", AugmentConfig::default()),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let batches = 0..IMAGES / BATCH;
                let epoch = Epochs::new(set.clone(), augment.clone(), 0, BATCH, batches);
                let loader = batcher.clone().loader(epoch, BATCH, &Device::flex());
                let batches = loader.iter().filter(Result::is_ok).count();
                assert_eq!(batches, IMAGES / BATCH);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = lb_benches::criterion(2.0);
    targets = load
}
criterion_main!(benches);
