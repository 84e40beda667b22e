//! `lb data fetch`: the official CIFAR-10 archive, downloaded with resume, checked, unpacked.
//!
//! ```text
//! datasets/cifar-10-binary.tar.gz.part   what has arrived so far
//! datasets/cifar-10-binary.tar.gz        whole, checksum right; may also be put there by hand
//! datasets/cifar10/*.bin                 unpacked, checked, renamed into place
//! ```

mod download;
mod unpack;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use md5::{Digest, Md5};

use crate::{DataError, DataSource};

/// Address of the official archive, 170 MB.
pub const CIFAR10_URL: &str = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz";
/// Its MD5, as published beside it.
pub const CIFAR10_MD5: &str = "c32a1d4ab5d03f1284b67883e8d87530";
/// Its name on disk.
pub const ARCHIVE_NAME: &str = "cifar-10-binary.tar.gz";
/// The folder that it is unpacked to.
pub const FOLDER_NAME: &str = "cifar10";

/// Where to download from, what to expect, and how long to try.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Address of the archive.
    pub url: String,
    /// Expected MD5 of the archive, 32 lower-case hexadecimal digits.
    pub md5: String,
    /// Tries in a row without a single new byte before giving up.
    pub attempts: u32,
    /// Wait between tries.
    pub pause: Duration,
    /// Longest wait for a connection, an answer, or the next bytes.
    pub timeout: Duration,
}

impl Default for FetchOptions {
    /// The official archive.
    fn default() -> Self {
        Self {
            url: CIFAR10_URL.into(),
            md5: CIFAR10_MD5.into(),
            attempts: 3,
            pause: Duration::from_secs(2),
            timeout: Duration::from_secs(30),
        }
    }
}

/// Puts CIFAR-10 into `dest_dir/cifar10` and returns that path. See [`FetchOptions::fetch`];
/// `url` is a mirror to use instead of [`CIFAR10_URL`], with the same checksum.
///
/// # Errors
/// As [`FetchOptions::fetch`].
pub fn fetch_cifar10(
    dest_dir: &Path,
    url: Option<&str>,
    progress: &mut dyn FnMut(u64, Option<u64>),
    cancel: &AtomicBool,
) -> Result<PathBuf, DataError> {
    let mut options = FetchOptions::default();
    if let Some(url) = url {
        options.url = url.into();
    }
    options.fetch(dest_dir, progress, cancel)
}

impl FetchOptions {
    /// Downloads, checks and unpacks into `dest_dir/cifar10`; returns that path.
    ///
    /// What is there already is used: unpacked data as it is, an archive without the network, a
    /// part of one as a start. `progress` gets bytes done and, when the server tells, the total.
    /// When `cancel` turns true, the download stops and keeps its part.
    ///
    /// # Errors
    /// [`DataError::Network`], [`DataError::HttpStatus`], [`DataError::Checksum`] (the bad file is
    /// renamed to `….bad`), [`DataError::InTheWay`], [`DataError::Cancelled`], and reading errors.
    pub fn fetch(
        &self,
        dest_dir: &Path,
        progress: &mut dyn FnMut(u64, Option<u64>),
        cancel: &AtomicBool,
    ) -> Result<PathBuf, DataError> {
        let folder = dest_dir.join(FOLDER_NAME);
        if folder.exists() {
            return match check(&folder) {
                Ok(()) => Ok(folder),
                Err(reason) => Err(DataError::InTheWay {
                    path: folder,
                    reason: reason.to_string(),
                }),
            };
        }
        std::fs::create_dir_all(dest_dir).map_err(DataError::io(dest_dir))?;
        let archive = dest_dir.join(ARCHIVE_NAME);
        if archive.exists() {
            self.verify(&archive)?;
        } else {
            let part = dest_dir.join(format!("{ARCHIVE_NAME}.part"));
            download::download(self, &part, &archive, progress, cancel)?;
            self.verify(&part)?;
            std::fs::rename(&part, &archive).map_err(DataError::io(&archive))?;
        }
        unpack::unpack(&archive, dest_dir, &folder)?;
        Ok(folder)
    }

    /// Compares the checksum; a wrong file is moved out of the way, so that the next run starts
    /// anew and nothing that somebody put there is lost.
    fn verify(&self, path: &Path) -> Result<(), DataError> {
        let got = md5_hex(path)?;
        if got.eq_ignore_ascii_case(&self.md5) {
            return Ok(());
        }
        let mut bad = path.as_os_str().to_owned();
        bad.push(".bad");
        let bad = PathBuf::from(bad);
        std::fs::rename(path, &bad).map_err(DataError::io(path))?;
        Err(DataError::Checksum {
            path: path.into(),
            expected: self.md5.clone(),
            got,
            bad,
        })
    }
}

/// Both splits are there and whole.
fn check(folder: &Path) -> Result<(), DataError> {
    DataSource::open(&folder.to_string_lossy())?.load_both()?;
    Ok(())
}

/// MD5 of a file, in hexadecimal. It guards against accidents, not against forgery: it is the
/// checksum that CIFAR's authors publish.
fn md5_hex(path: &Path) -> Result<String, DataError> {
    let mut file = File::open(path).map_err(DataError::io(path))?;
    let mut hash = Md5::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(DataError::io(path))? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_of_known_text() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        assert_eq!(
            md5_hex(file.path()).unwrap(),
            "900150983cd24fb0d6963f7d28e17f72"
        );
    }
}
