//! Weight quantization parameters around a table of levels (additive powers of two), one map per
//! output channel or one for all.

use burn::tensor::Tensor;
use lb_format::{Affine, Levels, QParams};

use crate::weight::{WeightRule, finite};
use crate::{CoreError, Granularity, QScheme, Symmetry};

/// Starting ranges, as fractions of the largest weight: levels lie densest around zero, so that
/// narrow starts are no use, and a wide one rarely is.
const STARTS: usize = 24;

/// Alternations from each start; most settle sooner.
const ROUNDS: usize = 20;

/// Parameters for `weight`, axis 0 the output channel, whose values are to be
/// `w ≈ s · level[code] + o`.
///
/// | rule | symmetry | parameters of a channel |
/// |---|---|---|
/// | min-max | symmetric | the outermost level at max\|w\| |
/// | min-max | affine | the outermost levels at (min, max) |
/// | MSE | symmetric | least squared error over `s`, `o = 0` |
/// | MSE | affine | least squared error over `s` and `o` |
///
/// From several starting ranges, two steps alternate, neither of which can raise the error: each
/// weight to the level `l` nearest to `(w − o) / s`, then the regression of `w` on `l`:
///
/// ```text
/// symmetric: s = Σ l·w / Σ l²        affine: s = cov(l, w) / var(l),  o = mean(w) − s · mean(l)
/// ```
///
/// It runs on the host, in `f64`; the codes are those of the formula in `f32`.
///
/// # Shapes
/// `weight`: `[C_out, …]`
///
/// # Errors
/// If a weight is NaN or infinite, or `scheme` has fewer codes than there are levels.
pub fn qparams<const D: usize>(
    weight: Tensor<D>,
    levels: &Levels,
    scheme: QScheme,
    rule: WeightRule,
) -> Result<QParams, CoreError> {
    let rows = match scheme.granularity {
        Granularity::PerChannel => weight.dims()[0],
        Granularity::PerTensor => 1,
    };
    let values = finite(&weight)?;
    let row = (values.len() / rows).max(1);
    let fit = |w: &[f32]| match (scheme.symmetry, rule) {
        (symmetry, WeightRule::MinMax) => full_range(w, levels, symmetry),
        (symmetry, WeightRule::Mse) => least_squares(w, levels, symmetry),
    };
    let q = QParams {
        bits: scheme.bits,
        signed: false,
        affine: values.chunks(row).map(fit).collect(),
        levels: Some(levels.clone()),
    };
    q.validate("weight", rows)?;
    Ok(q)
}

/// `s` and `o`; of a scale that is no use (all weights equal), a map whose offset is the value.
fn affine(scale: f64, offset: f64, w: &[f32]) -> Affine {
    let (s, o) = (scale as f32, offset as f32);
    let (scale, offset) = match s.is_normal() && s > 0.0 {
        true => (s, o),
        false => (1.0, w.first().copied().unwrap_or(0.0)),
    };
    Affine {
        scale,
        zero_point: 0,
        offset,
    }
}

fn full_range(w: &[f32], levels: &Levels, symmetry: Symmetry) -> Affine {
    let (min, max) = extremes(w);
    let (first, last) = ends(levels);
    match symmetry {
        Symmetry::Symmetric => affine(outermost(min, max, levels), 0.0, w),
        Symmetry::Affine => {
            let scale = (max - min) / (last - first);
            affine(scale, min - scale * first, w)
        }
    }
}

fn least_squares(w: &[f32], levels: &Levels, symmetry: Symmetry) -> Affine {
    let free = symmetry == Symmetry::Affine;
    let n = w.len() as f64;
    let mean = w.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    // The densest levels go where weights are densest.
    let centre = if free { mean } else { 0.0 };
    let (min, max) = extremes(w);
    let reach = outermost(min - centre, max - centre, levels);
    let mut best = (f64::INFINITY, affine(reach, centre, w));
    for start in 0..STARTS {
        let shrink = 1.1 - start as f64 / STARTS as f64;
        let mut a = affine(reach * shrink, centre, w);
        for _ in 0..ROUNDS {
            let next = regress(w, levels, a, free.then_some(mean));
            if next == Some(a) {
                break;
            }
            let Some(next) = next else { break };
            a = next;
        }
        let error = error(w, levels, a);
        if error < best.0 {
            best = (error, a);
        }
    }
    best.1
}

/// The best map for the codes that `w` has under `a`; `mean`, of `w`, if it may have an offset.
/// `None` if the codes leave nothing to regress on, or the result is no scale.
fn regress(w: &[f32], levels: &Levels, a: Affine, mean: Option<f64>) -> Option<Affine> {
    let (mut l1, mut l2, mut lw) = (0.0, 0.0, 0.0);
    for &x in w {
        let l = f64::from(levels.level(levels.nearest((x - a.offset) / a.scale)));
        (l1, l2, lw) = (l1 + l, l2 + l * l, lw + l * f64::from(x));
    }
    let n = w.len() as f64;
    let (scale, offset) = match mean {
        None => (lw / l2, 0.0),
        Some(mean) => {
            let scale = (lw - l1 * mean) / (l2 - l1 * l1 / n);
            (scale, mean - scale * l1 / n)
        }
    };
    let usable = (scale as f32).is_normal() && scale > 0.0;
    usable.then_some(Affine {
        scale: scale as f32,
        zero_point: 0,
        offset: offset as f32,
    })
}

