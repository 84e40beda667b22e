//! Whole networks: the engine gives the codes that the graph means, whatever the batch, the
//! threads, the layout of pixels or the kernels.

mod common;

use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use common::build::{ActSpec, Builder, ConvSpec, Draw, WeightSpec, small};
use common::compare::{Counts, compare};
use common::random::specs;
use lb_engine::kernel::Kernel;
use lb_engine::reference::Reference;
use lb_engine::timing::Stopwatch;
use lb_engine::{EngineError, LayerPlan, PixelLayout, Plan, Session, SessionOptions};
use lb_format::QuantizedNetwork;
use lb_format::graph::Op;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

fn plan(network: &QuantizedNetwork) -> Arc<Plan> {
    Arc::new(Plan::new(network).unwrap())
}

fn session(plan: &Arc<Plan>, threads: usize, layout: PixelLayout) -> Session {
    Session::new(plan.clone(), SessionOptions { threads, layout }).unwrap()
}

/// Bits of the logits, so that −0 and 0 differ.
fn run(session: &mut Session, images: &[u8], batch: usize) -> Vec<u32> {
    let output = session.run(images, batch).unwrap();
    output.logits().iter().map(|l| l.to_bits()).collect()
}

fn images(plan: &Plan, batch: usize, seed: u64) -> Vec<u8> {
    Draw(seed).bytes(batch * plan.image_bytes())
}

/// `[3, H, W]` to `[H, W, 3]`, image by image.
fn interleaved(planar: &[u8], image_bytes: usize) -> Vec<u8> {
    let area = image_bytes / 3;
    (planar.chunks_exact(image_bytes))
        .flat_map(|image| (0..image_bytes).map(move |i| image[i % 3 * area + i / 3]))
        .collect()
}

/// Batches, threads, sessions, layouts and repetitions that must make no difference.
fn check_all_ways(network: &QuantizedNetwork, seed: u64) {
    let plan = plan(network);
    let bytes = plan.image_bytes();
    let five = images(&plan, 5, seed);
    let mut one = session(&plan, 1, PixelLayout::Planar);
    let expected = run(&mut one, &five, 5);
    let classes = plan.classes().len();
    assert_eq!(expected.len(), 5 * classes);
    assert_eq!(run(&mut one, &five, 5), expected, "a second time");
    assert!(run(&mut one, &[], 0).is_empty());
    // Any split, in a session that has seen another batch.
    for batch in [1, 2] {
        let parts = five.chunks(batch * bytes);
        let got: Vec<u32> = parts
            .flat_map(|p| run(&mut one, p, p.len() / bytes))
            .collect();
        assert_eq!(got, expected, "batches of {batch}");
    }
    // A session that shares the plan, with threads.
    let mut three = session(&plan, 3, PixelLayout::Planar);
    for batch in [0, 1, 2, 5] {
        let got = run(&mut three, &five[..batch * bytes], batch);
        assert_eq!(got, expected[..batch * classes], "{batch} on 3 threads");
    }
    let mut other = session(&plan, 1, PixelLayout::Interleaved);
    let got = run(&mut other, &interleaved(&five, bytes), 5);
    assert_eq!(got, expected, "interleaved pixels");
    // Kernels.
    let reference: [Box<dyn Kernel>; 1] = [Box::new(Reference)];
    let reference = Arc::new(Plan::with_kernels(network, &reference).unwrap());
    let got = run(&mut session(&reference, 1, PixelLayout::Planar), &five, 5);
    assert_eq!(
        got,
        expected,
        "kernels {:?} differ from reference",
        plan.kernels()
    );
}

/// Networks a property is tried on.
const CASES: u32 = 192;

#[test]
fn codes_are_those_that_the_graph_means() {
    let total = Cell::new(Counts::default());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(CASES));
    let all = runner.run(&specs(), |spec| {
        let network = spec.build();
        let plan = plan(&network);
        let counts = compare(&network, &plan, &images(&plan, 2, spec.seed));
        prop_assert!(counts.plausible(), "{counts:?}");
        let mut sum = total.get();
        sum.add(counts);
        total.set(sum);
        Ok(())
    });
    all.unwrap_or_else(|e| panic!("{e}"));
    let total = total.get();
    // Past the test harness, which keeps what passing tests print.
    let _ = writeln!(
        std::io::stderr(),
        "{CASES} random networks: {} codes, {} on the other side of a tie ({:.0} could be)",
        total.compared,
        total.ties,
        total.doubtful
    );
    assert!(total.compared > 100_000 && total.ties * 1000 < total.compared);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    #[test]
    fn nothing_depends_on_how_it_is_run(spec in specs()) {
        check_all_ways(&spec.build(), spec.seed);
    }

    #[test]
    fn files_run_like_the_networks_in_them(spec in specs()) {
        let network = spec.build();
        let bytes = lb_format::file::to_bytes(&network).unwrap();
        let read = lb_format::file::from_bytes(&bytes).unwrap();
        prop_assert_eq!(&read, &network);
    }
}

