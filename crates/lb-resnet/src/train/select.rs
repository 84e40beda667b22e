//! Which epoch's network is kept.

use super::EpochMetrics;

/// The last epoch that the `held_out` images cannot tell from the best one; without such images the
/// last; `None` before the first.
///
/// ```text
/// accuracy ≥ p − √(p · (1 − p) / n)        p: highest accuracy of all epochs, n: held-out images
/// ```
///
/// (The one-standard-error rule: Breiman et al. 1984, *Classification and Regression Trees*.) The
/// highest of many noisy figures is mostly luck, and learning rates fall: where epochs look alike,
/// the latest has settled most.
pub fn chosen(history: &[EpochMetrics], held_out: usize) -> Option<&EpochMetrics> {
    let accuracy = |m: &EpochMetrics| m.held_out_accuracy.unwrap_or(0.0);
    let p = history.iter().map(accuracy).fold(0.0, f64::max);
    let error = (p * (1.0 - p) / held_out.max(1) as f64).sqrt();
    history.iter().rfind(|m| accuracy(m) >= p - error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(accuracies: &[Option<f64>]) -> Vec<EpochMetrics> {
        let metrics = |(i, &held_out_accuracy): (usize, &Option<f64>)| EpochMetrics {
            epoch: i + 1,
            train_loss: 0.0,
            train_accuracy: 0.0,
            held_out_accuracy,
            learning_rate: 0.0,
        };
        accuracies.iter().enumerate().map(metrics).collect()
    }

    fn of(accuracies: &[f64], held_out: usize) -> usize {
        let some: Vec<_> = accuracies.iter().copied().map(Some).collect();
        chosen(&history(&some), held_out).unwrap().epoch
    }

    #[test]
    fn the_last_of_those_that_look_alike() {
        // 1,000 images tell 86.9 % from 85.8 %, but not from 85.9 %.
        assert_eq!(of(&[0.869, 0.860, 0.858], 1000), 2);
        assert_eq!(of(&[0.869, 0.859, 0.80], 1000), 2);
        assert_eq!(of(&[0.869, 0.857, 0.80], 1000), 1);
        assert_eq!(of(&[0.5, 0.6, 0.7], 1000), 3);
        assert_eq!(of(&[1.0, 0.99], 1000), 1);
    }

    #[test]
    fn more_images_tell_more_apart() {
        assert_eq!(of(&[0.869, 0.860], 100_000), 1);
        assert_eq!(of(&[0.869, 0.860], 10), 2);
    }

    #[test]
    fn without_images_it_is_the_last() {
        assert_eq!(chosen(&history(&[None, None]), 0).unwrap().epoch, 2);
        assert!(chosen(&[], 0).is_none());
    }

    /// Networks are written epoch by epoch, when nobody knows what comes.
    #[test]
    fn the_one_written_last_is_the_one_chosen_at_the_end() {
        let mut state = 1u64;
        for _ in 0..200 {
            let accuracies: Vec<_> = (0..30)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                    Some((state >> 40) as f64 / (1u64 << 24) as f64)
                })
                .collect();
            let all = history(&accuracies);
            let written = (1..=all.len()).rfind(|&n| chosen(&all[..n], 50).unwrap().epoch == n);
            assert_eq!(written, Some(chosen(&all, 50).unwrap().epoch));
        }
    }
}
