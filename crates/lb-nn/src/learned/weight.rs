//! A weight whose codes, scale and offset are learned.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, activation};
use lb_core::affine;
use lb_format::{Affine, FormatError, QParams};
use serde::{Deserialize, Serialize};

use super::Learning;

/// How real-valued latent codes become integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rounding {
    /// Rounded to the nearest at once, with the gradient passed straight through (LSQ, Esser et
    /// al. 2020, arXiv 1902.08153): codes may wander as far as they like.
    #[default]
    Straight,
    /// Between the two neighbouring codes by a rectified sigmoid that a regulariser drives to one
    /// of them (AdaRound, Nagel et al. 2020, arXiv 2004.10568).
    AdaRound,
}

impl std::str::FromStr for Rounding {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "straight" => Ok(Self::Straight),
            "adaround" => Ok(Self::AdaRound),
            _ => Err(format!(
                "rounding `{s}` is unknown: use straight or adaround"
            )),
        }
    }
}

impl std::fmt::Display for Rounding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Straight => "straight",
            Self::AdaRound => "adaround",
        })
    }
}

/// Ends of AdaRound's sigmoid before it is rectified: ζ and γ of the paper.
const STRETCH: (f32, f32) = (1.1, -0.1);

/// How far a latent may start from its code: nearly to where it would round to another.
const EDGE: f32 = 0.499;

/// How much of that is kept with straight-through rounding. Latents that stand where they round to
/// another code flip by the thousand at the first step of an optimizer, and the network with them.
const SNAP: f32 = 0.5;

/// How far latents may go beyond the first and last code: as far as any other code reaches. The
/// gradient ends there.
const ROOM: f32 = 0.5;

/// ```text
/// w = s · k + o
/// straight:  k = round(clamp(u, lo, hi))
/// AdaRound:  k = clamp(⌊u₀⌋ + h(v), lo, hi),   h(v) = clamp(σ(v) · 1.2 − 0.1, 0, 1)
/// ```
///
/// with the latent `u` (in steps) or `v` of every weight, and `u₀ = (w₀ − o₀) / s₀` of the float
/// weight.
#[derive(Module, Debug)]
pub(crate) struct LearnedWeight<const D: usize> {
    latent: Param<Tensor<D>>,
    /// ⌊u₀⌋ with AdaRound.
    floor: Option<Tensor<D>>,
    /// θ, `[C, 1, …]`
    scale: Param<Tensor<D>>,
    /// φ, `[C, 1, …]`; `None`: the offset stays zero.
    offset: Option<Param<Tensor<D>>>,
    start_scale: Tensor<D>,
    start_offset: Tensor<D>,
    #[module(skip)]
    rate: f32,
    #[module(skip)]
    start: QParams,
}

/// Parameters that a [`LearnedWeight`] can start from.
///
/// # Errors
/// If there are none, or they have a table of levels: codes then move by steps that are not equal,
/// and neither rounding knows them.
pub(super) fn learnable(qparams: Option<&QParams>) -> Result<&QParams, FormatError> {
    let refused = |problem: &str| Err(FormatError::invalid("its weight", problem));
    match qparams {
        None => refused("was left in float: only networks that are quantized throughout can learn"),
        Some(q) if q.levels.is_some() => refused(
            "has a table of levels (--levels apot): only uniform levels can be reconstructed or tuned; use --method affine or mse with it, or --levels uniform",
        ),
        Some(q) => Ok(q),
    }
}

impl<const D: usize> LearnedWeight<D> {
    /// Starts at the codes `k` of `quantized`, which lies on the grid of `start`. Where between its
    /// neighbours each code stands comes from the float weight (scaled per channel as `quantized`
    /// was):
    ///
    /// ```text
    /// u = k + c · clamp((g · w − o) / s − k, −½, ½),   g = ⟨ŵ, w⟩ / ⟨w, w⟩
    /// ```
    ///
    /// with c = 1 for AdaRound and [`SNAP`] for straight-through rounding.
    pub(crate) fn new(
        quantized: Tensor<D>,
        start: &QParams,
        float: Tensor<D>,
        learning: Learning,
    ) -> Self {
        let device = float.device();
        let channels = float.dims()[0];
        let mut shape = [1; D];
        shape[0] = channels;
        let per_channel = |f: &dyn Fn(Affine) -> f32| {
            let values: Vec<f32> = (0..channels).map(|c| f(start.channel(c))).collect();
            Tensor::<1>::from_data(values.as_slice(), &device).reshape(shape)
        };
        let start_scale = per_channel(&|a| a.scale);
        // A zero point is an offset in steps.
        let start_offset = per_channel(&|a| a.offset - a.scale * a.zero_point as f32);
        let has_offset = start.affine.iter().any(|a| a.offset != 0.0);
        let zeros = || Param::from_tensor(Tensor::zeros(shape, &device));
        let range = start.range();
        let codes = affine::quantize(quantized.clone(), start);
        let dot = |a: Tensor<D>, b: Tensor<D>| {
            (a * b)
                .reshape([channels as i32, -1])
                .sum_dim(1)
                .reshape(shape)
        };
        let norm = dot(float.clone(), float.clone()).clamp_min(f32::MIN_POSITIVE);
        let gain = dot(quantized, float.clone()) / norm;
        let steps = (float * gain - start_offset.clone()) / start_scale.clone();
        let rest = (steps - codes.clone()).clamp(-EDGE, EDGE);
        let (latent, floor) = match learning.rounding {
            Rounding::Straight => (codes + rest * SNAP, None),
            Rounding::AdaRound => {
                let steps = (codes + rest).clamp(range.lo as f32, range.hi as f32);
                let floor = steps.clone().floor().clamp_max((range.hi - 1) as f32);
                let rest = (steps - floor.clone()).clamp(0.01, 0.99);
                let (high, low) = STRETCH;
                // The inverse of h.
                let p = (rest - low) / (high - low);
                let v = (p.clone() / (p.neg() + 1.0)).log();
                (v, Some(floor))
            }
        };
        Self {
            latent: Param::from_tensor(latent),
            floor,
            scale: zeros(),
            offset: has_offset.then(zeros),
            start_scale,
            start_offset,
            rate: learning.relative_rate,
            start: start.clone(),
        }
    }

