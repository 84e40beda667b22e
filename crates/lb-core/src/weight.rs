//! Weight quantization parameters, one map per output channel (or one for all).

use burn::tensor::Tensor;
use lb_format::{Affine, BitWidth, QParams};
use serde::{Deserialize, Serialize};

use crate::{CoreError, Granularity, QScheme, Symmetry, range};

/// How a weight's scale (and offset) are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WeightRule {
    /// The full range.
    MinMax,
    /// Least squared error.
    Mse,
}

/// Parameters for `weight`, axis 0 the output channel.
///
/// | rule | symmetry | parameters of a channel |
/// |---|---|---|
/// | min-max | symmetric | [`range::symmetric`] of max\|w\|; 1 bit: [`range::binary`] of mean\|w\| |
/// | min-max | affine | [`range::affine`] of (min, max) |
/// | MSE | symmetric | the shrunk symmetric range with the least squared error; 1 bit as above, which is optimal |
/// | MSE | affine | (scale, offset) by alternating rounding and least squares, from several ranges |
///
/// # Shapes
/// `weight`: `[C_out, …]`
///
/// # Errors
/// If a weight is NaN or infinite.
pub fn qparams<const D: usize>(
    weight: Tensor<D>,
    scheme: QScheme,
    rule: WeightRule,
) -> Result<QParams, CoreError> {
    let rows = match scheme.granularity {
        Granularity::PerChannel => weight.dims()[0],
        Granularity::PerTensor => 1,
    };
    finite(&weight)?;
    let w: Tensor<2> = weight.detach().reshape([rows as i32, -1]);
    let bits = scheme.bits;
    let affine = match (scheme.symmetry, rule) {
        (Symmetry::Symmetric, _) if bits.get() == 1 => host(w.abs().mean_dim(1))?
            .into_iter()
            .map(range::binary)
            .collect(),
        (Symmetry::Symmetric, rule) => {
            let max = host(w.clone().abs().max_dim(1))?;
            let shrink = match rule {
                WeightRule::MinMax => vec![1.0; rows],
                WeightRule::Mse => best_shrink(w, &max, bits)?,
            };
            let scaled = max
                .iter()
                .zip(shrink)
                .map(|(m, s)| range::symmetric(m * s, bits));
            scaled.collect()
        }
        (Symmetry::Affine, WeightRule::MinMax) => {
            let (lo, hi) = (host(w.clone().min_dim(1))?, host(w.max_dim(1))?);
            lo.into_iter()
                .zip(hi)
                .map(|(lo, hi)| range::affine(lo, hi, bits))
                .collect()
        }
        (Symmetry::Affine, WeightRule::Mse) => fit(w, bits)?,
    };
    Ok(QParams {
        bits,
        signed: true,
        affine,
        levels: None,
    })
}

/// The values of `weight`, row-major, if all are finite.
pub(crate) fn finite<const D: usize>(weight: &Tensor<D>) -> Result<Vec<f32>, CoreError> {
    let values: Vec<f32> = weight
        .clone()
        .try_to_vec_as()
        .map_err(|e| CoreError::Device(e.to_string()))?;
    match values.iter().filter(|v| !v.is_finite()).count() as u64 {
        0 => Ok(values),
        count => Err(CoreError::NonFinite {
            count,
            total: values.len() as u64,
        }),
    }
}

/// For each row, the fraction of its symmetric range with the least squared error.
fn best_shrink(w: Tensor<2>, max: &[f32], bits: BitWidth) -> Result<Vec<f32>, CoreError> {
    let mut best = vec![(f32::INFINITY, 1.0f32); max.len()];
    for i in 0..80 {
        let shrink = 1.0 - i as f32 * 0.01;
        let q = QParams {
            bits,
            signed: true,
            affine: max
                .iter()
                .map(|m| range::symmetric(m * shrink, bits))
                .collect(),
            levels: None,
        };
        let d = crate::affine::dequantize(crate::affine::quantize(w.clone(), &q), &q) - w.clone();
        for (best, error) in best.iter_mut().zip(host((d.clone() * d).sum_dim(1))?) {
            if error < best.0 {
                *best = (error, shrink);
            }
        }
    }
    Ok(best.into_iter().map(|b| b.1).collect())
}

