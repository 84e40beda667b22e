//! A convolution followed by batch normalization, as it is trained.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use crate::batch_norm::batch_norm;
use crate::layer::Conv;

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

/// `bn(conv(x))`; batch statistics while training (autodiff device and training mode), running
/// statistics otherwise.
#[derive(Module, Debug)]
pub struct ConvBn {
    /// Weight `[C_out, C_in, k, k]`, no bias.
    pub conv: Conv2d,
    /// Parameters and statistics `[C_out]`.
    pub bn: BatchNorm,
}

impl Conv for ConvBn {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        batch_norm(&self.bn, Conv::forward(&self.conv, x))
    }
}
