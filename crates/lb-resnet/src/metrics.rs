//! Classification metrics from a confusion matrix.

use serde::{Deserialize, Serialize};

/// Counts of (true class, predicted class).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

/// Accuracy, and macro averages over classes, each in 0..=1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Right predictions over all.
    pub accuracy: f64,
    /// Mean over classes of TP / (TP + FP); 0 for a class that was never predicted.
    pub precision: f64,
    /// Mean over classes of TP / (TP + FN); 0 for a class without images.
    pub recall: f64,
    /// Mean over classes of 2 TP / (2 TP + FP + FN), as in scikit-learn's `average="macro"`.
    pub f1: f64,
    /// Right predictions.
    pub correct: u64,
    /// Images.
    pub total: u64,
}

/// Counts of one class against the rest.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassMetrics {
    /// TP / (TP + FP)
    pub precision: f64,
    /// TP / (TP + FN)
    pub recall: f64,
    /// 2 TP / (2 TP + FP + FN)
    pub f1: f64,
    /// Images of the class.
    pub images: u64,
}

impl Confusion {
    /// An empty matrix.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            counts: vec![0; classes * classes],
        }
    }

    /// Counts one prediction.
    ///
    /// # Panics
    /// If a class is out of range.
    pub fn add(&mut self, truth: usize, predicted: usize) {
        assert!(
            truth < self.classes && predicted < self.classes,
            "class out of range"
        );
        self.counts[truth * self.classes + predicted] += 1;
    }

    /// Images of class `truth` that were taken for `predicted`.
    pub fn count(&self, truth: usize, predicted: usize) -> u64 {
        self.counts[truth * self.classes + predicted]
    }

    /// Metrics of each class.
    pub fn per_class(&self) -> Vec<ClassMetrics> {
        // An empty denominator means nothing to be right about: 0, as scikit-learn has it.
        let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
        (0..self.classes)
            .map(|c| {
                let tp = self.count(c, c);
                let images: u64 = (0..self.classes).map(|p| self.count(c, p)).sum();
                let predicted: u64 = (0..self.classes).map(|t| self.count(t, c)).sum();
                ClassMetrics {
                    precision: ratio(tp, predicted),
                    recall: ratio(tp, images),
                    f1: ratio(2 * tp, predicted + images),
                    images,
                }
            })
            .collect()
    }

    /// Metrics over all classes.
    pub fn metrics(&self) -> Metrics {
        let per_class = self.per_class();
        let mean = |f: fn(&ClassMetrics) -> f64| {
            per_class.iter().map(f).sum::<f64>() / self.classes.max(1) as f64
        };
        let total = self.counts.iter().sum();
        let correct = (0..self.classes).map(|c| self.count(c, c)).sum();
        Metrics {
            accuracy: if total == 0 {
                0.0
            } else {
                correct as f64 / total as f64
            },
            precision: mean(|c| c.precision),
            recall: mean(|c| c.recall),
            f1: mean(|c| c.f1),
            correct,
            total,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_scikit_learn() {
        // sklearn.metrics.precision_recall_fscore_support(y, p, average="macro", zero_division=0)
        // of y = [0,0,0,1,1,2], p = [0,0,1,1,0,1] gives (1/3, 7/18, 16/45).
        let mut c = Confusion::new(3);
        for (t, p) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 0), (2, 1)] {
            c.add(t, p);
        }
        let m = c.metrics();
        assert_eq!((m.correct, m.total, m.accuracy), (3, 6, 0.5));
        assert!((m.precision - 1.0 / 3.0).abs() < 1e-12, "{m:?}");
        assert!((m.recall - 7.0 / 18.0).abs() < 1e-12, "{m:?}");
        assert!((m.f1 - 16.0 / 45.0).abs() < 1e-12, "{m:?}");
    }

    #[test]
    fn nothing_is_zero_and_not_nan() {
        let m = Confusion::new(10).metrics();
        assert_eq!(
            (m.accuracy, m.precision, m.recall, m.f1),
            (0.0, 0.0, 0.0, 0.0)
        );
    }
}
