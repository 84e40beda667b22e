use super::*;
use crate::network::{Activation, NetworkInfo, Recipe, Weight};
use crate::{Affine, BitWidth, Diffusion};

fn conv(name: &str, shape: [usize; 4], stride: usize, padding: usize) -> Layer {
    Layer {
        name: name.into(),
        kind: LayerKind::Conv { stride, padding },
        weight: Weight::Float {
            shape: shape.to_vec(),
            values: vec![0.5; shape.iter().product()],
        },
        bias: vec![0.0; shape[0]],
    }
}

fn linear(name: &str, shape: [usize; 2]) -> Layer {
    Layer {
        kind: LayerKind::Linear,
        weight: Weight::Float {
            shape: shape.to_vec(),
            values: vec![0.5; shape.iter().product()],
        },
        ..conv(name, [shape[0], 1, 1, 1], 1, 0)
    }
}

fn activation(name: &str, relu: bool, scale: Option<f32>) -> Activation {
    let affine = |scale| Affine {
        scale,
        zero_point: 0,
        offset: 0.0,
    };
    Activation {
        name: name.into(),
        relu,
        dither: false,
        diffusion: None,
        qparams: scale.map(|s| QParams::per_tensor(BitWidth::EIGHT, false, affine(s))),
    }
}

const IMAGE: usize = 0;
const INPUT: usize = 1;
const CONV: usize = 2;
const ACT: usize = 3;
const POOL: usize = 4;
const LINEAR: usize = 5;

/// image → input → conv (3→4, 3×3) → act → pool → linear (4→2), on 8×6.
fn network() -> QuantizedNetwork {
    let mut graph = Graph::new(Shape::new(3, 8, 6));
    graph.push(Op::activation("input"), &[IMAGE]);
    graph.push(Op::conv("conv"), &[INPUT]);
    graph.push(Op::activation("act"), &[CONV]);
    graph.push(Op::GlobalAveragePool, &[ACT]);
    graph.push(Op::linear("linear"), &[POOL]);
    QuantizedNetwork {
        info: NetworkInfo {
            arch: "small".into(),
            shortcut: String::new(),
            classes: vec!["cat".into(), "dog".into()],
            mean: [0.5; 3],
            std: [0.25; 3],
            trained_on: String::new(),
        },
        recipe: Recipe::default(),
        layers: vec![conv("conv", [4, 3, 3, 3], 2, 1), linear("linear", [2, 4])],
        activations: vec![
            activation("input", false, Some(0.1)),
            activation("act", true, Some(0.2)),
        ],
        graph,
    }
}

/// The error of `network` after `change`: of `edges` alone, as whoever builds a network by hand
/// may call it, and of the validation that files go through.
fn refused(change: impl FnOnce(&mut QuantizedNetwork)) -> String {
    let mut n = network();
    change(&mut n);
    n.validate().expect_err("validation accepts it");
    n.graph.edges(&n).expect_err("it is accepted").to_string()
}

/// Puts `op` between the activation and the pool.
fn insert(n: &mut QuantizedNetwork, op: Op, inputs: &[usize]) {
    let node = Node {
        op,
        inputs: inputs.to_vec(),
    };
    n.graph.nodes.insert(POOL, node);
    n.graph.nodes[POOL + 1].inputs = vec![POOL];
    n.graph.nodes[LINEAR + 1].inputs = vec![POOL + 1];
}

fn edge_after(op: Op) -> Edge {
    let mut n = network();
    let channels = match op {
        Op::PadShortcut { channels, .. } => channels,
        _ => 4,
    };
    n.layers[1] = linear("linear", [2, channels]);
    insert(&mut n, op, &[ACT]);
    n.graph.edges(&n).unwrap()[POOL].clone()
}

#[test]
fn shapes_and_parameters_of_every_edge() {
    let n = network();
    n.validate().unwrap();
    let edges = n.graph.edges(&n).unwrap();
    let shapes: Vec<Shape> = edges.iter().map(|e| e.shape).collect();
    let (image, features) = (Shape::new(3, 8, 6), Shape::new(4, 4, 3));
    let (pooled, logits) = (Shape::new(4, 1, 1), Shape::new(2, 1, 1));
    assert_eq!(shapes, [image, image, features, features, pooled, logits]);
    let scale = |e: &Edge| e.qparams.as_ref().map(|q| q.channel(0).scale);
    let scales: Vec<_> = edges.iter().map(scale).collect();
    assert_eq!(scales, [None, Some(0.1), None, Some(0.2), None, None]);
}

#[test]
fn shortcuts_and_max_pooling_keep_codes() {
    let e = edge_after(Op::PadShortcut {
        stride: 2,
        channels: 9,
    });
    assert_eq!(e.shape, Shape::new(9, 2, 2)); // 4×3, every second pixel
    assert_eq!(e.qparams.unwrap().channel(0).scale, 0.2);
    let e = edge_after(Op::MaxPool { size: 2, stride: 2 });
    assert_eq!(e.shape, Shape::new(4, 2, 1));
    assert_eq!(e.qparams.unwrap().channel(0).scale, 0.2);
}

