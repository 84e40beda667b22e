//! Architectures by name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How a block's shortcut changes shape (He et al. 2015, arXiv 1512.03385, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shortcut {
    /// Subsample, and pad the channels with zeros; no parameters.
    A,
    /// 1×1 convolution.
    B,
}

impl fmt::Display for Shortcut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

impl FromStr for Shortcut {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "a" | "A" => Ok(Self::A),
            "b" | "B" => Ok(Self::B),
            _ => Err(format!(
                "shortcut `{s}` is unknown: use a (pad) or b (1×1 convolution)"
            )),
        }
    }
}

/// A CIFAR ResNet: stages of basic blocks over 32×32 images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arch {
    /// Its name, e.g. `resnet20`.
    pub name: &'static str,
    /// Channels of each stage.
    pub widths: &'static [usize],
    /// Blocks of each stage; the first block of every stage but the first halves the image.
    pub blocks: &'static [usize],
    /// Padding of the first convolution.
    pub stem_padding: usize,
    /// The shortcut it has unless told otherwise.
    pub default_shortcut: Shortcut,
}

const fn cifar(name: &'static str, blocks: &'static [usize]) -> Arch {
    Arch {
        name,
        widths: &[16, 32, 64],
        blocks,
        stem_padding: 1,
        default_shortcut: Shortcut::A,
    }
}

impl Arch {
    /// All architectures.
    pub const ALL: [Self; 7] = [
        cifar("resnet8", &[1, 1, 1]),
        cifar("resnet20", &[3, 3, 3]),
        cifar("resnet32", &[5, 5, 5]),
        cifar("resnet44", &[7, 7, 7]),
        cifar("resnet56", &[9, 9, 9]),
        cifar("resnet110", &[18, 18, 18]),
        Self {
            name: "resnet20-wide",
            widths: &[64, 128, 256, 512],
            blocks: &[2, 2, 3, 2],
            stem_padding: 0,
            default_shortcut: Shortcut::B,
        },
    ];

    /// Channels of the last stage, which the linear layer reads.
    pub fn features(&self) -> usize {
        *self.widths.last().expect("every architecture has a stage")
    }

    /// `(stage, block within the stage, C_in, C_out, stride)` of every block, in order.
    pub fn block_plan(&self) -> Vec<(usize, usize, usize, usize, usize)> {
        let mut plan = Vec::new();
        let mut c_in = self.widths[0];
        for (stage, (&width, &blocks)) in self.widths.iter().zip(self.blocks).enumerate() {
            for block in 0..blocks {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                plan.push((stage, block, c_in, width, stride));
                c_in = width;
            }
        }
        plan
    }
}

/// A name that is not in [`Arch::ALL`].
#[derive(Debug, thiserror::Error)]
#[error("architecture `{0}` is unknown: use one of {known}", known = Arch::ALL.map(|a| a.name).join(", "))]
pub struct UnknownArch(pub String);

impl FromStr for Arch {
    type Err = UnknownArch;
    fn from_str(s: &str) -> Result<Self, UnknownArch> {
        let found = Self::ALL.into_iter().find(|a| a.name == s);
        found.ok_or_else(|| UnknownArch(s.into()))
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
