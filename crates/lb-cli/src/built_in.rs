//! Networks that are part of `lb`; `artifacts/README.md` says how each was made.

use std::path::{Path, PathBuf};

use lb_data::DEFAULT_PATH;

/// A file of `artifacts/`.
macro_rules! artifact {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../../../artifacts/", $name)))
    };
}

/// A name and bytes.
pub type Artifact = (&'static str, &'static [u8]);

/// A float network and packed ones that were made from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltIn {
    /// Of the synthetic images, which need no file.
    Synthetic,
    /// Of CIFAR-10.
    Cifar10,
}

impl BuiltIn {
    /// The one for `data` as typed, or for what lies in the default place.
    pub fn of(data: Option<&str>) -> Self {
        match data {
            Some("synthetic") => Self::Synthetic,
            Some(_) => Self::Cifar10,
            None if Path::new(DEFAULT_PATH).exists() => Self::Cifar10,
            None => Self::Synthetic,
        }
    }

    /// The float network.
    pub fn float(self) -> Artifact {
        match self {
            Self::Synthetic => artifact!("demo-resnet20.safetensors"),
            Self::Cifar10 => artifact!("cifar10-resnet20.safetensors"),
        }
    }

    /// Packed networks.
    pub fn packed(self) -> &'static [Artifact] {
        match self {
            Self::Synthetic => &[],
            Self::Cifar10 => &[
                artifact!("cifar10-resnet20-w1a1.lbq"),
                artifact!("cifar10-resnet20-w2a2.lbq"),
                artifact!("cifar10-resnet20-w4a4.lbq"),
                artifact!("cifar10-resnet20-w8a8.lbq"),
            ],
        }
    }

    /// Where packed files go that are made of it.
    pub fn folder(self) -> PathBuf {
        Path::new("runs").join(match self {
            Self::Synthetic => "demo",
            Self::Cifar10 => "built-in-cifar10",
        })
    }

    /// For people.
    pub fn described(self) -> &'static str {
        match self {
            Self::Synthetic => "built-in demo network",
            Self::Cifar10 => "built-in CIFAR-10 network",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use lb_resnet::checkpoint;

    #[test]
    fn every_file_can_be_read_and_belongs_to_its_network() {
        for which in [BuiltIn::Synthetic, BuiltIn::Cifar10] {
            let (name, bytes) = which.float();
            let device = Device::flex();
            let float = checkpoint::from_bytes(Path::new(name), bytes.to_vec(), &device).unwrap();
            for (name, bytes) in which.packed() {
                let packed = lb_format::file::from_bytes(bytes).unwrap();
                assert_eq!(packed.info, float.info, "{name}");
            }
        }
    }

    #[test]
    fn data_decides() {
        assert_eq!(BuiltIn::of(Some("synthetic")), BuiltIn::Synthetic);
        assert_eq!(BuiltIn::of(Some("datasets/other")), BuiltIn::Cifar10);
    }
}
