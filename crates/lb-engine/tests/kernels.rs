//! One suite for every kernel of this machine: the same bits as the reference, on shapes at the
//! edges of every vector and tile, on random and extreme codes.

use std::io::Write;

use lb_engine::conv::Kind;
use lb_engine::kernel::{Kernel, available};
use lb_engine::reference::Reference;
use lb_engine::synthetic::{self, Codes, Inputs, Recipe};
use lb_format::graph::Shape;
use proptest::prelude::*;

/// Runs `recipe` with every kernel that takes it and compares with the reference. Gives the names
/// of those that ran.
fn check(recipe: &Recipe, kernels: &[Box<dyn Kernel>]) -> Vec<&'static str> {
    let conv = recipe.conv();
    let inputs = Inputs::new(recipe, &conv);
    let run = |kernel: &dyn Kernel| {
        let prepared = kernel.prepare(conv.clone());
        let (mut output, mut scratch) = synthetic::outputs(&*prepared, 1);
        scratch.fill(0xa5); // scratch holds anything
        inputs.run(&*prepared, &mut output, &mut scratch);
        synthetic::bits(&conv, &output, 0)
    };
    let (expected, border) = run(&Reference);
    let mut ran = Vec::new();
    for kernel in kernels {
        if kernel.cost(&conv).is_none() {
            continue;
        }
        let (got, got_border) = run(&**kernel);
        let name = kernel.name();
        assert_eq!(got_border, border, "{name} wrote to the border: {recipe:?}");
        if let Some(i) = (0..got.len()).find(|&i| got[i] != expected[i]) {
            let (c, w) = (conv.output().channels, conv.output().width);
            let at = (i / c / w, i / c % w, i % c);
            let wrong = got.iter().zip(&expected).filter(|(a, b)| a != b).count();
            panic!(
                "{name}: {} instead of {} at (y, x, c) = {at:?}, {wrong} of {} differ: {recipe:?}",
                got[i],
                expected[i],
                got.len()
            );
        }
        ran.push(name);
    }
    ran
}

fn say(line: &str) {
    // Past the test harness, which keeps what passing tests print.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn every_kernel_of_this_machine_gives_the_reference_bits() {
    let kernels = available();
    let mut count: Vec<(&str, usize)> = kernels.iter().map(|k| (k.name(), 0)).collect();
    let mut tally = |ran: Vec<&'static str>| {
        for name in ran {
            count.iter_mut().find(|c| c.0 == name).expect("a kernel").1 += 1;
        }
    };
    let widths: [(u8, u8); 10] = [
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
        (3, 3),
        (4, 4),
        (2, 8),
        (6, 5),
        (7, 8),
        (8, 8),
    ];
    // Channels around 4, 16 and 64; sides around the tiles of 8 and 16 pixels.
    let shapes = [
        (3, 16, 5, 7),
        (16, 16, 8, 8),
        (16, 32, 6, 9),
        (17, 5, 3, 15),
        (32, 33, 4, 16),
        (64, 64, 8, 8),
        (65, 48, 2, 17),
        (4, 31, 33, 32),
        (128, 16, 3, 30),
        (1, 1, 1, 1),
    ];
    for (weight_bits, input_bits) in widths {
        for (i, (c_in, c_out, h, w)) in shapes.into_iter().enumerate() {
            for (k, stride, padding) in [
                ([3, 3], 1, 1),
                ([3, 3], 2, 1),
                ([1, 1], 1, 0),
                ([1, 1], 2, 0),
                ([3, 3], 1, 0),
                ([5, 2], 1, 2),
            ] {
                if h + 2 * padding < k[0] || w + 2 * padding < k[1] {
                    continue;
                }
                for (j, codes) in [Codes::Random, Codes::Extreme, Codes::Largest, Codes::Zero]
                    .into_iter()
                    .enumerate()
                {
                    let n = i + j + stride;
                    let recipe = Recipe {
                        input: Shape::new(c_in, h, w),
                        c_out,
                        kernel: k,
                        stride,
                        padding,
                        more_border: n % 2,
                        weight_bits,
                        input_bits,
                        output_bits: [Some(input_bits), None, Some(8)][n % 3],
                        zero_point: n % 4 == 1,
                        offsets: n % 4 < 2,
                        residual: [None, Some(Kind::U8), Some(Kind::F32)][(n / 2) % 3],
                        relu: n % 5 != 0,
                        codes,
                        seed: n as u64,
                    };
                    tally(check(&recipe, &kernels));
                }
            }
        }
    }
    // The most channels whose sums, four times as large in a Winograd transform, fit 32 bits.
    for codes in [Codes::Random, Codes::Largest] {
        let recipe = Recipe {
            c_out: 2,
            codes,
            ..Recipe::body(1840, 3, 8)
        };
        let ran = check(&recipe, &kernels);
        #[cfg(target_arch = "x86_64")]
        assert!(ran.contains(&"winograd-avx2") || !ran.contains(&"avx2"));
        tally(ran);
    }
    for recipe in sixteen_bits() {
        tally(check(&recipe, &kernels));
    }
    for (name, n) in &count {
        say(&format!(
            "kernel {name}: {n} convolutions, all equal to the reference"
        ));
        assert!(*n > 0, "{name} is available, but ran nothing");
    }
}

