//! Every layout that a path may hold, found and read; and what is said when it is not whole.

mod common;

use std::path::Path;

use common::{cifar10_record, gzip, png, tar, write};
use lb_data::{CIFAR10_CLASSES, DataError, DataSource, IMAGE_BYTES, ImageSet, Split, load};

fn open(path: &Path) -> Result<DataSource, DataError> {
    DataSource::open(path.to_str().unwrap())
}

fn load_test(path: &Path) -> Result<ImageSet, DataError> {
    open(path)?.load(Split::Test)
}

/// Grey pictures: the value of every pixel tells which picture it is.
fn image_folder(root: &Path, split: &str, classes: &[&str], each: u8) {
    for (c, class) in classes.iter().enumerate() {
        for i in 0..each {
            let value = (c as u8) * 16 + i;
            write(
                &root.join(split).join(class).join(format!("{i}.png")),
                &png(32, 32, value),
            );
        }
    }
}

#[test]
fn cifar10_folder_and_its_subfolder() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("cifar-10-batches-bin");
    let records = [cifar10_record(3, 1), cifar10_record(7, 2)].concat();
    write(&folder.join("test_batch.bin"), &records);
    write(&folder.join("data_batch_2.bin"), &cifar10_record(5, 9));
    write(&folder.join("data_batch_1.bin"), &cifar10_record(4, 8));
    for path in [root.path(), &folder] {
        let test = load_test(path).unwrap();
        assert_eq!(test.labels(), [3, 7]);
        assert_eq!(test.image(1), [2; IMAGE_BYTES]);
        assert_eq!(test.class_names(), CIFAR10_CLASSES);
        let train = open(path).unwrap().load(Split::Train).unwrap();
        assert_eq!(train.labels(), [4, 5]);
        assert!(
            train
                .source()
                .contains("2 train images; without data_batch_3.bin")
        );
    }
    std::fs::remove_file(folder.join("test_batch.bin")).unwrap();
    let error = load_test(root.path()).unwrap_err();
    assert!(
        matches!(error, DataError::MissingSplit { split: "test", .. }),
        "{error}"
    );
    assert!(open(root.path()).unwrap().load(Split::Train).is_ok());
    let error = load_test(&folder.join("data_batch_1.bin")).unwrap_err();
    assert!(error.to_string().contains("name its folder"), "{error}");
}

#[test]
fn cifar100_folder() {
    let root = tempfile::tempdir().unwrap();
    let mut record = vec![11, 98];
    record.resize(2 + IMAGE_BYTES, 5);
    write(&root.path().join("test.bin"), &record);
    let test = load_test(root.path()).unwrap();
    assert_eq!((test.labels(), test.classes()), (&[98u16][..], 100));
    assert_eq!(test.class_names()[98], "woman");
}

#[test]
fn archives_of_binary_files() {
    let root = tempfile::tempdir().unwrap();
    let bytes = tar(&[
        ("x/readme.html", b"hello".to_vec()),
        ("x/test_batch.bin", cifar10_record(6, 3)),
        ("x/data_batch_2.bin", cifar10_record(2, 3)),
        ("x/data_batch_1.bin", cifar10_record(1, 3)),
    ]);
    for (name, bytes) in [
        ("a.tar", bytes.clone()),
        ("a.tar.gz", gzip(&bytes)),
        ("odd", gzip(&bytes)),
    ] {
        let path = root.path().join(name);
        write(&path, &bytes);
        assert_eq!(load_test(&path).unwrap().labels(), [6]);
        let train = open(&path).unwrap().load(Split::Train).unwrap();
        assert_eq!(
            train.labels(),
            [1, 2],
            "batches in their order, not the archive's"
        );
    }
}

#[test]
fn truncation_inside_an_archive_names_the_member() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a.tar");
    write(
        &path,
        &tar(&[("x/test_batch.bin", cifar10_record(6, 3)[..100].to_vec())]),
    );
    let error = load_test(&path).unwrap_err().to_string();
    assert!(
        error.contains("a.tar/x/test_batch.bin: truncated"),
        "{error}"
    );
}

#[test]
fn image_folder_in_sorted_order() {
    let root = tempfile::tempdir().unwrap();
    image_folder(root.path(), "train", &["ant", "bee"], 3);
    write(&root.path().join("train/ant/notes.txt"), b"not a picture");
    write(
        &root.path().join("train/ant/.hidden.png"),
        b"not one either",
    );
    let train = open(root.path()).unwrap().load(Split::Train).unwrap();
    assert_eq!(train.labels(), [0, 0, 0, 1, 1, 1]);
    assert_eq!(train.class_names(), ["ant", "bee"]);
    let values: Vec<u8> = (0..6).map(|i| train.image(i)[0]).collect();
    assert_eq!(values, [0, 1, 2, 16, 17, 18]);
    let error = load_test(root.path()).unwrap_err();
    assert!(
        matches!(error, DataError::MissingSplit { split: "test", .. }),
        "{error}"
    );
}

#[test]
fn cifars_ten_names_get_cifars_order() {
    let root = tempfile::tempdir().unwrap();
    let mut names = CIFAR10_CLASSES;
    names.reverse();
    image_folder(root.path(), "test", &names, 1);
    let test = load_test(root.path()).unwrap();
    assert_eq!(test.class_names(), CIFAR10_CLASSES);
    assert_eq!(test.image(0)[0], 9 * 16, "airplane was written last");
}