#[test]
fn the_small_network_runs_right_every_way() {
    let network = small(3);
    let plan = plan(&network);
    let counts = compare(&network, &plan, &images(&plan, 5, 4));
    assert!(counts.compared > 5000 && counts.plausible(), "{counts:?}");
    check_all_ways(&network, 5);
}

fn refused(network: &QuantizedNetwork) -> String {
    Plan::new(network).err().expect("refused").to_string()
}

/// Ties must go to the even code: pixels of `k/2` steps are all ties or exact.
#[test]
fn exact_ties_go_to_even() {
    let mut b = Builder::new(16, 16, 1);
    // (p / 255 − 0) / (1 / 255) = p, then p / 2.
    (b.network.info.mean, b.network.info.std) = ([0.0; 3], [1.0 / 255.0; 3]);
    let x = b.input(ActSpec::plain(8));
    b.head(x, ActSpec::plain(8), 2, WeightSpec::plain(8));
    let mut network = b.finish();
    network.activations[0].qparams.as_mut().unwrap().affine[0].scale = 2.0;
    let plan = plan(&network);
    let mut session = session(&plan, 1, PixelLayout::Planar);
    let pixels: Vec<u8> = (0..3 * 256).map(|i| i as u8).collect();
    let mut ties = 0;
    let mut see = |step: usize, _: usize, codes: &[f32]| {
        for (p, code) in codes.iter().enumerate().filter(|_| step == 0) {
            // Only where `f32` gives the byte back exactly is it a tie.
            let (real, p) = (network.info.real_pixel(0, p as u8), (p % 256) as f32);
            if real == p {
                assert_eq!(*code, (p / 2.0).round_ties_even(), "{p}");
                ties += usize::from(p % 2.0 == 1.0);
            }
        }
    };
    session.trace(&pixels, 1, &mut see).unwrap();
    assert!(ties > 100, "{ties} ties seen");
}

/// Two activations on the image are two operations, and both must run.
#[test]
fn the_image_can_become_codes_twice() {
    let mut b = Builder::new(6, 5, 2);
    let (x, y) = (b.input(ActSpec::plain(8)), b.input(ActSpec::plain(2)));
    let conv = ConvSpec::same(4, 3, 1, WeightSpec::plain(8));
    let (x, y) = (b.conv(x, conv), b.conv(y, conv));
    let x = b.op(Op::Add, &[x, y]);
    let x = b.activation(x, true, Some(ActSpec::plain(8)));
    b.head(x, ActSpec::plain(8), 3, WeightSpec::plain(8));
    let network = b.finish();
    let plan = plan(&network);
    assert_eq!(
        plan.layers().iter().filter(|l| l.name == "image").count(),
        2
    );
    compare(&network, &plan, &images(&plan, 3, 7));
    check_all_ways(&network, 7);
}

/// Logits are real values: a network that rounds them cannot be read out, and says so.
#[test]
fn rounded_logits_are_refused() {
    let mut b = Builder::new(4, 4, 3);
    let x = b.input(ActSpec::plain(8));
    b.head(x, ActSpec::plain(8), 3, WeightSpec::plain(8));
    let logits = b.network.graph.nodes.len() - 1;
    b.activation(logits, false, Some(ActSpec::plain(8)));
    let e = refused(&b.finish());
    assert!(e.contains("activation `act2`: it rounds the logits"), "{e}");
    // A ReLU, or an activation that does nothing, leaves them real.
    for relu in [false, true] {
        let mut b = Builder::new(4, 4, 3);
        let x = b.input(ActSpec::plain(8));
        b.head(x, ActSpec::plain(8), 3, WeightSpec::plain(8));
        let logits = b.network.graph.nodes.len() - 1;
        b.activation(logits, relu, None);
        let network = b.finish();
        let plan = plan(&network);
        compare(&network, &plan, &images(&plan, 3, 7));
    }
}

/// Sums of sums, `x → conv → + → + …`, as deep as a file may ask for.
fn sums(n: usize) -> Builder {
    let mut b = Builder::new(1, 1, 4);
    let x = b.input(ActSpec::plain(8));
    let mut sum = b.conv(x, ConvSpec::same(3, 1, 1, WeightSpec::plain(8)));
    for _ in 0..n {
        let y = b.op(Op::conv("layer0"), &[x]);
        sum = b.op(Op::Add, &[y, sum]);
    }
    b
}

