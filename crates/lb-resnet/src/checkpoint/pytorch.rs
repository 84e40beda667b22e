//! Checkpoints of PyTorch ResNets, through burn-store.
//!
//! Understood are the two common ways to name a CIFAR ResNet's parts (`layer1.0.conv1`,
//! `shortcut.0` or `downsample.0`, `linear` or `fc`), a `module.` prefix (left by
//! `DataParallel`), a state dict at the top or nested under one of the usual keys, zipped and
//! legacy pickles, and safetensors with the same names.

use std::path::Path;

use burn::module::Module;
use burn::store::{
    ApplyResult, KeyRemapper, ModuleSnapshot, PyTorchToBurnAdapter, PytorchStore, SafetensorsStore,
};
use burn::tensor::Device;
use lb_format::NetworkInfo;

use super::{Checkpoint, check_size, finite, mismatches};
use crate::ResnetError;
use crate::model::{Arch, FloatNet, Shortcut};

/// Keys under which people nest a state dict; the file is tried without one first.
const NESTED: [&str; 4] = ["state_dict", "model_state_dict", "model", "net"];

/// What a foreign file does not say of itself.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// Architecture.
    pub arch: Arch,
    /// Shortcut option.
    pub shortcut: Shortcut,
    /// Class names; their number must fit the file.
    pub classes: Vec<String>,
    /// Mean of each channel it was trained with, of pixels in 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each channel it was trained with.
    pub std: [f32; 3],
}

/// Reads a PyTorch state dict or safetensors file.
///
/// # Errors
/// Names the file, and every key that is missing, extra or misshaped.
pub fn import(
    path: &Path,
    request: &ImportRequest,
    device: &Device,
) -> Result<Checkpoint, ResnetError> {
    let fail = |problem: String| ResnetError::checkpoint(path, problem);
    let info = NetworkInfo {
        arch: request.arch.name.into(),
        shortcut: request.shortcut.to_string(),
        classes: request.classes.clone(),
        mean: request.mean,
        std: request.std,
        trained_on: String::new(),
    };
    info.validate().map_err(|e| fail(e.to_string()))?;
    check_size(path)?;
    let remap = remapper(&request.arch);
    let fresh = || {
        FloatNet::init(
            request.arch,
            request.shortcut,
            request.classes.len(),
            0,
            device,
        )
    };

    // The attempt that fits most is the one whose complaints are worth reading.
    let mut best: Option<(FloatNet, ApplyResult)> = None;
    let mut errors = Vec::new();
    let mut consider = |net: FloatNet, result: Result<ApplyResult, String>| match result {
        Ok(result) => {
            if best
                .as_ref()
                .is_none_or(|(_, b)| result.applied.len() > b.applied.len())
            {
                best = Some((net, result));
            }
        }
        Err(e) => errors.push(e),
    };
    if path.extension().is_some_and(|e| e == "safetensors") {
        let mut net = fresh();
        let mut store = SafetensorsStore::from_file(path)
            .with_from_adapter(PyTorchToBurnAdapter)
            .remap(remap)
            .validate(false)
            .allow_partial(true);
        let result = net.load_from(&mut store).map_err(|e| e.to_string());
        consider(net, result);
    } else {
        for key in std::iter::once(None).chain(NESTED.map(Some)) {
            let mut net = fresh();
            let mut store = PytorchStore::from_file(path)
                .remap(remap.clone())
                .map_indices_contiguous(false)
                .validate(false)
                .allow_partial(true);
            if let Some(key) = key {
                store = store.with_top_level_key(key);
            }
            let result = net.load_from(&mut store).map_err(|e| e.to_string());
            consider(net, result);
        }
    }
    let Some((net, mut result)) = best else {
        errors.dedup();
        return Err(fail(format!(
            "cannot be read as a state dict: {}",
            errors.join("; ")
        )));
    };
    // BatchNorm's count of batches has no use outside of training.
    result
        .unused
        .retain(|name| !name.ends_with("num_batches_tracked"));
    if let Some(problem) = mismatches(&result) {
        return Err(fail(format!(
            "does not fit {} with shortcut {} and {} classes: {problem}",
            request.arch,
            request.shortcut,
            request.classes.len()
        )));
    }
    let net = net.valid();
    finite(&net).map_err(fail)?;
    Ok(Checkpoint {
        net,
        info,
        training: serde_json::json!({ "imported_from": path.display().to_string() }),
    })
}

/// PyTorch's names to ours.
fn remapper(arch: &Arch) -> KeyRemapper {
    let mut rules = vec![
        (r"^module\.".to_string(), String::new()),
        (r"^conv1\.".into(), "stem.conv.".into()),
        (r"^bn1\.".into(), "stem.bn.".into()),
        (r"^fc\.".into(), "linear.".into()),
    ];
    for (i, (stage, block, ..)) in arch.block_plan().into_iter().enumerate() {
        let at = format!(r"^layer{}\.{block}\.", stage + 1);
        for part in ["1", "2"] {
            rules.push((
                format!(r"{at}conv{part}\."),
                format!("blocks.{i}.conv{part}.conv."),
            ));
            rules.push((
                format!(r"{at}bn{part}\."),
                format!("blocks.{i}.conv{part}.bn."),
            ));
        }
        for (k, part) in ["conv", "bn"].iter().enumerate() {
            rules.push((
                format!(r"{at}(?:shortcut|downsample)\.{k}\."),
                format!("blocks.{i}.shortcut.{part}."),
            ));
        }
    }
    KeyRemapper::from_patterns(rules).expect("the patterns are fixed")
}
