//! `lb bench`

mod contender;
mod layers;
mod measure;
mod pixels;

use anyhow::Result;
use serde_json::{Value, json};

use self::contender::Contender;
use self::measure::{Measured, ROUNDS, Setting};
use self::pixels::Pixels;
use crate::args::BenchArgs;
use crate::backend;
use crate::engine::all_threads;
use crate::table::{Rows, rate};

pub fn run(args: &BenchArgs) -> Result<()> {
    let contenders = contender::all(args)?;
    let most = args.batch.iter().copied().max().unwrap_or(1);
    let pixels = Pixels::load(args.data.data.as_deref(), &contenders, most)?;
    let facts = json!({
        "data": pixels.set.source(), "cpu": backend::cpu(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    if !args.json {
        println!("data: {}", pixels.described);
        println!("cpu:  {}", backend::cpu());
        println!(
            "each figure: median, least and most of {ROUNDS} rounds of {} s, networks in turn\n",
            args.seconds / ROUNDS as f64
        );
    }
    let threads = match args.threads.as_slice() {
        [] if all_threads() == 1 => vec![1],
        [] => vec![1, all_threads()],
        some => some.to_vec(),
    };
    for &batch in &args.batch {
        let mut rows = Rows::new(&[
            "network",
            "widths",
            "arithmetic",
            "threads",
            "streams",
            "images/s",
            "least–most",
            "ms a batch",
            "kernel",
        ]);
        for (i, &threads_now) in threads.iter().enumerate() {
            let setting = Setting {
                batch,
                threads: threads_now,
            };
            // Float takes the threads it likes, so once for every batch is enough.
            let last = i + 1 == threads.len();
            let now: Vec<&Contender> = (contenders.iter())
                .filter(|c| last || c.plan().is_some())
                .collect();
            for m in measure::in_turn(&now, setting, &pixels.set, args.seconds)? {
                match args.json {
                    true => println!("{}", cell(&m, &facts)),
                    false => rows.add(row(&m)),
                }
            }
        }
        if !args.json {
            println!("batch {batch}\n");
            rows.print();
            println!();
        }
    }
    if !args.json {
        notes(args, &contenders);
    }
    if args.layers {
        layers::run(args, &contenders, &pixels, &facts)?;
    }
    Ok(())
}

/// What must be known to read the tables.
fn notes(args: &BenchArgs, contenders: &[Contender]) {
    if args.batch.contains(&1) {
        println!("`streams`: sessions side by side, each with images of its own and one thread;");
        println!("one image is never split.");
    }
    if contenders.iter().any(|c| c.plan().is_none()) {
        println!(
            "`float`: Burn's flex, batch normalization folded, on as many threads as it likes (up to {}).",
            all_threads()
        );
    }
}

fn row(m: &Measured) -> Vec<String> {
    let (least, most) = m.spread();
    vec![
        m.contender.network.clone(),
        m.contender.widths.clone(),
        m.contender.arithmetic().into(),
        m.threads.to_string(),
        m.streams.to_string(),
        rate(m.images_per_s()),
        format!("{}–{}", rate(least), rate(most)),
        format!("{:.3}", m.ms()),
        m.contender.kernel(),
    ]
}

fn cell(m: &Measured, facts: &Value) -> Value {
    let (least, most) = m.spread();
    with(
        facts,
        json!({
            "network": m.contender.network, "widths": m.contender.widths,
            "arithmetic": m.contender.arithmetic(), "kernel": m.contender.kernel(),
            "batch": m.batch, "threads": m.threads, "streams": m.streams,
            "images_per_s": m.images_per_s(), "images_per_s_min": least,
            "images_per_s_max": most, "ms": m.ms(), "rounds": ROUNDS,
        }),
    )
}

/// `object` and everything in `facts`.
fn with(facts: &Value, mut object: Value) -> Value {
    if let (Some(object), Some(facts)) = (object.as_object_mut(), facts.as_object()) {
        object.extend(facts.clone());
    }
    object
}
