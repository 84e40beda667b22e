//! Files written, read, damaged and forged.

use super::*;
use crate::Diffusion;
use crate::graph::{Op, Shape};
use proptest::prelude::*;

fn network() -> QuantizedNetwork {
    let four = BitWidth::new(4).unwrap();
    let qparams = QParams {
        bits: four,
        signed: true,
        affine: (0..2)
            .map(|c| Affine {
                scale: 0.1 + c as f32,
                zero_point: 0,
                offset: 0.01 * c as f32,
            })
            .collect(),
        levels: None,
    };
    let codes: Vec<i32> = (0..2 * 3 * 9).map(|i| i % 16 - 8).collect();
    QuantizedNetwork {
        info: NetworkInfo {
            arch: "resnet8".into(),
            shortcut: "a".into(),
            classes: vec!["cat".into(), "dog".into()],
            mean: [0.5; 3],
            std: [0.25; 3],
            trained_on: String::new(),
        },
        recipe: Recipe {
            method: "mse".into(),
            ..Default::default()
        },
        layers: vec![
            Layer {
                name: "stem".into(),
                kind: LayerKind::Conv {
                    stride: 1,
                    padding: 1,
                },
                weight: Weight::Codes {
                    codes: PackedTensor::pack(&codes, &[2, 3, 3, 3], four, true).unwrap(),
                    qparams,
                },
                bias: vec![0.5, -0.5],
            },
            Layer {
                name: "linear".into(),
                kind: LayerKind::Linear,
                weight: Weight::Float {
                    shape: vec![2, 2],
                    values: vec![1.0, 2.0, 3.0, 4.0],
                },
                bias: vec![0.0, 0.1],
            },
        ],
        activations: vec![Activation {
            name: "input".into(),
            relu: false,
            dither: false,
            diffusion: None,
            qparams: Some(QParams::per_tensor(
                BitWidth::EIGHT,
                false,
                Affine {
                    scale: 0.02,
                    zero_point: 110,
                    offset: 0.0,
                },
            )),
        }],
        graph: {
            let mut g = Graph::new(Shape::new(3, 8, 8));
            let x = g.push(Op::activation("input"), &[0]);
            let x = g.push(Op::conv("stem"), &[x]);
            let x = g.push(Op::GlobalAveragePool, &[x]);
            g.push(Op::linear("linear"), &[x]);
            g
        },
    }
}

/// `network` with a table of levels.
fn with_levels() -> QuantizedNetwork {
    let mut net = network();
    let Weight::Codes { codes, qparams } = &mut net.layers[0].weight else {
        unreachable!()
    };
    let all: Vec<i32> = (0..2 * 3 * 9).map(|i| i % 15).collect();
    *codes = PackedTensor::pack(&all, &[2, 3, 3, 3], qparams.bits, false).unwrap();
    qparams.signed = false;
    qparams.levels = Some(Levels::additive_powers_of_two(qparams.bits).unwrap());
    net
}

#[test]
fn round_trips_and_is_deterministic() {
    let mut dithered = network();
    dithered.activations[0].dither = true;
    let nets = [
        network(),
        with_levels(),
        dithered,
        with_activation_levels(),
        with_diffusion(),
    ];
    for net in nets {
        let bytes = to_bytes(&net).unwrap();
        assert_eq!(from_bytes(&bytes).unwrap(), net);
        for _ in 0..5 {
            assert_eq!(to_bytes(&net).unwrap(), bytes);
        }
    }
}

/// A file that gives codes another meaning is not taken for one that does not, nor the other
/// way round: its version says which.
#[test]
fn the_version_says_whether_there_are_levels_and_dither() {
    let version = |net: &QuantizedNetwork| version_of(&tables_of(&net.layers), &net.activations);
    let mut dithered = with_levels();
    dithered.activations[0].dither = true;
    let versions = [network(), with_levels(), dithered].map(|net| version(&net));
    assert_eq!(versions, [2, 3, 4]);
    let mut net = with_levels();
    let Weight::Codes { codes, qparams } = &mut net.layers[0].weight else {
        unreachable!()
    };
    // The one code without a level.
    let all = vec![15; 2 * 3 * 9];
    *codes = PackedTensor::pack(&all, &[2, 3, 3, 3], qparams.bits, false).unwrap();
    let e = to_bytes(&net).unwrap_err().to_string();
    assert!(
        e.contains("layer `stem`, levels") && e.contains("code 15"),
        "{e}"
    );
}

/// `network` with an image that is diffused.
fn with_diffusion() -> QuantizedNetwork {
    let mut net = network();
    let mut diffusion = Diffusion::NONE;
    (diffusion.left[0][1], diffusion.above[2][2][0]) = (-100, 7);
    net.activations[0].diffusion = Some(diffusion);
    net
}

