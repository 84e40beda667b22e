//! The integer engine against the simulation, on random networks and on real ones.
//!
//! `cargo test --release --workspace --test engine -- --nocapture` prints the counts;
//! `LB_ENGINE_IMAGES=10000` compares on all images instead of some.

#[path = "common/agreement.rs"]
mod agreement;
#[path = "common/pretrained.rs"]
mod pretrained;
#[path = "../../lb-data/tests/common/shared.rs"]
mod shared;
#[path = "../src/test_data.rs"]
mod test_data;

use agreement::compare;
use burn::tensor::Device;
use lb_data::{ImageSet, Split};
use lb_format::{BitWidth, QuantizedNetwork};
use lb_resnet::checkpoint::{Checkpoint, normalization};
use lb_resnet::model::{self, FoldedNet, Shortcut};
use lb_resnet::ptq::{
    self, ActivationLevels, Assigned, Calibration, ImageRounding, LevelSet, Options,
};
use pretrained::{clean, import};

/// The widths that the issue asks for.
const WIDTHS: [&str; 9] = ["1", "2", "3", "4", "5", "6", "7", "8", "16"];

fn options(bits: &str) -> Options {
    Options::new(bits.parse().unwrap())
}

/// A network and its calibration.
struct Observed {
    folded: FoldedNet,
    calibration: Calibration,
    info: lb_format::NetworkInfo,
}

impl Observed {
    fn new(float: Checkpoint, set: &ImageSet) -> Self {
        let folded = ptq::fold(float.net);
        let n = normalization(&float.info);
        let device = Device::flex();
        Self {
            calibration: ptq::observe(&folded, set, &n, &device, &mut |_| true).unwrap(),
            folded,
            info: float.info,
        }
    }

    fn pack(&self, options: &Options) -> QuantizedNetwork {
        let net = ptq::quantize(&self.folded, &self.calibration, options).unwrap();
        ptq::pack(&net, self.info.clone(), Default::default()).unwrap()
    }
}

#[test]
fn random_networks_give_the_same_codes() {
    let device = Device::flex();
    for shortcut in [Shortcut::A, Shortcut::B] {
        let arch: model::Arch = "resnet8".parse().unwrap();
        let set = test_data::calibration_images(96);
        let float = Checkpoint {
            net: test_data::network(arch, shortcut, &device),
            info: test_data::info(arch.name, shortcut),
            training: Default::default(),
        };
        let observed = Observed::new(float, &set);
        let set = set.subset(&(0..48).collect::<Vec<_>>());
        let mut cases: Vec<Options> = WIDTHS.map(options).to_vec();
        cases.extend(["1", "2", "4"].map(|bits| Options {
            edge_bits: None,
            ..options(bits)
        }));
        cases.extend(["2", "4"].map(|bits| Options {
            edge_bits: None,
            image_rounding: ImageRounding::Dither,
            ..options(bits)
        }));
        for (bits, residual_bits) in [("w2a4", Some(BitWidth::EIGHT)), ("1", None), ("2", None)] {
            cases.push(Options {
                residual_bits,
                ..options(bits)
            });
        }
        // Levels as they are, and with the edges' as well.
        cases.extend(["2", "3", "4", "5", "6"].map(|bits| Options {
            levels: LevelSet::Apot,
            ..options(bits)
        }));
        cases.push(Options {
            levels: LevelSet::Apot,
            edge_bits: None,
            ..options("4")
        });
        // Levels of activations, too.
        for (bits, edge_bits) in [
            ("2", Some(BitWidth::EIGHT)),
            ("3", None),
            ("4", None),
            ("w2a4", Some(BitWidth::EIGHT)),
            ("w8a6", Some(BitWidth::EIGHT)),
        ] {
            cases.push(Options {
                activation_levels: ActivationLevels::Fitted,
                edge_bits,
                ..options(bits)
            });
        }
        for options in cases {
            let what = format!("resnet8 {shortcut}, {options}");
            let found = compare(&observed.pack(&options), &set, 48);
            found.print(&what);
            found.assert_ties(&what);
            // One tie may turn a class where a random network is of two minds.
            assert!(found.same_class + 1 >= found.images, "{what}");
        }
    }
}

