//! The real CIFAR-10 that lies beside the checkout. Skipped by name where it does not.

#[path = "common/shared.rs"]
mod shared;

use lb_data::{CIFAR10_CLASSES, DataSource, Normalization, Split, load};

#[test]
fn clean_cifar10() {
    let Some(path) = shared::shared("clean_cifar10", "cifar10-clean") else {
        return;
    };
    let data = DataSource::open(path.to_str().unwrap())
        .unwrap()
        .load_both()
        .unwrap();
    assert_eq!((data.train.len(), data.test.len()), (5085, 509));
    assert_eq!(data.test.class_names(), CIFAR10_CLASSES);
    // The first test images of CIFAR-10: cat, ship, ship, airplane, frog.
    assert_eq!(data.test.labels()[..5], [3, 8, 8, 0, 6]);
    assert!(data.train.class_counts().iter().all(|&n| n > 400));
    assert!(
        data.test.source().ends_with("(509 test images)"),
        "{}",
        data.test.source()
    );

    // The sample has the statistics that are published for the whole.
    let pixels = data.train.pixels();
    for c in 0..3 {
        let plane = pixels.chunks_exact(1024).skip(c).step_by(3).flatten();
        let mean = plane.clone().map(|&x| f64::from(x)).sum::<f64>() / (5085.0 * 1024.0) / 255.0;
        let square = plane
            .map(|&x| (f64::from(x) / 255.0 - mean).powi(2))
            .sum::<f64>();
        let std = (square / (5085.0 * 1024.0)).sqrt();
        assert!(
            (mean - f64::from(Normalization::CIFAR10.mean[c])).abs() < 0.01,
            "{mean}"
        );
        assert!(
            (std - f64::from(Normalization::CIFAR10.std[c])).abs() < 0.01,
            "{std}"
        );
    }
}

#[test]
fn jpeg_cifar10() {
    let Some((path, _folder)) = shared::jpeg_folder("jpeg_cifar10") else {
        return;
    };
    let data = DataSource::open(path.to_str().unwrap())
        .unwrap()
        .load_both()
        .unwrap();
    assert_eq!(data.train.class_counts(), [5000; 10]);
    assert_eq!(data.test.class_counts(), [1000; 10]);
    assert_eq!(data.test.class_names(), CIFAR10_CLASSES);

    // The recompressed pictures are those of the clean set, a little changed: each of the first
    // clean test images has a near twin among the pictures of its class.
    let Some(clean) = shared::shared("jpeg_cifar10 (comparison)", "cifar10-clean") else {
        return;
    };
    let clean = load(clean.to_str().unwrap(), Split::Test).unwrap();
    for i in 0..20 {
        let nearest = (0..data.test.len())
            .filter(|&j| data.test.label(j) == clean.label(i))
            .map(|j| {
                let pairs = clean.image(i).iter().zip(data.test.image(j));
                pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>()
            })
            .min()
            .unwrap();
        assert!(
            nearest < 20 * 3072,
            "image {i}: mean difference {}",
            nearest / 3072
        );
    }
}

#[test]
fn jpeg_cifar10_as_xz_is_refused_with_the_command() {
    let Some(path) = shared::shared("jpeg_cifar10_as_xz", "cifar10-jpeg.tar.xz") else {
        return;
    };
    let error = load(path.to_str().unwrap(), Split::Test).unwrap_err();
    assert!(error.to_string().contains("tar xf"), "{error}");
}
