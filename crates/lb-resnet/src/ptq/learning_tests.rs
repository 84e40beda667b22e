//! Correction, reconstruction and tuning of a small random network.

use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use lb_data::{AugmentConfig, ImageSet, Normalization};
use lb_format::NetworkInfo;
use lb_nn::learned::{Dropping, Learning, Rounding};

use super::evaluate::evaluate;
use super::learn::learn;
use super::*;
use crate::ResnetError;
use crate::batch::images;
use crate::checkpoint::normalization;
use crate::divergence::{Divergence, Reference};
use crate::model::{Arch, FoldedNet, QuantNet, Shortcut};
use crate::test_data::{self, calibration_images, network};

struct Case {
    folded: FoldedNet,
    start: QuantNet,
    set: ImageSet,
    info: NetworkInfo,
    normalization: Normalization,
    device: Device,
    options: Options,
}

fn case(bits: &str, shortcut: Shortcut) -> Case {
    let device = Device::flex();
    let arch: Arch = "resnet8".parse().unwrap();
    let folded = fold(network(arch, shortcut, &device));
    let set = calibration_images(48);
    let info = test_data::info(arch.name, shortcut);
    let normalization = normalization(&info);
    let options = Options::new(bits.parse().unwrap());
    let seen = observe(&folded, &set, &normalization, &device, &mut |_| true).unwrap();
    let start = quantize(&folded, &seen, &options).unwrap();
    Case {
        folded,
        start,
        set,
        info,
        normalization,
        device,
        options,
    }
}

/// Saves the network after each unit, and stops after `stop` of them.
struct Watch {
    stop: usize,
    saved: Option<QuantNet>,
    reports: Vec<UnitReport>,
}

impl RefineMonitor for Watch {
    fn progress(&mut self, p: &RefineProgress) -> bool {
        p.unit < self.stop
    }
    fn unit(&mut self, net: &QuantNet, reports: &[UnitReport]) -> Result<(), ResnetError> {
        self.saved = Some(net.clone());
        self.reports = reports.to_vec();
        Ok(())
    }
}

fn watch(stop: usize) -> Watch {
    Watch {
        stop,
        saved: None,
        reports: Vec::new(),
    }
}

impl Case {
    fn refinement(&self, rounding: Option<Rounding>) -> Refinement {
        Refinement {
            correct: true,
            compensate: false,
            reconstruct: rounding.map(|rounding| ReconstructConfig {
                iterations: 12,
                batch: 16,
                ..ReconstructConfig::new(rounding, 3)
            }),
        }
    }

    fn refine(
        &self,
        net: QuantNet,
        rounding: Option<Rounding>,
        done: Vec<UnitReport>,
        watch: &mut Watch,
    ) -> Result<QuantNet, ResnetError> {
        refine(
            net,
            &self.folded,
            &self.set,
            &self.normalization,
            &self.refinement(rounding),
            done,
            &self.device,
            watch,
        )
    }

    fn bytes(&self, net: &QuantNet) -> Vec<u8> {
        let packed = pack(net, self.info.clone(), Default::default()).unwrap();
        lb_format::file::to_bytes(&packed).unwrap()
    }

    fn divergence(&self, net: &QuantNet) -> Divergence {
        let n = &self.normalization;
        let all = &mut |_| true;
        let reference = Reference::new(&self.folded, &self.set, n, &self.device, all).unwrap();
        reference.divergence(net, all).unwrap()
    }
}

#[test]
fn every_step_brings_the_network_closer_to_float() {
    for shortcut in [Shortcut::A, Shortcut::B] {
        let case = case("3", shortcut);
        let plain = case.divergence(&case.start).kl;
        let mut seen = watch(usize::MAX);
        let corrected = (case.refine(case.start.clone(), None, Vec::new(), &mut seen)).unwrap();
        let corrected = case.divergence(&corrected).kl;
        let straight = Some(Rounding::Straight);
        let learned = (case.refine(case.start.clone(), straight, Vec::new(), &mut seen)).unwrap();
        let reconstructed = case.divergence(&learned).kl;
        assert!(
            corrected < plain * 0.5 && reconstructed < plain * 0.5,
            "{shortcut}: {plain} {corrected} {reconstructed}"
        );
        assert_eq!(seen.reports.len(), case.start.units());
        let kept = seen.reports.iter().filter(|r| r.kept).count();
        assert!(kept >= 2, "{:?}", seen.reports);
        for r in &seen.reports {
            let after = r.reconstructed.unwrap().held_out_db;
            assert_eq!(r.kept, after > r.corrected_db, "{r:?}");
        }
    }
}

