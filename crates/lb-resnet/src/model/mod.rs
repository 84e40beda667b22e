//! The networks: one topology, generic over the stage of its parts.

mod arch;
mod block;
mod init;
mod resnet;
mod site;
mod trace;
mod unit;

pub use arch::{Arch, Shortcut, UnknownArch};
pub use block::Block;
pub use resnet::{
    EvaluatedNet, FloatNet, FoldedNet, LearnedNet, ObservedNet, QuantNet, ResNet, Rewritten,
};
pub use site::{ActRole, ActSite, ConvRole, ConvSite, Rewrite};
pub use trace::{Seen, Trace};
pub use unit::{BlockUnit, HeadUnit, StemUnit, Unit};
