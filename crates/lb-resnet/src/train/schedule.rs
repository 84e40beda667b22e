//! Linear warm-up, then cosine to zero (Loshchilov & Hutter 2017, arXiv 1608.03983).

use super::TrainConfig;

/// The learning rate of step `step` (from 0, over all epochs):
///
/// ```text
/// lr · (step + 1) / w                          while step < w
/// lr · (1 + cos(π · (step − w) / (n − w))) / 2  after
/// ```
///
/// with `w` the steps of warm-up and `n` all steps.
pub fn learning_rate(config: &TrainConfig, steps_per_epoch: usize, step: usize) -> f64 {
    let warmup = (config.warmup_epochs * steps_per_epoch as f64).round() as usize;
    let total = config.epochs * steps_per_epoch;
    if step < warmup {
        return config.learning_rate * (step + 1) as f64 / warmup as f64;
    }
    let progress = (step - warmup) as f64 / (total - warmup).max(1) as f64;
    config.learning_rate * (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_to_the_peak_and_falls_to_zero() {
        let config = TrainConfig {
            epochs: 10,
            warmup_epochs: 2.0,
            learning_rate: 0.1,
            ..Default::default()
        };
        let lr: Vec<f64> = (0..1000).map(|s| learning_rate(&config, 100, s)).collect();
        assert!(lr[0] > 0.0 && lr[0] < 0.001);
        assert!((lr[199] - 0.1).abs() < 1e-12 && (lr[200] - 0.1).abs() < 1e-12);
        assert!((lr[600] - 0.05).abs() < 1e-9);
        assert!(lr[999] < 1e-5);
        assert!(lr[..200].is_sorted() && lr[200..].iter().rev().is_sorted());
    }
}
