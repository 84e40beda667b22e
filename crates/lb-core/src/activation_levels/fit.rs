//! Levels and scale for what was observed.

use lb_format::{Affine, BitWidth, Levels, QParams};

use crate::CoreError;
use crate::observe::{Histogram, RangeRule, Statistics};

/// Parameters of `bits` bits with the least squared error over the histogram of `stats`, of levels from 0;
/// `None` if equidistant levels are as good, or values are negative or all zero, or the width has no
/// tables (1 bit, whose two levels have one distance only, or more than 6).
///
/// The best real levels are found, not searched for: by dynamic programming over the bins, as in Wang and Song
/// 2011 (Ckmeans.1d.dp, *The R Journal* 3/2), but with a level that stays at 0. Then they are rounded to
/// whole steps of a scale whose [`Levels::LARGEST`] is the last level, which is no longer the best for
/// whole steps, and for values with few far outliers not good.
///
/// # Errors
/// If nothing was observed, or NaN or infinity was.
pub fn fit(stats: &Statistics, bits: BitWidth) -> Result<Option<QParams>, CoreError> {
    let (_, hi) = RangeRule::Mse.range(stats, bits)?;
    if stats.min() < 0.0 || hi <= 0.0 || !(2..=6).contains(&bits.get()) {
        return Ok(None);
    }
    let values = Values::of(stats.histogram());
    let count = 1usize << bits.get();
    let step = f64::from(hi) / (count - 1) as f64;
    let equidistant: Vec<f64> = (0..count).map(|i| i as f64 * step).collect();
    let uniform = values.error(&equidistant, &midpoints(&equidistant));
    let found = on_whole_steps(&values.best(count), bits);
    Ok(found.filter(|q| values.error_of(q) < uniform))
}

fn midpoints(levels: &[f64]) -> Vec<f64> {
    levels.windows(2).map(|p| (p[0] + p[1]) / 2.0).collect()
}

/// Parameters with these levels; `None` if they have no scale.
fn on_whole_steps(levels: &[f64], bits: BitWidth) -> Option<QParams> {
    let largest = Levels::LARGEST;
    let scale = levels.last()? / f64::from(largest);
    let mut whole: Vec<i32> = Vec::with_capacity(levels.len());
    for (i, level) in levels.iter().enumerate() {
        let least = whole.last().map_or(0, |l| l + 1);
        // Room for those that follow.
        let most = largest - (levels.len() - 1 - i) as i32;
        whole.push(((level / scale).round() as i32).clamp(least, most));
    }
    let affine = Affine {
        scale: scale as f32,
        zero_point: 0,
        offset: 0.0,
    };
    let mut q = QParams::per_tensor(bits, false, affine);
    q.levels = Levels::new(whole).ok();
    (q.levels.is_some() && q.channel(0).scale.is_normal()).then_some(q)
}

/// The bins of a histogram of positive values, ascending, and sums up to each.
struct Values {
    value: Vec<f64>,
    /// How many, their sum and the sum of their squares, before each bin.
    before: Vec<[f64; 3]>,
}

impl Values {
    fn of(histogram: &Histogram) -> Self {
        let (mut value, mut before) = (Vec::new(), vec![[0.0; 3]]);
        for (x, n) in histogram.bins() {
            let (x, n) = (f64::from(x), n as f64);
            let [count, sum, squares] = before[value.len()];
            before.push([count + n, sum + n * x, squares + n * x * x]);
            value.push(x);
        }
        Self { value, before }
    }

    /// Count, sum and squares of bins `from..to`.
    fn cell(&self, from: usize, to: usize) -> [f64; 3] {
        std::array::from_fn(|i| self.before[to][i] - self.before[from][i])
    }

    /// Sum of squared distances of bins `from..to` to their mean.
    fn spread(&self, from: usize, to: usize) -> f64 {
        let [count, sum, squares] = self.cell(from, to);
        match count > 0.0 {
            true => (squares - sum * sum / count).max(0.0),
            false => 0.0,
        }
    }

