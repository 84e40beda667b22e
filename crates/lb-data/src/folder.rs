//! A folder of pictures: `train/<class>/*.{jpg,jpeg,png}` and `test/<class>/…`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use rayon::prelude::*;

use crate::limits::{MAX_CLASSES, MAX_IMAGES, MAX_PICTURE_BYTES};
use crate::{CHANNELS, CIFAR10_CLASSES, DataError, IMAGE_BYTES, ImageSet, SIDE, Split};

/// True when this folder has a `train` or `test` folder with at least one folder in it.
pub(crate) fn is_image_folder(folder: &Path) -> bool {
    [Split::Train, Split::Test]
        .into_iter()
        .any(|split| class_folders(&folder.join(split.name())).is_ok_and(|c| !c.is_empty()))
}

/// Loads one split; the pictures are decoded in parallel, in sorted order of their paths.
pub(crate) fn load(folder: &Path, split: Split) -> Result<ImageSet, DataError> {
    let split_folder = folder.join(split.name());
    if !split_folder.is_dir() {
        return Err(missing(folder, split));
    }
    let names = class_folders(&split_folder)?;
    let other = folder.join(split.other().name());
    if other.is_dir() {
        require_same_classes(folder, split, &names, &class_folders(&other)?)?;
    }
    let classes = order_classes(&split_folder, names)?;

    let mut files: Vec<(PathBuf, u16)> = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let class_folder = split_folder.join(class);
        let pictures = pictures(&class_folder)?;
        if pictures.is_empty() {
            return Err(DataError::EmptyClass { path: class_folder });
        }
        files.extend(pictures.into_iter().map(|path| (path, label as u16)));
        check_count(&split_folder, files.len())?;
    }

    let mut pixels = vec![0; files.len() * IMAGE_BYTES];
    // The first failure in order, so that the message does not depend on the threads.
    let failure = pixels
        .par_chunks_exact_mut(IMAGE_BYTES)
        .zip(&files)
        .find_map_first(|(out, (path, _))| {
            let decoded = read_picture(path).and_then(|bytes| decode_into(path, &bytes, out));
            decoded.err()
        });
    if let Some(error) = failure {
        return Err(error);
    }
    let labels = files.iter().map(|&(_, label)| label).collect();
    finish("image folder", folder, split, pixels, labels, classes)
}

/// The set with its description.
pub(crate) fn finish(
    kind: &str,
    path: &Path,
    split: Split,
    pixels: Vec<u8>,
    labels: Vec<u16>,
    classes: Vec<String>,
) -> Result<ImageSet, DataError> {
    let source = format!(
        "{kind}, {} ({} {split} images, {} classes)",
        path.display(),
        labels.len(),
        classes.len()
    );
    ImageSet::new(pixels, labels, classes, (SIDE, SIDE), source)
}

/// The error for a split that is not there.
pub(crate) fn missing(path: &Path, split: Split) -> DataError {
    DataError::MissingSplit {
        path: path.into(),
        split: split.name(),
        expected: format!("{split}/<class>/"),
    }
}

/// Class names in label order: CIFAR-10's own order when they are exactly its ten names, so that
/// labels agree with the binary layout and published networks; otherwise sorted.
pub(crate) fn order_classes(
    path: &Path,
    names: BTreeSet<String>,
) -> Result<Vec<String>, DataError> {
    if names.len() > MAX_CLASSES {
        return Err(DataError::TooLarge {
            path: path.into(),
            limit: MAX_CLASSES as u64,
            unit: "classes",
        });
    }
    if names.len() == 1 {
        return Err(DataError::OneClass {
            path: path.into(),
            class: names.into_iter().next().unwrap_or_default(),
        });
    }
    if names.is_empty() {
        return Err(DataError::Empty { path: path.into() });
    }
    let cifar: BTreeSet<String> = CIFAR10_CLASSES.iter().map(|&c| c.to_owned()).collect();
    Ok(if names == cifar {
        CIFAR10_CLASSES.iter().map(|&c| c.to_owned()).collect()
    } else {
        names.into_iter().collect()
    })
}