#[test]
fn diffusion_has_a_version_and_is_checked() {
    let net = with_diffusion();
    assert_eq!(version_of(&[], &net.activations), 6);
    let e = from_bytes(&forged(&net, |h| h.version = 2)).unwrap_err();
    assert!(e.to_string().contains("version 2"), "{e}");
    type Change = fn(&mut Activation);
    let changes: [(Change, &str); 4] = [
        (|a| a.dither = true, "diffusion: with dither"),
        (
            |a| a.qparams.as_mut().unwrap().affine[0].offset = 0.5,
            "an offset of 0.5",
        ),
        (
            |a| a.qparams.as_mut().unwrap().bits = BitWidth::new(16).unwrap(),
            "with 16 bits",
        ),
        (
            |a| a.diffusion.as_mut().unwrap().left[0][0] = i16::MIN,
            "a weight is -32768",
        ),
    ];
    for (change, said) in changes {
        let mut net = with_diffusion();
        change(&mut net.activations[0]);
        let e = net.validate().unwrap_err().to_string();
        assert!(e.contains(said), "{e}");
    }
}

/// `network` with a table of levels at its first activation.
fn with_activation_levels() -> QuantizedNetwork {
    let mut net = network();
    let q = net.activations[0].qparams.as_mut().unwrap();
    (q.bits, q.signed) = (BitWidth::new(2).unwrap(), false);
    q.affine[0].zero_point = 0;
    q.levels = Some(Levels::new(vec![0, 1, 4]).unwrap());
    net
}

#[test]
fn levels_of_activations_start_at_zero_and_have_a_version() {
    let net = with_activation_levels();
    assert_eq!(version_of(&[], &net.activations), 5);
    let e = from_bytes(&forged(&net, |h| h.version = 2)).unwrap_err();
    assert!(e.to_string().contains("version 2"), "{e}");
    type Change = fn(&mut Activation);
    let changes: [(Change, &str); 4] = [
        (|a| a.dither = true, "dithered"),
        (
            |a| a.qparams.as_mut().unwrap().affine[0].offset = 0.5,
            "offset is 0.5",
        ),
        (
            |a| a.qparams.as_mut().unwrap().levels = Some(Levels::new(vec![1, 4]).unwrap()),
            "the first is 1",
        ),
        (
            |a| a.qparams.as_mut().unwrap().bits = BitWidth::new(1).unwrap(),
            "2 codes",
        ),
    ];
    for (change, said) in changes {
        let mut net = net.clone();
        change(&mut net.activations[0]);
        let e = to_bytes(&net).unwrap_err().to_string();
        assert!(e.contains(", levels") && e.contains(said), "{e}");
    }
    let held = net.activations[0].qparams.as_ref().unwrap().held();
    assert_eq!((held.range().lo, held.range().hi), (0, Levels::LARGEST));
    assert_eq!(held.levels, None);
}

/// The file of `net` with another header, its checksum made right.
fn forged(net: &QuantizedNetwork, change: impl Fn(&mut Header)) -> Vec<u8> {
    let bytes = to_bytes(net).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let text = &metadata.metadata().as_ref().unwrap()[KEY];
    let mut header: Header = serde_json::from_str(text).unwrap();
    change(&mut header);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut named: Vec<_> = tensors.iter().collect();
    named.sort_by(|a, b| a.0.cmp(b.0));
    let parts = named.iter().map(|(name, t)| (*name, t.data()));
    header.crc32 = checksum(&header, parts).unwrap();
    let metadata = HashMap::from([(KEY.to_string(), json(&header).unwrap())]);
    safetensors::serialize(tensors.tensors(), Some(metadata)).unwrap()
}

