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
        self.step_at(Instant::now())
    }

    /// Forgets the steps so far: something else took time.
    pub fn restart(&mut self) {
        *self = Self::new(self.every);
    }

    fn step_at(&mut self, now: Instant) -> Option<f64> {
        self.steps += 1;
        let elapsed = now.duration_since(self.since);
        if elapsed < self.every {
            return None;
        }
        let rate = self.steps as f64 / elapsed.as_secs_f64();
        (self.since, self.steps) = (now, 0);
        Some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_tells_its_own_pace() {
        let mut pace = Pace::new(Duration::from_secs(10));
        let start = pace.since;
        let mut after = |seconds| pace.step_at(start + Duration::from_secs(seconds));
        assert_eq!(after(9), None);
        assert_eq!(after(20), Some(2.0 / 20.0));
        assert_eq!(after(25), None);
        assert_eq!(after(28), None);
        assert_eq!(after(30), Some(3.0 / 10.0));
    }

    #[test]
    fn what_is_not_a_step_does_not_count() {
        let mut pace = Pace::new(Duration::from_secs(10));
        let start = pace.since;
        assert_eq!(pace.step_at(start + Duration::from_secs(1)), None);
        pace.restart();
        let start = pace.since;
        assert_eq!(pace.step_at(start + Duration::from_secs(10)), Some(0.1));
    }
}