/// Least-squares fit of `w ≈ s·k + o` for every row at once.
///
/// From a starting range, two steps alternate, neither of which can raise the error: round to the
/// nearest codes `k`, then solve the regression of `w` on `k` for `(s, o)`:
///
/// ```text
/// s = cov(k, w) / var(k),   o = mean(w) − s · mean(k)
/// ```
///
/// The problem has many local optima, so several starting ranges run and each row keeps its best.
fn fit(w: Tensor<2>, bits: BitWidth) -> Result<Vec<Affine>, CoreError> {
    // Wide codes start close to their optimum; narrow ones need to look further inward.
    let (starts, rounds) = match bits.get() {
        1..=4 => (24, 12),
        5..=8 => (8, 4),
        _ => (1, 0),
    };
    let r = bits.range(true);
    let [rows, _] = w.dims();
    let (min, max) = (w.clone().min_dim(1), w.clone().max_dim(1));
    let mean_w = w.clone().mean_dim(1);
    let centred = w.clone() - mean_w.clone();
    let tiny = f32::MIN_POSITIVE;
    let mut best: Option<(Tensor<2>, Tensor<2>, Tensor<2>)> = None;
    for start in 0..starts {
        let shrink = 1.0 - start as f32 * 0.8 / starts as f32;
        let (lo, hi) = (min.clone() * shrink, max.clone() * shrink);
        let mut scale = ((hi - lo.clone()) / r.steps() as f32).clamp_min(tiny);
        let mut offset = lo - scale.clone() * r.lo as f32;
        let round = |s: &Tensor<2>, o: &Tensor<2>| {
            ((w.clone() - o.clone()) / s.clone())
                .round()
                .clamp(r.lo as f32, r.hi as f32)
        };
        for _ in 0..rounds {
            let k = round(&scale, &offset);
            let mean_k = k.clone().mean_dim(1);
            let dk = k - mean_k.clone();
            let var = (dk.clone() * dk.clone()).mean_dim(1);
            let cov = (dk * centred.clone()).mean_dim(1);
            // All codes equal: keep the last fit, there is nothing to regress on.
            let solved = var.clone().greater_scalar(0.0);
            let s = (cov / var.clamp_min(tiny)).clamp_min(tiny);
            let o = mean_w.clone() - s.clone() * mean_k;
            scale = scale.mask_where(solved.clone(), s);
            offset = offset.mask_where(solved, o);
        }
        let d = round(&scale, &offset) * scale.clone() + offset.clone() - w.clone();
        let error = (d.clone() * d).sum_dim(1);
        best = Some(match best {
            None => (error, scale, offset),
            Some((e, s, o)) => {
                let better = error.clone().lower(e.clone());
                (
                    e.mask_where(better.clone(), error),
                    s.mask_where(better.clone(), scale),
                    o.mask_where(better, offset),
                )
            }
        });
    }
    let (_, scale, offset) = best.expect("at least one start");
    let (scale, offset) = (host(scale)?, host(offset)?);
    Ok((0..rows)
        .map(|c| match scale[c] {
            // A constant row: one code is enough, and its value is the offset.
            s if s <= tiny * 2.0 => Affine {
                scale: 1.0,
                zero_point: 0,
                offset: offset[c],
            },
            s => Affine {
                scale: s,
                zero_point: 0,
                offset: offset[c],
            },
        })
        .collect())
}

