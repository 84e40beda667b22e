//! Packing codes into the canonical bit layout and back, per bit width, one thread.
//!
//! Byte throughput counts the unpacked side, 4 bytes a code (`i32`), so that widths compare: the
//! packed side is `bits / 32` of it.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lb_format::{BitWidth, PackedTensor};

/// 590k codes, rows of 2304: 2.4 MB unpacked, larger than the second-level cache.
const SHAPE: [usize; 4] = [256, 256, 3, 3];

/// Every code of the width, scattered.
fn codes(bits: BitWidth) -> Vec<i32> {
    let range = bits.range(true);
    let scattered = (0u32..).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) % bits.levels());
    scattered
        .map(|k| range.lo + k as i32)
        .take(SHAPE.iter().product())
        .collect()
}

fn pack(c: &mut Criterion) {
    let mut group = c.benchmark_group("pack 256x256x3x3");
    for bits in BitWidth::ALL {
        let codes = codes(bits);
        group.throughput(Throughput::BytesDecimal(size_of_val(&codes[..]) as u64));
        group.bench_function(BenchmarkId::from_parameter(bits), |b| {
            b.iter(|| PackedTensor::pack(black_box(&codes), &SHAPE, bits, true));
        });
    }
    group.finish();
}

fn unpack(c: &mut Criterion) {
    let mut group = c.benchmark_group("unpack 256x256x3x3");
    for bits in BitWidth::ALL {
        let codes = codes(bits);
        let packed = PackedTensor::pack(&codes, &SHAPE, bits, true).expect("codes that fit");
        group.throughput(Throughput::BytesDecimal(size_of_val(&codes[..]) as u64));
        group.bench_function(BenchmarkId::from_parameter(bits), |b| {
            b.iter(|| black_box(&packed).unpack());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = lb_benches::criterion(1.0);
    targets = pack, unpack
}
criterion_main!(benches);
