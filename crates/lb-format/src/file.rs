//! The packed file (`.lbq`): a safetensors container.
//!
//! Its one metadata entry, `lb`, is JSON: format version, a CRC-32 over the JSON and all tensor
//! data, the network's description, its layers (geometry, width and, where they are not equidistant,
//! levels), its activations and its graph.
//! The tensors:
//!
//! | name | type | shape |
//! |---|---|---|
//! | `{layer}.codes` | U8 | `[C_out, bytes a row]`, see [`packed`](crate::packed) |
//! | `{layer}.scale` | F32 | `[C_out]`, or `[1]` per tensor |
//! | `{layer}.offset` | F32 | as the scale; absent if all are 0 |
//! | `{layer}.zero_point` | I32 | as the scale; absent if all are 0 |
//! | `{layer}.weight` | F32 | the weight's shape; only of a layer left in float |
//! | `{layer}.bias` | F32 | `[C_out]` |

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::network::{Recipe, Weight};
use crate::{
    Activation, Affine, BitWidth, FormatError, Graph, Layer, LayerKind, Levels, NetworkInfo,
    PackedTensor, QParams, QuantizedNetwork, atomic,
};

/// The newest format version that is read. A network is written in the oldest that can hold it:
/// 3 if a weight has a table of levels, else 2.
pub const VERSION: u32 = 3;

/// The oldest format version that is read.
pub const OLDEST: u32 = 2;

/// Largest file that is read. The networks of this project take at most some megabytes.
pub const MAX_BYTES: u64 = 1 << 30;

const KEY: &str = "lb";

#[derive(Serialize, Deserialize)]
struct Header {
    version: u32,
    crc32: u32,
    info: NetworkInfo,
    recipe: Recipe,
    layers: Vec<LayerHeader>,
    activations: Vec<Activation>,
    graph: Graph,
}

#[derive(Serialize, Deserialize)]
struct LayerHeader {
    name: String,
    #[serde(flatten)]
    kind: LayerKind,
    shape: Vec<usize>,
    /// `None`: left in float.
    codes: Option<CodeHeader>,
}

#[derive(Serialize, Deserialize)]
struct CodeHeader {
    bits: BitWidth,
    signed: bool,
    /// What codes stand for, if not themselves. Since version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    levels: Option<Levels>,
}

/// Writes `network` to `path` (temporary name, then rename).
///
/// # Errors
/// If the network is invalid or the file cannot be written.
pub fn write(path: &Path, network: &QuantizedNetwork) -> Result<(), FormatError> {
    atomic::write(path, &to_bytes(network).map_err(|e| e.at(path))?)
}

