//! Networks that a file may hold but no session should run, or not exactly: too much memory or work,
//! and numbers that `f32` cannot hold. Planning refuses each with an error that says what, and takes
//! little memory to find out.

mod common;
#[path = "common/counting.rs"]
mod counting;

use common::build::{ActSpec, Builder, ConvSpec, WeightSpec, small};
use counting::MEMORY;
use lb_engine::Plan;
use lb_format::graph::{Op, Shape};
use lb_format::{BitWidth, PackedTensor, QuantizedNetwork, Weight};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

fn refused(network: &QuantizedNetwork) -> String {
    let (plan, usage) = counting::measure(|| Plan::new(network));
    assert!(usage.peak < MEMORY, "{} bytes to refuse it", usage.peak);
    plan.err().expect("refused").to_string()
}

/// A layer of a million weights takes 128 KiB in the file. Run by hundreds of nodes, it is refused
/// before anything is packed.
#[test]
fn a_layer_in_hundreds_of_nodes_is_refused() {
    let mut b = Builder::new(1, 1, 1);
    let x = b.input(ActSpec::plain(8));
    let x = b.conv(x, ConvSpec::same(1000, 1, 1, WeightSpec::plain(1)));
    let x = b.activation(x, true, Some(ActSpec::plain(8)));
    let mut x = b.conv(x, ConvSpec::same(1000, 1, 1, WeightSpec::plain(1)));
    for _ in 0..300 {
        x = b.network.graph.push(Op::activation("act1"), &[x]);
        x = b.network.graph.push(Op::conv("layer1"), &[x]);
    }
    let mut network = b.network;
    network.info.classes = vec![String::new(); 1000];
    let e = refused(&network);
    assert!(e.contains("repeated layers"), "{e}");
}

/// Every requantization of 16-bit codes is a table of 128 KiB.
#[test]
fn thousands_of_tables_are_refused() {
    let mut b = Builder::new(1, 1, 1);
    let mut x = b.input(ActSpec::plain(16));
    for _ in 0..3000 {
        x = b.op(Op::activation("act0"), &[x]);
    }
    b.head(x, ActSpec::plain(8), 2, WeightSpec::plain(8));
    let e = refused(&b.finish());
    assert!(e.contains("tables"), "{e}");
}

/// Padding makes 33 rows of one, and one channel takes the room of 16: values that the format
/// allows can be more than a session may hold. Nothing is allocated before that is known.
#[test]
fn sessions_beyond_the_limit_are_refused() {
    let mut b = Builder::new(1, 1, 1);
    let x = b.input(ActSpec::plain(8));
    let x = b.conv(x, ConvSpec::same(1, 1, 1, WeightSpec::plain(8)));
    let x = b.activation(x, true, Some(ActSpec::plain(8)));
    let x = b.conv(x, ConvSpec::same(3, 33, 1, WeightSpec::plain(8)));
    let x = b.activation(x, true, Some(ActSpec::plain(8)));
    b.head(x, ActSpec::plain(8), 2, WeightSpec::plain(8));
    let mut network = b.finish();
    network.graph.input.width = 100_000;
    let plan = Plan::new(&network).unwrap();
    assert!(plan.memory() > 33 * 16 * 100_000, "{}", plan.memory());
    network.graph.input.width = 5_500_000;
    let e = refused(&network);
    assert!(e.contains("bytes for values"), "{e}");
}

/// One channel to one through a kernel of 1000×1000, 125 kB in the file, on an image of that side
/// and `more`.
fn large_kernel(more: usize) -> QuantizedNetwork {
    let mut b = Builder::new(1, 1, 1);
    let x = b.input(ActSpec::plain(8));
    let x = b.conv(x, ConvSpec::same(1, 1, 1, WeightSpec::plain(8)));
    let x = b.activation(x, true, Some(ActSpec::plain(8)));
    let mut conv = ConvSpec::same(1, 1, 1, WeightSpec::plain(1));
    conv.padding = 0;
    let x = b.conv(x, conv);
    let x = b.activation(x, true, Some(ActSpec::plain(8)));
    b.head(x, ActSpec::plain(8), 2, WeightSpec::plain(8));
    let mut network = b.finish();
    network.graph.input = Shape::new(3, 1000 + more, 1000 + more);
    let one_bit = BitWidth::new(1).unwrap();
    let Weight::Codes { codes, .. } = &mut network.layers[1].weight else {
        panic!("a float weight")
    };
    let shape = [1, 1, 1000, 1000];
    *codes = PackedTensor::pack(&vec![0; 1_000_000], &shape, one_bit, true).unwrap();
    network
}

