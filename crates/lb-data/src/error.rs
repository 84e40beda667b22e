//! Everything that can go wrong with data, each with what to do about it.

use std::path::PathBuf;

/// Why data could not be read, made or fetched.
///
/// Paths of archive members are written `archive.tar.gz/member`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Nothing is at the default path and no data was named.
    #[error(
        "no data: {path} does not exist. Run `lb data fetch cifar10` to download CIFAR-10, \
         or pass `--data synthetic` (made on the spot) or `--data PATH`"
    )]
    NoDefault {
        /// The default path.
        path: PathBuf,
    },
    /// The path does not exist.
    #[error(
        "{path}: not found. Give a CIFAR folder, its tar.gz, an image folder, or `synthetic`; \
         `lb data fetch cifar10` downloads CIFAR-10"
    )]
    NotFound {
        /// What was asked for.
        path: PathBuf,
    },
    /// The path exists, but holds none of the known layouts.
    #[error(
        "{path}: {found}. Known are data_batch_1..5.bin and test_batch.bin (CIFAR-10), train.bin \
         and test.bin (CIFAR-100), folders train/<class>/*.jpg|png and test/<class>/…, and a .tar \
         or .tar.gz of one of these"
    )]
    Unrecognized {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// The path holds more than one layout.
    #[error("{path}: holds both {first} and {second}; name the folder of the one you want")]
    Ambiguous {
        /// The path.
        path: PathBuf,
        /// One layout found.
        first: &'static str,
        /// Another one.
        second: &'static str,
    },
    /// A compression this crate does not read.
    #[error("{path}: {format} is not read directly; unpack it with `{hint}` and name the folder")]
    UnsupportedCompression {
        /// The archive.
        path: PathBuf,
        /// Its compression.
        format: &'static str,
        /// A command that unpacks it.
        hint: &'static str,
    },
    /// The data has no such split.
    #[error("{path}: no {split} split ({expected} is missing); add it, or use the other split")]
    MissingSplit {
        /// The data.
        path: PathBuf,
        /// The split: `train` or `test`.
        split: &'static str,
        /// The file or folder that would hold it.
        expected: String,
    },
    /// A binary file does not end at a record boundary.
    #[error(
        "{path}: truncated: the record at byte {offset} has {remainder} of {record_bytes} bytes. \
         Copy or download the file again"
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where the broken record starts.
        offset: u64,
        /// Bytes of a whole record.
        record_bytes: usize,
        /// Bytes of the broken one.
        remainder: usize,
    },
    /// A split without a single image.
    #[error("{path}: no images; expected at least one")]
    Empty {
        /// The file or folder.
        path: PathBuf,
    },
    /// A label that names no class.
    #[error(
        "{path}: label {value} of record {record} (byte {offset}) is out of range 0..{classes}. \
         The file is damaged, or is of another data set"
    )]
    Label {
        /// The file.
        path: PathBuf,
        /// Index of the record in the file.
        record: usize,
        /// Byte offset of the label.
        offset: u64,
        /// The label.
        value: u32,
        /// Number of classes.
        classes: usize,
    },
    /// A class folder without images.
    #[error("{path}: no .jpg, .jpeg or .png in this class folder; add images or remove the folder")]
    EmptyClass {
        /// The class folder.
        path: PathBuf,
    },
    /// A folder with fewer than two classes.
    #[error(
        "{path}: one class only ({class}); a classifier needs two or more class folders, \
         as in train/<class>/image.png"
    )]
    OneClass {
        /// The split folder.
        path: PathBuf,
        /// The only class.
        class: String,
    },
    /// Train and test have different classes.
    #[error("{path}: train and test have different classes: {detail}. Give both the same folders")]
    ClassMismatch {
        /// The data.
        path: PathBuf,
        /// Which classes are on one side only.
        detail: String,
    },
    /// A picture that could not be decoded.
    #[error("{path}: unreadable image: {reason}. Replace or remove it")]
    Picture {
        /// The picture.
        path: PathBuf,
        /// The decoder's words.
        reason: String,
    },
    /// A picture of another size than the networks take.
    #[error("{path}: {width}×{height} pixels; images must be {side}×{side}. Resize them first",
        side = crate::SIDE)]
    PictureSize {
        /// The picture.
        path: PathBuf,
        /// Its width.
        width: u32,
        /// Its height.
        height: u32,
    },
    /// An archive that is damaged or not what its name says.
    #[error("{path}: damaged archive: {reason}. Copy or download it again")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// The reader's words.
        reason: String,
    },
    /// More than the reader takes in; see [`limits`](crate::limits).
    #[error("{path}: more than {limit} {unit}; use a smaller set")]
    TooLarge {
        /// The file or folder.
        path: PathBuf,
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// Parts of an image set that do not fit together, or a request that it cannot meet.
    #[error("invalid image set: {0}")]
    Invalid(String),
    /// The server could not be reached, or the connection broke every time.
    #[error(
        "could not download {url}: {reason}. Run the same command again to resume. Offline: copy \
         cifar-10-binary.tar.gz to {archive} and run it again, or pass `--data PATH` to the \
         archive or its folder, or `--data synthetic`"
    )]
    Network {
        /// Where from.
        url: String,
        /// What happened.
        reason: String,
        /// Where the archive would be found.
        archive: PathBuf,
    },
    /// The server answered, but not with the file.
    #[error(
        "{url}: the server answered {status}. Check the address; or copy cifar-10-binary.tar.gz \
         to {archive} from elsewhere, or pass `--data synthetic`"
    )]
    HttpStatus {
        /// Where from.
        url: String,
        /// The HTTP status code.
        status: u16,
        /// Where the archive would be found.
        archive: PathBuf,
    },
    /// The archive is not the published one; it was renamed.
    #[error(
        "{path}: wrong checksum: expected md5 {expected}, got {got}. The file is now {bad}; \
         run the same command again to download it anew"
    )]
    Checksum {
        /// The file.
        path: PathBuf,
        /// Published MD5, hexadecimal.
        expected: String,
        /// Computed MD5.
        got: String,
        /// The file's new name.
        bad: PathBuf,
    },
    /// Something else is where the data should go.
    #[error("{path} exists, but is not whole: {reason}. Move it away and run the command again")]
    InTheWay {
        /// What is in the way.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller asked to stop.
    #[error("download stopped; run the same command again to resume")]
    Cancelled,
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl DataError {
    /// `map_err` adaptor that adds the path to an I/O error.
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