/// Every width beside every other: weights and activations of neighbouring places differ, and all
/// widths that the engine holds in other types meet.
#[test]
fn mixed_networks_give_the_same_codes() {
    let device = Device::flex();
    for shortcut in [Shortcut::A, Shortcut::B] {
        let arch: model::Arch = "resnet8".parse().unwrap();
        let set = test_data::calibration_images(96);
        let float = Checkpoint {
            net: test_data::network(arch, shortcut, &device),
            info: test_data::info(arch.name, shortcut),
            training: Default::default(),
        };
        let observed = Observed::new(float, &set);
        let set = set.subset(&(0..48).collect::<Vec<_>>());
        let places = observed.pack(&options("8"));
        for (from, step) in [(0, 1), (4, 2), (8, 5)] {
            let mut at = from;
            let mut assigned = |values| {
                at += step;
                let bits = BitWidth::ALL[at % BitWidth::ALL.len()];
                Assigned { bits, values }
            };
            let mut options = options("8");
            for layer in &places.layers {
                let values = layer.weight.shape().iter().product::<usize>() as u64;
                let weights = &mut options.assignment.weights;
                weights.insert(layer.name.clone(), assigned(values));
            }
            for act in places.activations.iter().filter(|a| a.qparams.is_some()) {
                let activations = &mut options.assignment.activations;
                activations.insert(act.name.clone(), assigned(1));
            }
            let what = format!("resnet8 {shortcut}, {options}");
            let network = observed.pack(&options);
            let bytes = lb_format::file::to_bytes(&network).unwrap();
            let read = lb_format::file::from_bytes(&bytes).unwrap();
            assert_eq!(read, network);
            let found = compare(&read, &set, 48);
            found.print(&what);
            found.assert_ties(&what);
            assert!(found.same_class + 1 >= found.images, "{what}");
        }
    }
}

/// Images of `set` that are compared: `default`, or as many as `LB_ENGINE_IMAGES` says.
fn some(set: &ImageSet, default: usize) -> ImageSet {
    let n = std::env::var("LB_ENGINE_IMAGES").map_or(default, |n| n.parse().unwrap());
    set.subset(&set.sample_indices(n.min(set.len()), 0))
}

/// How many of a thousand images may get another class: at any one width, where as many more or
/// fewer may be right, and at all of them together. Where that comes to less than an image, one.
#[derive(Clone, Copy)]
struct Most {
    at_one_width: u64,
    together: u64,
}

/// Compares `network` at `widths`.
fn assert_same(what: &str, network: &Observed, widths: &[&str], set: &ImageSet, most: Most) {
    let few = |n: u64, thousandths: u64| (n * thousandths / 1000).max(1);
    let (mut images, mut other_class) = (0, 0);
    for bits in widths {
        let options = options(bits);
        let what = format!("{what}, {options}");
        let found = compare(&network.pack(&options), set, 64);
        found.print(&what);
        found.assert_ties(&what);
        let differing = found.images - found.same_class;
        let allowed = few(found.images, most.at_one_width);
        assert!(differing <= allowed, "{what}: {differing} differ");
        let apart = found.right[0].abs_diff(found.right[1]);
        assert!(apart <= allowed, "{what}: {:?}", found.right);
        images += found.images;
        other_class += differing;
    }
    let allowed = few(images, most.together);
    assert!(other_class <= allowed, "{what}: {other_class} differ");
}

fn on_clean_images(test: &str, arch: &str, file: &str, default: usize, most: Most) {
    let Some(float) = import(test, arch, file) else {
        return;
    };
    let (Some(train), Some(set)) = (clean(test, Split::Train), clean(test, Split::Test)) else {
        return;
    };
    let observed = Observed::new(float, &train.subset(&train.sample_indices(256, 0)));
    let what = format!("{arch}, clean");
    assert_same(&what, &observed, &WIDTHS, &some(&set, default), most);
}

#[test]
fn resnet20_on_clean_images() {
    on_clean_images(
        "resnet20_on_clean_images",
        "resnet20",
        "resnet20-12fca82f.th",
        509,
        Most {
            at_one_width: 1,
            together: 1,
        },
    );
}

/// A difference that one code makes in an early layer grows through 54 more, most of all at few
/// bits. It does so in the simulation alone as well: on Burn's backends flex and ndarray, which add
/// in different orders, it gives 5 of the 509 images another class at W3A3. Here it is 3 of 128 at
/// W2A2 on one machine and 4 on another, where plain rounding leaves 49 of them right: how many is
/// chance, and what is not (every place by itself, given the same codes) `assert_ties` holds.
#[test]
fn resnet56_on_clean_images() {
    on_clean_images(
        "resnet56_on_clean_images",
        "resnet56",
        "resnet56-4bfd9763.th",
        128,
        Most {
            at_one_width: 60,
            together: 15,
        },
    );
}

#[test]
fn resnet20_on_jpeg_images() {
    let test = "resnet20_on_jpeg_images";
    let Some(float) = import(test, "resnet20", "resnet20-12fca82f.th") else {
        return;
    };
    let Some((path, _folder)) = shared::jpeg_folder(test) else {
        return;
    };
    let all = lb_data::load(path.to_str().unwrap(), Split::Test).unwrap();
    // Test images without their labels: what is compared here is arithmetic, not accuracy.
    let observed = Observed::new(float, &all.subset(&all.sample_indices(256, 1)));
    let set = some(&all, 2_000);
    let most = Most {
        at_one_width: 2,
        together: 2,
    };
    assert_same("resnet20, JPEG", &observed, &["8", "4", "2"], &set, most);
}