#[test]
fn images_run_together_as_they_run_alone() {
    for kernel in available() {
        let mut ran = 0;
        for (side, images) in [(1, 2), (4, 4), (4, 16), (4, 19), (8, 9), (8, 32), (5, 16)] {
            for (channels, residual, output_bits, offsets) in [
                (64, Some(Kind::U8), Some(8), true),
                (40, Some(Kind::F32), Some(4), false),
                (16, None, None, true),
            ] {
                let recipe = Recipe {
                    residual,
                    output_bits,
                    offsets,
                    zero_point: side == 4,
                    ..Recipe::body(channels, side, 8)
                };
                let conv = recipe.conv();
                let Some(_) = kernel.cost(&conv) else {
                    continue;
                };
                let prepared = kernel.prepare(conv.clone());
                if !prepared.likes_together(images) {
                    continue;
                }
                let seeded = |seed| Inputs::new(&Recipe { seed, ..recipe }, &conv);
                let alone: Vec<Inputs> = (0..images as u64).map(seeded).collect();
                let (mut output, _) = synthetic::outputs(&*prepared, images);
                Inputs::together(&conv, &alone).run_together(&*prepared, &mut output, images);
                for (i, inputs) in alone.iter().enumerate() {
                    let (mut expected, mut scratch) = synthetic::outputs(&*prepared, 1);
                    inputs.run(&*prepared, &mut expected, &mut scratch);
                    assert_eq!(
                        synthetic::bits(&conv, &output, i),
                        synthetic::bits(&conv, &expected, 0),
                        "{}, image {i} of {images}: {recipe:?}",
                        kernel.name()
                    );
                }
                ran += 1;
            }
        }
        say(&format!(
            "kernel {}: {ran} convolutions ran together",
            kernel.name()
        ));
    }
}

/// Recipes that only the wide kernels take.
fn sixteen_bits() -> impl Iterator<Item = Recipe> {
    let bits = [
        (16, 16, Some(16), Some(Kind::U16)),
        (8, 16, Some(8), Some(Kind::U8)),
        (16, 8, Some(16), None),
        (4, 8, Some(16), Some(Kind::F32)),
        (16, 16, None, Some(Kind::U16)),
    ];
    bits.into_iter()
        .flat_map(|(weight_bits, input_bits, output_bits, residual)| {
            let recipe = Recipe {
                input: Shape::new(33, 5, 6),
                c_out: 18,
                weight_bits,
                input_bits,
                output_bits,
                residual,
                ..Recipe::body(16, 8, 8)
            };
            let codes = [Codes::Random, Codes::Extreme, Codes::Largest];
            let sizes = [
                (33, 5, 6, 1),
                (33, 1, 1, 1),
                (16, 3, 3, 1),
                (3, 6, 9, 2),
                (64, 2, 31, 3),
                (16, 4, 32, 1),
                // Sums of 14,400 products, many times what 32 bits hold.
                (1600, 2, 2, 1),
            ];
            codes.into_iter().flat_map(move |codes| {
                sizes.map(|(c_in, height, width, stride)| Recipe {
                    input: Shape::new(c_in, height, width),
                    stride,
                    codes,
                    ..recipe
                })
            })
        })
}

/// Bits of a weight or an activation: those of the file format.
fn bits() -> impl Strategy<Value = u8> {
    (1u8..=9).prop_map(|b| if b == 9 { 16 } else { b })
}

fn recipes() -> impl Strategy<Value = Recipe> {
    let geometry = (
        1usize..40,
        1usize..40,
        1usize..20,
        1usize..36,
        1usize..4,
        1usize..4,
        1usize..3,
        0usize..3,
    );
    let numbers = (
        bits(),
        bits(),
        proptest::option::of(bits()),
        any::<[bool; 3]>(),
        0usize..4,
        0usize..4,
        any::<u64>(),
    );
    (geometry, numbers).prop_filter_map("smaller than the kernel", |(g, n)| {
        let (c_in, c_out, h, w, kh, kw, stride, padding) = g;
        let (
            weight_bits,
            input_bits,
            output_bits,
            [zero_point, offsets, relu],
            residual,
            codes,
            seed,
        ) = n;
        (h + 2 * padding >= kh && w + 2 * padding >= kw).then(|| Recipe {
            input: Shape::new(c_in, h, w),
            c_out,
            kernel: [kh, kw],
            stride,
            padding,
            more_border: seed as usize % 2,
            weight_bits,
            input_bits,
            output_bits,
            zero_point,
            offsets,
            residual: [None, Some(Kind::U8), Some(Kind::F32), Some(Kind::U16)][residual],
            relu,
            codes: [Codes::Random, Codes::Extreme, Codes::Largest, Codes::Zero][codes],
            seed,
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_convolution_has_the_same_bits_everywhere(recipe in recipes()) {
        check(&recipe, &available());
    }
}