#[test]
fn a_long_chain_of_sums_needs_no_deep_stack() {
    let mut b = sums(4900);
    let sum = b.network.graph.nodes.len() - 1;
    let x = b.activation(sum, true, Some(ActSpec::plain(8)));
    b.head(x, ActSpec::plain(8), 2, WeightSpec::plain(8));
    let network = b.finish();
    let planned = std::thread::Builder::new()
        .stack_size(256 << 10)
        .spawn(move || Plan::new(&network).map(|p| p.layers().len()))
        .unwrap();
    assert_eq!(planned.join().unwrap().unwrap(), 4900 + 4);
}

/// Every sum has two readers, one that takes its real values. Those are computed once: otherwise
/// the operations would grow with the square of the nodes.
#[test]
fn real_values_are_computed_once_for_all_readers() {
    let mut b = sums(0);
    let (x, mut sum) = (1, 2);
    let mut out = b.op(Op::conv("layer0"), &[x]);
    for _ in 0..50 {
        let y = b.op(Op::conv("layer0"), &[x]);
        sum = b.op(Op::Add, &[y, sum]);
        let codes = b.activation(sum, true, Some(ActSpec::plain(8)));
        let y = b.op(Op::conv("layer0"), &[codes]);
        out = b.op(Op::Add, &[y, out]);
    }
    let x = b.op(Op::conv("layer0"), &[x]);
    let sum = b.op(Op::Add, &[x, sum]);
    let codes = b.activation(sum, true, Some(ActSpec::plain(8)));
    let y = b.op(Op::conv("layer0"), &[codes]);
    let sum = b.op(Op::Add, &[y, out]);
    let x = b.activation(sum, true, Some(ActSpec::plain(8)));
    b.head(x, ActSpec::plain(8), 2, WeightSpec::plain(8));
    let network = b.finish();
    let (steps, nodes) = (plan(&network).layers().len(), network.graph.nodes.len());
    assert!(steps < nodes, "{steps} operations of {nodes} nodes");
    check_all_ways(&network, 8);
}

/// The shapes of residual networks, for which there are ways of their own: 16, 32, 64 and 128
/// channels, halved images, shortcuts by option A.
#[test]
fn residual_networks_of_usual_shapes() {
    for bits in [8, 4, 2, 1] {
        let weight = WeightSpec {
            offset: match bits {
                8 => common::build::Offset::None,
                _ => common::build::Offset::Any,
            },
            ..WeightSpec::plain(bits)
        };
        let codes = ActSpec::plain(bits);
        let mut b = Builder::new(16, 16, u64::from(bits));
        let x = b.input(ActSpec {
            zero: 110,
            ..ActSpec::plain(8)
        });
        let x = b.conv(x, ConvSpec::same(16, 3, 1, WeightSpec::plain(8)));
        let mut x = b.activation(x, true, Some(ActSpec::plain(8)));
        for (channels, stride) in [(16, 1), (32, 2), (64, 2), (128, 2)] {
            let narrow = b.activation(x, false, Some(codes));
            let y = b.conv(narrow, ConvSpec::same(channels, 3, stride, weight));
            let y = b.activation(y, true, Some(codes));
            let y = b.conv(y, ConvSpec::same(channels, 3, 1, weight));
            if stride == 2 {
                x = b.op(Op::PadShortcut { stride, channels }, &[x]);
            }
            let sum = b.op(Op::Add, &[y, x]);
            x = b.activation(sum, true, Some(ActSpec::plain(8)));
        }
        b.head(x, ActSpec::plain(8), 10, WeightSpec::plain(8));
        let network = b.finish();
        let plan = plan(&network);
        let counts = compare(&network, &plan, &images(&plan, 2, 3));
        assert!(counts.plausible(), "{bits} bits: {counts:?}");
        check_all_ways(&network, 4);
    }
}

/// Weights beyond the cache send images through a layer in groups: still the same results.
#[test]
fn groups_of_images_give_the_same_results() {
    let mut b = Builder::new(3, 2, 5);
    let x = b.input(ActSpec::plain(8));
    let x = b.conv(x, ConvSpec::same(600, 3, 1, WeightSpec::plain(4)));
    let x = b.activation(x, true, Some(ActSpec::plain(4)));
    let x = b.conv(x, ConvSpec::same(900, 1, 1, WeightSpec::plain(4)));
    let x = b.activation(x, true, Some(ActSpec::plain(8)));
    b.head(x, ActSpec::plain(8), 4, WeightSpec::plain(8));
    let network = b.finish();
    let plan = plan(&network);
    let many = images(&plan, 21, 9);
    let mut one = session(&plan, 1, PixelLayout::Planar);
    let expected = run(&mut one, &many, 21);
    let single: Vec<u32> = (many.chunks(plan.image_bytes()))
        .flat_map(|image| run(&mut one, image, 1))
        .collect();
    assert_eq!(single, expected);
    let mut three = session(&plan, 3, PixelLayout::Planar);
    assert_eq!(run(&mut three, &many, 21), expected);
    compare(&network, &plan, &many[..plan.image_bytes()]);
}

