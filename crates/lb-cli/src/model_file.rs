//! Which network and which data a command means.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use burn::tensor::Device;
use lb_data::{DataSource, ImageSet, resolve_default};
use lb_format::NetworkInfo;
use lb_resnet::checkpoint::{self, Checkpoint};
use lb_resnet::eval;

use crate::built_in::BuiltIn;

/// Where a float network is, before it is read.
pub struct Place {
    /// Its file; of the built-in network, where it would be.
    pub path: PathBuf,
    /// For people: the path, and how it was found if nobody named it.
    pub described: String,
    built_in: Option<BuiltIn>,
}

impl Place {
    /// A built-in network.
    pub fn built_in(which: BuiltIn) -> Self {
        Self {
            path: which.folder().join(which.float().0),
            described: which.described().into(),
            built_in: Some(which),
        }
    }

    /// `path`, or the newest network under `runs/`, or the built-in one for `data` as typed.
    pub fn find(path: Option<&Path>, data: Option<&str>) -> Self {
        let (path, described) = match path {
            Some(path) => (path.to_owned(), path.display().to_string()),
            None => match newest_run() {
                Some(path) => {
                    let described = format!("{} (the newest under runs/)", path.display());
                    (path, described)
                }
                None => return Self::built_in(BuiltIn::of(data)),
            },
        };
        Self {
            path,
            described,
            built_in: None,
        }
    }

    /// `path`, or the newest network under `runs/`, or the built-in one that the packed file of
    /// `packed` was made from.
    pub fn find_for(path: Option<&Path>, packed: &NetworkInfo) -> Self {
        match Self::find(path, None) {
            place if place.built_in.is_none() => place,
            _ if is_synthetic(packed) => Self::built_in(BuiltIn::Synthetic),
            _ => Self::built_in(BuiltIn::Cifar10),
        }
    }

    /// Which built-in network it is, if it is one.
    pub fn which_built_in(&self) -> Option<BuiltIn> {
        self.built_in
    }

    /// The folder of its packed files.
    pub fn quantized_folder(&self) -> PathBuf {
        self.path.with_file_name("quantized")
    }

    /// Reads it onto `device`.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub fn load(self, device: &Device) -> Result<Model> {
        let checkpoint = match self.built_in {
            Some(which) => checkpoint::from_bytes(&self.path, which.float().1.to_vec(), device)?,
            None => checkpoint::load(&self.path, device)?,
        };
        Ok(Model {
            checkpoint,
            place: self,
        })
    }
}

/// A float network and where it is.
pub struct Model {
    /// The network.
    pub checkpoint: Checkpoint,
    /// Where it is.
    pub place: Place,
}

/// The checkpoint of the newest run: the last written `runs/*/best.safetensors`.
fn newest_run() -> Option<PathBuf> {
    let written = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.ok()?.path().join("best.safetensors");
        let time = std::fs::metadata(&path).ok()?.modified().ok()?;
        Some((time, path))
    };
    let newest = std::fs::read_dir("runs").ok()?.filter_map(written).max()?;
    Some(newest.1)
}

/// Whether a network was trained on the synthetic set.
fn is_synthetic(info: &NetworkInfo) -> bool {
    info.trained_on.starts_with("synthetic")
}

/// What data is meant: `spec`, else `synthetic` for a network that was trained on it, else the
/// default folder.
///
/// # Errors
/// If there is no such data.
pub fn data(spec: Option<&str>, info: &NetworkInfo) -> Result<DataSource> {
    match spec {
        Some(spec) => Ok(DataSource::open(spec)?),
        None if is_synthetic(info) => Ok(DataSource::open("synthetic")?),
        None => Ok(resolve_default()?),
    }
}

/// Refuses images of other classes than a built-in network knows; of other networks only the number
/// of classes counts, as their names are whatever somebody called them.
///
/// # Errors
/// Names both.
pub fn check_classes(model: &Model, set: &ImageSet) -> Result<()> {
    let known = &model.checkpoint.info.classes;
    if model.place.built_in.is_none() {
        return Ok(eval::check_classes(known.len(), set)?);
    }
    anyhow::ensure!(
        known == set.class_names(),
        "{}: has the classes {}, the {} knows {}: name a network for them with --model",
        set.source(),
        set.class_names().join(", "),
        model.place.described,
        known.join(", ")
    );
    Ok(())
}

/// `path` and, if it is a folder, the networks in it, by name.
///
/// # Errors
/// If a folder cannot be read or holds none.
pub fn expand(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let file = entry.with_context(|| path.display().to_string())?.path();
        if file.extension().is_some_and(|e| e == "lbq") {
            files.push(file);
        }
    }
    anyhow::ensure!(
        !files.is_empty(),
        "{}: holds no packed files (.lbq); `lb calibrate` writes them",
        path.display()
    );
    // Digit runs compare as numbers, so that w16 comes after w2.
    files.sort_by_cached_key(|f| natural(&f.to_string_lossy()));
    Ok(files)
}

/// A key that orders `w2` before `w16`.
fn natural(name: &str) -> Vec<(u64, String)> {
    let mut key: Vec<(u64, String)> = Vec::new();
    for c in name.chars() {
        match (c.to_digit(10), key.last_mut()) {
            (Some(d), Some((number, text))) if text.is_empty() => {
                *number = number.saturating_mul(10).saturating_add(d.into());
            }
            (Some(d), _) => key.push((d.into(), String::new())),
            (None, Some((0, text))) if !text.is_empty() => text.push(c),
            (None, _) => key.push((0, c.into())),
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::natural;

    #[test]
    fn widths_sort_as_numbers() {
        let mut names = ["r-w16a16", "r-w2a4", "r-w8a8", "r-w2a2", "q"];
        names.sort_by_key(|n| natural(n));
        assert_eq!(names, ["q", "r-w2a2", "r-w2a4", "r-w8a8", "r-w16a16"]);
    }
}
