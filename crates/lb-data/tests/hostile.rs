//! Damaged and random input to every reader: an error or a set, never a panic.

mod common;

use std::path::Path;

use common::{cifar10_record, gzip, png, tar, write};
use lb_data::{DataSource, ImageSet, Split};
use proptest::prelude::*;

/// What reading both splits gives; every set must be whole.
fn read(path: &Path) -> Vec<ImageSet> {
    let Ok(source) = DataSource::open(path.to_str().unwrap()) else {
        return Vec::new();
    };
    let sets = [Split::Train, Split::Test].map(|split| source.load(split).ok());
    sets.into_iter()
        .flatten()
        .inspect(|set| {
            assert_eq!(set.pixels().len(), set.len() * 3072);
            assert_eq!(set.class_counts().iter().sum::<usize>(), set.len());
        })
        .collect()
}

fn archives() -> Vec<Vec<u8>> {
    let pictures = tar(&[
        ("train/a/1.png", png(32, 32, 1)),
        ("train/b/1.png", png(32, 32, 2)),
        (
            &format!("{}test/a/1.png", "long/".repeat(30)),
            png(32, 32, 1),
        ),
        ("test/b/1.png", png(32, 32, 2)),
    ]);
    let binary = tar(&[
        ("c/data_batch_1.bin", cifar10_record(1, 2)),
        ("c/test_batch.bin", cifar10_record(3, 4)),
    ]);
    vec![gzip(&pictures), gzip(&binary), pictures, binary]
}

/// `LB_FUZZ_CASES` runs longer.
fn cases() -> ProptestConfig {
    let cases = std::env::var("LB_FUZZ_CASES")
        .ok()
        .and_then(|n| n.parse().ok());
    ProptestConfig::with_cases(cases.unwrap_or(200))
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..4000), magic in 0usize..4) {
        let head: [&[u8]; 4] = [b"", b"\x1f\x8b\x08\0\0\0\0\0\0\xff", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"];
        let bytes = [head[magic], &bytes].concat();
        let root = tempfile::tempdir().unwrap();
        for name in ["archive", "folder/test_batch.bin", "hundred/test.bin", "p/test/a/1.jpg", "p/test/b/1.png"] {
            write(&root.path().join(name), &bytes);
        }
        for name in ["archive", "folder", "hundred", "p"] {
            read(&root.path().join(name));
        }
    }

    #[test]
    fn truncated_archives(which in 0usize..4, cut in 0.0..1.0f64) {
        let bytes = &archives()[which];
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("archive");
        write(&path, &bytes[..(cut * bytes.len() as f64) as usize]);
        read(&path);
    }

    #[test]
    fn changed_archives(
        which in 2usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        headers: bool,
        compress: bool,
    ) {
        let mut bytes = archives()[which].clone();
        let blocks: Vec<usize> = (0..bytes.len())
            .step_by(512)
            .filter(|&b| bytes[b + 257..b + 262] == *b"ustar")
            .collect();
        for (at, value) in changes {
            // Half the runs change headers only, with the checksum put right again, so that the
            // change gets past the first test.
            if headers {
                let i = at.index(blocks.len() * 512);
                let block = blocks[i / 512];
                bytes[block + i % 512] = value;
                common::fix_checksum(&mut bytes[block..block + 512]);
            } else {
                let i = at.index(bytes.len());
                bytes[i] = value;
            }
        }
        let bytes = if compress { gzip(&bytes) } else { bytes };
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("archive");
        write(&path, &bytes);
        read(&path);
    }

    #[test]
    fn changed_pictures(at in any::<prop::sample::Index>(), value: u8, cut in any::<prop::sample::Index>()) {
        let mut bytes = png(32, 32, 77);
        let i = at.index(bytes.len());
        bytes[i] = value;
        let root = tempfile::tempdir().unwrap();
        write(&root.path().join("test/a/1.png"), &bytes);
        bytes.truncate(cut.index(bytes.len()));
        write(&root.path().join("test/b/1.png"), &bytes);
        write(&root.path().join("train/a/1.png"), &bytes);
        read(root.path());
    }
}

/// A long-name header that promises 60 MB of name in 60 kB of gzip: refused after 4 kB.
#[test]
fn a_name_that_never_ends() {
    let mut header = tar::Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(60 << 20);
    header.set_cksum();
    let bytes = [&header.as_bytes()[..], &vec![b'a'; 60 << 20]].concat();
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("bomb.tar.gz");
    write(&path, &gzip(&bytes));
    let error = DataSource::open(path.to_str().unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("a name of more than 4096 bytes"),
        "{error}"
    );
}
