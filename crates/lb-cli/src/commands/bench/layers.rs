//! The time of every operation, on one thread.

use std::time::Instant;

use anyhow::{Result, ensure};
use lb_engine::{LayerPlan, Session, SessionOptions};
use serde_json::{Value, json};

use super::contender::Contender;
use super::measure::median;
use super::pixels::Pixels;
use super::with;
use crate::args::BenchArgs;
use crate::interrupt;
use crate::table::Rows;

/// Images a run.
const IMAGES: usize = 8;
/// Fewest runs that a median is taken of.
const RUNS: usize = 5;

/// Prints the operations of every network that runs in integers.
///
/// # Errors
/// If a network cannot be run, or Ctrl-C was pressed.
pub fn run(
    args: &BenchArgs,
    contenders: &[Contender],
    pixels: &Pixels,
    facts: &Value,
) -> Result<()> {
    for contender in contenders {
        let Some(plan) = contender.plan() else {
            continue;
        };
        let mut session = Session::new(plan.clone(), SessionOptions::default())?;
        let operations = profile(&mut session, pixels, args.seconds)?;
        match args.json {
            true => json_lines(contender, &operations, facts),
            false => table(contender, &operations),
        }
    }
    Ok(())
}

/// An operation and the microseconds it takes for one image.
struct Timed {
    layer: LayerPlan,
    us: f64,
    /// Of the whole network's time, 0 to 1.
    share: f64,
}

impl Timed {
    /// Multiply-accumulates a nanosecond, of the direct algorithm whatever the kernel does.
    fn gmac_per_s(&self) -> Option<f64> {
        (self.layer.macs > 0).then(|| self.layer.macs as f64 / self.us / 1e3)
    }
}

fn profile(session: &mut Session, pixels: &Pixels, seconds: f64) -> Result<Vec<Timed>> {
    let images = &pixels.set.pixels()[..IMAGES * pixels.set.image_bytes()];
    let start = Instant::now();
    let mut times: Vec<Vec<f64>> = Vec::new();
    let mut layers = Vec::new();
    for run in 0.. {
        ensure!(!interrupt::requested(), "interrupted");
        let (found, took): (Vec<_>, Vec<_>) = session.profile(images, IMAGES)?.into_iter().unzip();
        layers = found;
        times.resize_with(layers.len(), Vec::new);
        for (times, took) in times.iter_mut().zip(took) {
            times.push(took.as_secs_f64() * 1e6 / IMAGES as f64);
        }
        if run + 1 >= RUNS && start.elapsed().as_secs_f64() >= seconds {
            break;
        }
    }
    let us: Vec<f64> = times.into_iter().map(median).collect();
    let all: f64 = us.iter().sum();
    let timed = layers.into_iter().zip(us).map(|(layer, us)| Timed {
        layer,
        us,
        share: us / all,
    });
    Ok(timed.collect())
}

fn table(contender: &Contender, operations: &[Timed]) {
    println!(
        "\n{}, {}: operations of one image, one thread\n",
        contender.network, contender.widths
    );
    let mut rows = Rows::new(&["operation", "output", "µs", "share %", "GMAC/s", "kernel"]);
    for t in operations {
        rows.add(vec![
            t.layer.name.clone(),
            t.layer.output.to_string(),
            format!("{:.2}", t.us),
            format!("{:.1}", t.share * 100.0),
            t.gmac_per_s().map_or(String::new(), |g| format!("{g:.1}")),
            t.layer.kernel.unwrap_or_default().into(),
        ]);
    }
    let us: f64 = operations.iter().map(|t| t.us).sum();
    let macs: usize = operations.iter().map(|t| t.layer.macs).sum();
    rows.add(vec![
        "all".into(),
        String::new(),
        format!("{us:.2}"),
        "100.0".into(),
        format!("{:.1}", macs as f64 / us / 1e3),
        String::new(),
    ]);
    rows.print();
}

fn json_lines(contender: &Contender, operations: &[Timed], facts: &Value) {
    for t in operations {
        let line = json!({
            "network": contender.network, "widths": contender.widths,
            "arithmetic": contender.arithmetic(), "layer": t.layer.name,
            "kernel": t.layer.kernel, "output": t.layer.output.to_string(),
            "macs": t.layer.macs, "us": t.us, "share": t.share, "gmac_per_s": t.gmac_per_s(),
        });
        println!("{}", with(facts, line));
    }
}
