//! Layers of a network at each stage of its way from float to integers.
//!
//! A stage is a type. The same topology holds, in turn:
//!
//! | stage | convolution | activation | linear |
//! |---|---|---|---|
//! | trained | [`ConvBn`] | [`FloatAct`] | [`Linear`](burn::nn::Linear) |
//! | folded | [`Conv2d`](burn::nn::conv::Conv2d) | [`FloatAct`] | `Linear` |
//! | observed | `Conv2d` | [`ObservedAct`] | `Linear` |
//! | quantized | [`QuantConv2d`] | [`QuantAct`] | [`QuantLinear`] |
//! | learned | [`LearnedConv2d`](learned::LearnedConv2d) | [`LearnedAct`](learned::LearnedAct) | [`LearnedLinear`](learned::LearnedLinear) |
//!
//! where learned layers become quantized ones again; so that folding twice, or evaluating a half-quantized network, does not compile. What a
//! topology needs to know of its parts are the three traits in [`layer`].
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use lb_core::{Granularity, QScheme, Symmetry, weight::{self, WeightRule}};
//! use lb_nn::{ConvBnConfig, QuantConv2d, fold, layer::Conv};
//! use lb_format::BitWidth;
//!
//! let device = Device::flex();
//! let conv_bn = ConvBnConfig { channels: [3, 8], kernel: 3, stride: 1, padding: 1 }.init(&device);
//! let x = Tensor::<4>::ones([1, 3, 8, 8], &device);
//! let y = conv_bn.forward(x.clone());
//!
//! let conv = fold::fold(conv_bn);
//! let scheme = QScheme::weight(BitWidth::EIGHT, Symmetry::Symmetric, Granularity::PerChannel);
//! let qparams = weight::qparams(conv.weight.val(), scheme, WeightRule::Mse)?;
//! let quantized = QuantConv2d::quantize(conv, Some(qparams));
//! let error = (quantized.forward(x) - y.clone()).abs().max() / y.abs().max();
//! assert!(error.into_scalar::<f32>() < 0.02);
//! # Ok::<(), lb_core::CoreError>(())
//! ```

mod act;
mod compensate;
pub mod conv2d;
mod conv_bn;
pub mod correct;
pub mod fold;
pub mod layer;
pub mod learned;
mod observed;
mod pad_shortcut;
pub mod pointwise;
mod quant_act;
mod quant_conv2d;
mod quant_linear;
mod quant_weight;

pub use act::{FloatAct, Nonlinearity};
pub use conv_bn::{ConvBn, ConvBnConfig, Group};
pub use observed::ObservedAct;
pub use pad_shortcut::pad_shortcut;
pub use quant_act::QuantAct;
pub use quant_conv2d::QuantConv2d;
pub use quant_linear::{QuantLinear, out_in};
