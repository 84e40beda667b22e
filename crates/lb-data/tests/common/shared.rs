//! The real data and networks beside the checkout; other crates' tests include this file too.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::io::Write;
use std::path::{Path, PathBuf};

/// A file of the real data beside the checkout (or in `LB_SHARED_DATA`); says so when it is not
/// there, so that no run passes for more than it was.
pub fn shared(test: &str, name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("LB_SHARED_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
        PathBuf::from,
    );
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    skipped(test, &format!("no shared data at {}", path.display()));
    None
}

/// Says that a test was skipped; past the test harness, which keeps what passing tests print.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// The JPEG folder in `LB_JPEG_DIR`, or unpacked from the shared archive by the system's tar.
pub fn jpeg_folder(test: &str) -> Option<(PathBuf, Option<tempfile::TempDir>)> {
    if let Some(path) = std::env::var_os("LB_JPEG_DIR") {
        return Some((path.into(), None));
    }
    let archive = shared(test, "cifar10-jpeg.tar.xz")?;
    let folder = tempfile::tempdir().unwrap();
    let unpacked = std::process::Command::new("tar")
        .arg("xf")
        .arg(archive)
        .arg("-C")
        .arg(folder.path())
        .status();
    if !unpacked.is_ok_and(|status| status.success()) {
        skipped(test, "no system tar with xz");
        return None;
    }
    Some((folder.path().to_owned(), Some(folder)))
}