fn error(w: &[f32], levels: &Levels, a: Affine) -> f64 {
    let one = |&x: &f32| {
        let level = levels.level(levels.nearest((x - a.offset) / a.scale));
        (f64::from(a.dequantize(level)) - f64::from(x)).powi(2)
    };
    w.iter().map(one).sum()
}

fn extremes(w: &[f32]) -> (f64, f64) {
    w.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |e, &x| {
        (e.0.min(x.into()), e.1.max(x.into()))
    })
}

/// The least scale at which no weight is beyond the levels on its side of zero.
fn outermost(min: f64, max: f64, levels: &Levels) -> f64 {
    let (first, last) = ends(levels);
    let of = |w: f64, l: f64| if w * l > 0.0 { w / l } else { 0.0 };
    of(min, first).max(of(max, last))
}

fn ends(levels: &Levels) -> (f64, f64) {
    let r = levels.range();
    let end = |code| f64::from(levels.level(code));
    (end(r.lo), end(r.hi))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::affine::{dequantize, quantize};
    use burn::tensor::{Device, Distribution};
    use lb_format::BitWidth;

    fn apot(bits: u8) -> Levels {
        Levels::additive_powers_of_two(BitWidth::new(bits).unwrap()).unwrap()
    }

    fn scheme(bits: u8, symmetry: Symmetry) -> QScheme {
        let bits = BitWidth::new(bits).unwrap();
        QScheme::weight(bits, symmetry, Granularity::PerChannel)
    }

    fn squared(w: &Tensor<2>, q: &QParams) -> f32 {
        let d = dequantize(quantize(w.clone(), q), q) - w.clone();
        (d.clone() * d).sum().into_scalar()
    }

    fn normal() -> Tensor<2> {
        Tensor::random([8, 144], Distribution::Normal(0.02, 0.1), &Device::flex())
    }

    #[test]
    fn searching_never_loses_to_the_full_range() {
        let w = normal();
        for bits in 2..=6 {
            let error = |symmetry, rule| {
                let q = qparams(w.clone(), &apot(bits), scheme(bits, symmetry), rule).unwrap();
                squared(&w, &q)
            };
            let full = error(Symmetry::Symmetric, WeightRule::MinMax);
            let range = error(Symmetry::Affine, WeightRule::MinMax);
            let searched = error(Symmetry::Symmetric, WeightRule::Mse);
            let fitted = error(Symmetry::Affine, WeightRule::Mse);
            assert!(searched < full, "{bits} bits: {searched} against {full}");
            assert!(fitted < range, "{bits} bits: {fitted} against {range}");
            assert!(
                fitted <= searched * 1.02,
                "{bits} bits: {fitted} > {searched}"
            );
        }
    }

    /// A fine sweep of scales does not find a much better one than alternating does.
    #[test]
    fn the_search_finds_what_a_sweep_finds() {
        let w = normal();
        let levels = apot(4);
        let s = scheme(4, Symmetry::Symmetric);
        let q = qparams(w.clone(), &levels, s, WeightRule::Mse).unwrap();
        let values: Vec<f32> = w.try_to_vec_as().unwrap();
        for (row, a) in values.chunks_exact(144).zip(&q.affine) {
            let swept = (1..4000).map(|i| Affine {
                scale: i as f32 * 2e-5,
                zero_point: 0,
                offset: 0.0,
            });
            let least = (swept.map(|a| error(row, &levels, a))).fold(f64::INFINITY, f64::min);
            let found = error(row, &levels, *a);
            assert!(found <= least * 1.05, "{found} against {least}");
        }
    }

    /// Values that lie on the levels come back exactly, whatever scale and offset they have.
    #[test]
    fn levels_themselves_are_exact() {
        let levels = apot(4);
        for (scale, offset) in [(0.5f32, 0.0f32), (0.25, 0.125)] {
            let row: Vec<f32> = levels
                .as_slice()
                .iter()
                .map(|&l| l as f32 * scale + offset)
                .collect();
            let w = Tensor::<1>::from_data(row.as_slice(), &Device::flex()).reshape([1, 15]);
            let q = qparams(
                w.clone(),
                &levels,
                scheme(4, Symmetry::Affine),
                WeightRule::Mse,
            );
            let error = squared(&w, &q.unwrap());
            assert!(error < 1e-9, "{scale} {offset}: {error}");
        }
    }

    #[test]
    fn constant_and_zero_channels_are_exact() {
        let w = [[0.0f32, 0.0], [0.25, 0.25], [-3.0, -3.0]];
        let w = Tensor::<2>::from_data(w, &Device::flex());
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            for rule in [WeightRule::MinMax, WeightRule::Mse] {
                let q = qparams(w.clone(), &apot(3), scheme(3, symmetry), rule).unwrap();
                let error = squared(&w, &q);
                assert!(error < 1e-9, "{symmetry:?} {rule:?}: {q:?}");
            }
        }
    }

    #[test]
    fn nan_and_too_few_codes_are_errors() {
        let w = Tensor::<2>::from_data([[0.1f32, f32::NAN]], &Device::flex());
        let s = scheme(4, Symmetry::Affine);
        let e = qparams(w, &apot(4), s, WeightRule::Mse).unwrap_err();
        assert!(matches!(e, CoreError::NonFinite { count: 1, .. }));
        let s = scheme(3, Symmetry::Affine);
        let e = qparams(normal(), &apot(4), s, WeightRule::Mse).unwrap_err();
        assert!(e.to_string().contains("8 codes"), "{e}");
    }
}