/// Products that a 32-bit accumulator cannot hold: taken to 64 bits, and exact.
#[test]
fn sums_beyond_32_bits_are_exact() {
    for (bits, channels) in [(8, 80_000), (16, 40)] {
        let mut b = Builder::new(1, 1, 6);
        let x = b.input(ActSpec::plain(8));
        let x = b.conv(x, ConvSpec::same(channels, 1, 1, WeightSpec::plain(8)));
        let x = b.activation(x, false, Some(ActSpec::plain(bits)));
        b.linear(x, 2, WeightSpec::plain(bits));
        let mut network = b.finish();
        // Every code the largest, so that the sum is as far out as it can be.
        let q = &mut network.activations[1].qparams.as_mut().unwrap().affine[0];
        q.scale = 1e-6;
        network.layers[0].bias.fill(1.0);
        let lb_format::Weight::Codes { codes, .. } = &mut network.layers[1].weight else {
            unreachable!()
        };
        let width = codes.bits();
        let largest = vec![width.range(true).hi; 2 * channels];
        *codes = lb_format::PackedTensor::pack(&largest, &[2, channels], width, true).unwrap();
        let sum =
            channels as i64 * i64::from(width.range(true).hi) * i64::from(width.range(false).hi);
        assert!(sum > i64::from(i32::MAX));
        let plan = plan(&network);
        compare(&network, &plan, &images(&plan, 2, 1));
        check_all_ways(&network, 1);
    }
}

/// A sum of 16-bit inputs beyond 32 bits, which offsets need, is refused.
#[test]
fn sums_of_inputs_beyond_32_bits_are_refused() {
    let mut b = Builder::new(1, 1, 6);
    let x = b.input(ActSpec::plain(8));
    let x = b.conv(x, ConvSpec::same(40_000, 1, 1, WeightSpec::plain(1)));
    let x = b.activation(x, true, Some(ActSpec::plain(16)));
    let weight = WeightSpec {
        offset: common::build::Offset::Any,
        ..WeightSpec::plain(8)
    };
    b.linear(x, 2, weight);
    let e = refused(&b.finish());
    assert!(
        e.contains("layer `layer1`") && e.contains("beyond 32 bits"),
        "{e}"
    );
}

#[test]
fn images_of_another_size_are_refused() {
    let plan = plan(&small(1));
    let bytes = plan.image_bytes();
    let mut session = session(&plan, 2, PixelLayout::Planar);
    for (len, batch) in [
        (bytes - 1, 1),
        (bytes + 1, 1),
        (bytes, 2),
        (bytes, 0),
        (0, 1),
        (bytes, usize::MAX),
        (0, usize::MAX / 2 + 1),
    ] {
        let pixels = vec![0; len];
        let e = session.run(&pixels, batch).unwrap_err();
        assert!(matches!(e, EngineError::Size { .. }), "{e}");
        assert!(session.trace(&pixels, batch, &mut |_, _, _| ()).is_err());
        assert!(session.profile(&pixels, batch).is_err());
    }
    let times = session.profile(&vec![7; 3 * bytes], 3).unwrap();
    assert_eq!(times.len(), plan.layers().len());
}

#[test]
fn a_stopwatch_measures_every_operation_of_every_plan() {
    let plans = [plan(&small(1)), plan(&small(2))];
    let bytes = plans[0].image_bytes();
    let mut stopwatch = Stopwatch::new(plans.clone()).unwrap();
    assert_eq!(stopwatch.image(1), Duration::MAX);
    assert!(stopwatch.round(&[]).is_err());
    assert!(stopwatch.round(&vec![7; bytes + 1]).is_err());
    stopwatch.round(&vec![7; 2 * bytes]).unwrap();
    let first = stopwatch.image(0);
    for _ in 0..5 {
        stopwatch.round(&vec![7; 2 * bytes]).unwrap();
    }
    assert!(stopwatch.image(0) <= first, "the least is kept");
    for (i, plan) in plans.iter().enumerate() {
        let operations = stopwatch.operations(i);
        let names = |l: &LayerPlan| l.name.clone();
        let found: Vec<_> = operations.iter().map(|(l, _)| names(l)).collect();
        assert_eq!(found, plan.layers().iter().map(names).collect::<Vec<_>>());
        let sum: Duration = operations.iter().map(|(_, time)| *time).sum();
        assert!(
            sum > Duration::ZERO && sum < Duration::from_secs(1),
            "{sum:?}"
        );
    }
}
