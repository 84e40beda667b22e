//! Activation quantization whose step is learned, with some values left unquantized.
//!
//! ```text
//! k = round_half_even(clamp(x / s, lo, hi))        ŷ = s · k
//! ```
//!
//! with `lo` and `hi` the ends of the code range less the zero point. With a table of levels k is the level
//! nearest to that whole number ([`activation_levels`](crate::activation_levels)). The gradients are those of
//! LSQ (Esser et al. 2020, arXiv 1902.08153), whose step is learned by how far rounding and
//! clipping miss:
//!
//! ```text
//! ∂ŷ/∂x = 1 inside the range, 0 outside
//! ∂ŷ/∂s = k − x / s inside, lo below, hi above
//! ```
//!
//! QDrop (Wei et al. 2022, arXiv 2203.05740) passes a random part of the values on unquantized,
//! which keeps reconstruction from fitting the noise of the calibration images.
//!
//! On the CPU both directions are one pass over memory; elsewhere they are Burn's operators.

#[cfg(feature = "flex")]
mod cpu;

use burn::tensor::{Tensor, TensorData};
use lb_format::QParams;

use crate::activation_levels::Climb;

/// What is fixed while the step is learned.
#[derive(Clone, Debug, PartialEq)]
pub struct StepRange {
    /// Lowest code less the zero point, or the first level.
    pub lo: f32,
    /// Highest code less the zero point, or the last level.
    pub hi: f32,
    /// The levels in between, unless all whole numbers.
    pub climb: Option<Climb>,
    /// Whether negative inputs become zero first; then `lo` is 0.
    pub relu: bool,
}

impl StepRange {
    /// The range of per-tensor parameters.
    pub fn of(q: &QParams, relu: bool) -> Self {
        let (range, zero_point) = (q.range(), q.channel(0).zero_point);
        let climb = q.levels.as_ref().map(Climb::of);
        let (lo, hi) = match &climb {
            Some(climb) => (0.0, climb.last()),
            None => (
                (range.lo - zero_point) as f32,
                (range.hi - zero_point) as f32,
            ),
        };
        Self {
            lo,
            hi,
            climb,
            relu,
        }
    }
}

/// Which values pass unquantized: each with the same probability, decided by its index and a seed
/// alone, so that every device and every run drops the same ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drop {
    /// In 0..=1.
    pub probability: f32,
    /// A new one for every step and place.
    pub seed: u64,
}

impl Drop {
    /// Below which [`hash`] drops.
    fn threshold(self) -> u32 {
        (f64::from(self.probability.clamp(0.0, 1.0)) * f64::from(u32::MAX)) as u32
    }

    fn key(self) -> u32 {
        (self.seed ^ (self.seed >> 32)) as u32
    }
}

/// A 32-bit finalizer (after Wellons' `lowbias32`): every bit of the index moves every bit of the
/// result.
#[inline]
fn hash(index: u32, key: u32) -> u32 {
    let mut h = index ^ key.wrapping_mul(0x9E37_79B9);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15)).wrapping_mul(0x846C_A68B);
    h ^ (h >> 16)
}

/// The quantized `x`, with the gradients above.
///
/// # Shapes
/// - `x`: any
/// - `step`: `[1]`, positive
/// - output: as `x`
pub fn fake_quantize<const D: usize>(
    x: Tensor<D>,
    step: Tensor<1>,
    range: StepRange,
    drop: Option<Drop>,
) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if let Some(y) = cpu::fake_quantize(&x, &step, &range, drop) {
        return y;
    }
    composed(x, step, range, drop)
}

