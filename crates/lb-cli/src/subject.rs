//! Networks as commands name them: checkpoints and packed files.

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use lb_format::{NetworkInfo, QuantizedNetwork};

use crate::built_in::{Artifact, BuiltIn};
use crate::commands::import::parameters;
use crate::model_file::{self, Model, Place};

/// A network that a command names, before it is read.
pub enum Named {
    /// A checkpoint.
    Float(Place),
    /// A packed file.
    Packed(PathBuf),
    /// A packed network that is part of `lb`.
    BuiltIn(Artifact),
}

/// What `paths` name; without one, the default network, for `data` as typed, and its packed files.
///
/// # Errors
/// If a folder cannot be read or holds no packed file.
pub fn named(paths: &[PathBuf], data: Option<&str>) -> Result<Vec<Named>> {
    if !paths.is_empty() {
        let mut all = Vec::new();
        for path in paths {
            all.extend(model_file::expand(path)?.into_iter().map(Named::new));
        }
        return Ok(all);
    }
    let place = Place::find(None, data);
    let folder = place.quantized_folder();
    let packed = place.which_built_in().map_or(&[][..], BuiltIn::packed);
    let mut all = vec![Named::Float(place)];
    if folder.is_dir() {
        all.extend(model_file::expand(&folder)?.into_iter().map(Named::new));
    } else if !packed.is_empty() {
        all.extend(packed.iter().map(|&p| Named::BuiltIn(p)));
    } else {
        eprintln!(
            "note: no packed files in {}; `lb calibrate` writes them",
            folder.display()
        );
    }
    Ok(all)
}

impl Named {
    fn new(path: PathBuf) -> Self {
        match path.extension().is_some_and(|e| e == "lbq") {
            true => Self::Packed(path),
            false => Self::Float(Place::find(Some(&path), None)),
        }
    }

    /// Reads it; a checkpoint onto `device`.
    ///
    /// # Errors
    /// If the file cannot be used.
    pub fn open(self, device: &Device) -> Result<Subject> {
        match self {
            Self::Float(place) => Ok(Subject::Float(Box::new(place.load(device)?))),
            Self::Packed(path) => Packed::read(&path).map(Subject::Packed),
            Self::BuiltIn(artifact) => Packed::built_in(artifact).map(Subject::Packed),
        }
    }
}

/// A network to evaluate or measure.
pub enum Subject {
    /// A checkpoint.
    Float(Box<Model>),
    /// A packed network.
    Packed(Packed),
}

/// A packed network, its name and the bytes of its file.
pub struct Packed {
    /// The network.
    pub network: Box<QuantizedNetwork>,
    /// For people.
    pub name: String,
    /// Size of its file.
    pub bytes: u64,
}

impl Packed {
    /// Reads a packed file.
    ///
    /// # Errors
    /// If it cannot be read, or is damaged.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self {
            network: Box::new(lb_format::read(path)?),
            name: path.display().to_string(),
            bytes: std::fs::metadata(path)?.len(),
        })
    }

    /// Reads one that is part of `lb`.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn built_in((name, bytes): Artifact) -> Result<Self> {
        Ok(Self {
            network: Box::new(lb_format::file::from_bytes(bytes)?),
            name: format!("built-in {name}"),
            bytes: bytes.len() as u64,
        })
    }

    /// Widths and method, in words.
    pub fn widths(&self) -> String {
        let recipe = &self.network.recipe;
        format!("{} ({})", recipe.widths, recipe.method)
    }
}

impl Subject {
    /// What it computes.
    pub fn info(&self) -> &NetworkInfo {
        match self {
            Self::Float(model) => &model.checkpoint.info,
            Self::Packed(packed) => &packed.network.info,
        }
    }

    /// For people: its path, and how it was found.
    pub fn name(&self) -> &str {
        match self {
            Self::Float(model) => &model.place.described,
            Self::Packed(packed) => &packed.name,
        }
    }

    /// Widths and method, in words.
    pub fn widths(&self) -> String {
        match self {
            Self::Float(_) => "float".into(),
            Self::Packed(packed) => packed.widths(),
        }
    }

    /// Bytes of its file; of a checkpoint, of its parameters.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Float(model) => 4 * parameters(&model.checkpoint) as u64,
            Self::Packed(packed) => packed.bytes,
        }
    }
}
