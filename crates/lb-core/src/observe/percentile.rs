//! The percentile rule.

use super::Statistics;

/// Clips `(1 − keep)` of the values: all of it at the top where no value is negative, half on
/// each side otherwise. Never wider than the values seen.
pub(super) fn range(stats: &Statistics, keep: f64) -> (f32, f32) {
    let h = stats.histogram();
    if stats.min() >= 0.0 {
        return (0.0, h.quantile(keep).min(stats.max()));
    }
    let tail = (1.0 - keep) / 2.0;
    (
        h.quantile(tail).max(stats.min()),
        h.quantile(1.0 - tail).min(stats.max()),
    )
}