#[test]
fn tables_are_used_each_once_and_have_the_right_version() {
    let net = with_levels();
    assert_eq!(from_bytes(&forged(&net, |_| {})).unwrap(), net);
    type Change = fn(&mut Header);
    let changes: [(Change, &str); 7] = [
        (|h| h.version = 2, "version 2"),
        (
            |h| h.layers[0].codes.as_mut().unwrap().levels = Some(1),
            "table 1 of 1",
        ),
        (
            |h| h.layers[0].codes.as_mut().unwrap().levels = Some(usize::MAX),
            "of 1",
        ),
        (
            |h| h.layers[0].codes.as_mut().unwrap().levels = None,
            "layers use 0",
        ),
        (|h| h.tables.push(h.tables[0].clone()), "layers use 1"),
        (|h| h.tables.clear(), "table 0 of 0"),
        // Shorter than the largest code.
        (
            |h| h.tables[0] = Levels::new(vec![-1, 0, 1]).unwrap(),
            "code 3",
        ),
    ];
    for (i, (change, said)) in changes.into_iter().enumerate() {
        let e = from_bytes(&forged(&net, change)).unwrap_err().to_string();
        assert!(e.contains(said), "case {i}: {e}");
    }
    let e = from_bytes(&forged(&network(), |h| h.version = 3)).unwrap_err();
    assert!(e.to_string().contains("version 3"), "{e}");
    let e = from_bytes(&forged(&network(), |h| h.activations[0].dither = true)).unwrap_err();
    assert!(e.to_string().contains("version 2"), "{e}");
    // Two layers with one table store it once, and another beside it.
    let mut net = with_levels();
    let table = |levels: Vec<i32>| Weight::Codes {
        codes: PackedTensor::pack(&[0, 1, 2, 1], &[2, 2], BitWidth::EIGHT, false).unwrap(),
        qparams: QParams {
            levels: Some(Levels::new(levels).unwrap()),
            ..QParams::per_tensor(
                BitWidth::EIGHT,
                false,
                Affine {
                    scale: 1.0,
                    zero_point: 0,
                    offset: 0.0,
                },
            )
        },
    };
    for (levels, tables) in [
        (
            (-10..=10)
                .filter(|l| [0, 1, 2, 3, 4, 6, 8, 10].contains(&i32::abs(*l)))
                .collect(),
            1,
        ),
        (vec![-9, 0, 100], 2),
    ] {
        net.layers[1].weight = table(levels);
        assert_eq!(tables_of(&net.layers).len(), tables);
        assert_eq!(from_bytes(&to_bytes(&net).unwrap()).unwrap(), net);
    }
}

#[test]
fn every_flipped_byte_is_noticed_or_harmless() {
    // A flip either fails, or (white space, unordered names) leaves the same network.
    for net in [network(), with_levels(), with_activation_levels()] {
        let bytes = to_bytes(&net).unwrap();
        for i in 0..bytes.len() {
            for bit in [1u8, 0x10, 0x80] {
                let mut b = bytes.clone();
                b[i] ^= bit;
                if let Ok(read) = from_bytes(&b) {
                    assert_eq!(read, net, "byte {i} ^ {bit:#x} was accepted");
                }
            }
        }
    }
}

#[test]
fn truncation_is_refused() {
    let bytes = to_bytes(&with_levels()).unwrap();
    for n in 0..bytes.len() {
        assert!(from_bytes(&bytes[..n]).is_err(), "{n} bytes");
    }
}

#[test]
fn invalid_networks_are_not_written() {
    let broken: [fn(&mut QuantizedNetwork); 7] = [
        |n| n.layers[0].bias[0] = f32::NAN,
        |n| n.layers[0].bias.push(0.0),
        |n| n.layers[1].name = "stem".into(),
        |n| n.activations[0].qparams.as_mut().unwrap().affine[0].scale = 0.0,
        |n| n.info.classes.clear(),
        |n| n.info.std[1] = 0.0,
        |n| n.graph.nodes.truncate(3),
    ];
    for (i, f) in broken.into_iter().enumerate() {
        let mut net = network();
        f(&mut net);
        assert!(to_bytes(&net).is_err(), "case {i}");
    }
}

#[test]
fn another_version_is_called_that() {
    let text = String::from_utf8_lossy(&to_bytes(&network()).unwrap()).into_owned();
    assert!(text.contains(r#"\"version\":2"#));
    let bytes: Vec<u8> = to_bytes(&network()).unwrap();
    let at = bytes
        .windows(12)
        .position(|w| w == br#"\"version\":"#)
        .unwrap();
    let mut newer = bytes.clone();
    newer[at + 12] = b'9';
    let e = from_bytes(&newer).unwrap_err();
    assert!(matches!(e, FormatError::Version { found: 9, .. }), "{e}");
}

#[test]
fn errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.lbq");
    let e = read(&path).unwrap_err().to_string();
    assert!(e.contains("x.lbq"), "{e}");
    std::fs::write(&path, b"hello").unwrap();
    let e = read(&path).unwrap_err().to_string();
    assert!(e.contains("x.lbq"), "{e}");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = from_bytes(&bytes);
    }

    #[test]
    fn random_edits_never_panic(edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut bytes = to_bytes(&with_levels()).unwrap();
        for (at, value) in edits {
            let i = at.index(bytes.len());
            bytes[i] = value;
        }
        let _ = from_bytes(&bytes);
    }
}
