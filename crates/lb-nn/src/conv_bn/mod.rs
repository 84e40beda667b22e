//! A convolution followed by batch normalization, and by a ReLU if there is one, as it is trained.
//!
//! In training on the CPU they are one operator. Statistics are gathered from outputs of the convolution while they
//! are in the cache, and one pass over memory makes normalized outputs; the gradient of the convolution's
//! outputs is made a few images at a time, right before the convolution's backward pass reads it. On
//! other devices they are Burn's.

#[cfg_attr(not(feature = "flex"), allow(dead_code))]
mod group;
#[cfg(feature = "flex")]
mod passes;
#[cfg(feature = "flex")]
mod tracked;

pub use group::Group;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use crate::layer::{Act, Conv};
use crate::pointwise::relu;

/// Geometry of a square convolution, the same along both axes.
#[derive(Clone, Copy, Debug)]
pub struct ConvBnConfig {
    /// `[C_in, C_out]`
    pub channels: [usize; 2],
    /// Kernel height and width.
    pub kernel: usize,
    /// Step between output positions.
    pub stride: usize,
    /// Zeros added on every side.
    pub padding: usize,
}

impl ConvBnConfig {
    /// Convolution without bias (He et al. 2015 normal initialisation) and batch normalization.
    pub fn init(&self, device: &Device) -> ConvBn {
        let gain = 2f64.sqrt();
        ConvBn {
            conv: Conv2dConfig::new(self.channels, [self.kernel; 2])
                .with_stride([self.stride; 2])
                .with_padding(PaddingConfig2d::Explicit(
                    self.padding,
                    self.padding,
                    self.padding,
                    self.padding,
                ))
                .with_bias(false)
                .with_initializer(Initializer::KaimingNormal {
                    gain,
                    fan_out_only: false,
                })
                .init(device),
            bn: BatchNormConfig::new(self.channels[1]).init(device),
        }
    }
}

/// `bn(conv(x))`, with
///
/// ```text
/// bn(y) = γ · (y − μ) / √(σ² + ε) + β
/// ```
///
/// and mean μ and (biased) variance σ² over images and positions. While training (a device that tracks
/// gradients, and the layer in training mode) they are those of the batch, and the layer's running
/// statistics move towards them; else they are the running ones. A batch on the CPU may pass in pieces
/// ([`Group`]).
///
/// # Panics
/// In a piece of a batch, if the convolution is not square, or dilated, or grouped, or has a bias.
#[derive(Module, Debug)]
pub struct ConvBn {
    /// Weight `[C_out, C_in, k, k]`, no bias.
    pub conv: Conv2d,
    /// Parameters and statistics `[C_out]`.
    pub bn: BatchNorm,
}

impl ConvBn {
    fn normalized(&self, x: Tensor<4>, with_relu: bool) -> Tensor<4> {
        #[cfg(feature = "flex")]
        if let Some(z) = tracked::forward(self, &x, with_relu) {
            return z;
        }
        let z = self.bn.forward(Conv::forward(&self.conv, x));
        match with_relu {
            true => relu(z),
            false => z,
        }
    }
}

impl Conv for ConvBn {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.normalized(x, false)
    }

    fn forward_then<A: Act>(&self, act: &A, x: Tensor<4>) -> Tensor<4> {
        match act.is_relu() {
            true => self.normalized(x, true),
            false => act.forward(self.forward(x)),
        }
    }
}

#[cfg(test)]
mod tests;