    /// At most `count` levels, the first 0, with the least squared error.
    fn best(&self, count: usize) -> Vec<f64> {
        let bins = self.value.len();
        // Of the bins before each, the least error with so many levels, and where the last one begins.
        let mut least: Vec<f64> = self.before.iter().map(|b| b[2]).collect();
        let mut begins = Vec::with_capacity(count);
        for _ in 1..count {
            let (mut next, mut begin) = (vec![0.0; bins + 1], vec![0; bins + 1]);
            self.split(&least, (0, bins), (0, bins), &mut next, &mut begin);
            least = next;
            begins.push(begin);
        }
        let (mut levels, mut end) = (Vec::with_capacity(count), bins);
        for begin in begins.iter().rev() {
            let from = begin[end];
            let [count, sum, _] = self.cell(from, end);
            levels.extend((count > 0.0).then(|| sum / count));
            end = from;
        }
        levels.push(0.0);
        levels.reverse();
        levels
    }

    /// Of every end `first..=last`, where its last level begins, which lies in `lo..=hi`, and the error: the
    /// begin grows with the end, so that the middle end tells both halves where to look.
    fn split(
        &self,
        least: &[f64],
        (first, last): (usize, usize),
        (lo, hi): (usize, usize),
        next: &mut [f64],
        begin: &mut [usize],
    ) {
        let middle = first + (last - first) / 2;
        let error = |from: usize| least[from] + self.spread(from, middle);
        let best = (lo..=hi.min(middle)).min_by(|a, b| error(*a).total_cmp(&error(*b)));
        let best = best.expect("begins are not beyond their ends");
        (next[middle], begin[middle]) = (error(best), best);
        if first < middle {
            self.split(least, (first, middle - 1), (lo, best), next, begin);
        }
        if middle < last {
            self.split(least, (middle + 1, last), (best, hi), next, begin);
        }
    }

    /// Sum of squared distances to the levels, of which each has the values up to a boundary.
    fn error(&self, levels: &[f64], boundaries: &[f64]) -> f64 {
        let ends = boundaries
            .iter()
            .map(|b| self.value.partition_point(|x| x <= b));
        let mut from = 0;
        (ends.chain([self.value.len()]).zip(levels))
            .map(|(to, l)| {
                let [count, sum, squares] = self.cell(from, to);
                from = to;
                squares - 2.0 * l * sum + l * l * count
            })
            .sum()
    }

