//! `.tar` and `.tar.gz` of CIFAR's binary files or of an image folder, read as a stream: nothing is
//! written to disk, so a hostile member name is only a name.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rayon::prelude::*;
use tar::EntryType;

use crate::cifar::{Cifar, Records};
use crate::folder;
use crate::limits::{MAX_ARCHIVE_BYTES, MAX_ARCHIVE_MEMBERS, MAX_CLASSES};
use crate::{DataError, IMAGE_BYTES, ImageSet, Split};

/// What an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Cifar(Cifar),
    Pictures,
}

/// A regular file of an archive.
pub(crate) struct Member<'a> {
    /// Its name without `.` components; never absolute, never with `..`.
    pub(crate) name: PathBuf,
    pub(crate) data: &'a mut dyn Read,
}

/// Encoded pictures that wait to be decoded together.
const BATCH_BYTES: usize = 16 << 20;
/// Longest member name; PATH_MAX.
const MAX_NAME_BYTES: u64 = 4096;
/// Longest extended header.
const MAX_PAX_BYTES: u64 = 64 << 10;

/// What the first telling member says, or `None` when no member is data.
pub(crate) fn detect(path: &Path) -> Result<Option<Content>, DataError> {
    let mut found = None;
    for_each_member(path, |member| {
        found = content_of(&member.name);
        Ok(found.is_none())
    })?;
    Ok(found)
}

/// Loads one split.
pub(crate) fn load(path: &Path, content: Content, split: Split) -> Result<ImageSet, DataError> {
    match content {
        Content::Cifar(kind) => load_cifar(path, kind, split),
        Content::Pictures => load_pictures(path, split),
    }
}

fn content_of(name: &Path) -> Option<Content> {
    let file = name.file_name()?.to_str()?;
    if let Some(kind) = Cifar::of_file(file) {
        return Some(Content::Cifar(kind));
    }
    picture_of(name).map(|_| Content::Pictures)
}

/// Split and class of `…/train/<class>/x.png`.
fn picture_of(name: &Path) -> Option<(Split, &str)> {
    let file = name.file_name()?.to_str()?;
    let class_folder = name.parent()?;
    let class = class_folder.file_name()?.to_str()?;
    let split = match class_folder.parent()?.file_name()?.to_str()? {
        "train" => Split::Train,
        "test" => Split::Test,
        _ => return None,
    };
    (folder::is_picture_name(file) && !class.starts_with('.')).then_some((split, class))
}

fn load_cifar(path: &Path, kind: Cifar, split: Split) -> Result<ImageSet, DataError> {
    let files = kind.files(split);
    // Members may come in any order; batches are put in theirs.
    let mut parts: Vec<Option<Records>> = files.iter().map(|_| None).collect();
    for_each_member(path, |member| {
        let known = files
            .iter()
            .position(|&f| member.name.file_name().is_some_and(|name| name == f));
        if let Some(i) = known {
            let at = path.join(&member.name);
            if parts[i].is_some() {
                return Err(archive_error(
                    path,
                    format!("two members named {}", files[i]),
                ));
            }
            let mut records = Records::new(kind);
            records.read(files[i], &at, member.data, |e| archive_error(path, e))?;
            parts[i] = Some(records);
        }
        Ok(parts.iter().any(Option::is_none))
    })?;
    let mut all = Records::new(kind);
    for records in parts.into_iter().flatten() {
        all.append(records);
        folder::check_count(path, all.len())?;
    }
    all.finish(path, split)
}

fn load_pictures(path: &Path, split: Split) -> Result<ImageSet, DataError> {
    let mut names = [BTreeSet::new(), BTreeSet::new()];
    // (class, file name, position in `pixels`)
    let mut found: Vec<(String, PathBuf, usize)> = Vec::new();
    let mut pixels = Vec::new();
    let mut batch: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    let mut batch_bytes = 0;
    for_each_member(path, |member| {
        let Some((its_split, class)) = picture_of(&member.name) else {
            return Ok(true);
        };
        let side = &mut names[usize::from(its_split != split)];
        if !side.contains(class) {
            side.insert(class.to_owned());
            if side.len() > MAX_CLASSES {
                return Err(DataError::TooLarge {
                    path: path.into(),
                    limit: MAX_CLASSES as u64,
                    unit: "classes",
                });
            }
        }
        if its_split == split {
            let at = path.join(&member.name);
            let bytes = folder::read_bounded(&at, member.data, |e| archive_error(path, e))?;
            found.push((class.to_owned(), member.name, found.len()));
            folder::check_count(path, found.len())?;
            batch_bytes += bytes.len();
            batch.push((at, bytes));
            if batch_bytes >= BATCH_BYTES {
                decode_batch(&mut batch, &mut pixels)?;
                batch_bytes = 0;
            }
        }
        Ok(true)
    })?;
    decode_batch(&mut batch, &mut pixels)?;

    let [names, other] = names;
    if found.is_empty() {
        return Err(folder::missing(path, split));
    }
    if !other.is_empty() {
        folder::require_same_classes(path, split, &names, &other)?;
    }
    let classes = folder::order_classes(path, names)?;
    // The order of an unpacked folder, whatever the order of the members.
    let label = |class: &str| classes.iter().position(|c| c == class).unwrap_or_default();
    let mut order: Vec<(usize, &PathBuf, usize)> = found
        .iter()
        .map(|(class, name, at)| (label(class), name, *at))
        .collect();
    order.sort();
    let mut sorted = Vec::with_capacity(pixels.len());
    for &(_, _, at) in &order {
        sorted.extend_from_slice(&pixels[at * IMAGE_BYTES..(at + 1) * IMAGE_BYTES]);
    }
    let labels = order.iter().map(|&(label, ..)| label as u16).collect();
    folder::finish("image archive", path, split, sorted, labels, classes)
}