#[test]
fn an_archive_reads_like_its_folder() {
    let root = tempfile::tempdir().unwrap();
    image_folder(root.path(), "test", &["b", "a"], 4);
    image_folder(root.path(), "train", &["b", "a"], 1);
    let from_folder = load_test(root.path()).unwrap();
    let mut members = Vec::new();
    for (split, each) in [("train", 1), ("test", 4)] {
        for i in (0..each).rev() {
            for class in ["b", "a"] {
                let name = format!("./deep/{split}/{class}/{i}.png");
                let bytes = std::fs::read(root.path().join(format!("{split}/{class}/{i}.png")));
                members.push((name, bytes.unwrap()));
            }
        }
    }
    let members: Vec<_> = members
        .iter()
        .map(|(n, b)| (n.as_str(), b.clone()))
        .collect();
    let path = root.path().join("pictures.tgz");
    write(&path, &gzip(&tar(&members)));
    let from_archive = load_test(&path).unwrap();
    assert_eq!(from_archive.pixels(), from_folder.pixels());
    assert_eq!(from_archive.labels(), from_folder.labels());
    assert_eq!(from_archive.class_names(), from_folder.class_names());
}

#[test]
fn long_member_names() {
    let root = tempfile::tempdir().unwrap();
    let deep = "d/".repeat(120);
    let path = root.path().join("long.tar");
    write(
        &path,
        &tar(&[
            (&format!("{deep}test/a/1.png"), png(32, 32, 1)),
            (&format!("{deep}test/b/1.png"), png(32, 32, 2)),
        ]),
    );
    assert_eq!(load_test(&path).unwrap().labels(), [0, 1]);
}

#[test]
fn broken_folders_are_explained() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path();
    let fails = |want: &str| {
        let error = load_test(path).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    fails("an empty folder");
    image_folder(path, "test", &["a"], 1);
    fails("one class only (a)");
    std::fs::create_dir(path.join("test/b")).unwrap();
    fails("test/b: no .jpg, .jpeg or .png");
    write(&path.join("test/b/1.png"), &png(40, 32, 0));
    fails("test/b/1.png: 40×32 pixels; images must be 32×32");
    write(&path.join("test/b/1.png"), &png(32, 32, 0)[..60]);
    fails("test/b/1.png: unreadable image");
    write(&path.join("test/b/1.png"), b"");
    fails("test/b/1.png: unreadable image: the file is empty");
    write(&path.join("test/b/1.png"), &vec![0; 2 << 20]);
    fails("more than 1048576 bytes in one picture");
    write(&path.join("test/b/1.png"), &png(32, 32, 0));
    image_folder(path, "train", &["a", "c"], 1);
    fails("only test has \"b\"; only train has \"c\"");
    write(&path.join("test_batch.bin"), &cifar10_record(0, 0));
    fails("holds both CIFAR-10 binary and an image folder");
}

#[test]
fn other_things_are_refused_with_advice() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    let fails = |bytes: &[u8], want: &str| {
        write(&path, bytes);
        let error = load_test(&path).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    fails(b"", "an empty file");
    fails(b"hello", "neither a tar nor gzip");
    fails(
        b"\xfd7zXZ\0rest",
        "xz is not read directly; unpack it with `tar xf`",
    );
    fails(b"PK\x03\x04rest", "`unzip`");
    fails(&gzip(b"not a tar"), "damaged archive");
    fails(
        &tar(&[("readme", b"hi".to_vec())]),
        "an archive without images",
    );
    let whole = tar(&[("test_batch.bin", cifar10_record(1, 1))]);
    fails(&gzip(&whole)[..40], "damaged archive");
    let missing = load("/nowhere/at/all", Split::Test).unwrap_err();
    assert!(
        missing.to_string().contains("lb data fetch cifar10"),
        "{missing}"
    );
}

#[test]
fn members_that_climb_out_are_ignored() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("evil.tar");
    let mut bytes = tar(&[("aa/test_batch.bin", cifar10_record(1, 1))]);
    bytes[..2].copy_from_slice(b"..");
    common::fix_checksum(&mut bytes[..512]);
    write(&path, &bytes);
    let error = load_test(&path).unwrap_err().to_string();
    assert!(error.contains("without images"), "{error}");
}

#[test]
fn a_size_that_lies_allocates_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("lies.tar");
    let mut bytes = tar(&[("test_batch.bin", cifar10_record(1, 1))]);
    bytes[124..136].copy_from_slice(b"77777777777\0"); // 8 GiB
    common::fix_checksum(&mut bytes[..512]);
    write(&path, &bytes);
    // The tar's own padding is then read as records.
    assert!(load_test(&path).is_err());
}

#[test]
fn no_default_names_the_two_ways_on() {
    // Tests run in the crate's folder, where no `datasets/cifar10` is.
    let error = lb_data::resolve_default().unwrap_err().to_string();
    for way in ["lb data fetch cifar10", "--data synthetic"] {
        assert!(error.contains(way), "{error}");
    }
}
