//! The official binary layouts of CIFAR-10 and CIFAR-100 (Krizhevsky 2009).
//!
//! A file is a row of records without a header: CIFAR-10 one label byte, CIFAR-100 a coarse and a
//! fine label byte; then 3·1024 bytes, red, green and blue planes, row by row.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::limits::MAX_IMAGES;
use crate::{DataError, IMAGE_BYTES, ImageSet, SIDE, Split};

/// CIFAR-10's classes; the index is the label.
pub const CIFAR10_CLASSES: [&str; 10] = [
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
];

#[rustfmt::skip]
const CIFAR100_CLASSES: [&str; 100] = [
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle",
    "bottle", "bowl", "boy", "bridge", "bus", "butterfly", "camel", "can", "castle",
    "caterpillar", "cattle", "chair", "chimpanzee", "clock", "cloud", "cockroach", "couch",
    "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish", "forest", "fox",
    "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom",
    "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree",
    "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake",
    "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone",
    "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
];

/// Which of the two binary data sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cifar {
    Ten,
    Hundred,
}

impl Cifar {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ten => "CIFAR-10 binary",
            Self::Hundred => "CIFAR-100 binary",
        }
    }

    /// Label bytes in front of the pixels; the last one is the label.
    fn label_bytes(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    fn record_bytes(self) -> usize {
        self.label_bytes() + IMAGE_BYTES
    }

    fn classes(self) -> &'static [&'static str] {
        match self {
            Self::Ten => &CIFAR10_CLASSES,
            Self::Hundred => &CIFAR100_CLASSES,
        }
    }

    /// Files of a split, in order.
    pub(crate) fn files(self, split: Split) -> &'static [&'static str] {
        match (self, split) {
            (Self::Ten, Split::Train) => &[
                "data_batch_1.bin",
                "data_batch_2.bin",
                "data_batch_3.bin",
                "data_batch_4.bin",
                "data_batch_5.bin",
            ],
            (Self::Ten, Split::Test) => &["test_batch.bin"],
            (Self::Hundred, Split::Train) => &["train.bin"],
            (Self::Hundred, Split::Test) => &["test.bin"],
        }
    }

    /// The data set that a file name belongs to.
    pub(crate) fn of_file(name: &str) -> Option<Self> {
        [Self::Ten, Self::Hundred].into_iter().find(|kind| {
            [Split::Train, Split::Test]
                .into_iter()
                .any(|split| kind.files(split).contains(&name))
        })
    }

    /// The data set whose files lie in this folder.
    pub(crate) fn in_folder(self, folder: &Path) -> bool {
        [Split::Train, Split::Test]
            .into_iter()
            .flat_map(|split| self.files(split))
            .any(|name| folder.join(name).is_file())
    }
}

/// Records of one split, collected file by file.
pub(crate) struct Records {
    kind: Cifar,
    pixels: Vec<u8>,
    labels: Vec<u16>,
    read: Vec<&'static str>,
}

impl Records {
    pub(crate) fn new(kind: Cifar) -> Self {
        Self {
            kind,
            pixels: Vec::new(),
            labels: Vec::new(),
            read: Vec::new(),
        }
    }

    /// Reads one file to its end; `name` is its name in [`Cifar::files`], `path` is for errors.
    pub(crate) fn read(
        &mut self,
        name: &'static str,
        path: &Path,
        from: impl Read,
        read_error: impl Fn(std::io::Error) -> DataError,
    ) -> Result<(), DataError> {
        let record_bytes = self.kind.record_bytes();
        let label_at = self.kind.label_bytes() - 1;
        let classes = self.kind.classes().len();
        let mut from = std::io::BufReader::with_capacity(1 << 16, from);
        let mut record = vec![0; record_bytes];
        for index in 0.. {
            let offset = index as u64 * record_bytes as u64;
            match read_up_to(&mut from, &mut record).map_err(&read_error)? {
                0 if index == 0 => return Err(DataError::Empty { path: path.into() }),
                0 => break,
                n if n < record_bytes => {
                    return Err(DataError::Truncated {
                        path: path.into(),
                        offset,
                        record_bytes,
                        remainder: n,
                    });
                }
                _ => {}
            }
            if usize::from(record[label_at]) >= classes {
                return Err(DataError::Label {
                    path: path.into(),
                    record: index,
                    offset: offset + label_at as u64,
                    value: record[label_at].into(),
                    classes,
                });
            }
            if self.labels.len() == MAX_IMAGES {
                return Err(DataError::TooLarge {
                    path: path.into(),
                    limit: MAX_IMAGES as u64,
                    unit: "images",
                });
            }
            self.labels.push(record[label_at].into());
            self.pixels.extend_from_slice(&record[label_at + 1..]);
        }
        self.read.push(name);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.labels.len()
    }