fn host(x: Tensor<2>) -> Result<Vec<f32>, CoreError> {
    x.try_into_vec_as()
        .map_err(|e| CoreError::Device(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affine::{dequantize, quantize};
    use burn::tensor::Device;

    fn weights(rows: usize, n: usize) -> Tensor<2> {
        let mut state = 7u64;
        let mut uniform = move || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let values: Vec<f32> = (0..rows * n)
            .map(|i| ((0..6).map(|_| uniform()).sum::<f32>() - 3.0) * 0.1 + 0.02 * (i / n) as f32)
            .collect();
        Tensor::<1>::from_data(values.as_slice(), &Device::flex()).reshape([rows, n])
    }

    fn error(w: &Tensor<2>, q: &QParams) -> f32 {
        let d = dequantize(quantize(w.clone(), q), q) - w.clone();
        (d.clone() * d).sum().into_scalar()
    }

    fn scheme(bits: u8, symmetry: Symmetry) -> QScheme {
        QScheme::weight(
            BitWidth::new(bits).unwrap(),
            symmetry,
            Granularity::PerChannel,
        )
    }

    #[test]
    fn searching_never_loses_to_the_full_range() {
        let w = weights(8, 144);
        for bits in [1, 2, 3, 4, 5, 6, 7, 8, 16] {
            let e = |symmetry, rule| {
                error(
                    &w,
                    &qparams(w.clone(), scheme(bits, symmetry), rule).unwrap(),
                )
            };
            let full = e(Symmetry::Symmetric, WeightRule::MinMax);
            let searched = e(Symmetry::Symmetric, WeightRule::Mse);
            let fitted = e(Symmetry::Affine, WeightRule::Mse);
            assert!(searched <= full, "{bits} bits: {searched} > {full}");
            assert!(
                fitted <= searched * 1.001 + 1e-6,
                "{bits} bits: {fitted} > {searched}"
            );
            if (2..=4).contains(&bits) {
                assert!(fitted < full * 0.9, "{bits} bits: {fitted} against {full}");
            }
        }
    }

    #[test]
    fn per_channel_beats_per_tensor() {
        let w = weights(8, 144);
        let mut s = scheme(4, Symmetry::Symmetric);
        let channel = error(&w, &qparams(w.clone(), s, WeightRule::MinMax).unwrap());
        s.granularity = Granularity::PerTensor;
        let q = qparams(w.clone(), s, WeightRule::MinMax).unwrap();
        assert_eq!(q.affine.len(), 1);
        assert!(channel < error(&w, &q));
    }

    #[test]
    fn one_symmetric_bit_is_sign_times_mean() {
        let w = Tensor::<2>::from_data([[0.1f32, -0.3, 0.5, -0.7]], &Device::flex());
        let q = qparams(
            w.clone(),
            scheme(1, Symmetry::Symmetric),
            WeightRule::MinMax,
        )
        .unwrap();
        let back: Vec<f32> = dequantize(quantize(w, &q), &q).try_to_vec_as().unwrap();
        for (b, e) in back.into_iter().zip([0.4, -0.4, 0.4, -0.4]) {
            assert!((b - e).abs() < 1e-6, "{b} {e}");
        }
    }

    #[test]
    fn constant_and_zero_channels_are_exact() {
        let w = Tensor::<2>::from_data([[0.0f32, 0.0], [0.25, 0.25]], &Device::flex());
        for bits in [1, 2, 4, 8, 16] {
            let q = qparams(w.clone(), scheme(bits, Symmetry::Affine), WeightRule::Mse).unwrap();
            q.validate("test", 2).unwrap();
            assert!(error(&w, &q) < 1e-9, "{bits}: {q:?}");
        }
    }

    #[test]
    fn nan_is_an_error() {
        let w = Tensor::<2>::from_data([[0.1f32, f32::NAN]], &Device::flex());
        let e = qparams(w, scheme(4, Symmetry::Affine), WeightRule::Mse).unwrap_err();
        assert!(matches!(e, CoreError::NonFinite { count: 1, .. }));
    }
}
