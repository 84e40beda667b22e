//! Upper bounds on what a reader takes in, so that a hostile file costs bounded memory and time.

/// Images of one split: 614 MB of pixels.
pub const MAX_IMAGES: usize = 200_000;
/// Classes of a data set.
pub const MAX_CLASSES: usize = 1_000;
/// Bytes of one encoded picture. A 32×32 PNG is about 3 kB.
pub const MAX_PICTURE_BYTES: u64 = 1 << 20;
/// Bytes that an archive may decompress to; CIFAR-10 is 180 MB.
pub const MAX_ARCHIVE_BYTES: u64 = 2 << 30;
/// Members of an archive.
pub const MAX_ARCHIVE_MEMBERS: usize = 500_000;
/// Bytes of a download; CIFAR-10 is 170 MB.
pub const MAX_DOWNLOAD_BYTES: u64 = 1 << 30;
