//! The networks: one topology, generic over the stage of its parts.

mod arch;
mod block;
mod init;
mod resnet;
mod site;
mod trace;

pub use arch::{Arch, Shortcut, UnknownArch};
pub use block::Block;
pub use resnet::{FloatNet, FoldedNet, ObservedNet, QuantNet, ResNet, Rewritten};
pub use site::{ActRole, ActSite, ConvRole, ConvSite, Rewrite};
pub use trace::{Seen, Trace};
