//! The pipeline on a small random network.

use burn::tensor::{Device, Distribution, Tensor};
use lb_data::ImageSet;
use lb_format::{BitWidth, file};

use super::*;
use crate::checkpoint::{self, normalization};
use crate::divergence::Reference;
use crate::model::{Arch, QuantNet, Shortcut};
use crate::test_data::{calibration_images, network};
use crate::{report, test_data};

fn relative(a: Tensor<2>, b: Tensor<2>) -> f32 {
    let scale = b.clone().abs().max().into_scalar::<f32>();
    (a - b).abs().max().into_scalar::<f32>() / scale
}

#[test]
fn folding_changes_no_architectures_logits() {
    let device = Device::flex();
    for arch in Arch::ALL {
        for shortcut in [Shortcut::A, Shortcut::B] {
            let net = network(arch, shortcut, &device);
            let x = Tensor::random([2, 3, 32, 32], Distribution::Normal(0.0, 1.0), &device);
            let before = net.forward(x.clone());
            let error = relative(fold(net).forward(x), before);
            assert!(error < 1e-4, "{arch} {shortcut}: relative error {error}");
        }
    }
}

struct Case {
    folded: crate::model::FoldedNet,
    calibration: Calibration,
    set: ImageSet,
    info: lb_format::NetworkInfo,
    device: Device,
}

fn case(shortcut: Shortcut) -> Case {
    let device = Device::flex();
    let arch: Arch = "resnet8".parse().unwrap();
    let folded = fold(network(arch, shortcut, &device));
    let set = calibration_images(96);
    let info = test_data::info(arch.name, shortcut);
    let calibration =
        observe(&folded, &set, &normalization(&info), &device, &mut |_| true).unwrap();
    Case {
        folded,
        calibration,
        set,
        info,
        device,
    }
}

fn quantized(case: &Case, options: &Options) -> QuantNet {
    quantize(&case.folded, &case.calibration, options).unwrap()
}

#[test]
fn more_bits_are_closer_and_sixteen_are_next_to_exact() {
    let case = case(Shortcut::B);
    let x = crate::batch::images(&case.set, 0, 16, &normalization(&case.info), &case.device);
    let float = case.folded.forward(x.clone());
    let error = |bits: &str| {
        let net = quantized(&case, &Options::new(bits.parse().unwrap()));
        relative(net.forward(x.clone()), float.clone())
    };
    let (e2, e4, e8, e16) = (error("2"), error("4"), error("8"), error("16"));
    assert!(
        e16 < 0.002 && e16 < e8 && e8 < e4 && e4 < e2,
        "{e2} {e4} {e8} {e16}"
    );
}

#[test]
fn nothing_is_left_in_float_but_by_lbtorch() {
    let case = case(Shortcut::B);
    for method in Method::ALL {
        let options = Options {
            method,
            ..Options::new("4".parse().unwrap())
        };
        let packed = pack(
            &quantized(&case, &options),
            case.info.clone(),
            Default::default(),
        )
        .unwrap();
        let float: Vec<_> = (packed.layers.iter())
            .filter(|l| l.weight.width() == "float")
            .map(|l| l.name.as_str())
            .collect();
        let open: Vec<_> = (packed.activations.iter())
            .filter(|a| a.qparams.is_none())
            .map(|a| a.name.as_str())
            .collect();
        if method == Method::Lbtorch {
            assert_eq!(float, ["blocks.1.shortcut", "blocks.2.shortcut", "linear"]);
        } else {
            assert!(float.is_empty(), "{method}: {float:?}");
            // The stream is quantized where it is made, so block inputs need nothing more, and
            // the pooling averages real values before `pooled` quantizes them.
            assert_eq!(
                open,
                [
                    "blocks.0.input",
                    "blocks.1.input",
                    "blocks.2.input",
                    "blocks.2.act2"
                ]
            );
        }
    }
}

