//! What tests share: those of this crate, and integration tests that include this file. Whoever
//! includes it has `lb_resnet::model` in scope as `model`.

use burn::module::{Module, Param, RunningState};
use burn::tensor::{Device, Distribution, Tensor};
use lb_data::{DataSource, ImageSet, Split, SyntheticConfig};
use lb_format::NetworkInfo;

use super::model::{Arch, FloatNet, Shortcut};

/// Metadata of a ten-class network.
pub fn info(arch: &str, shortcut: Shortcut) -> NetworkInfo {
    NetworkInfo {
        arch: arch.into(),
        shortcut: shortcut.to_string(),
        classes: (0..10).map(|c| format!("class {c}")).collect(),
        mean: [0.5; 3],
        std: [0.25; 3],
        trained_on: String::new(),
    }
}

/// A network whose batch normalizations have something to fold.
pub fn network(arch: Arch, shortcut: Shortcut, device: &Device) -> FloatNet {
    let mut net = FloatNet::init(arch, shortcut, 10, 1, device);
    device.seed(11);
    let random = |n: usize, lo, hi| Tensor::<1>::random([n], Distribution::Uniform(lo, hi), device);
    let randomize = |c: &mut lb_nn::ConvBn| {
        let n = c.bn.gamma.val().dims()[0];
        c.bn.gamma = Param::from_tensor(random(n, 0.5, 1.2));
        c.bn.beta = Param::from_tensor(random(n, -0.3, 0.3));
        c.bn.running_mean = RunningState::new(random(n, -0.5, 0.5));
        c.bn.running_var = RunningState::new(random(n, 0.5, 2.0));
    };
    randomize(&mut net.stem);
    for b in &mut net.blocks {
        randomize(&mut b.conv1);
        randomize(&mut b.conv2);
        if let Some(c) = &mut b.shortcut {
            randomize(c);
        }
    }
    net.valid()
}

/// Images to calibrate on.
pub fn calibration_images(n: usize) -> ImageSet {
    let config = SyntheticConfig {
        train: n,
        test: 1,
        ..Default::default()
    };
    DataSource::synthetic(config).load(Split::Train).unwrap()
}
