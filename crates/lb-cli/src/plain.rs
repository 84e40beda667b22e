//! Progress of a training run as plain lines, for logs and pipes.

use std::time::{Duration, Instant};

use lb_resnet::train::{EpochMetrics, Monitor, Progress};

use crate::interrupt;
use crate::table::percent;

const EVERY: Duration = Duration::from_secs(10);

/// A line every ten seconds, and one an epoch.
pub struct Plain {
    epochs: usize,
    batch: usize,
    start: Instant,
    last_line: Instant,
    steps: u64,
}

impl Plain {
    /// For a run of `epochs` epochs in batches of `batch`.
    pub fn new(epochs: usize, batch: usize) -> Self {
        let now = Instant::now();
        Self {
            epochs,
            batch,
            start: now,
            last_line: now,
            steps: 0,
        }
    }
}

impl Monitor for Plain {
    fn step(&mut self, p: &Progress) -> bool {
        self.steps += 1;
        if self.last_line.elapsed() >= EVERY {
            self.last_line = Instant::now();
            let seconds = self.start.elapsed().as_secs_f64();
            let rate = self.steps as f64 / seconds;
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
