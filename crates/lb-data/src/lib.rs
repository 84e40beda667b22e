//! Images to train, calibrate and evaluate on: CIFAR-10 and CIFAR-100 in their official binary
//! layout, folders of pictures, archives of both, and a synthetic set that needs no download.
//!
//! What a path holds is detected, not asked:
//!
//! ```
//! use lb_data::{DataSource, Split};
//!
//! let source = DataSource::open("synthetic")?;
//! let test = source.load(Split::Test)?;
//! assert_eq!((test.len(), test.classes()), (2_000, 10));
//! assert_eq!(test.image(0).len(), 3 * 32 * 32);
//! # Ok::<(), lb_data::DataError>(())
//! ```
//!
//! Files from outside are hostile: sizes come from what was really read, never from a header, and
//! everything is bounded by the constants in [`limits`].

mod archive;
pub mod augment;
mod cifar;
mod error;
pub mod fetch;
mod folder;
mod image_set;
pub mod limits;
mod normalize;
mod random;
mod source;
pub mod synthetic;

pub use augment::{AugmentConfig, AugmentKey, PadMode};
pub use cifar::CIFAR10_CLASSES;
pub use error::DataError;
pub use fetch::{FetchOptions, fetch_cifar10};
pub use image_set::{ImageSet, Split};
pub use normalize::Normalization;
pub use source::{DEFAULT_PATH, DataSource, Dataset, load, resolve_default};
pub use synthetic::SyntheticConfig;

/// Colour channels of every image: red, green, blue.
pub const CHANNELS: usize = 3;
/// Height and width of every image that is read from disk.
pub const SIDE: usize = 32;
/// Bytes of one image: `3 × 32 × 32`.
pub const IMAGE_BYTES: usize = CHANNELS * SIDE * SIDE;
