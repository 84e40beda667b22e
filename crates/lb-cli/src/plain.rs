//! Progress of a training run as plain lines, for logs and pipes.

use std::time::Duration;

use lb_resnet::train::{EpochMetrics, Monitor, Progress};

use crate::interrupt;
use crate::pace::Pace;
use crate::table::percent;

/// A line every ten seconds, and one an epoch.
pub struct Plain {
    epochs: usize,
    batch: usize,
    pace: Pace,
}

impl Plain {
    /// For a run of `epochs` epochs in batches of `batch`.
    pub fn new(epochs: usize, batch: usize) -> Self {
        Self {
            epochs,
            batch,
            pace: Pace::new(Duration::from_secs(10)),
        }
    }
}

impl Monitor for Plain {
    fn step(&mut self, p: &Progress) -> bool {
        if let Some(rate) = self.pace.step() {
            let left = ((self.epochs - p.epoch) * p.steps - p.step) as f64 / rate;
            eprintln!(
                "epoch {}/{} step {}/{}: loss {:.4}, accuracy {} %, lr {:.4}, {:.0} images/s, {} left",
                p.epoch + 1,
                self.epochs,
                p.step,
                p.steps,
                p.loss,
                percent(p.accuracy),
                p.learning_rate,
                rate * self.batch as f64,
                clock(left),
            );
        }
        !interrupt::requested()
    }

    fn epoch(&mut self, m: &EpochMetrics) {
        println!("{}", epoch_line(m, self.epochs));
        self.pace.restart();
    }

    fn evaluating(&mut self, _: usize) -> bool {
        !interrupt::requested()
    }
}

/// One line for a finished epoch.
pub fn epoch_line(m: &EpochMetrics, epochs: usize) -> String {
    let held_out = match m.held_out_accuracy {
        Some(a) => format!(", held-out accuracy {} %", percent(a)),
        None => String::new(),
    };
    format!(
        "epoch {}/{epochs}: train loss {:.4}, train accuracy {} %{held_out}",
        m.epoch,
        m.train_loss,
        percent(m.train_accuracy)
    )
}

/// Seconds as `h:mm:ss`.
pub fn clock(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
}