#[test]
fn what_an_activation_without_parameters_passes_on() {
    // Without a ReLU nothing happens; behind one the values are no longer known to be codes.
    for (relu, scale) in [(false, Some(0.2)), (true, None)] {
        let mut n = network();
        n.activations.push(activation("pass", relu, None));
        insert(&mut n, Op::activation("pass"), &[ACT]);
        let e = &n.graph.edges(&n).unwrap()[POOL];
        assert_eq!(e.qparams.as_ref().map(|q| q.channel(0).scale), scale);
    }
}

#[test]
fn the_image_is_node_0_and_only_that() {
    let rule = "the image is node 0";
    let e = refused(|n| n.graph.nodes[INPUT].op = Op::Image);
    assert!(e.contains(rule), "{e}");
    let e = refused(|n| n.graph.nodes[IMAGE].op = Op::GlobalAveragePool);
    assert!(e.contains(rule), "{e}");
    let e = refused(|n| n.graph.nodes.clear());
    assert!(e.contains("0 nodes"), "{e}");
    let e = refused(|n| n.graph.input.channels = 1);
    assert!(e.contains("red, green and blue"), "{e}");
}

#[test]
fn inputs_come_first_and_have_the_right_number() {
    for inputs in [
        vec![],
        vec![IMAGE, INPUT],
        vec![CONV],
        vec![LINEAR],
        vec![99],
        vec![usize::MAX],
    ] {
        let e = refused(|n| n.graph.nodes[CONV].inputs = inputs.clone());
        assert!(e.contains("graph node 2") && e.contains("inputs"), "{e}");
    }
    let e = refused(|n| n.graph.nodes[IMAGE].inputs = vec![IMAGE]);
    assert!(e.contains("graph node 0"), "{e}");
    let e = refused(|n| insert(n, Op::Add, &[ACT]));
    assert!(e.contains("expected 2"), "{e}");
    let e = refused(|n| insert(n, Op::Add, &[ACT, ACT, ACT]));
    assert!(e.contains("expected 2"), "{e}");
}

#[test]
fn names_must_exist_and_mean_the_right_kind() {
    let e = refused(|n| n.graph.nodes[CONV].op = Op::conv("cnov"));
    assert!(e.contains("`cnov` is missing"), "{e}");
    let e = refused(|n| n.graph.nodes[LINEAR].op = Op::linear("linaer"));
    assert!(e.contains("`linaer` is missing"), "{e}");
    let e = refused(|n| n.graph.nodes[ACT].op = Op::activation("atc"));
    assert!(e.contains("`atc` is missing"), "{e}");
    // A layer is no activation, an activation no layer, and kinds are not interchangeable.
    let e = refused(|n| n.graph.nodes[ACT].op = Op::activation("conv"));
    assert!(e.contains("`conv` is missing"), "{e}");
    let e = refused(|n| n.graph.nodes[CONV].op = Op::conv("act"));
    assert!(e.contains("`act` is missing"), "{e}");
    let e = refused(|n| n.graph.nodes[CONV].op = Op::conv("linear"));
    assert!(e.contains("not a convolution"), "{e}");
    let e = refused(|n| n.graph.nodes[LINEAR].op = Op::linear("conv"));
    assert!(e.contains("not linear"), "{e}");
}

#[test]
fn nothing_is_unused() {
    let e = refused(|n| n.layers.push(linear("spare", [2, 4])));
    assert!(e.contains("`spare` is stored"), "{e}");
    let e = refused(|n| n.activations.push(activation("spare", true, None)));
    assert!(e.contains("`spare` is stored"), "{e}");
    let e = refused(|n| {
        insert(n, Op::activation("act"), &[ACT]);
        n.graph.nodes[POOL + 1].inputs = vec![ACT]; // past the inserted node
    });
    assert!(e.contains("graph node 4") && e.contains("not used"), "{e}");
}

#[test]
fn only_equal_shapes_are_added() {
    let mut n = network();
    insert(&mut n, Op::Add, &[ACT, CONV]);
    n.graph.edges(&n).unwrap();
    let e = refused(|n| insert(n, Op::Add, &[ACT, INPUT]));
    assert!(e.contains("4×4×3 and 3×8×6 cannot be added"), "{e}");
}

#[test]
fn layers_must_fit_their_input() {
    let e = refused(|n| n.layers[0] = conv("conv", [4, 5, 3, 3], 2, 1));
    assert!(e.contains("the weight is 4×5×3×3"), "{e}");
    for kernel in [[11, 3], [3, 9]] {
        let [h, w] = kernel;
        let e = refused(|n| n.layers[0] = conv("conv", [4, 3, h, w], 1, 1));
        assert!(e.contains("does not fit"), "{e}");
    }
    // As large as the padded image is the largest that fits.
    let mut n = network();
    n.layers[0] = conv("conv", [4, 3, 10, 8], 1, 1);
    let edges = n.graph.edges(&n).unwrap();
    assert_eq!(edges[CONV].shape, Shape::new(4, 1, 1));
    let e = refused(|n| n.layers[1] = linear("linear", [2, 5]));
    assert!(e.contains("expected 5×1×1"), "{e}");
    let e = refused(|n| {
        n.graph.nodes.remove(POOL);
        n.graph.nodes[POOL].inputs = vec![ACT];
    });
    assert!(e.contains("input 4×4×3"), "{e}");
}

