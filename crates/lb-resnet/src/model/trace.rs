//! What a forward pass shows to those who look inside.

use burn::tensor::Tensor;

/// Which value of a network is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The real-valued output of a convolution or linear layer, before its activation.
    Layer,
    /// What an activation is given.
    ActInput,
    /// What it makes of it; of a quantized one, values on its grid.
    ActOutput,
}

/// Receives a value's kind, the path of its layer or activation, and the value,
/// `[N, C, H, W]`. Shown by reference: looking copies nothing.
pub type Trace<'a> = &'a mut dyn FnMut(Seen, &str, &Tensor<4>);
