//! Real PyTorch networks on real images: imported, evaluated, quantized.

#[path = "common/pretrained.rs"]
mod pretrained;
#[path = "../../lb-data/tests/common/shared.rs"]
mod shared;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use lb_data::{ImageSet, Split};
use lb_format::network::Recipe;
use lb_resnet::batch::{images, spans};
use lb_resnet::checkpoint::{self, Checkpoint, ImportRequest};
use lb_resnet::eval::evaluate;
use lb_resnet::metrics::Metrics;
use lb_resnet::model::Shortcut;
use lb_resnet::ptq::{self, Method, Options};
use pretrained::{clean, import, request};

/// The values of a little-endian float32 `.npy` file.
fn npy(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    assert_eq!(&bytes[..7], b"\x93NUMPY\x01");
    let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[data..]
        .as_chunks()
        .0
        .iter()
        .map(|b| f32::from_le_bytes(*b))
        .collect()
}

fn metrics(c: &Checkpoint, set: &ImageSet) -> Metrics {
    let device = Device::flex();
    evaluate(&c.net, set, &c.normalization(), &device, &mut |_| true)
        .unwrap()
        .metrics()
}

fn same_as_pytorch(test: &str, arch: &str, file: &str, logits: &str, right: u64) {
    let Some(c) = import(test, arch, file) else {
        return;
    };
    let Some(set) = clean(test, Split::Test) else {
        return;
    };
    let Some(reference) = shared::shared(test, &format!("reference/{logits}")) else {
        return;
    };
    assert_eq!(metrics(&c, &set).correct, right);
    let expected = npy(&reference);
    let folded = ptq::fold(c.net.clone());
    let mut got = [Vec::new(), Vec::new()];
    for (from, n) in spans(set.len(), 128) {
        let x = images(&set, from, n, &c.normalization(), &Device::flex());
        got[0].extend(c.net.forward(x.clone()).try_to_vec_as::<f32>().unwrap());
        got[1].extend(folded.forward(x).try_to_vec_as::<f32>().unwrap());
    }
    for got in got {
        assert_eq!(got.len(), expected.len());
        let error = got
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(error < 1e-3, "{arch}: logits differ by {error}");
    }
}

#[test]
fn resnet20_computes_what_pytorch_computes() {
    let (file, logits) = ("resnet20-12fca82f.th", "resnet20_clean_test_logits.npy");
    same_as_pytorch(
        "resnet20_computes_what_pytorch_computes",
        "resnet20",
        file,
        logits,
        464,
    );
}

#[test]
fn resnet56_computes_what_pytorch_computes() {
    let (file, logits) = ("resnet56-4bfd9763.th", "resnet56_clean_test_logits.npy");
    same_as_pytorch(
        "resnet56_computes_what_pytorch_computes",
        "resnet56",
        file,
        logits,
        479,
    );
}

#[test]
fn resnet20_on_all_jpeg_test_images() {
    let test = "resnet20_on_all_jpeg_test_images";
    let Some(c) = import(test, "resnet20", "resnet20-12fca82f.th") else {
        return;
    };
    let Some((path, _folder)) = shared::jpeg_folder(test) else {
        return;
    };
    let set = lb_data::load(path.to_str().unwrap(), Split::Test).unwrap();
    let m = metrics(&c, &set);
    assert_eq!(m.total, 10_000);
    assert!((m.accuracy - 0.810).abs() <= 0.004, "{m:?}");
}

