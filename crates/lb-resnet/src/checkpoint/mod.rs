//! Float networks on disk: our own checkpoints, and other people's.

mod native;
mod pytorch;

pub use native::{Checkpoint, arch_of, from_bytes, load, normalization, save};
pub use pytorch::{ImportRequest, import};

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::store::ApplyResult;
use burn::tensor::Tensor;

use crate::ResnetError;
use crate::model::FloatNet;

/// Largest file that is read; `resnet20-wide` takes 45 MB.
const MAX_BYTES: u64 = 1 << 30;

/// Refuses what cannot be opened, and what is larger than any network here.
fn check_size(path: &Path) -> Result<(), ResnetError> {
    let metadata = std::fs::metadata(path).map_err(|source| ResnetError::Io {
        path: path.to_owned(),
        source,
    })?;
    match metadata.len() {
        size if size > MAX_BYTES => {
            let problem = format!("{size} bytes is too large; at most {MAX_BYTES} are read");
            Err(ResnetError::checkpoint(path, problem))
        }
        _ => Ok(()),
    }
}

/// `missing: a, b; misshaped: …` of what did not fit, or `None` if everything did.
fn mismatches(result: &ApplyResult) -> Option<String> {
    let mut parts = Vec::new();
    let mut list = |what: &str, names: Vec<String>| {
        if !names.is_empty() {
            parts.push(format!("{what}: {}", names.join(", ")));
        }
    };
    list(
        "missing",
        result
            .missing
            .iter()
            .map(|(name, _)| name.clone())
            .collect(),
    );
    list("not wanted", result.unused.clone());
    list(
        "misfit",
        result.errors.iter().map(ToString::to_string).collect(),
    );
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// Names the first parameter that holds NaN or infinity.
fn finite(net: &FloatNet) -> Result<(), String> {
    struct Check {
        path: Vec<String>,
        bad: Option<String>,
    }
    impl ModuleVisitor for Check {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.into());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if self.bad.is_none() {
                let path = self.path.join(".");
                self.bad = match param.val().try_to_vec_as::<f32>() {
                    Err(e) => Some(format!("parameter `{path}` cannot be read: {e}")),
                    Ok(values) if values.iter().any(|v| !v.is_finite()) => {
                        Some(format!("parameter `{path}` holds NaN or infinity"))
                    }
                    Ok(_) => None,
                };
            }
        }
    }
    let mut check = Check {
        path: Vec::new(),
        bad: None,
    };
    net.visit(&mut check);
    check.bad.map_or(Ok(()), Err)
}