/// A kernel as large as the image costs its square.
#[test]
fn days_of_work_are_refused() {
    let e = refused(&large_kernel(1100));
    assert!(e.contains("multiply-accumulates"), "{e}");
}

/// Kernels pad channels to whole vectors: one channel to one takes 256 times its weights.
#[test]
fn padding_of_channels_is_bounded() {
    let e = refused(&large_kernel(0));
    assert!(
        e.contains("bytes for tables, repeated layers and padding"),
        "{e}"
    );
}

fn scale_layer(network: &mut QuantizedNetwork, layer: usize, factor: f32) {
    let Weight::Codes { qparams, .. } = &mut network.layers[layer].weight else {
        panic!("a float weight")
    };
    qparams.affine.iter_mut().for_each(|a| a.scale *= factor);
}

fn act_scale(network: &mut QuantizedNetwork, act: usize) -> &mut f32 {
    let qparams = network.activations[act].qparams.as_mut();
    &mut qparams.expect("codes").affine[0].scale
}

/// Makes the first layer's output `factor` times as large, and its codes with it.
fn enlarge(network: &mut QuantizedNetwork, factor: f32) {
    scale_layer(network, 0, factor);
    *act_scale(network, 1) *= factor;
    scale_layer(network, 1, (1.0 / factor).max(1e-30));
}

/// Real sums of `n` layers with weights of the given size.
fn sums(n: usize, factor: f32) -> QuantizedNetwork {
    let mut b = Builder::new(4, 4, 4);
    let x = b.input(ActSpec::plain(8));
    let mut sum = b.conv(x, ConvSpec::same(3, 1, 1, WeightSpec::plain(16)));
    for _ in 0..n {
        let y = b.op(Op::conv("layer0"), &[x]);
        sum = b.op(Op::Add, &[y, sum]);
    }
    let x = b.activation(sum, true, Some(ActSpec::plain(8)));
    b.head(x, ActSpec::plain(8), 2, WeightSpec::plain(8));
    let mut network = b.finish();
    enlarge(&mut network, factor);
    network
}

/// Real values never leave `f32`, however many layers add up; one that could is refused.
#[test]
fn sums_beyond_f32_are_refused() {
    Plan::new(&sums(1, 5e34)).unwrap();
    Plan::new(&sums(400, 1.0)).unwrap();
    let e = refused(&sums(400, 5e34));
    assert!(
        e.contains("layer `layer0`") && e.contains("too large"),
        "{e}"
    );
    // So is a mean whose sum does.
    let pooled = |side: usize| {
        let mut b = Builder::new(side, side, 4);
        let x = b.input(ActSpec::plain(8));
        let x = b.conv(x, ConvSpec::same(3, 1, 1, WeightSpec::plain(16)));
        b.head(x, ActSpec::plain(8), 2, WeightSpec::plain(8));
        let mut network = b.finish();
        enlarge(&mut network, 5e34);
        network
    };
    Plan::new(&pooled(2)).unwrap();
    let e = refused(&pooled(40));
    assert!(e.contains("average pool"), "{e}");
}

/// Logits of subnormal factors would be zeros, and every label the first.
#[test]
fn factors_that_vanish_are_refused() {
    let mut network = small(1);
    let last = network.layers.len() - 1;
    Plan::new(&network).unwrap();
    scale_layer(&mut network, last, 1e-34);
    let pooled = network.activations.len() - 1;
    *act_scale(&mut network, pooled) = 1e-10;
    let e = refused(&network);
    assert!(e.contains("too small"), "{e}");
    // In front of codes nothing is lost.
    let mut network = small(1);
    scale_layer(&mut network, 0, 1e-34);
    *act_scale(&mut network, 0) = 1e-10;
    Plan::new(&network).unwrap();
}

#[test]
fn codes_that_stand_for_values_beyond_f32_are_refused() {
    let mut network = small(1);
    *act_scale(&mut network, 1) = 2e36;
    let e = refused(&network);
    assert!(
        e.contains("activation `act1`") && e.contains("beyond"),
        "{e}"
    );
}
