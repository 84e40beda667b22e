//! A file to resume from: a header and named parts in bytes, in one safetensors file.
//!
//! The header is CBOR, which keeps every float to the last bit: a resumed run ends in the same bytes
//! as one that was never stopped. (Text does not, unless its reader takes great care.)

use std::collections::BTreeMap;
use std::path::Path;

use lb_format::atomic;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ResnetError;

/// The part that is the header.
const HEADER: &str = "header";

/// Writes it, replacing what is there at once.
pub(crate) fn write(
    path: &Path,
    header: &impl Serialize,
    parts: &[(&str, &[u8])],
) -> Result<(), ResnetError> {
    let fail = |e: &dyn std::fmt::Display| ResnetError::checkpoint(path, e);
    let mut head = Vec::new();
    ciborium::into_writer(header, &mut head).map_err(|e| fail(&e))?;
    let views = [(HEADER, head.as_slice())]
        .iter()
        .chain(parts)
        .map(|(name, bytes)| Ok((*name, TensorView::new(Dtype::U8, vec![bytes.len()], bytes)?)))
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|e| fail(&e))?;
    let bytes = safetensors::serialize(views, None).map_err(|e| fail(&e))?;
    Ok(atomic::write(path, &bytes)?)
}

/// Header and parts, or `None` if there is no such file. `remedy` ends the message of an error.
pub(crate) fn read<H: DeserializeOwned>(
    path: &Path,
    remedy: &str,
) -> Result<Option<(H, Parts)>, ResnetError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(ResnetError::Io { path, source });
        }
    };
    let fail = |e: &dyn std::fmt::Display| ResnetError::checkpoint(path, format!("{e}; {remedy}"));
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| fail(&e))?;
    let head = tensors.tensor(HEADER);
    let head = head.map_err(|_| fail(&"not a state to resume from"))?;
    let header = ciborium::from_reader(head.data()).map_err(|e| fail(&e))?;
    let parts = tensors
        .iter()
        .map(|(name, t)| (name.to_string(), t.data().to_vec()));
    Ok(Some((header, Parts(parts.collect()))))
}

/// The parts of a file.
pub(crate) struct Parts(BTreeMap<String, Vec<u8>>);

impl Parts {
    /// Takes one out.
    pub(crate) fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        self.0.remove(name)
    }

    /// Takes one out that must be there.
    pub(crate) fn need(&mut self, path: &Path, name: &str) -> Result<Vec<u8>, ResnetError> {
        self.take(name)
            .ok_or_else(|| ResnetError::checkpoint(path, format!("`{name}` is missing")))
    }
}
