//! The engine's kernels, one thread: multiply-accumulates of the direct algorithm per second, at
//! every width and shape that a kernel takes, beside the peak of its instructions.
//!
//! Criterion says `Gelem/s` for GMAC/s. A sample is as long as if all its rounds were as short as
//! the shortest: on a shared machine the others tell of its other users.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use lb_engine::kernel::available;
use lb_engine::kernel::peak::peaks;
use lb_engine::synthetic::{Inputs, Recipe, outputs};

/// 3×3 convolutions of a ResNet-20 on 32×32 pixels and of one on 120×120: channels, side.
const SHAPES: [(usize, usize); 4] = [(16, 32), (32, 16), (64, 8), (64, 30)];

/// Runs of a round.
const ROUND: u64 = 5;

fn measure(b: &mut Bencher, mut run: impl FnMut()) {
    b.iter_custom(|n| {
        let round = n.min(ROUND);
        let times = (0..n.div_ceil(round)).map(|_| {
            let start = Instant::now();
            for _ in 0..round {
                run();
            }
            start.elapsed()
        });
        let best = times.min().expect("a round").as_secs_f64();
        Duration::from_secs_f64(best / round as f64 * n as f64)
    });
}

fn peak(c: &mut Criterion) {
    let mut group = c.benchmark_group("peak");
    group.sampling_mode(SamplingMode::Flat);
    for peak in peaks() {
        group.throughput(Throughput::Elements(peak.macs as u64));
        group.bench_function(peak.name, |b| measure(b, || peak.run()));
    }
    group.finish();
}

fn kernels(c: &mut Criterion) {
    for kernel in available() {
        for bits in [1, 2, 4, 8, 16] {
            let mut group = c.benchmark_group(format!("{}/{bits} bits", kernel.name()));
            group.sampling_mode(SamplingMode::Flat);
            for (channels, side) in SHAPES {
                let recipe = Recipe::body(channels, side, bits);
                let conv = recipe.conv();
                if kernel.cost(&conv).is_none() {
                    continue;
                }
                group.throughput(Throughput::Elements(conv.macs() as u64));
                let inputs = Inputs::new(&recipe, &conv);
                let prepared = kernel.prepare(conv);
                let (mut output, mut scratch) = outputs(&*prepared, 1);
                group.bench_function(format!("{channels}@{side}x{side}"), |b| {
                    measure(b, || {
                        inputs.run(black_box(&*prepared), &mut output, &mut scratch)
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = lb_benches::criterion(0.16).warm_up_time(Duration::from_millis(50));
    targets = peak, kernels
}
criterion_main!(benches);