/// The same in Burn's own operators.
fn composed<const D: usize>(
    x: Tensor<D>,
    step: Tensor<1>,
    range: StepRange,
    drop: Option<Drop>,
) -> Tensor<D> {
    let x = match range.relu {
        true => burn::tensor::activation::relu(x),
        false => x,
    };
    let step = step.reshape([1; D]);
    let steps = (x.clone() / step.clone()).clamp(range.lo, range.hi);
    let whole = steps.clone().detach().round();
    let codes = match &range.climb {
        Some(climb) => climb.levels_of(whole),
        None => whole,
    };
    let rounded = (codes - steps.clone()).detach() + steps;
    let y = rounded * step;
    match drop {
        None => y,
        Some(drop) => {
            let (threshold, key) = (drop.threshold(), drop.key());
            let n = x.shape().num_elements() as u32;
            let mask: Vec<f32> = (0..n)
                .map(|i| f32::from(u8::from(hash(i, key) < threshold)))
                .collect();
            let mask = Tensor::from_data(TensorData::new(mask, x.shape()), &x.device());
            y.clone() + (x - y) * mask
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    const RELU: StepRange = StepRange {
        lo: 0.0,
        hi: 3.0,
        climb: None,
        relu: true,
    };
    const IMAGE: StepRange = StepRange {
        lo: -5.0,
        hi: 10.0,
        climb: None,
        relu: false,
    };

    fn levels() -> StepRange {
        let levels = lb_format::Levels::new(vec![0, 1, 2, 5, 9]).unwrap();
        StepRange {
            hi: 9.0,
            climb: Some(Climb::of(&levels)),
            ..RELU
        }
    }

    fn run(
        f: impl Fn(Tensor<4>, Tensor<1>) -> Tensor<4>,
        x: &Tensor<4>,
        step: f32,
    ) -> (Vec<f32>, Vec<f32>, f32) {
        let device = x.device().autodiff();
        let x = x.clone().autodiff().require_grad();
        let s = Tensor::<1>::from_data([step], &device).require_grad();
        let y = f(x.clone(), s.clone());
        // Weights the gradient by the value, so that it differs between places.
        let grads = (y.clone() * y.clone()).sum().backward();
        (
            y.try_into_vec_as().unwrap(),
            x.grad(&grads).unwrap().try_into_vec_as().unwrap(),
            s.grad(&grads).unwrap().into_scalar(),
        )
    }

    #[test]
    fn one_pass_is_the_composed_form() {
        let device = Device::flex();
        let x = Tensor::<4>::random([3, 5, 9, 11], Distribution::Normal(0.2, 1.5), &device);
        for range in [RELU, IMAGE, levels()] {
            for drop in [None, Some(0.0), Some(0.5), Some(1.0)] {
                let drop = drop.map(|probability| Drop {
                    probability,
                    seed: 42,
                });
                let a = run(|x, s| fake_quantize(x, s, range.clone(), drop), &x, 0.4);
                let b = run(|x, s| composed(x, s, range.clone(), drop), &x, 0.4);
                let close = |a: &[f32], b: &[f32]| {
                    a.iter()
                        .zip(b)
                        .all(|(a, b)| (a - b).abs() <= 1e-5 * (1.0 + b.abs()))
                };
                assert!(close(&a.0, &b.0), "values, {range:?} {drop:?}");
                assert!(close(&a.1, &b.1), "gradient of x, {range:?} {drop:?}");
                assert!(
                    (a.2 - b.2).abs() < 1e-4 * (1.0 + b.2.abs()),
                    "gradient of the step, {range:?} {drop:?}: {} and {}",
                    a.2,
                    b.2
                );
            }
        }
    }

    #[test]
    fn the_step_learns_from_rounding_and_clipping() {
        let x = Tensor::<4>::from_data([[[[-1.0f32, 0.3, 0.6, 1.4, 9.0]]]], &Device::flex());
        let (y, dx, ds) = run(|x, s| fake_quantize(x, s, RELU, None), &x, 1.0);
        assert_eq!(y, [0.0, 0.0, 1.0, 1.0, 3.0]);
        // Upstream gradient 2y; inside the range only.
        assert_eq!(dx, [0.0, 0.0, 2.0, 2.0, 0.0]);
        let expected = 2.0 * (1.0 - 0.6) + 2.0 * (1.0 - 1.4) + 6.0 * 3.0;
        assert!((ds - expected).abs() < 1e-5, "{ds} {expected}");
        let x = Tensor::<4>::from_data([[[[3.4f32, 3.6, 11.0]]]], &Device::flex());
        let (y, dx, ds) = run(|x, s| fake_quantize(x, s, levels(), None), &x, 1.0);
        assert_eq!(y, [2.0, 5.0, 9.0]);
        assert_eq!(dx, [4.0, 10.0, 0.0]);
        let expected = 4.0 * (2.0 - 3.4) + 10.0 * (5.0 - 3.6) + 18.0 * 9.0;
        assert!((ds - expected).abs() < 1e-4, "{ds} {expected}");
    }

    #[test]
    fn drops_as_many_as_asked_for_and_others_for_another_seed() {
        let x = Tensor::<4>::full([1, 1, 100, 100], 0.3, &Device::flex());
        let dropped = |seed| {
            let drop = Drop {
                probability: 0.3,
                seed,
            };
            run(|x, s| fake_quantize(x, s, RELU, Some(drop)), &x, 1.0).0
        };
        let (a, b) = (dropped(1), dropped(2));
        let share = a.iter().filter(|v| **v > 0.0).count() as f32 / 1e4;
        assert!((share - 0.3).abs() < 0.02, "{share}");
        let same = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f32 / 1e4;
        assert!((same - 0.58).abs() < 0.03, "{same}");
    }
}
