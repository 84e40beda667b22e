//! Rounding that lets every weight make up for the errors of those before it.
//!
//! A layer is given x̂, which differs from what its float original is given, and is to come as close
//! as it can to the float output y. Over calibration images, with moments around their means,
//!
//! ```text
//! minimise E‖Ŵ x̂ + b − y‖²:     H = cov(x̂, x̂) + λI     W* = (cov(y, x̂) + λW) H⁻¹     b = ȳ − Ŵ x̄
//! ```
//!
//! W* is best without rounding (λ, a hundredth of H's mean diagonal, keeps it near the float W where
//! images say little). What rounding costs is `(ŵ − w*)ᵀ H (ŵ − w*)` for each output channel. With
//! `H = MᵀM`, M lower triangular, that is `‖M (ŵ − w*)‖²`, whose j-th term depends on the first j
//! weights only; so each weight in turn is rounded from where it would make its term zero:
//!
//! ```text
//! ŵ_j = grid(w*_j + Σ_{i<j} M_ji (w*_i − ŵ_i) / M_jj)
//! ```
//!
//! (GPTQ: Frantar et al. 2022, arXiv 2210.17323, which is Babai's nearest plane; the inputs of the
//! quantized network for a target of the float one: GPTAQ, Li et al. 2025, arXiv 2504.02692.) Inputs
//! with the largest second moment come first. Scale and offset are then fitted again, by least
//! squares in the same norm, and weights rounded again, for a few rounds; the best one counts.

use burn::tensor::{Tensor, TensorData, s};
use lb_format::{Affine, QParams};

use crate::CoreError;

/// λ, relative to the mean of H's diagonal.
const DAMPING: f64 = 0.01;

/// Rounds of rounding and fitting.
const ROUNDS: usize = 6;

/// First and second moments of a layer's inputs and of the float layer's outputs, in double
/// precision.
#[derive(Clone, Debug, Default)]
pub struct LayerMoments {
    count: f64,
    x: Vec<f64>,
    y: Vec<f64>,
    xx: Vec<f64>,
    yx: Vec<f64>,
}

/// Sums over some positions of a layer's inputs x and float outputs y.
#[derive(Clone, Debug, PartialEq)]
pub struct Sums {
    /// Number of positions.
    pub count: usize,
    /// `Σ x xᵀ`, `[K, K]`
    pub xx: Vec<f32>,
    /// `Σ y xᵀ`, `[C_out, K]`
    pub yx: Vec<f32>,
    /// `Σ x`
    pub x: Vec<f32>,
    /// `Σ y`
    pub y: Vec<f32>,
}

impl LayerMoments {
    /// Adds `m` positions: what the quantized layer is given there, and what the float one makes of
    /// its own inputs.
    ///
    /// # Shapes
    /// - `x`: `[K, m]`, in the order of a row of the weight ([`columns`])
    /// - `y`: `[C_out, m]`
    ///
    /// # Errors
    /// If they cannot be read from their device.
    pub fn add(&mut self, x: Tensor<2>, y: Tensor<2>) -> Result<(), CoreError> {
        let [_, m] = x.dims();
        let transposed = x.clone().transpose();
        let host = |t: Tensor<2>| {
            t.try_into_vec_as::<f32>()
                .map_err(|e| CoreError::Device(e.to_string()))
        };
        self.add_sums(&Sums {
            count: m,
            xx: host(x.clone().matmul(transposed.clone()))?,
            yx: host(y.clone().matmul(transposed))?,
            x: host(x.sum_dim(1))?,
            y: host(y.sum_dim(1))?,
        });
        Ok(())
    }

    /// Adds sums over positions that were taken elsewhere.
    pub fn add_sums(&mut self, sums: &Sums) {
        for (sum, now) in [
            (&mut self.xx, &sums.xx),
            (&mut self.yx, &sums.yx),
            (&mut self.x, &sums.x),
            (&mut self.y, &sums.y),
        ] {
            sum.resize(now.len(), 0.0);
            for (sum, now) in sum.iter_mut().zip(now) {
                *sum += f64::from(*now);
            }
        }
        self.count += sums.count as f64;
    }