#[test]
fn packed_networks_come_back_the_same() {
    for shortcut in [Shortcut::A, Shortcut::B] {
        let case = case(shortcut);
        for bits in ["1", "2", "3", "w2a4", "8", "16"] {
            let mut options = Options::new(bits.parse().unwrap());
            options.residual_bits = Some(BitWidth::EIGHT);
            options.bias_correction = true;
            let net = quantized(&case, &options);
            let packed = pack(&net, case.info.clone(), Default::default()).unwrap();
            let read = file::from_bytes(&file::to_bytes(&packed).unwrap()).unwrap();
            assert_eq!(read, packed);
            let back = unpack(&read, &case.device).unwrap();
            let x = crate::batch::images(&case.set, 0, 4, &normalization(&case.info), &case.device);
            assert_eq!(
                net.forward(x.clone()).into_data(),
                back.forward(x).into_data(),
                "{bits}"
            );
        }
    }
}

/// Different widths at neighbouring places, none of them those of the options.
fn mixed(case: &Case) -> Options {
    let packed = quantized(case, &Options::new("8".parse().unwrap()));
    let packed = pack(&packed, case.info.clone(), Default::default()).unwrap();
    let assigned = |i: usize| Assigned {
        bits: BitWidth::ALL[1 + i % 7],
        values: 1 + i as u64,
    };
    let mut options = Options::new("16".parse().unwrap());
    for (i, layer) in packed.layers.iter().enumerate() {
        let weights = &mut options.assignment.weights;
        weights.insert(layer.name.clone(), assigned(i));
    }
    for (i, act) in packed.activations.iter().enumerate() {
        if act.qparams.is_some() {
            let activations = &mut options.assignment.activations;
            activations.insert(act.name.clone(), assigned(3 * i));
        }
    }
    options
}

#[test]
fn mixed_networks_have_the_assigned_widths_and_come_back_the_same() {
    for shortcut in [Shortcut::A, Shortcut::B] {
        let case = case(shortcut);
        let mut options = mixed(&case);
        let net = quantized(&case, &options);
        let packed = pack(&net, case.info.clone(), Default::default()).unwrap();
        for layer in &packed.layers {
            let bits = options.assignment.weight(&layer.name).unwrap();
            assert_eq!(layer.weight.width(), bits.to_string(), "{}", layer.name);
        }
        for act in &packed.activations {
            let bits = act.qparams.as_ref().map(|q| q.bits);
            assert_eq!(bits, options.assignment.activation(&act.name));
        }
        let read = file::from_bytes(&file::to_bytes(&packed).unwrap()).unwrap();
        assert_eq!(read, packed);
        let back = unpack(&read, &case.device).unwrap();
        let x = crate::batch::images(&case.set, 0, 4, &normalization(&case.info), &case.device);
        assert_eq!(
            net.forward(x.clone()).into_data(),
            back.forward(x).into_data()
        );

        let width = options.assignment.weights["stem"];
        let places = &mut options.assignment.activations;
        places.insert("blocks.2.act2".into(), width);
        let e = quantize(&case.folded, &case.calibration, &options).unwrap_err();
        assert!(e.to_string().contains("blocks.2.act2"), "{e}");
    }
}

#[test]
fn files_of_another_topology_are_refused() {
    let case = case(Shortcut::A);
    let net = quantized(&case, &Options::new("4".parse().unwrap()));
    let packed = pack(&net, case.info.clone(), Default::default()).unwrap();
    let refused = |change: &dyn Fn(&mut lb_format::QuantizedNetwork)| {
        let mut p = packed.clone();
        change(&mut p);
        unpack(&p, &case.device).unwrap_err().to_string()
    };
    assert!(refused(&|p| p.info.arch = "resnet20".into()).contains("blocks.1.conv1"));
    assert!(refused(&|p| p.info.arch = "vgg".into()).contains("vgg"));
    assert!(refused(&|p| p.info.shortcut = "c".into()).contains("shortcut"));
    assert!(refused(&|p| p.info.classes.truncate(5)).contains("expected 5×1×1 logits"));
    assert!(refused(&|p| drop(p.layers.remove(2))).contains("missing"));
    assert!(refused(&|p| p.activations[1].relu = false).contains("relu"));
    let conv = |stride, padding| lb_format::LayerKind::Conv { stride, padding };
    let e = refused(&|p| p.layers[1].kind = conv(2, 1));
    assert!(e.contains("cannot be added"), "{e}");
    // A wider border all around is a consistent network, but another one.
    let e = refused(&|p| p.layers[0].kind = conv(1, 2));
    assert!(e.contains("layer `stem`") && e.contains("padding"), "{e}");
    // All parts are those of the architecture, but a shortcut starts elsewhere: the engine would
    // run another network than the simulation.
    let e = refused(&|p| {
        let mut nodes = p.graph.nodes.iter_mut();
        let add = nodes.find(|n| n.op == lb_format::graph::Op::Add).unwrap();
        add.inputs[1] = add.inputs[0] - 1;
    });
    assert!(e.contains("graph") && e.contains("resnet8"), "{e}");
}