#[test]
fn errors_that_cancel_bring_it_closer_than_correction_alone() {
    for (bits, shortcut) in [("w2a8", Shortcut::A), ("3", Shortcut::B)] {
        let case = case(bits, shortcut);
        let divergence = |compensate| {
            let refinement = Refinement {
                compensate,
                ..case.refinement(None)
            };
            let net = refine(
                case.start.clone(),
                &case.folded,
                &case.set,
                &case.normalization,
                &refinement,
                Vec::new(),
                &case.device,
                &mut watch(usize::MAX),
            );
            case.divergence(&net.unwrap()).kl
        };
        let (corrected, compensated) = (divergence(false), divergence(true));
        assert!(compensated < 0.7 * corrected, "{corrected} {compensated}");
    }
}

#[test]
fn what_is_cached_of_an_image_is_what_its_largest_unit_takes() {
    let case = case("4", Shortcut::A);
    let bytes = cached_bytes(&case.folded, &case.set, &case.normalization, &case.device);
    // Two networks, 16 channels of 32×32 in and out.
    assert_eq!(bytes, 2 * 2 * 16 * 32 * 32 * 4);
}

#[test]
fn reconstruction_repeats_and_resumes_bit_for_bit() {
    for rounding in [Rounding::Straight, Rounding::AdaRound] {
        let case = case("w2a4", Shortcut::A);
        let mut whole = watch(usize::MAX);
        let rounding = Some(rounding);
        let once = case.refine(case.start.clone(), rounding, Vec::new(), &mut whole);
        let once = case.bytes(&once.unwrap());
        let mut stopped = watch(3);
        let error = case.refine(case.start.clone(), rounding, Vec::new(), &mut stopped);
        assert!(error.unwrap_err().to_string().contains("interrupted"));
        assert_eq!(stopped.reports.len(), 3);
        // Through the file, as the command line does it.
        let dir = tempfile::tempdir().unwrap();
        let partial = |seed| {
            let refinement = Refinement {
                reconstruct: case
                    .refinement(rounding)
                    .reconstruct
                    .map(|c| ReconstructConfig { seed, ..c }),
                ..case.refinement(rounding)
            };
            let path = dir.path().join("x.partial");
            Partial::new(
                path,
                &case.start,
                &case.info,
                &case.options,
                &refinement,
                case.set.pixels(),
            )
            .unwrap()
        };
        assert!(partial(3).load(&case.device).unwrap().is_none());
        partial(3)
            .save(&stopped.saved.unwrap(), &stopped.reports)
            .unwrap();
        assert!(
            partial(4).load(&case.device).unwrap().is_none(),
            "another seed"
        );
        let (net, done) = partial(3).load(&case.device).unwrap().unwrap();
        let resumed = case.refine(net, rounding, done, &mut watch(usize::MAX));
        assert!(case.bytes(&resumed.unwrap()) == once, "{rounding:?}");
    }
}

#[test]
fn tuning_lowers_the_divergence_and_resumes_bit_for_bit() {
    let case = case("2", Shortcut::B);
    let config = DistillConfig {
        batch: 16,
        augment: AugmentConfig::none(),
        mixup: true,
        ..DistillConfig::new(30, 5)
    };
    let new = || {
        let images = Arc::new(case.set.clone());
        let (start, n) = (&case.start, case.normalization);
        Distillation::new(start, &case.folded, images, n, &config, &case.device).unwrap()
    };
    let mut whole = new();
    assert!(whole.run(&mut |_| true).unwrap());
    let whole = whole.finish().unwrap();
    let (before, after) = (case.divergence(&case.start).kl, case.divergence(&whole).kl);
    assert!(after < before * 0.8, "{before} to {after}");

    let mut first = new();
    assert!(!first.run(&mut |p| p.step < 11).unwrap());
    let stored = first.store().unwrap();
    assert_eq!(stored.step, 11);
    let mut rest = new().restore(&stored).unwrap();
    assert!(rest.run(&mut |_| true).unwrap());
    assert!(case.bytes(&rest.finish().unwrap()) == case.bytes(&whole));
}