    /// Of a table as it rounds: values to whole steps, then those to levels, of two the lower one.
    fn error_of(&self, q: &QParams) -> f64 {
        let whole = q.levels.as_ref().map_or(&[][..], Levels::as_slice);
        let scale = f64::from(q.channel(0).scale);
        let levels: Vec<f64> = whole.iter().map(|l| f64::from(*l) * scale).collect();
        let last_below = |p: &[i32]| f64::from((p[0] + p[1]) / 2) + 0.5;
        let boundaries = whole.windows(2).map(|p| last_below(p) * scale);
        self.error(&levels, &boundaries.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation_levels::fake_quantize;
    use crate::{affine, range};
    use burn::tensor::{Device, Distribution, Tensor};

    fn bits(n: u8) -> BitWidth {
        BitWidth::new(n).unwrap()
    }

    fn observed(x: &Tensor<4>) -> Statistics {
        let mut stats = Statistics::default();
        stats.observe(x.clone());
        stats
    }

    /// Behind a ReLU, with the long tail that activations have.
    fn activations() -> Tensor<4> {
        let normal = Distribution::Normal(0.0, 1.0);
        let x = Tensor::<4>::random([1, 4, 64, 64], normal, &Device::flex());
        (x.clone() * x.clone().abs()).clamp_min(0.0)
    }

    fn error(x: &Tensor<4>, y: Tensor<4>) -> f32 {
        let d = y - x.clone();
        (d.clone() * d).mean().into_scalar()
    }

    #[test]
    fn has_less_error_than_equidistant_levels() {
        let x = activations();
        let stats = observed(&x);
        for (b, gain) in [(2, 1.1), (3, 1.3), (4, 1.4), (6, 1.1)] {
            let q = fit(&stats, bits(b)).unwrap().unwrap();
            q.validate("x", 1).unwrap();
            assert_eq!(q.range().hi, (1 << b) - 1);
            let (lo, hi) = RangeRule::Mse.range(&stats, bits(b)).unwrap();
            let equidistant = range::activation(lo, hi, bits(b));
            let before = error(&x, affine::fake_quantize(x.clone(), &equidistant));
            let after = error(&x, fake_quantize(x.clone(), &q));
            assert!(after * gain < before, "{b} bits: {after} of {before}");
        }
    }

    #[test]
    fn few_values_are_hit_exactly() {
        let values = [0.0f32, 1.0, 10.0, 127.0].repeat(64);
        let x = Tensor::<1>::from_data(values.as_slice(), &Device::flex());
        let x = x.reshape([1, 1, 16, 16]);
        let q = fit(&observed(&x), bits(2)).unwrap().unwrap();
        // To the middle of a histogram's bin.
        assert!(error(&x, fake_quantize(x.clone(), &q)) < 1e-3, "{q:?}");
        assert_eq!(q.levels.unwrap().as_slice(), [0, 1, 10, 127]);
    }

    /// The least error of a plain search, without what [`Values::split`] leaves out.
    fn plainly(values: &Values, count: usize) -> f64 {
        let bins = values.value.len();
        let mut least: Vec<f64> = values.before.iter().map(|b| b[2]).collect();
        for _ in 1..count {
            let before = &least;
            let of = |to: usize| {
                let errors = (0..=to).map(|from| before[from] + values.spread(from, to));
                errors.fold(f64::INFINITY, f64::min)
            };
            least = (0..=bins).map(of).collect();
        }
        least[bins]
    }

    #[test]
    fn no_other_levels_are_better() {
        let mut state = 1u64;
        let mut draw = |n: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 33) % n
        };
        for case in 0..60 {
            let mut histogram = Histogram::default();
            for _ in 0..=draw(60) {
                let value = draw(4096) as f32 / 512.0;
                // Few of some, many of others.
                let times = if draw(4) == 0 {
                    draw(3000)
                } else {
                    1 + draw(3)
                };
                histogram.add(&vec![value; times as usize], 8.0);
            }
            let values = Values::of(&histogram);
            for count in [2, 4, 16, 64] {
                let levels = values.best(count);
                assert!(levels[0] == 0.0 && levels.is_sorted() && levels.len() <= count);
                let found = values.error(&levels, &midpoints(&levels));
                let least = plainly(&values, count);
                assert!(
                    (found - least).abs() <= 1e-6 * (1.0 + least),
                    "{case}: {found} {least}"
                );
            }
        }
    }

    #[test]
    fn the_error_is_the_one_that_rounding_makes() {
        let x = activations();
        let stats = observed(&x);
        for b in [2, 4, 6] {
            let q = fit(&stats, bits(b)).unwrap().unwrap();
            let n = x.shape().num_elements() as f64;
            let expected = Values::of(stats.histogram()).error_of(&q) / n;
            let measured = f64::from(error(&x, fake_quantize(x.clone(), &q)));
            // Bins are as wide as some thousandth of the range.
            let close = (expected / measured - 1.0).abs() < 0.05;
            assert!(close, "{b} bits: {expected} and {measured}");
        }
    }

    #[test]
    fn what_a_table_cannot_do_better_has_none() {
        let x = activations();
        for b in [1, 7, 8, 16] {
            assert_eq!(fit(&observed(&x), bits(b)).unwrap(), None);
        }
        assert_eq!(fit(&observed(&x.clone().neg()), bits(4)).unwrap(), None);
        assert_eq!(fit(&observed(&x.zeros_like()), bits(4)).unwrap(), None);
        let e = fit(&Statistics::default(), bits(4)).unwrap_err();
        assert!(matches!(e, CoreError::NothingObserved));
    }
}
