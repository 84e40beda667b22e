//! Training on a handful of synthetic images.

use super::*;
use crate::checkpoint;
use crate::model::Shortcut;
use crate::test_data;
use lb_data::{DataSource, Split, SyntheticConfig};

struct StopAfter(usize, Vec<EpochMetrics>);

impl Monitor for StopAfter {
    fn step(&mut self, _: &Progress) -> bool {
        self.0 -= 1;
        self.0 > 0
    }
    fn epoch(&mut self, metrics: &EpochMetrics) {
        self.1.push(metrics.clone());
    }
}

fn data() -> TrainData {
    let config = SyntheticConfig {
        train: 100,
        test: 20,
        ..Default::default()
    };
    let source = DataSource::synthetic(config);
    TrainData {
        train: Arc::new(source.load(Split::Train).unwrap()),
        held_out: Some(source.load(Split::Test).unwrap()),
    }
}

fn config() -> TrainConfig {
    TrainConfig {
        epochs: 2,
        batch: 16,
        learning_rate: 0.05,
        ema: Some(0.9),
        label_smoothing: 0.1,
        seed: 5,
        ..Default::default()
    }
}

fn run(folder: &RunFolder, config: &TrainConfig, monitor: &mut dyn Monitor) -> Outcome {
    let info = test_data::info("resnet8", Shortcut::B);
    train(config, &info, &data(), folder, &[Device::flex()], monitor).unwrap()
}

#[test]
fn an_interrupted_run_resumes_to_the_same_bytes() {
    // 6 steps an epoch: stop in the middle of each, and at the end of one.
    resumes_to_the_same_bytes(&config(), &[2, 4, 3]);
}

#[test]
fn an_interrupted_run_in_pieces_does_too() {
    let config = TrainConfig {
        batch: 64,
        epochs: 5,
        ..config()
    };
    resumes_to_the_same_bytes(&config, &[1, 2]);
}

fn resumes_to_the_same_bytes(config: &TrainConfig, stops: &[usize]) {
    let dir = tempfile::tempdir().unwrap();
    let whole = RunFolder::new(dir.path().join("whole"));
    let done = run(&whole, config, &mut StopAfter(1000, vec![]));
    assert!(done.finished);

    let parts = RunFolder::new(dir.path().join("parts"));
    for &steps in stops {
        assert!(!run(&parts, config, &mut StopAfter(steps, vec![])).finished);
    }
    let resumed = run(&parts, config, &mut StopAfter(1000, vec![]));
    assert!(resumed.finished);
    assert_eq!(resumed.epochs, done.epochs);
    for file in ["last.safetensors", "best.safetensors", "metrics.jsonl"] {
        let read = |f: &RunFolder| std::fs::read(f.path().join(file)).unwrap();
        assert_eq!(read(&whole), read(&parts), "{file}");
    }
    let c = checkpoint::load(&whole.last(), &Device::flex()).unwrap();
    assert_eq!(c.training["metrics"]["epoch"], config.epochs);
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |name: &str, seed| {
        let folder = RunFolder::new(dir.path().join(name));
        let config = TrainConfig {
            epochs: 1,
            ema: None,
            seed,
            ..config()
        };
        run(&folder, &config, &mut StopAfter(1000, vec![]));
        let c = checkpoint::load(&folder.last(), &Device::flex()).unwrap();
        c.net.linear.weight.val().into_data()
    };
    let a = bytes("a", 1);
    assert_eq!(a, bytes("b", 1));
    assert_ne!(a, bytes("c", 2));
}

#[test]
fn another_configuration_is_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = RunFolder::new(dir.path());
    run(&folder, &config(), &mut StopAfter(2, vec![]));
    let other = TrainConfig {
        epochs: 3,
        ..config()
    };
    let info = test_data::info("resnet8", Shortcut::B);
    let e = train(
        &other,
        &info,
        &data(),
        &folder,
        &[Device::flex()],
        &mut StopAfter(9, vec![]),
    );
    let e = e.unwrap_err().to_string();
    assert!(
        e.contains("state.safetensors") && e.contains("hyperparameters"),
        "{e}"
    );
}

#[test]
fn senseless_configurations_are_named() {
    type Change = fn(&mut TrainConfig);
    let bad: [(&str, Change); 4] = [
        ("epochs", |c| c.epochs = 0),
        ("batch", |c| c.batch = 1),
        ("learning rate", |c| c.learning_rate = f64::NAN),
        ("EMA", |c| c.ema = Some(1.0)),
    ];
    for (name, change) in bad {
        let mut c = config();
        change(&mut c);
        let e = c.validate().unwrap_err().to_string();
        assert!(e.contains(name), "{e}");
    }
    assert!(
        config()
            .steps_per_epoch(15)
            .unwrap_err()
            .to_string()
            .contains("--batch")
    );
}

#[test]
fn the_loss_falls() {
    let dir = tempfile::tempdir().unwrap();
    let config = TrainConfig {
        epochs: 8,
        ema: None,
        label_smoothing: 0.0,
        ..config()
    };
    let done = run(
        &RunFolder::new(dir.path()),
        &config,
        &mut StopAfter(10_000, vec![]),
    );
    let (first, last) = (&done.epochs[0], &done.epochs[7]);
    assert!(
        last.train_loss < first.train_loss * 0.9,
        "{first:?} {last:?}"
    );
}

#[test]
fn two_devices_learn_as_one_does_and_the_same_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = TrainConfig {
        epochs: 6,
        batch: 32,
        ..config()
    };
    let info = test_data::info("resnet8", Shortcut::B);
    let run = |name: &str, devices: usize, steps: usize| {
        let folder = RunFolder::new(dir.path().join(name));
        let devices = vec![Device::flex(); devices];
        let mut monitor = StopAfter(steps, vec![]);
        train(&config, &info, &data(), &folder, &devices, &mut monitor)
    };
    let losses = |name: &str, devices: usize| -> Vec<f64> {
        let done = run(name, devices, 10_000).unwrap();
        done.epochs.iter().map(|e| e.train_loss).collect()
    };
    let (one, two) = (losses("one", 1), losses("two", 2));
    // Batch normalization sees halves of the batch: nearly the same, not quite.
    assert_ne!(one, two);
    for (one, two) in one.iter().zip(&two) {
        assert!((one - two).abs() < 0.1 * one, "{one} {two}");
    }
    // Again, and stopped in between; with another number of devices it cannot go on.
    assert!(!run("again", 2, 5).unwrap().finished);
    let e = run("again", 1, 10_000).unwrap_err().to_string();
    assert!(e.contains("number of devices"), "{e}");
    assert_eq!(two, losses("again", 2));
    let bytes = |name: &str| std::fs::read(dir.path().join(name).join("last.safetensors"));
    assert_eq!(bytes("two").unwrap(), bytes("again").unwrap());
}

#[test]
fn a_batch_that_cannot_be_shared_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let info = test_data::info("resnet8", Shortcut::B);
    for devices in [0, 3, 16] {
        let e = train(
            &config(),
            &info,
            &data(),
            &RunFolder::new(dir.path()),
            &vec![Device::flex(); devices],
            &mut StopAfter(9, vec![]),
        );
        assert!(e.unwrap_err().to_string().contains("device"), "{devices}");
    }
}