    /// The largest difference of any sum, relative to the largest sum.
    pub fn distance(&self, other: &Self) -> f64 {
        let all = |m: &Self| -> Vec<f64> { [&m.xx[..], &m.yx, &m.x, &m.y, &[m.count]].concat() };
        let (a, b) = (all(self), all(other));
        let largest = b.iter().fold(0.0, |l: f64, v| l.max(v.abs()));
        let pairs = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
        match a.len() == b.len() {
            true => pairs.fold(0.0, f64::max) / largest,
            false => f64::INFINITY,
        }
    }

    /// `cov(a, b)`, rows of `a`.
    fn covariance(&self, products: &[f64], a: &[f64], b: &[f64]) -> Vec<f64> {
        let n = self.count.max(1.0);
        let rows = products.chunks(b.len().max(1)).zip(a);
        rows.flat_map(|(row, a)| {
            let pairs = row.iter().zip(b);
            pairs.map(move |(p, b)| p / n - a * b / (n * n))
        })
        .collect()
    }
}

/// The inputs that every output position of a convolution sees, a column each, `[C_in · k · k, N · H' · W']`
/// in the order of a row of its weight.
pub fn columns(x: Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Tensor<2> {
    let x = match padding {
        0 => x,
        p => x.pad((p, p, p, p), 0.0),
    };
    let [n, c, h, w] = x.dims();
    let (rows, cols) = ((h - kernel) / stride + 1, (w - kernel) / stride + 1);
    let tap = |ky: usize, kx: usize| {
        let y = ky..(ky + (rows - 1) * stride + 1);
        let z = kx..(kx + (cols - 1) * stride + 1);
        let step = stride as isize;
        x.clone()
            .slice(s![.., .., y;step, z;step])
            .reshape([n, c, 1, rows * cols])
    };
    let taps = (0..kernel).flat_map(|ky| (0..kernel).map(move |kx| (ky, kx)));
    Tensor::cat(taps.map(|(ky, kx)| tap(ky, kx)).collect(), 2)
        .permute([1, 2, 0, 3])
        .reshape([c * kernel * kernel, n * rows * cols])
}

/// A layer that was rounded so.
#[derive(Clone, Debug)]
pub struct Compensated<const D: usize> {
    /// On the grid of `qparams`.
    pub weight: Tensor<D>,
    /// Per output channel.
    pub qparams: QParams,
    /// `[C_out]`
    pub bias: Tensor<1>,
}

/// `weight` of the float layer, rounded. `grid` chooses parameters for a weight, of one channel
/// each; those found here have its bits and levels, and an offset if it gives one.
///
/// # Shapes
/// `weight`: `[C_out, …]`
///
/// # Errors
/// If there are fewer moments than the weight has, or they are not finite; or as `grid`.
pub fn compensate<const D: usize>(
    weight: &Tensor<D>,
    moments: &LayerMoments,
    grid: impl Fn(Tensor<D>) -> Result<QParams, CoreError>,
) -> Result<Compensated<D>, CoreError> {
    let (device, dims) = (weight.device(), weight.dims());
    let float = crate::weight::finite(weight)?;
    let channels = dims[0];
    let k = moments.x.len();
    assert_eq!(
        [moments.y.len(), channels * k],
        [channels, float.len()],
        "moments of this layer"
    );
    let norm = Norm::new(moments)?;
    let cross = moments.covariance(&moments.yx, &moments.y, &moments.x);
    let target: Vec<Vec<f64>> = float
        .chunks(k)
        .zip(cross.chunks(k))
        .map(|(w, yx)| norm.best(w, yx))
        .collect();
    let tensor = |rows: &[Vec<f64>]| {
        let values: Vec<f32> = rows.iter().flatten().map(|w| *w as f32).collect();
        Tensor::<D>::from_data(TensorData::new(values, dims), &device)
    };
    let mut qparams = grid(tensor(&target))?;
    let has_offset = qparams.affine.iter().any(|a| a.offset != 0.0);
    let mut rounded = Vec::with_capacity(channels);
    let mut affine = Vec::with_capacity(channels);
    for (c, target) in target.iter().enumerate() {
        let (a, w) = norm.round(target, qparams.channel(c), &qparams, has_offset);
        affine.push(a);
        rounded.push(w);
    }
    qparams.affine = affine;
    let bias: Vec<f32> = rounded
        .iter()
        .zip(&moments.y)
        .map(|(w, y)| {
            let x = w.iter().zip(&moments.x).map(|(w, x)| w * x).sum::<f64>();
            ((y - x) / moments.count) as f32
        })
        .collect();
    Ok(Compensated {
        weight: tensor(&rounded),
        qparams,
        bias: Tensor::from_data(bias.as_slice(), &device),
    })
}

/// H and its factor, inputs in the order in which they are rounded.
struct Norm {
    /// `order[j]` is rounded j-th.
    order: Vec<usize>,
    /// M, row-major and in that order; zero above the diagonal.
    factor: Vec<f64>,
    /// `M · 1`
    ones: Vec<f64>,
    damping: f64,
}

impl Norm {
    fn new(moments: &LayerMoments) -> Result<Self, CoreError> {
        let k = moments.x.len();
        let h = moments.covariance(&moments.xx, &moments.x, &moments.x);
        let diagonal: Vec<f64> = (0..k).map(|i| h[i * k + i]).collect();
        let mean = diagonal.iter().sum::<f64>() / k.max(1) as f64;
        // Constant inputs leave nothing to minimise: then any positive damping does.
        let damping = (DAMPING * mean).max(1e-12);
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]));
        // H = MᵀM for the lower M is the Cholesky factorization with rows and columns reversed.
        let at = |i: usize, j: usize| {
            let (p, q) = (order[k - 1 - i], order[k - 1 - j]);
            h[p * k + q] + if i == j { damping } else { 0.0 }
        };
        let reversed = cholesky(k, at).ok_or(CoreError::Moments)?;
        let mut factor = vec![0.0; k * k];
        for i in 0..k {
            for j in 0..=i {
                factor[(k - 1 - j) * k + (k - 1 - i)] = reversed[i * k + j];
            }
        }
        let mut norm = Self {
            order,
            factor,
            ones: Vec::new(),
            damping,
        };
        norm.ones = norm.apply(|_| 1.0);
        Ok(norm)
    }

    fn row(&self, j: usize) -> &[f64] {
        let k = self.order.len();
        &self.factor[j * k..][..j + 1]
    }

    /// w* of one channel.
    fn best(&self, weight: &[f32], yx: &[f64]) -> Vec<f64> {
        let k = self.order.len();
        let mut t: Vec<f64> = self
            .order
            .iter()
            .map(|&i| yx[i] + self.damping * f64::from(weight[i]))
            .collect();
        // Mᵀ z = t, from the last on; then M w = z.
        for j in (0..k).rev() {
            let row = self.row(j);
            t[j] /= row[j];
            let z = t[j];
            for (t, m) in t[..j].iter_mut().zip(row) {
                *t -= z * m;
            }
        }
        for j in 0..k {
            let row = self.row(j);
            t[j] = (t[j] - dot(&t[..j], &row[..j])) / row[j];
        }
        let mut w = vec![0.0; k];
        for (&i, t) in self.order.iter().zip(t) {
            w[i] = t;
        }
        w
    }

    /// `M v`, for `v` in the weight's own order.
    fn apply(&self, v: impl Fn(usize) -> f64) -> Vec<f64> {
        let v: Vec<f64> = self.order.iter().map(|&i| v(i)).collect();
        (0..v.len()).map(|j| dot(self.row(j), &v[..=j])).collect()
    }

    /// The channel's scale and offset, and its rounded weight.
    fn round(
        &self,
        target: &[f64],
        start: Affine,
        q: &QParams,
        has_offset: bool,
    ) -> (Affine, Vec<f64>) {
        let mut best: Option<(f64, Affine, Vec<f64>)> = None;
        let mut affine = start;
        let goal = self.apply(|i| target[i]);
        for _ in 0..ROUNDS {
            let levels = self.levels(target, affine, q);
            let values: Vec<f64> = levels
                .iter()
                .map(|l| f64::from(affine.scale) * l + f64::from(affine.offset))
                .collect();
            let error = self.apply(|i| values[i] - target[i]);
            let error = error.iter().map(|e| e * e).sum::<f64>();
            if best.as_ref().is_some_and(|(least, ..)| *least <= error) {
                break;
            }
            best = Some((error, affine, values));
            match self.fit(&goal, &levels, has_offset) {
                Some((scale, offset)) => (affine.scale, affine.offset) = (scale, offset),
                None => break,
            }
        }
        let (_, affine, values) = best.expect("the first round counts");
        (affine, values)
    }

    /// What the codes of the rounded channel stand for, in steps: `(ŵ − o) / s`.
    fn levels(&self, target: &[f64], affine: Affine, q: &QParams) -> Vec<f64> {
        let one = QParams {
            affine: vec![affine],
            ..q.clone()
        };
        let unit = QParams {
            affine: vec![Affine {
                scale: 1.0,
                offset: 0.0,
                ..affine
            }],
            ..q.clone()
        };
        let mut levels = vec![0.0; target.len()];
        let mut errors = Vec::with_capacity(target.len());
        for (j, &i) in self.order.iter().enumerate() {
            let row = self.row(j);
            let carried = dot(&row[..j], &errors);
            let code = one.quantize(0, (target[i] + carried / row[j]) as f32);
            levels[i] = f64::from(unit.dequantize(0, code));
            let value = f64::from(affine.scale) * levels[i] + f64::from(affine.offset);
            errors.push(target[i] - value);
        }
        levels
    }

    /// Scale and offset with which these levels come closest to `goal`, M · target; `None` if there
    /// are none.
    fn fit(&self, goal: &[f64], levels: &[f64], has_offset: bool) -> Option<(f32, f32)> {
        let (t, l, one) = (goal, self.apply(|i| levels[i]), &self.ones);
        let (ll, lt) = (dot(&l, &l), dot(&l, t));
        let (scale, offset) = match has_offset {
            false => (lt / ll, 0.0),
            true => {
                let (oo, lo, ot) = (dot(one, one), dot(&l, one), dot(one, t));
                let determinant = ll * oo - lo * lo;
                if determinant <= 1e-9 * ll * oo {
                    return None;
                }
                (
                    (lt * oo - ot * lo) / determinant,
                    (ot * ll - lt * lo) / determinant,
                )
            }
        };
        let (scale, offset) = (scale as f32, offset as f32);
        (scale.is_normal() && scale > 0.0 && offset.is_finite()).then_some((scale, offset))
    }
}

