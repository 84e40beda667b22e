//! The convolution that every stage computes with.
//!
//! On the CPU it is ours: images in parallel, Winograd's algorithm for 3×3 at stride 1, planes of even
//! and odd rows and columns for 3×3 at stride 2, and else each image unrolled to a matrix that stays in the cache, and the backward pass in the same form. On
//! other devices it is Burn's.

#[cfg(feature = "flex")]
pub(crate) mod cpu;
#[cfg(feature = "flex")]
mod tracked;

use std::cell::Cell;

use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::Tensor;
use burn::tensor::ops::ConvOptions;
use lb_core::CoreError;
use lb_core::compensate::{LayerMoments, columns};

/// Step and border of a square convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Distance of neighbouring output positions, in input positions.
    pub stride: usize,
    /// Zeros added on every side.
    pub padding: usize,
}

impl Geometry {
    /// That of a Burn convolution; `None` if it is not square, or dilated, or grouped.
    pub fn of(conv: &Conv2d) -> Option<Self> {
        let PaddingConfig2d::Explicit(padding, a, b, c) = conv.padding else {
            return None;
        };
        let [_, _, height, width] = conv.weight.val().dims();
        let square = height == width
            && conv.stride[0] == conv.stride[1]
            && [a, b, c] == [padding; 3]
            && conv.dilation == [1, 1]
            && conv.groups == 1;
        let stride = conv.stride[0];
        square.then_some(Self { stride, padding })
    }
}

/// How the products of a sum are added up on the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Whatever is fastest.
    Any,
    /// Whatever is fastest, of factors that may be rounded to bfloat16.
    AnyBf16,
    /// One after the other.
    InTurn,
}

impl Order {
    /// As [`in_bf16`] says.
    pub(crate) fn fastest() -> Self {
        match BF16.get() {
            true => Self::AnyBf16,
            false => Self::Any,
        }
    }
}

thread_local! {
    static BF16: Cell<bool> = const { Cell::new(false) };
}

/// Whether this processor multiplies bfloat16 faster than `f32`, by AMX, and converts to it (AVX-512).
pub fn has_bf16() -> bool {
    #[cfg(all(feature = "flex", target_arch = "x86_64"))]
    return lb_bf16::AmxBf16::detect().is_some();
    #[cfg(not(all(feature = "flex", target_arch = "x86_64")))]
    false
}

/// `f`, in which [`conv2d`] and [`ConvBn`](crate::ConvBn) on the CPU, and their backward passes, if `wanted` round their factors to
/// bfloat16 where that is faster: 3×3 convolutions at stride 1, of multiples of 16 channels. Products are added in
/// `f32`. Made for training (Micikevicius et al. 2017, arXiv 1710.03740; with an exponent as of `f32`
/// losses need no scale: Kalamkar et al. 2019, arXiv 1905.12322).
pub fn in_bf16<R>(wanted: bool, f: impl FnOnce() -> R) -> R {
    /// Sets it back, also when `f` panics.
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            BF16.set(self.0);
        }
    }
    let _before = Before(BF16.replace(wanted));
    f()
}

/// ```text
/// y[n, o, p] = bias[o] + Σ_{i, k} weight[o, i, k] · x[n, i, stride · p + k − padding]
/// ```
///
/// # Shapes
/// - `x`: `[N, C_in, H, W]`
/// - `weight`: `[C_out, C_in, k, k]`
/// - `bias`: `[C_out]`
/// - output: `[N, C_out, H', W']` with `H' = (H + 2 · padding − k) / stride + 1`
///
/// # Panics
/// If the shapes do not fit.
pub fn conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    geometry: Geometry,
) -> Tensor<4> {
    ordered(x, weight, bias, geometry, Order::fastest())
}

/// The same for a simulation, which rounds sums to codes: product by product, as an integer engine
/// adds them. [`conv2d`] may transform its inputs first, which is faster, and rounds several times as
/// much as adding does.
pub fn conv2d_in_turn(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    geometry: Geometry,
) -> Tensor<4> {
    ordered(x, weight, bias, geometry, Order::InTurn)
}

fn ordered(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    geometry: Geometry,
    order: Order,
) -> Tensor<4> {
    #[cfg(feature = "flex")]
    if let Some(y) = tracked::conv2d(&x, &weight, bias.as_ref(), geometry, order) {
        return y;
    }
    let _ = order;
    let options = ConvOptions::new([geometry.stride; 2], [geometry.padding; 2], [1; 2], 1);
    burn::tensor::module::conv2d(x, weight, bias, options)
}

/// Adds to `moments` what a convolution of this `kernel` size is given, `x`, and what a float one
/// made of its own inputs, `y`, both as in [`conv2d`].
///
/// # Errors
/// If they cannot be read from their device.
pub(crate) fn gather(
    moments: &mut LayerMoments,
    x: Tensor<4>,
    y: Tensor<4>,
    kernel: usize,
    geometry: Geometry,
) -> Result<(), CoreError> {
    #[cfg(feature = "flex")]
    if let Some(sums) = tracked::sums(&x, &y, kernel, geometry) {
        moments.add_sums(&sums);
        return Ok(());
    }
    let x = columns(x, kernel, geometry.stride, geometry.padding);
    moments.add(x, y.swap_dims(0, 1).flatten(1, 3))
}

#[cfg(test)]
mod tests;