fn decode_batch(
    batch: &mut Vec<(PathBuf, Vec<u8>)>,
    pixels: &mut Vec<u8>,
) -> Result<(), DataError> {
    let start = pixels.len();
    pixels.resize(start + batch.len() * IMAGE_BYTES, 0);
    let failure = pixels[start..]
        .par_chunks_exact_mut(IMAGE_BYTES)
        .zip(batch.par_iter())
        .find_map_first(|(out, (path, bytes))| folder::decode_into(path, bytes, out).err());
    batch.clear();
    failure.map_or(Ok(()), Err)
}

fn archive_error(path: &Path, reason: impl ToString) -> DataError {
    DataError::Archive {
        path: path.into(),
        reason: reason.to_string(),
    }
}

/// Calls `visit` for each regular file until it answers `false`.
///
/// Long names are read here and not by `tar`, which would take in as many bytes as the header says.
pub(crate) fn for_each_member(
    path: &Path,
    mut visit: impl FnMut(Member<'_>) -> Result<bool, DataError>,
) -> Result<(), DataError> {
    let fail = |e: io::Error| {
        if e.get_ref().is_some_and(|inner| inner.is::<OverLimit>()) {
            DataError::TooLarge {
                path: path.into(),
                limit: MAX_ARCHIVE_BYTES,
                unit: "bytes in one archive",
            }
        } else {
            archive_error(path, e)
        }
    };
    let reader = open(path)?;
    let mut archive = tar::Archive::new(Bounded {
        inner: reader,
        left: MAX_ARCHIVE_BYTES,
    });
    let entries = archive.entries().map_err(fail)?.raw(true);
    let mut long_name: Option<PathBuf> = None;
    let mut members = 0;
    for entry in entries {
        let mut entry = entry.map_err(fail)?;
        members += 1;
        if members > MAX_ARCHIVE_MEMBERS {
            return Err(DataError::TooLarge {
                path: path.into(),
                limit: MAX_ARCHIVE_MEMBERS as u64,
                unit: "members in one archive",
            });
        }
        match entry.header().entry_type() {
            EntryType::GNULongName => {
                let bytes = read_header(&mut entry, MAX_NAME_BYTES).map_err(fail)?;
                let name = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
                long_name = Some(String::from_utf8_lossy(name).into_owned().into());
            }
            EntryType::XHeader => {
                let bytes = read_header(&mut entry, MAX_PAX_BYTES).map_err(fail)?;
                for field in tar::PaxExtensions::new(&bytes) {
                    let field = field.map_err(fail)?;
                    if field.key_bytes() == b"path" {
                        let name = String::from_utf8_lossy(field.value_bytes()).into_owned();
                        long_name = Some(name.into());
                    }
                }
            }
            EntryType::Regular | EntryType::Continuous => {
                let name = match long_name.take() {
                    Some(name) => name,
                    None => entry.header().path().map_err(fail)?.into_owned(),
                };
                // A member that leaves the archive is not data of ours.
                let Some(name) = plain(&name) else { continue };
                let member = Member {
                    name,
                    data: &mut entry,
                };
                if !visit(member)? {
                    return Ok(());
                }
            }
            EntryType::XGlobalHeader => {}
            _ => long_name = None,
        }
    }
    Ok(())
}

/// The name without `.` and a leading `/`; `None` with a `..`.
fn plain(name: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let mut out = PathBuf::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    (!out.as_os_str().is_empty()).then_some(out)
}

fn read_header(entry: &mut impl Read, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!(
            "a name of more than {limit} bytes"
        )));
    }
    Ok(bytes)
}

/// Opens a tar, compressed or not, told by its first bytes.
fn open(path: &Path) -> Result<Box<dyn Read>, DataError> {
    let io_error = || DataError::io(path);
    let mut head = Vec::new();
    let mut file = File::open(path).map_err(io_error())?;
    (&mut file)
        .take(512)
        .read_to_end(&mut head)
        .map_err(io_error())?;
    let unsupported = |format, hint| {
        Err(DataError::UnsupportedCompression {
            path: path.into(),
            format,
            hint,
        })
    };
    let whole = io::BufReader::with_capacity(1 << 16, io::Cursor::new(head.clone()).chain(file));
    if head.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(io::BufReader::with_capacity(
            1 << 16,
            MultiGzDecoder::new(whole),
        )));
    }
    if head.get(257..262) == Some(b"ustar") {
        return Ok(Box::new(whole));
    }
    if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        return unsupported("xz", "tar xf");
    }
    if head.starts_with(b"BZh") {
        return unsupported("bzip2", "tar xf");
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return unsupported("zstd", "tar xf");
    }
    if head.starts_with(b"PK\x03\x04") {
        return unsupported("zip", "unzip");
    }
    Err(DataError::Unrecognized {
        path: path.into(),
        found: if head.is_empty() {
            "an empty file".into()
        } else {
            "a file that is neither a tar nor gzip".into()
        },
    })
}

/// Stops a decompression bomb.
struct Bounded<R> {
    inner: R,
    left: u64,
}

#[derive(Debug)]
struct OverLimit;

impl std::fmt::Display for OverLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the archive is larger than the limit")
    }
}

impl std::error::Error for OverLimit {}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(OverLimit));
        }
        let n = buffer.len().min(self.left.try_into().unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buffer[..n])?;
        self.left -= n as u64;
        Ok(n)
    }
}
