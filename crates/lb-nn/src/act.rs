//! Activations of a float network.

use burn::module::Module;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::layer::Act;
use crate::pointwise::relu;

/// What an activation computes before anything is observed or quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nonlinearity {
    /// `x`; the place exists because a later stage quantizes there.
    Identity,
    /// `max(x, 0)`
    Relu,
}

impl Nonlinearity {
    /// Applies it, to any shape.
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Identity => x,
            Self::Relu => relu(x),
        }
    }
}

/// An activation of a float network: the nonlinearity alone.
#[derive(Module, Debug)]
pub struct FloatAct {
    /// What it computes.
    #[module(skip)]
    pub nonlinearity: Nonlinearity,
}

impl FloatAct {
    /// An activation that computes `nonlinearity`.
    pub fn new(nonlinearity: Nonlinearity) -> Self {
        Self { nonlinearity }
    }
}

impl Act for FloatAct {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.nonlinearity.apply(x)
    }

    fn is_relu(&self) -> bool {
        self.nonlinearity == Nonlinearity::Relu
    }
}