#[test]
fn shortcuts_and_pools_have_sensible_sizes() {
    for (stride, channels) in [
        (0, 4),
        (17, 4),
        (usize::MAX, 4),
        (1, 3),
        (1, 0),
        (1, usize::MAX),
    ] {
        let e = refused(|n| insert(n, Op::PadShortcut { stride, channels }, &[ACT]));
        assert!(e.contains("graph node 4"), "{stride} {channels}: {e}");
    }
    for (size, stride) in [
        (0, 1),
        (4, 1), // on 4×3
        (usize::MAX, 1),
        (2, 0),
        (2, 17),
        (2, usize::MAX),
    ] {
        let e = refused(|n| insert(n, Op::MaxPool { size, stride }, &[ACT]));
        assert!(e.contains("graph node 4"), "{size} {stride}: {e}");
    }
}

#[test]
fn logits_are_one_for_every_class() {
    let e = refused(|n| n.info.classes.push("horse".into()));
    assert!(e.contains("expected 3×1×1 logits"), "{e}");
    let e = refused(|n| {
        n.graph.nodes.truncate(POOL);
        n.layers.pop();
    });
    assert!(e.contains("its output is 4×4×3"), "{e}");
}

#[test]
fn sizes_are_bounded_before_anything_is_allocated() {
    let huge = [usize::MAX, usize::MAX / 2 + 1, 1 << 40, MAX_EDGE, 0];
    for n in huge {
        for (height, width) in [(n, 6), (8, n), (n, n)] {
            let e = refused(|net| net.graph.input = Shape::new(3, height, width));
            assert!(e.contains("graph node 0") && e.contains("at most"), "{e}");
        }
    }
    // The largest image is 2^24 values; what follows it may not be more.
    let e = refused(|n| {
        n.graph.input = Shape::new(3, MAX_EDGE / 3, 1);
        n.layers[0] = conv("conv", [4, 3, 1, 1], 1, 0);
    });
    assert!(e.contains("graph node 2") && e.contains("at most"), "{e}");
    // Every edge is small enough, but not all of them together.
    let e = refused(|n| {
        n.graph.input = Shape::new(3, MAX_EDGE / 4, 1);
        n.layers[0] = conv("conv", [4, 3, 1, 1], 1, 0);
        for _ in 0..6 {
            insert(n, Op::activation("act"), &[ACT]);
            for (i, node) in n.graph.nodes.iter_mut().enumerate().skip(POOL) {
                node.inputs = vec![i - 1];
            }
        }
    });
    assert!(e.contains("all outputs exceed"), "{e}");
    let e = refused(|n| {
        let node = n.graph.nodes[ACT].clone();
        n.graph.nodes.resize(MAX_NODES + 1, node);
    });
    assert!(e.contains("10001 nodes"), "{e}");
}

#[test]
fn absurd_layers_do_not_overflow() {
    // `validate` refuses these on its own; `edges` must not panic without it.
    for (stride, padding) in [
        (0, 1),
        (1, usize::MAX),
        (1, usize::MAX / 2),
        (1, usize::MAX / 2 + 1),
        (usize::MAX, usize::MAX),
    ] {
        refused(|n| n.layers[0].kind = LayerKind::Conv { stride, padding });
    }
    for shape in [
        vec![],
        vec![4],
        vec![4, 3, 3],
        vec![4, 3, usize::MAX, 3],
        vec![usize::MAX, 3, 3, 3],
        vec![4, usize::MAX, 3, 3],
        vec![0, 3, 3, 3],
    ] {
        for layer in [0, 1] {
            refused(|n| {
                n.layers[layer].weight = Weight::Float {
                    shape: shape.clone(),
                    values: vec![],
                }
            });
        }
    }
}

#[test]
fn nodes_are_written_flat() {
    let text = serde_json::to_string(&network().graph.nodes[..3]).unwrap();
    assert_eq!(
        text,
        r#"[{"op":"image","inputs":[]},{"op":"activation","name":"input","inputs":[0]},{"op":"conv","layer":"conv","inputs":[1]}]"#
    );
}

#[test]
fn only_the_image_is_dithered_or_diffused_where_it_becomes_codes() {
    type Change = fn(&mut Activation);
    let kinds: [(Change, &str); 2] = [
        (|a| a.dither = true, "only the image is dithered"),
        (
            |a| a.diffusion = Some(Diffusion::NONE),
            "only the image has diffusion",
        ),
    ];
    for (set, said) in kinds {
        let mut n = network();
        set(&mut n.activations[0]);
        n.validate().unwrap();
        let changes: [(usize, Change); 3] = [
            (1, |_| ()),
            (0, |a| a.relu = true),
            (0, |a| a.qparams = None),
        ];
        for (index, change) in changes {
            let mut n = network();
            set(&mut n.activations[index]);
            change(&mut n.activations[index]);
            let e = n.validate().unwrap_err().to_string();
            assert!(e.contains(said), "{e}");
        }
    }
}
