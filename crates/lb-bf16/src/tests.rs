//! Against plain loops.

use super::*;

/// Values in −1..1.
fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// `x` as bfloat16 has it.
fn rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| f32::from_bits(bf16(x) << 16)).collect()
}

/// `x[c, y + tap / 3 − 1, x + tap % 3 − 1]`, zero outside.
fn at(x: &[f32], image: &Image, c: usize, (row, column): (usize, usize), tap: usize) -> f64 {
    let (y, x_) = (row + tap / 3, column + tap % 3);
    let inside = (1..=image.height).contains(&y) && (1..=image.width).contains(&x_);
    match inside {
        true => f64::from(x[(c * image.height + y - 1) * image.width + x_ - 1]),
        false => 0.0,
    }
}

fn assert_close(got: &[f32], expected: &[f64], what: &str) {
    assert_eq!(got.len(), expected.len());
    let largest = expected.iter().fold(0.0, |l: f64, x| l.max(x.abs()));
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let off = (f64::from(*got) - expected).abs();
        assert!(
            off < 1e-5 * largest,
            "{what}, {i}: {got} instead of {expected}"
        );
    }
}

#[test]
fn products_and_gradients_are_those_of_plain_loops() {
    let Some(token) = AmxBf16::detect() else {
        eprintln!("SKIPPED products_and_gradients_are_those_of_plain_loops: no AMX with bfloat16");
        return;
    };
    for (inputs, outputs, height, width) in [
        (16, 16, 32, 32),
        (3, 16, 32, 32),
        (1, 16, 4, 16),
        (32, 32, 16, 16),
        (64, 64, 8, 8),
        (16, 48, 2, 32),
        (15, 32, 8, 16),
        (96, 16, 8, 8),
    ] {
        let image = |channels| Image {
            channels,
            height,
            width,
        };
        let (x, dy) = (image(inputs), image(outputs));
        let what = format!("{x:?} to {outputs}");
        let (xs, dys) = (values(x.values(), 1), values(dy.values(), 2));
        let weight = values(outputs * inputs * 9, 3);
        let positions = || (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));

        let mut pairs = Pairs::new(token, x);
        // What was there before must not show.
        pairs.fill(&values(x.values(), 4));
        pairs.fill(&xs);
        let mut y = vec![f32::NAN; dy.values()];
        let weights = Weights::new(outputs, inputs, |o, i, tap| {
            weight[(o * inputs + i) * 9 + tap]
        });
        weights.multiply(&pairs, &mut y);
        let (xs_, weight_, dys_) = (rounded(&xs), rounded(&weight), rounded(&dys));
        let mut expected = Vec::new();
        for o in 0..outputs {
            for p in positions() {
                let products = (0..inputs).flat_map(|i| (0..9).map(move |tap| (i, tap)));
                let of = |(i, tap)| {
                    f64::from(weight_[(o * inputs + i) * 9 + tap]) * at(&xs_, &x, i, p, tap)
                };
                expected.push(products.map(of).sum());
            }
        }
        assert_close(&y, &expected, &what);

        let (mut rows, mut transposed) = (Rows::new(token, x), Transposed::new(token, dy));
        let mut gradient = Gradient::new(outputs, inputs);
        for _ in 0..2 {
            rows.fill(&xs);
            transposed.fill(&dys);
            gradient.add(&rows, &transposed);
        }
        let mut dw = vec![1.0; weight.len()];
        gradient.add_to(&mut dw);
        let mut expected = Vec::new();
        for o in 0..outputs {
            for i in 0..inputs {
                for tap in 0..9 {
                    let of = |(r, c)| {
                        f64::from(dys_[(o * height + r) * width + c]) * at(&xs_, &x, i, (r, c), tap)
                    };
                    expected.push(1.0 + 2.0 * positions().map(of).sum::<f64>());
                }
            }
        }
        assert_close(&dw, &expected, &what);
    }
}

#[test]
fn rounds_to_the_nearest_and_keeps_what_is_no_number() {
    let of = |x: f32| f32::from_bits(bf16(x) << 16);
    let ulp = 1.0 / 128.0;
    for (x, expected) in [
        (1.0, 1.0),
        (1.0 + 0.5 * ulp, 1.0),
        (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp),
        (1.0 + 0.51 * ulp, 1.0 + ulp),
        (-1.0 - 0.51 * ulp, -1.0 - ulp),
        (f32::MAX, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
        (-0.0, 0.0),
    ] {
        assert_eq!(of(x), expected, "{x}");
    }
    for bits in [0x7fff_ffffu32, 0xffff_ffff, 0x7f80_0001] {
        assert!(of(f32::from_bits(bits)).is_nan(), "{bits:x}");
    }
}

#[test]
fn sizes_that_fill_no_tiles_or_overflow_are_not_taken() {
    let taken = |channels, height, width| {
        let image = Image {
            channels,
            height,
            width,
        };
        image.is_taken()
    };
    assert!(taken(16, 8, 8) && taken(1, 2, 32) && taken(3, 32, 32));
    for (channels, height, width) in [
        (0, 8, 8),
        (16, 0, 8),
        (16, 8, 0),
        (16, 7, 8),
        (16, 8, 24),
        (16, 1 << 61, 8),
        (16, (1 << 56) + 4, 16),
        (1 << 17, 8, 8),
    ] {
        assert!(
            !taken(channels, height, width),
            "{channels} {height} {width}"
        );
    }
}

#[test]
fn the_processor_rounds_alike() {
    if AmxBf16::detect().is_none() {
        eprintln!("SKIPPED the_processor_rounds_alike: no AMX with bfloat16");
        return;
    }
    let mut bits = 0x3f80_0000u32;
    for _ in 0..100_000 {
        let x: [f32; 8] = std::array::from_fn(|i| {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Of every exponent, some in the middle of two, some no number.
            f32::from_bits(if i % 2 == 0 { bits } else { bits & 0xffff_8000 })
        });
        // SAFETY: the processor has the instructions.
        let narrow = unsafe { planes::narrow(&x) };
        for (x, narrow) in x.into_iter().zip(narrow) {
            match x.is_subnormal() {
                true => assert_eq!(narrow & 0x7fff, 0, "{x:e}"),
                false => assert_eq!(u32::from(narrow), bf16(x), "{x} {:x}", x.to_bits()),
            }
        }
    }
}
