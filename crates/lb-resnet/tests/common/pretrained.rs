//! Networks that others trained and images that they know, from the shared data.

use burn::tensor::Device;
use lb_data::{CIFAR10_CLASSES, ImageSet, Normalization, Split};
use lb_resnet::checkpoint::{self, Checkpoint, ImportRequest};
use lb_resnet::model::Shortcut;

use super::shared::shared;

/// How the published CIFAR ResNets are imported.
pub fn request(arch: &str) -> ImportRequest {
    ImportRequest {
        arch: arch.parse().unwrap(),
        shortcut: Shortcut::A,
        classes: CIFAR10_CLASSES.map(str::to_string).to_vec(),
        mean: Normalization::IMAGENET.mean,
        std: Normalization::IMAGENET.std,
    }
}

/// One of them; `None`, and `test` says that it is skipped, where there is no shared data.
pub fn import(test: &str, arch: &str, file: &str) -> Option<Checkpoint> {
    let path = shared(test, &format!("pretrained/{file}"))?;
    Some(checkpoint::import(&path, &request(arch), &Device::flex()).unwrap())
}

/// Images of the original CIFAR-10.
pub fn clean(test: &str, split: Split) -> Option<ImageSet> {
    let path = shared(test, "cifar10-clean")?;
    Some(lb_data::load(path.to_str().unwrap(), split).unwrap())
}