/// # Errors
/// [`DataError::ClassMismatch`] naming the classes that only one side has.
pub(crate) fn require_same_classes(
    path: &Path,
    split: Split,
    names: &BTreeSet<String>,
    other: &BTreeSet<String>,
) -> Result<(), DataError> {
    if names == other {
        return Ok(());
    }
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>, split: Split| {
        let names: Vec<_> = a.difference(b).take(5).map(|n| format!("{n:?}")).collect();
        (!names.is_empty()).then(|| format!("only {split} has {}", names.join(", ")))
    };
    let detail: Vec<_> = [only(names, other, split), only(other, names, split.other())]
        .into_iter()
        .flatten()
        .collect();
    Err(DataError::ClassMismatch {
        path: path.into(),
        detail: detail.join("; "),
    })
}

/// # Errors
/// [`DataError::TooLarge`] above [`MAX_IMAGES`].
pub(crate) fn check_count(path: &Path, images: usize) -> Result<(), DataError> {
    if images <= MAX_IMAGES {
        return Ok(());
    }
    Err(DataError::TooLarge {
        path: path.into(),
        limit: MAX_IMAGES as u64,
        unit: "images",
    })
}

/// True for the names that are read as pictures; hidden files are not.
pub(crate) fn is_picture_name(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, e)| e.to_ascii_lowercase());
    !name.starts_with('.') && matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png"))
}

fn class_folders(split_folder: &Path) -> Result<BTreeSet<String>, DataError> {
    let mut names = BTreeSet::new();
    for entry in entries(split_folder)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') && entry.path().is_dir() {
            names.insert(name);
        }
    }
    Ok(names)
}

fn pictures(class_folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = Vec::new();
    for entry in entries(class_folder)? {
        // `is_file` also keeps a named pipe from blocking the reader for ever.
        if is_picture_name(&entry.file_name().to_string_lossy()) && entry.path().is_file() {
            paths.push(entry.path());
            check_count(class_folder, paths.len())?;
        }
    }
    paths.sort();
    Ok(paths)
}

fn entries(folder: &Path) -> Result<Vec<std::fs::DirEntry>, DataError> {
    std::fs::read_dir(folder)
        .and_then(|entries| entries.collect())
        .map_err(DataError::io(folder))
}

fn read_picture(path: &Path) -> Result<Vec<u8>, DataError> {
    let file = File::open(path).map_err(DataError::io(path))?;
    read_bounded(path, file, DataError::io(path))
}

/// Reads a picture's bytes, at most [`MAX_PICTURE_BYTES`].
pub(crate) fn read_bounded(
    path: &Path,
    from: impl Read,
    read_error: impl FnOnce(std::io::Error) -> DataError,
) -> Result<Vec<u8>, DataError> {
    let mut bytes = Vec::new();
    from.take(MAX_PICTURE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(read_error)?;
    if bytes.len() as u64 > MAX_PICTURE_BYTES {
        return Err(DataError::TooLarge {
            path: path.into(),
            limit: MAX_PICTURE_BYTES,
            unit: "bytes in one picture",
        });
    }
    Ok(bytes)
}

/// Decodes a 32×32 JPEG or PNG; the format is told by the content, not the name.
///
/// # Shapes
/// `out`: `[3, 32, 32]`, flattened. Grey pictures fill all three planes; transparency is dropped.
pub(crate) fn decode_into(path: &Path, bytes: &[u8], out: &mut [u8]) -> Result<(), DataError> {
    let failed = |reason: String| DataError::Picture {
        path: path.into(),
        reason,
    };
    if bytes.is_empty() {
        return Err(failed("the file is empty".into()));
    }
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| failed(e.to_string()))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(16 << 20);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(|e| failed(e.to_string()))?;
    // The size is known from the header: a huge picture is refused before its pixels are made.
    let (width, height) = decoder.dimensions();
    if (width, height) != (SIDE as u32, SIDE as u32) {
        return Err(DataError::PictureSize {
            path: path.into(),
            width,
            height,
        });
    }
    let picture = DynamicImage::from_decoder(decoder).map_err(|e| failed(e.to_string()))?;
    let plane = SIDE * SIDE;
    for (i, pixel) in picture.to_rgb8().pixels().enumerate() {
        for c in 0..CHANNELS {
            out[c * plane + i] = pixel[c];
        }
    }
    Ok(())
}