#[test]
fn quantized_accuracy_and_size() {
    let test = "quantized_accuracy_and_size";
    let Some(c) = import(test, "resnet20", "resnet20-12fca82f.th") else {
        return;
    };
    let (Some(train), Some(set)) = (clean(test, Split::Train), clean(test, Split::Test)) else {
        return;
    };
    let (device, n) = (Device::flex(), c.normalization());
    let drawn = train.subset(&train.sample_indices(1024, 0));
    let folded = ptq::fold(c.net.clone());
    let calibration = ptq::observe(&folded, &drawn, &n, &device, &mut |_| true).unwrap();
    let run = |options: Options| {
        let net = ptq::quantize(&folded, &calibration, &options).unwrap();
        let packed = ptq::pack(&net, c.info.clone(), Recipe::default()).unwrap();
        let bytes = lb_format::file::to_bytes(&packed).unwrap().len();
        // What is evaluated is what the file holds.
        let net = ptq::unpack(&packed, &device).unwrap();
        let m = evaluate(&net, &set, &n, &device, &mut |_| true)
            .unwrap()
            .metrics();
        (m.accuracy, bytes)
    };
    let at = |bits: &str| Options::new(bits.parse().unwrap());
    let float = metrics(&c, &set).accuracy;
    for bits in ["8", "16"] {
        let (accuracy, _) = run(at(bits));
        assert!(
            (accuracy - float).abs() <= 0.006,
            "{bits} bits: {accuracy} against {float}"
        );
    }
    let (four, four_bytes) = run(at("4"));
    assert!(four >= 0.87, "4 bits: {four}");
    assert!(four_bytes < 165_000, "4 bits: {four_bytes} bytes");
    let (_, two_bytes) = run(at("2"));
    assert!(two_bytes < 100_000, "2 bits: {two_bytes} bytes");
    let (lbtorch, _) = run(Options {
        method: Method::Lbtorch,
        ..at("4")
    });
    assert!(
        lbtorch < four - 0.03,
        "lbtorch {lbtorch} against {four} at 4 bits"
    );
}

#[test]
fn the_wrong_architecture_is_refused_by_key() {
    let test = "the_wrong_architecture_is_refused_by_key";
    let Some(path) = shared::shared(test, "pretrained/resnet20-12fca82f.th") else {
        return;
    };
    let refused = |request: ImportRequest| {
        checkpoint::import(&path, &request, &Device::flex())
            .unwrap_err()
            .to_string()
    };
    let e = refused(request("resnet32"));
    assert!(
        e.contains("resnet20-12fca82f.th") && e.contains("missing: blocks.13.conv1.bn.beta"),
        "{e}"
    );
    let e = refused(request("resnet8"));
    assert!(e.contains("not wanted: layer1.1.bn1.bias"), "{e}");
    let e = refused(ImportRequest {
        shortcut: Shortcut::B,
        ..request("resnet20")
    });
    assert!(e.contains("missing: blocks.3.shortcut"), "{e}");
    let mut few = request("resnet20");
    few.classes.truncate(5);
    let e = refused(few);
    assert!(e.contains("linear.weight"), "{e}");
}

#[test]
fn foreign_bytes_never_panic() {
    let test = "foreign_bytes_never_panic";
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("x.th");
    let import = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        checkpoint::import(&path, &request("resnet20"), &Device::flex())
    };
    for bytes in [
        &b""[..],
        b"\x80\x02",
        b"PK\x03\x04",
        b"not a pickle at all",
        &[0xff; 4096],
    ] {
        let e = import(bytes).unwrap_err().to_string();
        assert!(e.contains("x.th"), "{e}");
    }
    let Some(real) = shared::shared(test, "pretrained/resnet20-12fca82f.th") else {
        return;
    };
    let real = std::fs::read(real).unwrap();
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    };
    // The pickle's instructions lie at both ends; the tensors between them take any value.
    let rounds: usize = std::env::var("LB_FUZZ_CASES").map_or(40, |n| n.parse().unwrap());
    for _ in 0..rounds {
        let mut bytes = real.clone();
        for _ in 0..1 + random(8) {
            let edge = random(16_384);
            let at = if random(2) == 0 {
                edge
            } else {
                bytes.len() - 1 - edge
            };
            bytes[at] = random(256) as u8;
        }
        if random(4) == 0 {
            bytes.truncate(random(real.len()));
        }
        let _ = import(&bytes);
    }
}