/// Forty images pass in two parts of sixteen and one of eight.
#[test]
fn the_loss_of_parts_is_that_of_the_batch() {
    let mut case = case("2", Shortcut::A);
    case.set = case.set.subset(&(0..40).collect::<Vec<_>>());
    let config = DistillConfig {
        batch: 40,
        features: 0.0,
        temperature: 1.0,
        augment: AugmentConfig::none(),
        ..DistillConfig::new(1, 5)
    };
    let (start, n) = (&case.start, case.normalization);
    let images = Arc::new(case.set.clone());
    let run = Distillation::new(start, &case.folded, images, n, &config, &case.device);
    let mut loss = f64::NAN;
    let mut see = |p: &DistillProgress| {
        loss = p.loss;
        true
    };
    assert!(run.unwrap().run(&mut see).unwrap());
    let whole = case.divergence(&case.start).kl;
    // Networks that learn add up in another order than those that are measured, and a code of two
    // bits that rounds the other way shows.
    assert!((loss - whole).abs() < 1e-2 * whole, "{loss} {whole}");
}

/// Also where the last part of a batch is smaller.
#[test]
fn the_number_of_threads_does_not_change_what_is_tuned() {
    let case = case("2", Shortcut::A);
    let config = DistillConfig {
        batch: 40,
        ..DistillConfig::new(4, 5)
    };
    let tuned = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let images = Arc::new(case.set.clone());
            let (start, n) = (&case.start, case.normalization);
            let new = Distillation::new(start, &case.folded, images, n, &config, &case.device);
            let mut run = new.unwrap();
            assert!(run.run(&mut |_| true).unwrap());
            case.bytes(&run.finish().unwrap())
        })
    };
    let alone = tuned(1);
    for threads in [2, 3, 7] {
        assert!(tuned(threads) == alone, "{threads} threads");
    }
}

#[test]
fn networks_with_layers_in_float_are_refused_by_name() {
    let mut case = case("4", Shortcut::B);
    case.options.method = Method::Lbtorch;
    let all = &mut |_| true;
    let seen = observe(
        &case.folded,
        &case.set,
        &case.normalization,
        &case.device,
        all,
    )
    .unwrap();
    let net = quantize(&case.folded, &seen, &case.options).unwrap();
    let straight = Some(Rounding::Straight);
    let error = case.refine(net, straight, Vec::new(), &mut watch(usize::MAX));
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("shortcut") && error.contains("float"),
        "{error}"
    );
}

/// Every parameter's gradient.
struct Values<'a> {
    gradients: &'a mut GradientsParams,
    all: Vec<Vec<f32>>,
}

impl ModuleVisitor for Values<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.remove::<D>(param.id);
        let values = gradient.map(|g| g.try_into_vec_as::<f32>().unwrap());
        self.all.push(values.unwrap_or_default());
    }
}

#[test]
fn gradients_through_evaluated_weights_are_those_of_the_learning_network() {
    let case = case("2", Shortcut::B);
    let learning = Learning {
        rounding: Rounding::Straight,
        relative_rate: 0.1,
    };
    let dropping = Dropping::default();
    let net = learn(&case.start, &case.folded, learning, &dropping, &case.device).unwrap();
    let net = net.set_require_grad(true).train();
    let x = images(&case.set, 0, 8, &case.normalization, &case.device).autodiff();
    let loss = |logits: Tensor<2>| (logits.clone() * logits).sum();

    let direct = loss(net.forward(x.clone())).backward();
    let mut direct = GradientsParams::from_grads(direct, &net);
    let (evaluated, origins) = evaluate(net.clone());
    let gradients = loss(evaluated.forward(x)).backward();
    let gradients = GradientsParams::from_grads(gradients, &evaluated);
    let mut gradients = origins.backward(&net, gradients);

    let [direct, through] = [&mut direct, &mut gradients].map(|gradients| {
        let mut values = Values {
            gradients,
            all: Vec::new(),
        };
        net.visit(&mut values);
        values.all
    });
    let learned = direct.iter().filter(|g| g.iter().any(|&v| v != 0.0));
    assert!(learned.count() > 30, "parameters that learn");
    for (i, (a, b)) in direct.iter().zip(&through).enumerate() {
        let most = a.iter().fold(0f32, |most, v| most.max(v.abs()));
        assert_eq!(a.len(), b.len(), "parameter {i}");
        for (a, b) in a.iter().zip(b) {
            assert!((a - b).abs() <= 1e-5 * most, "parameter {i}: {a} {b}");
        }
    }
}
