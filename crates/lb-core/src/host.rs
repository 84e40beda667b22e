//! Flex tensors as slices, for operators of our own on the CPU.
//!
//! Burn's operators go through memory once each; on a CPU that, and not arithmetic, is what a
//! quantized network's training spends its time on. An operator that does in one pass what takes
//! Burn ten reads the slice, writes a slice, and comes back as a tensor. Every such operator has
//! a form in Burn's own operators beside it, for all other devices, and a test that compares them.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{DType, Tensor, TensorData};

/// The primitive of a float tensor on [`Flex`].
pub type FlexTensor = FloatTensor<Flex>;
/// The same with its place in the graph that gradients flow back through.
pub type TrackedTensor = FloatTensor<Autodiff<Flex>>;

/// A tensor on the CPU, without or with gradients.
pub enum OnHost {
    /// Without.
    Plain(FlexTensor),
    /// With.
    Tracked(TrackedTensor),
}

/// `x` as an `f32` tensor on the CPU; `None` if it is on another device or of another type.
pub fn on_host<const D: usize>(x: &Tensor<D>) -> Option<OnHost> {
    if x.dtype() != DType::F32 {
        return None;
    }
    // The device says whether gradients are tracked, so only one of the two can succeed.
    if x.device().is_autodiff() {
        let tracked = x.clone().try_into_primitive::<Autodiff<Flex>>();
        return tracked.ok().map(OnHost::Tracked);
    }
    x.clone()
        .try_into_primitive::<Flex>()
        .ok()
        .map(OnHost::Plain)
}

/// Its elements, row after row.
///
/// # Panics
/// If they are not contiguous (`to_contiguous`).
pub fn values(x: &FlexTensor) -> &[f32] {
    x.as_slice::<f32>().expect("the tensor is contiguous")
}

/// A tensor of `values`.
pub fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// `x` rounded to the nearest integer, ties to even, for `|x| ≤ 2²²`.
///
/// `f32::round_ties_even` is a function call on processors older than SSE 4.1, which is what a
/// portable build is compiled for. Adding 1.5 · 2²³ leaves no bits below one, so the addition
/// itself rounds, by the rule of all IEEE arithmetic; a compiler turns that into vectors.
#[inline]
pub fn round(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0;
    (x + SHIFT) - SHIFT
}

#[cfg(test)]
mod tests {
    #[test]
    fn rounds_half_to_even() {
        for i in -300_000i32..300_000 {
            let x = i as f32 * 0.125;
            assert_eq!(super::round(x), x.round_ties_even(), "{x}");
        }
    }
}
