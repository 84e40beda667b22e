//! Our checkpoints: safetensors with one metadata entry, `lb`, that says what the network is.

use std::path::Path;

use burn::module::Module;
use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::Device;
use lb_data::Normalization;
use lb_format::{NetworkInfo, atomic};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use super::mismatches;
use crate::ResnetError;
use crate::model::{Arch, FloatNet, Shortcut};

const KEY: &str = "lb";
const VERSION: u32 = 1;

/// A float network and what it is.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The network, in evaluation mode.
    pub net: FloatNet,
    /// Architecture, classes, normalisation.
    pub info: NetworkInfo,
    /// Facts of its training, in the words of whoever trained it: epochs, accuracies, seed.
    pub training: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct Metadata {
    version: u32,
    #[serde(flatten)]
    info: NetworkInfo,
    #[serde(default)]
    training: serde_json::Value,
}

impl Checkpoint {
    /// Mean and standard deviation of each channel.
    pub fn normalization(&self) -> Normalization {
        normalization(&self.info)
    }
}

/// Mean and standard deviation of each channel.
pub fn normalization(info: &NetworkInfo) -> Normalization {
    Normalization {
        mean: info.mean,
        std: info.std,
    }
}

/// Writes a checkpoint (temporary name, then rename). The same network gives the same bytes.
///
/// # Errors
/// If the file cannot be written.
pub fn save(path: &Path, checkpoint: &Checkpoint) -> Result<(), ResnetError> {
    checkpoint.info.validate()?;
    let metadata = Metadata {
        version: VERSION,
        info: checkpoint.info.clone(),
        training: checkpoint.training.clone(),
    };
    let json = serde_json::to_string(&metadata).map_err(|e| ResnetError::checkpoint(path, e))?;
    // One entry: safetensors writes several in random order.
    let mut store = SafetensorsStore::from_bytes(None)
        .clear_metadata()
        .metadata(KEY, json);
    let fail = |e: &dyn std::fmt::Display| ResnetError::checkpoint(path, e);
    let net = checkpoint.net.valid();
    net.save_into(&mut store).map_err(|e| fail(&e))?;
    let bytes = store.get_bytes().map_err(|e| fail(&e))?;
    Ok(atomic::write(path, &bytes)?)
}

/// Reads and validates a checkpoint onto `device`.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn load(path: &Path, device: &Device) -> Result<Checkpoint, ResnetError> {
    super::check_size(path)?;
    let io = |source| ResnetError::Io {
        path: path.to_owned(),
        source,
    };
    from_bytes(path, std::fs::read(path).map_err(io)?, device)
}

/// As [`load`], from bytes that came from `path` (or are embedded: the path is for messages).
///
/// # Errors
/// As [`load`].
pub fn from_bytes(path: &Path, bytes: Vec<u8>, device: &Device) -> Result<Checkpoint, ResnetError> {
    let fail = |problem: String| ResnetError::checkpoint(path, problem);
    let not_ours = "not a checkpoint of `lb train` or `lb import`";
    let (_, header) = SafeTensors::read_metadata(&bytes)
        .map_err(|e| fail(format!("{not_ours}: not safetensors: {e}")))?;
    let json = header
        .metadata()
        .as_ref()
        .and_then(|m| m.get(KEY))
        .ok_or_else(|| {
            fail(format!(
                "{not_ours}: no `{KEY}` entry in its metadata; `lb import` reads other files"
            ))
        })?;
    let metadata: Metadata =
        serde_json::from_str(json).map_err(|e| fail(format!("{not_ours}: `{KEY}` entry: {e}")))?;
    if metadata.version != VERSION {
        return Err(fail(format!(
            "checkpoint version {}, but this `lb` reads {VERSION}: update `lb`",
            metadata.version
        )));
    }
    metadata.info.validate().map_err(|e| fail(e.to_string()))?;
    let (arch, shortcut) = arch_of(&metadata.info).map_err(|e| fail(e.to_string()))?;
    let mut net = FloatNet::init(arch, shortcut, metadata.info.classes.len(), 0, device);
    let mut store = SafetensorsStore::from_bytes(Some(bytes))
        .validate(false)
        .allow_partial(true);
    let result = net.load_from(&mut store).map_err(|e| fail(e.to_string()))?;
    if let Some(problem) = mismatches(&result) {
        return Err(fail(format!(
            "does not fit {arch} (shortcut {shortcut}): {problem}"
        )));
    }
    let net = net.valid();
    super::finite(&net).map_err(fail)?;
    Ok(Checkpoint {
        net,
        info: metadata.info,
        training: metadata.training,
    })
}

/// Architecture and shortcut that `info` names.
///
/// # Errors
/// If either is unknown.
pub fn arch_of(info: &NetworkInfo) -> Result<(Arch, Shortcut), ResnetError> {
    let shortcut = info.shortcut.parse().map_err(ResnetError::Invalid)?;
    Ok((info.arch.parse()?, shortcut))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data;
    use burn::tensor::{Distribution, Tensor};

    fn checkpoint(arch: &str, shortcut: Shortcut) -> Checkpoint {
        let device = Device::flex();
        let arch: Arch = arch.parse().unwrap();
        Checkpoint {
            net: FloatNet::init(arch, shortcut, 10, 3, &device).valid(),
            info: test_data::info(arch.name, shortcut),
            training: serde_json::json!({"epochs": 1}),
        }
    }

    #[test]
    fn round_trips_bit_for_bit() {
        let device = Device::flex();
        let dir = tempfile::tempdir().unwrap();
        for (arch, shortcut) in [("resnet8", Shortcut::A), ("resnet8", Shortcut::B)] {
            let saved = checkpoint(arch, shortcut);
            let (a, b) = (dir.path().join("a"), dir.path().join("b"));
            save(&a, &saved).unwrap();
            let loaded = load(&a, &device).unwrap();
            save(&b, &loaded).unwrap();
            assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
            assert_eq!(loaded.info, saved.info);
            let x = Tensor::random([2, 3, 32, 32], Distribution::Default, &device);
            let (p, q) = (saved.net.forward(x.clone()), loaded.net.forward(x));
            assert_eq!(p.into_data(), q.into_data());
        }
    }

    #[test]
    fn a_checkpoint_of_another_shape_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        let mut wrong = checkpoint("resnet8", Shortcut::A);
        wrong.info.arch = "resnet20".into();
        save(&path, &wrong).unwrap();
        let e = load(&path, &Device::flex()).unwrap_err().to_string();
        assert!(
            e.contains("x.safetensors") && e.contains("missing: blocks.3.conv1"),
            "{e}"
        );
    }

    #[test]
    fn damage_never_panics() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        save(&path, &checkpoint("resnet8", Shortcut::A)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        for n in [0, 1, 8, 9, 100, header, header + 5, bytes.len() - 1] {
            let e = from_bytes(&path, bytes[..n].to_vec(), &Device::flex());
            assert!(e.is_err(), "{n} bytes");
        }
        for i in (0..header).step_by(7) {
            let mut b = bytes.clone();
            b[i] ^= 0x15;
            let _ = from_bytes(&path, b, &Device::flex());
        }
        let mut b = bytes;
        b.splice(header..header + 4, f32::NAN.to_le_bytes());
        let e = from_bytes(&path, b, &Device::flex())
            .unwrap_err()
            .to_string();
        assert!(e.contains("NaN"), "{e}");
    }
}
