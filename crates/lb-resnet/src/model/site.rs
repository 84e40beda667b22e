//! The places of a network, and rewriting what stands there from one stage to the next.

use lb_nn::layer::{Act, Conv, Dense};

/// What a convolution is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConvRole {
    /// The first one, on the image: an edge layer.
    Stem,
    /// In a block.
    Body,
    /// A 1×1 shortcut.
    Shortcut,
}

/// What an activation feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActRole {
    /// The stem: this is the normalised image. An edge.
    Image,
    /// A block: this is the residual stream, which the shortcut carries on.
    Stream,
    /// The first convolution of a block, from the stream. Quantizes only where the stream has
    /// another width.
    BlockInput,
    /// The second convolution of a block.
    Inner,
    /// The pooling: the output of the last block. The pooling averages real values and its result
    /// is quantized, so this place is not.
    BeforePool,
    /// The final linear layer. An edge.
    Pooled,
}

/// A convolution's place.
#[derive(Clone, Debug)]
pub struct ConvSite {
    /// Path, e.g. `blocks.3.conv1`.
    pub name: String,
    /// What it is for.
    pub role: ConvRole,
    /// Path of the activation that feeds it.
    pub input: String,
}

/// An activation's place.
#[derive(Clone, Debug)]
pub struct ActSite {
    /// Path, e.g. `blocks.3.act1`.
    pub name: String,
    /// What it feeds.
    pub role: ActRole,
}

/// Turns the parts of one stage into those of the next, in order of execution.
pub trait Rewrite<C, A, L> {
    /// New convolutions.
    type Conv: Conv;
    /// New activations.
    type Act: Act;
    /// New linear layer.
    type Linear: Dense;
    /// What can go wrong.
    type Error;

    /// Turns a convolution.
    ///
    /// # Errors
    /// As the rewrite defines.
    fn conv(&mut self, site: &ConvSite, conv: C) -> Result<Self::Conv, Self::Error>;
    /// Turns an activation.
    ///
    /// # Errors
    /// As the rewrite defines.
    fn act(&mut self, site: &ActSite, act: A) -> Result<Self::Act, Self::Error>;
    /// Turns the linear layer `linear`, which the activation `pooled` feeds.
    ///
    /// # Errors
    /// As the rewrite defines.
    fn linear(&mut self, linear: L) -> Result<Self::Linear, Self::Error>;
}
