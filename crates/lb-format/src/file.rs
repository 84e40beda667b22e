//! The packed file (`.lbq`): a safetensors container.
//!
//! Its one metadata entry, `lb`, is JSON: format version, a CRC-32 over the JSON and all tensor
//! data, the network's description, its layers (geometry and width), its activations and its graph;
//! since version 3, tables of levels that are not equidistant, each once, and layers' indices in them;
//! since version 4, whether the image is dithered; since version 5, levels of activations; since version 6,
//! how errors of the image are diffused.
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
/// 6 if the image has diffusion, 5 if an activation has a table of levels, 4 if the image is dithered, 3 if a weight
/// has a table of levels, else 2.
pub const VERSION: u32 = 6;

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
    /// Distinct tables of levels, by first use. Since version 3.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tables: Vec<Levels>,
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
    /// Index of the table of what codes stand for, if not themselves. Since version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    levels: Option<usize>,
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

    let tables = tables_of(&network.layers);
    let table = |q: &QParams| tables.iter().position(|t| Some(t) == q.levels.as_ref());
    let mut header = Header {
        version: version_of(&tables, &network.activations),
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
                        levels: table(qparams),
                    }),
                    Weight::Float { .. } => None,
                },
            })
            .collect(),
        activations: network.activations.clone(),
        graph: network.graph.clone(),
        tables: tables.clone(),
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
        .map(|l| read_layer(l, &tensors, &header.tables))
        .collect::<Result<Vec<_>, _>>()?;
    let network = QuantizedNetwork {
        info: header.info,
        recipe: header.recipe,
        layers,
        activations: header.activations,
        graph: header.graph,
    };
    network.validate()?;
    // As a writer leaves them: all used, none twice; and none in a version that has no tables.
    let tables = tables_of(&network.layers);
    if header.tables != tables {
        let problem = format!(
            "{}, of which layers use {}",
            header.tables.len(),
            tables.len()
        );
        return Err(FormatError::invalid("tables of levels", problem));
    }
    let written = version_of(&tables, &network.activations);
    if version != written {
        let problem = format!("is version {version}, but what it holds is written as {written}");
        return Err(FormatError::invalid("header", problem));
    }
    Ok(network)
}

/// The oldest version that can hold a network with these tables and activations.
fn version_of(tables: &[Levels], activations: &[Activation]) -> u32 {
    let has_levels = |a: &Activation| a.qparams.as_ref().is_some_and(|q| q.levels.is_some());
    if activations.iter().any(|a| a.diffusion.is_some()) {
        6
    } else if activations.iter().any(has_levels) {
        5
    } else if activations.iter().any(|a| a.dither) {
        4
    } else if !tables.is_empty() {
        3
    } else {
        OLDEST
    }
}

/// Distinct tables of levels, by first use.
fn tables_of(layers: &[Layer]) -> Vec<Levels> {
    let mut tables: Vec<Levels> = Vec::new();
    for layer in layers {
        if let Weight::Codes { qparams, .. } = &layer.weight
            && let Some(levels) = &qparams.levels
            && !tables.contains(levels)
        {
            tables.push(levels.clone());
        }
    }
    tables
}

fn read_layer(
    header: LayerHeader,
    tensors: &SafeTensors,
    tables: &[Levels],
) -> Result<Layer, FormatError> {
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
            let table = |i: usize| {
                tables.get(i).cloned().ok_or_else(|| {
                    let problem = format!("table {i} of {}", tables.len());
                    FormatError::invalid(format!("layer `{}`, levels", header.name), problem)
                })
            };
            let levels = levels.map(table).transpose()?;
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
mod tests;
