//! The readable files that every run folder has.

use std::path::{Path, PathBuf};

use lb_format::atomic;
use serde::Serialize;

use crate::ResnetError;

/// What was asked for.
pub(crate) fn config(folder: &Path) -> PathBuf {
    folder.join("config.json")
}

/// Writes it.
pub(crate) fn save_config(folder: &Path, config: &serde_json::Value) -> Result<(), ResnetError> {
    let text = format!("{config:#}\n");
    Ok(atomic::write(&self::config(folder), text.as_bytes())?)
}

/// Writes `metrics.jsonl`: a line each.
pub(crate) fn save_metrics<T: Serialize>(folder: &Path, history: &[T]) -> Result<(), ResnetError> {
    let mut lines = String::new();
    for m in history {
        lines += &serde_json::to_string(m).map_err(|e| ResnetError::Invalid(e.to_string()))?;
        lines.push('\n');
    }
    Ok(atomic::write(
        &folder.join("metrics.jsonl"),
        lines.as_bytes(),
    )?)
}
