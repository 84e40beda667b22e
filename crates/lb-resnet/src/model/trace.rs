//! What a forward pass shows to those who look inside.

use burn::tensor::Tensor;

/// Which value of a network is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// What a convolution or linear layer is given.
    LayerInput,
    /// The real-valued output of a convolution or linear layer, before its activation.
    Layer,
    /// What an activation is given.
    ActInput,
    /// What it makes of it; of a quantized one, values on its grid.
    ActOutput,
}

/// Receives a value's kind, the path of its layer or activation, and the value `[N, C, H, W]`;
/// gives the value that the network goes on with, which is the same one for who only looks.
pub type Trace<'a> = &'a mut dyn FnMut(Seen, &str, Tensor<4>) -> Tensor<4>;

/// Who looks inside, if anybody does. Where nobody does, parts are computed together.
pub(super) enum Look<'a> {
    Nobody,
    Trace(Trace<'a>),
}

impl Look<'_> {
    pub fn is_nobody(&self) -> bool {
        matches!(self, Self::Nobody)
    }

    /// Shows a value; that which the network goes on with.
    pub fn see(&mut self, seen: Seen, name: &str, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Nobody => x,
            Self::Trace(trace) => trace(seen, name, x),
        }
    }
}