    /// Ends of the latents' range with straight-through rounding.
    fn latent_range(&self) -> (f32, f32) {
        let range = self.start.range();
        (range.lo as f32 - ROOM, range.hi as f32 + ROOM)
    }

    /// Brings latents that a step of an optimizer took out of their range back to its end. Outside
    /// no gradient reaches them, and they would stay there for good. (Sigmoids have no such end.)
    pub(crate) fn confine(&mut self) {
        if self.floor.is_some() {
            return;
        }
        let (lo, hi) = self.latent_range();
        self.latent = self.latent.clone().map(|u| {
            let learns = u.is_require_grad();
            u.inner().clamp(lo, hi).autodiff().set_require_grad(learns)
        });
    }

    fn rectified(v: Tensor<D>) -> Tensor<D> {
        let (high, low) = STRETCH;
        (activation::sigmoid(v) * (high - low) + low).clamp(0.0, 1.0)
    }

    /// Codes; real-valued while AdaRound has not decided.
    fn codes(&self) -> Tensor<D> {
        let range = self.start.range();
        let (lo, hi) = (range.lo as f32, range.hi as f32);
        match &self.floor {
            None => {
                let (first, last) = self.latent_range();
                let u = self.latent.val().clamp(first, last);
                let k = u.clone().detach().round().clamp(lo, hi);
                (k - u.clone()).detach() + u
            }
            Some(floor) => (Self::rectified(self.latent.val()) + floor.clone()).clamp(lo, hi),
        }
    }

    fn scale_and_offset(&self) -> (Tensor<D>, Tensor<D>) {
        let scale = self.start_scale.clone() * (self.scale.val() * self.rate).exp();
        let offset = match &self.offset {
            Some(offset) => {
                let moved = offset.val() * self.start_scale.clone() * self.rate;
                self.start_offset.clone() + moved
            }
            None => self.start_offset.clone(),
        };
        (scale, offset)
    }

    /// The weight that the layer computes with.
    pub(crate) fn value(&self) -> Tensor<D> {
        let (scale, offset) = self.scale_and_offset();
        self.codes() * scale + offset
    }

    /// AdaRound's regulariser `Σ 1 − |2h − 1|^β`, which is zero once every weight has decided.
    pub(crate) fn indecision(&self, beta: f32) -> Option<Tensor<1>> {
        self.floor.as_ref()?;
        let h = Self::rectified(self.latent.val());
        let far = (h * 2.0 - 1.0).abs().powf_scalar(beta);
        Some((far.neg() + 1.0).sum())
    }

    /// The weight on its final grid, and the grid. For a module without gradients (`valid`).
    ///
    /// # Errors
    /// If the tensors cannot be read from their device, or a learned scale is no longer usable.
    pub(crate) fn finish(&self) -> Result<(Tensor<D>, QParams), FormatError> {
        let (scale, offset) = self.scale_and_offset();
        let host = |t: Tensor<D>| {
            t.try_into_vec_as::<f32>().map_err(|e| {
                FormatError::invalid("reading a weight from the device", e.to_string())
            })
        };
        let affine = host(scale)?
            .into_iter()
            .zip(host(offset)?)
            .map(|(scale, offset)| Affine {
                scale,
                zero_point: 0,
                offset,
            })
            .collect();
        let qparams = QParams {
            affine,
            ..self.start.clone()
        };
        qparams.validate("learned weight", self.start_scale.dims()[0])?;
        let codes = self.codes().round();
        Ok((affine::dequantize(codes, &qparams), qparams))
    }
}
