//! How fast a run goes, now and then.

use std::time::{Duration, Instant};

/// Says when the next line of progress is due, and how fast the steps since the last one were.
///
/// Only those: a GPU's first steps compile and choose its kernels, and would lower a run's mean
/// for minutes.
pub struct Pace {
    every: Duration,
    since: Instant,
    steps: u64,
}

impl Pace {
    /// A line `every` so long.
    pub fn new(every: Duration) -> Self {
        Self {
            every,
            since: Instant::now(),
            steps: 0,
        }
    }

    /// Counts a step; steps a second, if a line is due.
    pub fn step(&mut self) -> Option<f64> {
        self.steps += 1;
        let elapsed = self.since.elapsed();
        if elapsed < self.every {
            return None;
        }
        let rate = self.steps as f64 / elapsed.as_secs_f64();
        *self = Self::new(self.every);
        Some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_tells_its_own_pace() {
        let mut pace = Pace::new(Duration::from_millis(20));
        assert_eq!(pace.step(), None);
        std::thread::sleep(Duration::from_millis(40));
        // Two steps in 40 ms or more.
        let slow = pace.step().unwrap();
        assert!(slow > 0.0 && slow <= 50.0, "{slow}");
        std::thread::sleep(Duration::from_millis(40));
        // And one in as long: the mean of all three would be above 25.
        let slower = pace.step().unwrap();
        assert!(slower > 0.0 && slower <= 25.0, "{slower}");
    }
}
