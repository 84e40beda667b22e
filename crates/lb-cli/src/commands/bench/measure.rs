//! Images a second, round by round, networks in turn: what disturbs a machine for a while then
//! disturbs all of them.

use std::sync::Barrier;
use std::time::Instant;

use anyhow::{Result, ensure};
use lb_data::ImageSet;

use super::contender::{Contender, Stream};
use crate::interrupt;

/// Rounds for each network and setting; odd, so that one is the median.
pub const ROUNDS: usize = 5;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Images a batch.
    pub batch: usize,
    /// Threads.
    pub threads: usize,
}

/// What was measured of one network at one setting.
pub struct Measured<'a> {
    /// The network.
    pub contender: &'a Contender,
    /// Images a batch.
    pub batch: usize,
    /// Threads in use.
    pub threads: usize,
    /// Sessions side by side.
    pub streams: usize,
    rounds: Vec<Round>,
}

/// What one round gave.
#[derive(Clone, Copy, Debug)]
struct Round {
    images_per_s: f64,
    /// Milliseconds a batch takes, in one stream.
    ms: f64,
}

impl Measured<'_> {
    /// Median of the rounds.
    pub fn images_per_s(&self) -> f64 {
        median(self.rounds.iter().map(|r| r.images_per_s).collect())
    }

    /// Least and most of the rounds.
    pub fn spread(&self) -> (f64, f64) {
        let rates = self.rounds.iter().map(|r| r.images_per_s);
        rates.fold((f64::INFINITY, 0.0), |(lo, hi), r| (lo.min(r), hi.max(r)))
    }

    /// Milliseconds a batch takes, median of the rounds.
    pub fn ms(&self) -> f64 {
        median(self.rounds.iter().map(|r| r.ms).collect())
    }
}

/// The middle one of `values`.
///
/// # Panics
/// If there is none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Measures each of `contenders` for `seconds`.
///
/// # Errors
/// If a network cannot be run, or Ctrl-C was pressed.
pub fn in_turn<'a>(
    contenders: &[&'a Contender],
    setting: Setting,
    set: &ImageSet,
    seconds: f64,
) -> Result<Vec<Measured<'a>>> {
    let mut running = Vec::new();
    for &contender in contenders {
        let mut streams = contender.streams(setting)?;
        for stream in &mut streams {
            // The first run allocates.
            stream.run(set, 0, setting.batch)?;
        }
        let measured = Measured {
            contender,
            batch: setting.batch,
            threads: contender.threads(setting),
            streams: streams.len(),
            rounds: Vec::with_capacity(ROUNDS),
        };
        running.push((measured, streams));
    }
    for _ in 0..ROUNDS {
        for (measured, streams) in &mut running {
            ensure!(!interrupt::requested(), "interrupted");
            let round = round(streams, setting.batch, set, seconds / ROUNDS as f64)?;
            measured.rounds.push(round);
        }
    }
    Ok(running.into_iter().map(|(measured, _)| measured).collect())
}

/// Runs every stream on a thread of its own for `seconds`, and at least once.
fn round(
    streams: &mut [Box<dyn Stream>],
    batch: usize,
    set: &ImageSet,
    seconds: f64,
) -> Result<Round> {
    let (n, start_together) = (streams.len() as f64, Barrier::new(streams.len()));
    let rounds: Vec<Result<Round>> = std::thread::scope(|scope| {
        let running: Vec<_> = (streams.iter_mut().enumerate())
            .map(|(i, stream)| {
                let start_together = &start_together;
                scope.spawn(move || {
                    start_together.wait();
                    run_for(&mut **stream, i * batch, batch, set, seconds)
                })
            })
            .collect();
        (running.into_iter())
            .map(|r| r.join().expect("a stream panicked"))
            .collect()
    });
    let mut total = Round {
        images_per_s: 0.0,
        ms: 0.0,
    };
    for round in rounds {
        let round = round?;
        total.images_per_s += round.images_per_s;
        total.ms += round.ms / n;
    }
    Ok(total)
}

/// Runs batch after batch, other images each time.
fn run_for(
    stream: &mut dyn Stream,
    first: usize,
    batch: usize,
    set: &ImageSet,
    seconds: f64,
) -> Result<Round> {
    let places = set.len() / batch;
    let start = Instant::now();
    let mut runs = 0;
    let elapsed = loop {
        let place = (first / batch + runs) % places;
        stream.run(set, place * batch, batch)?;
        runs += 1;
        let elapsed = start.elapsed().as_secs_f64();
        if elapsed >= seconds {
            break elapsed;
        }
    };
    Ok(Round {
        images_per_s: (runs * batch) as f64 / elapsed,
        ms: elapsed * 1e3 / runs as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![1.0]), 1.0);
    }
}