/// The engine reads pixels by [`NetworkInfo::real_pixel`], the simulation by
/// [`lb_data::Normalization`]: they must be the same map.
///
/// [`NetworkInfo::real_pixel`]: lb_format::NetworkInfo::real_pixel
#[test]
fn engine_and_simulation_see_the_same_pixels() {
    use lb_data::Normalization;
    let pixels: Vec<u8> = (0..3).flat_map(|_| 0..=255).collect();
    for n in [Normalization::IMAGENET, Normalization::CIFAR10] {
        let info = lb_format::NetworkInfo {
            mean: n.mean,
            std: n.std,
            ..test_data::info("resnet8", Shortcut::A)
        };
        let mut real = vec![0.0; pixels.len()];
        normalization(&info).normalize_into(&pixels, &mut real);
        for (i, (&pixel, real)) in pixels.iter().zip(real).enumerate() {
            let engine = info.real_pixel(i / 256, pixel);
            assert_eq!(engine.to_bits(), real.to_bits(), "{n:?}, {i}");
        }
    }
}

#[test]
fn reports_name_every_layer() {
    let case = case(Shortcut::B);
    let net = quantized(&case, &Options::new("8".parse().unwrap()));
    let packed = pack(&net, case.info.clone(), Default::default()).unwrap();
    let n = normalization(&case.info);
    let rows = report::layers(&case.folded, &net, &packed, &case.set, &n, &case.device).unwrap();
    assert_eq!(rows.len(), packed.layers.len());
    for row in rows {
        assert!(row.weight_db > 35.0 && row.output_db > 15.0, "{row:?}");
    }
}

#[test]
fn calibration_needs_an_image_and_can_be_stopped() {
    let case = case(Shortcut::A);
    let n = normalization(&case.info);
    let none = case.set.subset(&[]);
    assert!(observe(&case.folded, &none, &n, &case.device, &mut |_| true).is_err());
    assert!(observe(&case.folded, &case.set, &n, &case.device, &mut |_| false).is_err());
}

/// Of an image of few bits, all else next to exact, in the network of `lb demo`, on images like those that it was
/// trained on.
#[test]
fn a_diffused_image_is_closer_than_one_rounded_to_the_nearest() {
    let device = Device::flex();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let trained = root.join("artifacts/demo-resnet20.safetensors");
    let trained = checkpoint::load(&trained, &device).unwrap();
    let (n, folded) = (normalization(&trained.info), fold(trained.net));
    let set = calibration_images(192);
    let calibration = observe(&folded, &set, &n, &device, &mut |_| true).unwrap();
    let float = Reference::new(&folded, &set, &n, &device, &mut |_| true).unwrap();
    for bits in [2, 4] {
        let kl = |image_rounding| {
            let mut options = Options {
                method: Method::Gptq,
                image_rounding,
                ..Options::new("16".parse().unwrap())
            };
            let assigned = Assigned {
                bits: BitWidth::new(bits).unwrap(),
                values: 3072,
            };
            let widths = &mut options.assignment.activations;
            widths.insert("input".into(), assigned);
            let net = quantize(&folded, &calibration, &options).unwrap();
            float.divergence(&net, &mut |_| true).unwrap().kl
        };
        let [nearest, diffused] = [ImageRounding::Nearest, ImageRounding::Diffusion].map(kl);
        assert!(
            diffused < 0.9 * nearest,
            "{bits} bits: {nearest} {diffused}"
        );
    }
}