    pub(crate) fn append(&mut self, other: Self) {
        self.pixels.extend_from_slice(&other.pixels);
        self.labels.extend_from_slice(&other.labels);
        self.read.extend_from_slice(&other.read);
    }

    /// The images, or which file would have held them.
    pub(crate) fn finish(self, path: &Path, split: Split) -> Result<ImageSet, DataError> {
        let files = self.kind.files(split);
        if self.read.is_empty() {
            return Err(DataError::MissingSplit {
                path: path.into(),
                split: split.name(),
                expected: files[0].into(),
            });
        }
        // A part of CIFAR is fine, but never silently taken for the whole.
        let absent: Vec<_> = files
            .iter()
            .filter(|f| !self.read.contains(f))
            .copied()
            .collect();
        let absent = if absent.is_empty() {
            String::new()
        } else {
            format!("; without {}", absent.join(", "))
        };
        let source = format!(
            "{}, {} ({} {split} images{absent})",
            self.kind.name(),
            path.display(),
            self.labels.len()
        );
        let names = self.kind.classes().iter().map(|&c| c.to_owned()).collect();
        ImageSet::new(self.pixels, self.labels, names, (SIDE, SIDE), source)
    }
}

/// Loads a split from a folder of `.bin` files.
pub(crate) fn load_folder(kind: Cifar, folder: &Path, split: Split) -> Result<ImageSet, DataError> {
    let mut records = Records::new(kind);
    for &name in kind.files(split) {
        let path: PathBuf = folder.join(name);
        if path.is_file() {
            let file = File::open(&path).map_err(DataError::io(&path))?;
            records.read(name, &path, file, |e| DataError::io(&path)(e))?;
        }
    }
    records.finish(folder, split)
}

/// Fills `buffer` as far as the input goes; the number of bytes read.
fn read_up_to(from: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(kind: Cifar, bytes: &[u8]) -> Result<ImageSet, DataError> {
        let path = Path::new("file.bin");
        let mut records = Records::new(kind);
        records.read(kind.files(Split::Test)[0], path, bytes, |e| {
            DataError::io(path)(e)
        })?;
        records.finish(path, Split::Test)
    }

    fn record(kind: Cifar, label: u8, fill: u8) -> Vec<u8> {
        let mut bytes = vec![19; kind.label_bytes() - 1];
        bytes.push(label);
        bytes.resize(kind.record_bytes(), fill);
        bytes
    }

    #[test]
    fn the_last_label_byte_is_the_label() {
        for kind in [Cifar::Ten, Cifar::Hundred] {
            let set = read(kind, &[record(kind, 9, 1), record(kind, 3, 2)].concat()).unwrap();
            assert_eq!(set.labels(), [9, 3]);
            assert_eq!(set.image(1), [2; IMAGE_BYTES]);
            assert_eq!(set.classes(), kind.classes().len());
        }
        assert!(CIFAR100_CLASSES.is_sorted());
    }

    #[test]
    fn truncation_names_the_offset() {
        let mut bytes = [record(Cifar::Ten, 0, 1), record(Cifar::Ten, 1, 1)].concat();
        bytes.truncate(4_000);
        let error = read(Cifar::Ten, &bytes).unwrap_err();
        assert!(matches!(
            error,
            DataError::Truncated {
                offset: 3073,
                record_bytes: 3073,
                remainder: 927,
                ..
            }
        ));
        assert!(
            error.to_string().contains("byte 3073 has 927 of 3073"),
            "{error}"
        );
    }

    #[test]
    fn labels_out_of_range_name_record_and_offset() {
        let bytes = [record(Cifar::Ten, 0, 1), record(Cifar::Ten, 10, 1)].concat();
        let error = read(Cifar::Ten, &bytes).unwrap_err();
        let expected = "file.bin: label 10 of record 1 (byte 3073) is out of range 0..10";
        assert!(error.to_string().starts_with(expected), "{error}");
        let error = read(Cifar::Hundred, &record(Cifar::Hundred, 100, 0)).unwrap_err();
        assert!(
            matches!(
                error,
                DataError::Label {
                    offset: 1,
                    classes: 100,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn nothing_is_an_error() {
        assert!(matches!(
            read(Cifar::Ten, &[]),
            Err(DataError::Empty { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..8_000)) {
            for kind in [Cifar::Ten, Cifar::Hundred] {
                let _ = read(kind, &bytes);
            }
        }

        #[test]
        fn every_truncation_is_noticed(n in 1usize..3 * 3073) {
            let whole = [record(Cifar::Ten, 0, 1), record(Cifar::Ten, 1, 1), record(Cifar::Ten, 2, 1)];
            let result = read(Cifar::Ten, &whole.concat()[..n]);
            prop_assert_eq!(result.is_ok(), n % 3073 == 0);
        }
    }
}
