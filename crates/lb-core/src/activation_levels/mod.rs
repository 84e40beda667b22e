//! Activations of few bits whose levels are not equidistant: a table of small integers, fitted to what was
//! observed ([`fit`]), that an engine multiplies like codes of 7 bits.
//!
//! ```text
//! n = round_half_even(clamp(x / s, 0, last))        x̂ = s · level nearest to n
//! ```
//!
//! Most activations behind a ReLU are small: levels that lie densest there have less error than as many
//! equidistant ones (Lloyd 1982, *IEEE Trans. Inf. Theory* 28; Max 1960, *IRE Trans. Inf. Theory* 6).

mod fit;

use burn::tensor::Tensor;
use lb_format::{Levels, QParams};

#[cfg(feature = "flex")]
use crate::host::{self, FlexTensor, OnHost};
#[cfg(feature = "flex")]
use burn::backend::Flex;

pub use fit::fit;

/// Values a piece of work.
#[cfg(feature = "flex")]
const CHUNK: usize = 1 << 15;

/// Values that a table is gone through for at once.
pub(crate) const LANES: usize = 16;

/// A table whose first level is 0 as what it climbs, `level = Σ rise · [n > below]`: vector units add that up
/// without looking anything up.
#[derive(Clone, Debug, PartialEq)]
pub struct Climb {
    /// `(below, rise)`, ascending.
    steps: Vec<(f32, f32)>,
    last: f32,
}

impl Climb {
    /// Of levels from 0.
    pub fn of(levels: &Levels) -> Self {
        let rises = levels.as_slice().windows(2).map(|p| (p[1] - p[0]) as f32);
        Self {
            steps: levels.boundaries().zip(rises).collect(),
            last: levels.level(levels.range().hi) as f32,
        }
    }

    /// The last level.
    pub fn last(&self) -> f32 {
        self.last
    }

    /// The levels nearest to whole numbers of steps; what is not a number stays none.
    #[inline(always)]
    pub(crate) fn levels<const N: usize>(&self, n: [f32; N]) -> [f32; N] {
        // Zero, or not a number.
        let mut levels = n.map(|n| n * 0.0);
        for &(below, rise) in &self.steps {
            for (level, n) in levels.iter_mut().zip(n) {
                *level += if n > below { rise } else { 0.0 };
            }
        }
        levels
    }

    /// The same in Burn's operators.
    pub(crate) fn levels_of<const D: usize>(&self, n: Tensor<D>) -> Tensor<D> {
        let zero = n.clone() * 0.0;
        (self.steps.iter()).fold(zero, |levels, &(below, rise)| {
            levels + n.clone().greater_scalar(below).float() * rise
        })
    }
}

/// `x` on the levels of `q`, with a straight-through gradient where the tensor tracks one, 0 where `x` is
/// clipped ([`affine::fake_quantize`](crate::affine::fake_quantize) of equidistant levels).
///
/// # Shapes
/// `x`: any. Output: as `x`.
///
/// # Panics
/// If `q` has no levels.
pub fn fake_quantize<const D: usize>(x: Tensor<D>, q: &QParams) -> Tensor<D> {
    let climb = Climb::of(q.levels.as_ref().expect("levels"));
    let scale = q.channel(0).scale;
    #[cfg(feature = "flex")]
    if let Some(OnHost::Plain(host)) = host::on_host(&x) {
        drop(x);
        return Tensor::from_primitive::<Flex>(on_cpu(host, scale, &climb));
    }
    let n = x.div_scalar(scale).clamp(0.0, climb.last());
    let levels = climb.levels_of(n.clone().detach().round());
    ((levels - n.clone()).detach() + n).mul_scalar(scale)
}

/// In place where nobody else holds `x`.
#[cfg(feature = "flex")]
fn on_cpu(x: FlexTensor, scale: f32, climb: &Climb) -> FlexTensor {
    host::map_pieces(x, CHUNK, |_, x| {
        host::vectorized(
            #[inline(always)]
            || {
                let (blocks, rest) = x.as_chunks_mut::<LANES>();
                blocks.iter_mut().for_each(|x| on_levels(x, scale, climb));
                let rest = rest.as_chunks_mut::<1>().0;
                rest.iter_mut().for_each(|x| on_levels(x, scale, climb));
            },
        );
    })
}

#[cfg(feature = "flex")]
#[inline(always)]
fn on_levels<const N: usize>(x: &mut [f32; N], scale: f32, climb: &Climb) {
    let n = x.map(|x| host::round(host::clamp(x / scale, 0.0, climb.last())));
    *x = climb.levels(n).map(|level| level * scale);
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};
    use lb_format::{Affine, BitWidth};

    fn params(levels: &[i32], scale: f32) -> QParams {
        let affine = Affine {
            scale,
            zero_point: 0,
            offset: 0.0,
        };
        let mut q = QParams::per_tensor(BitWidth::new(4).unwrap(), false, affine);
        q.levels = Some(Levels::new(levels.to_vec()).unwrap());
        q
    }

    #[test]
    fn values_are_those_of_the_formula_with_and_without_gradients() {
        let device = Device::flex();
        let q = params(&[0, 1, 3, 4, 9, 20, 127], 0.125);
        let levels = q.levels.as_ref().unwrap();
        let normal = Distribution::Normal(1.0, 4.0);
        let x = Tensor::<2>::random([17, 19], normal, &device);
        let expected: Vec<f32> = (x.clone().try_into_vec_as::<f32>().unwrap().into_iter())
            .map(|x| 0.125 * levels.level(levels.nearest_to_whole(x / 0.125)) as f32)
            .collect();
        let plain: Vec<f32> = fake_quantize(x.clone(), &q).try_into_vec_as().unwrap();
        assert_eq!(plain, expected);
        let tracked = x.clone().autodiff().require_grad();
        let y = fake_quantize(tracked.clone(), &q);
        let dx = tracked.grad(&y.clone().sum().backward()).unwrap();
        let y: Vec<f32> = y.try_into_vec_as().unwrap();
        assert!(y.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5));
        let inside = x.clone().greater_scalar(0.0).float() * x.lower_scalar(127.0 * 0.125).float();
        assert_eq!(dx.into_data(), inside.into_data());
    }

    #[test]
    fn ties_and_what_is_no_number() {
        let q = params(&[0, 1, 4], 1.0);
        let x = [0.5f32, 1.5, 2.5, 2.6, 9.0, -1.0, f32::NAN];
        let x = Tensor::<1>::from_data(x, &Device::flex());
        let y: Vec<f32> = fake_quantize(x, &q).try_into_vec_as().unwrap();
        assert_eq!(y[..6], [0.0, 1.0, 1.0, 4.0, 4.0, 0.0]);
        assert!(y[6].is_nan());
    }
}