/// Reads and validates the file at `path`.
///
/// # Errors
/// Names the file and the first thing that is wrong with it.
pub fn read(path: &Path) -> Result<QuantizedNetwork, FormatError> {
    let io = |source| FormatError::Io {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(io)?.len();
    if size > MAX_BYTES {
        return Err(FormatError::NotQuantized(format!("{size} bytes is too large")).at(path));
    }
    from_bytes(&std::fs::read(path).map_err(io)?).map_err(|e| e.at(path))
}

/// The bytes of the file: the same network gives the same bytes.
///
/// # Errors
/// If the network is invalid.
pub fn to_bytes(network: &QuantizedNetwork) -> Result<Vec<u8>, FormatError> {
    network.validate()?;
    let mut tensors = Vec::new();
    for layer in &network.layers {
        let mut put = |suffix: &str, dtype, shape: Vec<usize>, bytes: Vec<u8>| {
            tensors.push((format!("{}.{suffix}", layer.name), dtype, shape, bytes));
        };
        match &layer.weight {
            Weight::Codes { codes, qparams } => {
                let rows = codes.shape()[0];
                put(
                    "codes",
                    Dtype::U8,
                    vec![rows, codes.bytes().len() / rows],
                    codes.bytes().to_vec(),
                );
                let n = qparams.affine.len();
                let floats = |f: fn(&Affine) -> f32| f32_bytes(qparams.affine.iter().map(f));
                put("scale", Dtype::F32, vec![n], floats(|a| a.scale));
                if qparams.affine.iter().any(|a| a.offset != 0.0) {
                    put("offset", Dtype::F32, vec![n], floats(|a| a.offset));
                }
                if qparams.affine.iter().any(|a| a.zero_point != 0) {
                    let zps = qparams
                        .affine
                        .iter()
                        .flat_map(|a| a.zero_point.to_le_bytes());
                    put("zero_point", Dtype::I32, vec![n], zps.collect());
                }
            }
            Weight::Float { shape, values } => {
                put(
                    "weight",
                    Dtype::F32,
                    shape.clone(),
                    f32_bytes(values.iter().copied()),
                );
            }
        }
        put(
            "bias",
            Dtype::F32,
            vec![layer.bias.len()],
            f32_bytes(layer.bias.iter().copied()),
        );
    }
    tensors.sort_by(|a, b| a.0.cmp(&b.0));

    let mut header = Header {
        version: version_of(&network.layers),
        crc32: 0,
        info: network.info.clone(),
        recipe: network.recipe.clone(),
        layers: network
            .layers
            .iter()
            .map(|l| LayerHeader {
                name: l.name.clone(),
                kind: l.kind,
                shape: l.weight.shape().to_vec(),
                codes: match &l.weight {
                    Weight::Codes { codes, qparams } => Some(CodeHeader {
                        bits: codes.bits(),
                        signed: codes.signed(),
                        levels: qparams.levels.clone(),
                    }),
                    Weight::Float { .. } => None,
                },
            })
            .collect(),
        activations: network.activations.clone(),
        graph: network.graph.clone(),
    };
    header.crc32 = checksum(
        &header,
        tensors
            .iter()
            .map(|(name, _, _, b)| (name.as_str(), b.as_slice())),
    )?;
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((name, TensorView::new(*dtype, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, FormatError>>()?;
    let metadata = HashMap::from([(KEY.to_string(), json(&header)?)]);
    Ok(safetensors::serialize(views, Some(metadata))?)
}

/// The network in the bytes of a file. The bytes are taken as hostile.
///
/// # Errors
/// Names the first thing that is wrong.
pub fn from_bytes(bytes: &[u8]) -> Result<QuantizedNetwork, FormatError> {
    let (_, metadata) = SafeTensors::read_metadata(bytes)?;
    let header = metadata
        .metadata()
        .as_ref()
        .and_then(|m| m.get(KEY))
        .ok_or_else(|| FormatError::NotQuantized(format!("no `{KEY}` entry in its metadata")))?;
    // The version is read first, so that a newer layout is called newer and not broken.
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let broken =
        |e: serde_json::Error| FormatError::NotQuantized(format!("its `{KEY}` entry: {e}"));
    let Version { version } = serde_json::from_str(header).map_err(broken)?;
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(FormatError::Version {
            found: version,
            supported: VERSION,
        });
    }
    let header: Header = serde_json::from_str(header).map_err(broken)?;
    let tensors = SafeTensors::deserialize(bytes)?;
    let mut named: Vec<_> = tensors.iter().collect();
    named.sort_by(|a, b| a.0.cmp(b.0));
    let found = checksum(&header, named.iter().map(|(name, t)| (*name, t.data())))?;
    if found != header.crc32 {
        return Err(FormatError::Checksum {
            expected: header.crc32,
            found,
        });
    }
    let layers = header
        .layers
        .into_iter()
        .map(|l| read_layer(l, &tensors))
        .collect::<Result<Vec<_>, _>>()?;
    if version != version_of(&layers) {
        let problem = format!("{version}, but what it holds is {}", version_of(&layers));
        return Err(FormatError::invalid("format version", problem));
    }
    let network = QuantizedNetwork {
        info: header.info,
        recipe: header.recipe,
        layers,
        activations: header.activations,
        graph: header.graph,
    };
    network.validate()?;
    Ok(network)
}

/// The oldest version that can hold `layers`.
fn version_of(layers: &[Layer]) -> u32 {
    let has_levels =
        |l: &Layer| matches!(&l.weight, Weight::Codes { qparams, .. } if qparams.levels.is_some());
    if layers.iter().any(has_levels) {
        VERSION
    } else {
        OLDEST
    }
}

fn read_layer(header: LayerHeader, tensors: &SafeTensors) -> Result<Layer, FormatError> {
    let get = |suffix: &str, dtype: Dtype| -> Result<Option<&[u8]>, FormatError> {
        let name = format!("{}.{suffix}", header.name);
        let Ok(t) = tensors.tensor(&name) else {
            return Ok(None);
        };
        if t.dtype() != dtype {
            return Err(FormatError::invalid(
                format!("tensor `{name}`"),
                format!("type {:?}, expected {dtype:?}", t.dtype()),
            ));
        }
        Ok(Some(t.data()))
    };
    let need = |suffix: &str, dtype: Dtype| {
        get(suffix, dtype)?.ok_or_else(|| {
            FormatError::invalid(format!("tensor `{}.{suffix}`", header.name), "is missing")
        })
    };
    let weight = match header.codes {
        None => Weight::Float {
            values: f32_values(need("weight", Dtype::F32)?),
            shape: header.shape,
        },
        Some(CodeHeader {
            bits,
            signed,
            levels,
        }) => {
            let bytes = need("codes", Dtype::U8)?.to_vec();
            let codes = PackedTensor::from_bytes(bytes, &header.shape, bits, signed)?;
            let scales = f32_values(need("scale", Dtype::F32)?);
            let offsets = get("offset", Dtype::F32)?.map(f32_values);
            let zero_points = get("zero_point", Dtype::I32)?.map(i32_values);
            let n = scales.len();
            if offsets.as_ref().is_some_and(|o| o.len() != n)
                || zero_points.as_ref().is_some_and(|z| z.len() != n)
            {
                return Err(FormatError::invalid(
                    format!("layer `{}`", header.name),
                    "scales, offsets and zero points differ in number",
                ));
            }
            let affine = scales
                .into_iter()
                .enumerate()
                .map(|(c, scale)| Affine {
                    scale,
                    zero_point: zero_points.as_ref().map_or(0, |z| z[c]),
                    offset: offsets.as_ref().map_or(0.0, |o| o[c]),
                })
                .collect();
            Weight::Codes {
                codes,
                qparams: QParams {
                    bits,
                    signed,
                    affine,
                    levels,
                },
            }
        }
    };
    Ok(Layer {
        bias: f32_values(need("bias", Dtype::F32)?),
        name: header.name,
        kind: header.kind,
        weight,
    })
}

fn json(header: &Header) -> Result<String, FormatError> {
    serde_json::to_string(header).map_err(|e| FormatError::invalid("header", e.to_string()))
}

/// CRC-32 over the header (with its checksum field 0) and every tensor's name and data, by name.
fn checksum<'a>(
    header: &Header,
    tensors: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<u32, FormatError> {
    let mut value =
        serde_json::to_value(header).map_err(|e| FormatError::invalid("header", e.to_string()))?;
    value["crc32"] = 0.into();
    let mut crc = crc32fast::Hasher::new();
    crc.update(value.to_string().as_bytes());
    for (name, bytes) in tensors {
        crc.update(name.as_bytes());
        crc.update(bytes);
    }
    Ok(crc.finalize())
}

fn f32_bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

fn f32_values(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect()
}

fn i32_values(bytes: &[u8]) -> Vec<i32> {
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| i32::from_le_bytes(*b))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
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
        for net in [network(), with_levels()] {
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
    fn the_version_says_whether_there_are_levels() {
        let version = |net: &QuantizedNetwork| version_of(&net.layers);
        assert_eq!((version(&network()), version(&with_levels())), (2, 3));
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
        let mut net = network();
        let q = net.activations[0].qparams.as_mut().unwrap();
        q.affine[0].zero_point = 0;
        q.levels = Some(Levels::new(vec![0, 1, 4]).unwrap());
        let e = to_bytes(&net).unwrap_err().to_string();
        assert!(e.contains("only weights"), "{e}");
    }

    #[test]
    fn every_flipped_byte_is_noticed_or_harmless() {
        // A flip either fails, or (white space, unordered names) leaves the same network.
        for net in [network(), with_levels()] {
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
}