/// The lower triangular L with `L Lᵀ = A`, row-major; `None` if A is not positive definite.
pub(crate) fn cholesky(k: usize, a: impl Fn(usize, usize) -> f64) -> Option<Vec<f64>> {
    let mut l = vec![0.0; k * k];
    for i in 0..k {
        let (before, rest) = l.split_at_mut(i * k);
        let row = &mut rest[..k];
        for j in 0..i {
            let other = &before[j * k..][..k];
            row[j] = (a(i, j) - dot(&row[..j], &other[..j])) / other[j];
        }
        let square = a(i, i) - dot(&row[..i], &row[..i]);
        if !(square > 0.0 && square.is_finite()) {
            return None;
        }
        row[i] = square.sqrt();
    }
    Some(l)
}

/// In eight sums, as vector instructions take them.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0; 8];
    for (a, b) in a8.iter().zip(b8) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f64 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weight::{WeightRule, qparams};
    use crate::{Granularity, QScheme, Symmetry, affine};
    use burn::tensor::{Device, Distribution};
    use lb_format::BitWidth;

    /// Inputs that hang together, as neighbouring pixels do.
    fn inputs(k: usize, m: usize, device: &Device) -> Tensor<2> {
        let normal = Distribution::Normal(0.0, 1.0);
        let mix = Tensor::<2>::random([k, k / 2], normal, device);
        let x = mix.matmul(Tensor::<2>::random([k / 2, m], normal, device));
        x + Tensor::<2>::random([k, m], normal, device) * 0.3 + 0.5
    }

    fn scheme(bits: u8, symmetry: Symmetry) -> QScheme {
        let bits = BitWidth::new(bits).unwrap();
        QScheme::weight(bits, symmetry, Granularity::PerChannel)
    }

    fn error(y: &Tensor<2>, x: &Tensor<2>, w: Tensor<2>, bias: Tensor<1>) -> f32 {
        let [c] = bias.dims();
        let d = w.matmul(x.clone()) + bias.reshape([c, 1]) - y.clone();
        (d.clone() * d).mean().into_scalar()
    }

    #[test]
    fn beats_the_nearest_codes_at_every_width() {
        let device = Device::flex();
        let (k, c) = (24, 6);
        let x = inputs(k, 2000, &device);
        let noise = Tensor::<2>::random([k, 2000], Distribution::Normal(0.0, 0.2), &device);
        let given = x.clone() + noise;
        let w = Tensor::<2>::random([c, k], Distribution::Normal(0.0, 0.2), &device);
        let y = w.clone().matmul(x.clone()) + 0.7;
        let mut moments = LayerMoments::default();
        for (from, n) in [(0, 700), (700, 1300)] {
            let part = |t: &Tensor<2>| t.clone().narrow(1, from, n);
            moments.add(part(&given), part(&y)).unwrap();
        }
        for (bits, symmetry) in [
            (1, Symmetry::Affine),
            (2, Symmetry::Affine),
            (4, Symmetry::Affine),
            (8, Symmetry::Symmetric),
        ] {
            let scheme = scheme(bits, symmetry);
            let grid = |w: Tensor<2>| qparams(w, scheme, WeightRule::Mse);
            let nearest = grid(w.clone()).unwrap();
            let nearest = affine::dequantize(affine::quantize(w.clone(), &nearest), &nearest);
            let mean = |t: &Tensor<2>| t.clone().mean_dim(1).reshape([-1]);
            let bias = mean(&y) - mean(&nearest.clone().matmul(given.clone()));
            let before = error(&y, &given, nearest, bias);
            let found = compensate(&w, &moments, grid).unwrap();
            let after = error(&y, &given, found.weight.clone(), found.bias);
            let enough = if bits < 8 { 0.8 } else { 0.95 };
            assert!(after < enough * before, "{bits} bits: {before} to {after}");
            // On the grid that is returned.
            let q = &found.qparams;
            let again = affine::dequantize(affine::quantize(found.weight.clone(), q), q);
            let off = (again - found.weight).abs().max().into_scalar::<f32>();
            assert!(off < 1e-5, "{bits} bits: {off}");
        }
    }

    #[test]
    fn many_bits_and_the_same_inputs_give_the_float_layer_back() {
        let device = Device::flex();
        let x = inputs(12, 500, &device);
        let w = Tensor::<2>::random([3, 12], Distribution::Normal(0.0, 0.2), &device);
        let y = w.clone().matmul(x.clone()) - 0.3;
        let mut moments = LayerMoments::default();
        moments.add(x, y).unwrap();
        let scheme = scheme(16, Symmetry::Symmetric);
        let found = compensate(&w, &moments, |w| qparams(w, scheme, WeightRule::Mse)).unwrap();
        let off = (found.weight - w).abs().max().into_scalar::<f32>();
        assert!(off < 1e-4, "{off}");
        let bias: Vec<f32> = found.bias.try_to_vec_as().unwrap();
        assert!(bias.iter().all(|b| (b + 0.3).abs() < 1e-3), "{bias:?}");
    }

    #[test]
    fn columns_are_what_a_convolution_sees() {
        let device = Device::flex();
        let x = Tensor::<4>::random([2, 3, 7, 7], Distribution::Normal(0.0, 1.0), &device);
        let normal = Distribution::Normal(0.0, 1.0);
        for (kernel, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 2, 0)] {
            let w = Tensor::<4>::random([5, 3, kernel, kernel], normal, &device);
            let options = burn::tensor::ops::ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1);
            let y = burn::tensor::module::conv2d(x.clone(), w.clone(), None, options);
            let y = y.swap_dims(0, 1).flatten::<2>(1, 3);
            let columns = columns(x.clone(), kernel, stride, padding);
            let ours = w.flatten::<2>(1, 3).matmul(columns);
            let off = (ours - y).abs().max().into_scalar::<f32>();
            assert!(off < 1e-4, "kernel {kernel}: {off}");
        }
    }

    #[test]
    fn inputs_that_never_change_are_no_obstacle() {
        let device = Device::flex();
        let x = Tensor::<2>::zeros([4, 50], &device);
        let w = Tensor::<2>::random([2, 4], Distribution::Normal(0.0, 1.0), &device);
        let mut moments = LayerMoments::default();
        moments.add(x, Tensor::ones([2, 50], &device)).unwrap();
        let scheme = scheme(4, Symmetry::Affine);
        let found = compensate(&w, &moments, |w| qparams(w, scheme, WeightRule::Mse)).unwrap();
        let bias: Vec<f32> = found.bias.try_to_vec_as().unwrap();
        assert_eq!(bias, [1.0, 1.0]);
        let off = (found.weight - w).abs().max().into_scalar::<f32>();
        assert!(off < 0.3, "{off}");
    }
}
