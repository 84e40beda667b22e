//! What a path or name holds, found by looking.

use std::path::{Path, PathBuf};

use crate::archive::{self, Content};
use crate::cifar::{self, Cifar};
use crate::{DataError, ImageSet, Split, SyntheticConfig, folder};

/// Where data is looked for when none is named; `lb data fetch cifar10` puts it there.
pub const DEFAULT_PATH: &str = "datasets/cifar10";

/// Data that was found, not yet read.
#[derive(Clone, Debug)]
pub struct DataSource(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Synthetic(SyntheticConfig),
    Cifar { kind: Cifar, folder: PathBuf },
    Pictures { folder: PathBuf },
    Archive { path: PathBuf, content: Content },
}

/// Both splits of a data set, with the same classes.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// To train and calibrate on.
    pub train: ImageSet,
    /// To evaluate on.
    pub test: ImageSet,
}

impl DataSource {
    /// Finds out what `spec` is: the name `synthetic`, or a path that holds CIFAR-10 or CIFAR-100
    /// binary files (also in the folder of the official archive), an image folder, or a `.tar` or
    /// `.tar.gz` of one of these. Reads no images.
    ///
    /// A folder that is itself called `synthetic` is named `./synthetic`.
    ///
    /// # Errors
    /// [`DataError`] saying what was found instead.
    pub fn open(spec: &str) -> Result<Self, DataError> {
        if spec == "synthetic" {
            return Ok(Self::synthetic(SyntheticConfig::default()));
        }
        let path = Path::new(spec);
        if path.is_dir() {
            return find_in_folder(path).map(Self);
        }
        if !path.exists() {
            return Err(DataError::NotFound { path: path.into() });
        }
        let unrecognized = |found: &str| DataError::Unrecognized {
            path: path.into(),
            found: found.into(),
        };
        if !path.is_file() {
            return Err(unrecognized("neither a file nor a folder"));
        }
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if Cifar::of_file(name).is_some() {
            return Err(unrecognized("one file of a binary set; name its folder"));
        }
        let content = archive::detect(path)?
            .ok_or_else(|| unrecognized("an archive without images of a known layout"))?;
        Ok(Self(Kind::Archive {
            path: path.into(),
            content,
        }))
    }

    /// The synthetic set with other sizes or another seed.
    pub fn synthetic(config: SyntheticConfig) -> Self {
        Self(Kind::Synthetic(config))
    }

    /// What was found, for people: `CIFAR-10 binary, datasets/cifar10`.
    pub fn describe(&self) -> String {
        match &self.0 {
            Kind::Synthetic(config) => format!("synthetic shapes, seed {}", config.seed),
            Kind::Cifar { kind, folder } => format!("{}, {}", kind.name(), folder.display()),
            Kind::Pictures { folder } => format!("image folder, {}", folder.display()),
            Kind::Archive { path, content } => match content {
                Content::Cifar(kind) => format!("{}, {}", kind.name(), path.display()),
                Content::Pictures => format!("image archive, {}", path.display()),
            },
        }
    }

    /// Reads one split; the other one may be absent.
    ///
    /// # Errors
    /// [`DataError`] naming the file, and the offset in it where there is one.
    pub fn load(&self, split: Split) -> Result<ImageSet, DataError> {
        match &self.0 {
            Kind::Synthetic(config) => config.generate(split),
            Kind::Cifar { kind, folder } => cifar::load_folder(*kind, folder, split),
            Kind::Pictures { folder } => folder::load(folder, split),
            Kind::Archive { path, content } => archive::load(path, *content, split),
        }
    }

    /// Reads both splits.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_both(&self) -> Result<Dataset, DataError> {
        let (train, test) = (self.load(Split::Train)?, self.load(Split::Test)?);
        Ok(Dataset { train, test })
    }
}

/// [`DataSource::open`] and [`DataSource::load`] in one.
///
/// # Errors
/// As theirs.
pub fn load(spec: &str, split: Split) -> Result<ImageSet, DataError> {
    DataSource::open(spec)?.load(split)
}

/// The data of [`DEFAULT_PATH`], below the working directory.
///
/// # Errors
/// [`DataError::NoDefault`] where it does not exist: the synthetic set is never taken silently.
pub fn resolve_default() -> Result<DataSource, DataError> {
    if Path::new(DEFAULT_PATH).exists() {
        DataSource::open(DEFAULT_PATH)
    } else {
        Err(DataError::NoDefault {
            path: DEFAULT_PATH.into(),
        })
    }
}

fn find_in_folder(path: &Path) -> Result<Kind, DataError> {
    let binary = [
        (Cifar::Ten, path.to_owned()),
        (Cifar::Ten, path.join("cifar-10-batches-bin")),
        (Cifar::Hundred, path.to_owned()),
        (Cifar::Hundred, path.join("cifar-100-binary")),
    ];
    let mut found: Vec<(&'static str, Kind)> = binary
        .into_iter()
        .filter(|(kind, folder)| kind.in_folder(folder))
        .map(|(kind, folder)| (kind.name(), Kind::Cifar { kind, folder }))
        .collect();
    if folder::is_image_folder(path) {
        let folder = path.to_owned();
        found.push(("an image folder", Kind::Pictures { folder }));
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some((_, kind)), None) => Ok(kind),
        (Some((first, _)), Some((second, _))) => Err(DataError::Ambiguous {
            path: path.into(),
            first,
            second,
        }),
        (None, _) => Err(DataError::Unrecognized {
            path: path.into(),
            found: match std::fs::read_dir(path).map(|mut d| d.next().is_none()) {
                Ok(true) => "an empty folder".into(),
                Ok(false) if path.join("data_batch_1").exists() => {
                    "the Python version of CIFAR; get cifar-10-binary.tar.gz".into()
                }
                Ok(false) => "a folder without images of a known layout".into(),
                Err(e) => e.to_string(),
            },
        }),
    }
}
