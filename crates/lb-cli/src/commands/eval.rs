//! `lb eval`

use anyhow::Result;
use lb_data::{DataSource, ImageSet, Split};

use crate::args::EvalArgs;
use crate::backend;
use crate::engine::all_threads;
use crate::evaluation::{Evaluation, Evaluator, Results};
use crate::model_file;
use crate::subject::{self, Subject};

pub fn run(args: &EvalArgs) -> Result<()> {
    let evaluator = Evaluator {
        device: args.device.backend.device()?,
        engine: args.engine,
        threads: args.threads.unwrap_or_else(all_threads),
    };
    let mut subjects = Vec::new();
    for named in subject::named(&args.paths, args.data.data.as_deref())? {
        subjects.push(named.open(&evaluator.device)?);
    }
    let source = model_file::data(args.data.data.as_deref(), subjects[0].info())?;
    let set = source.load(Split::Test)?;
    if !args.json {
        println!("data:   {}", set.source());
        println!("device: {}\n", backend::describe(&evaluator.device));
    }
    let mut table = Results::default();
    for subject in &subjects {
        let evaluation = evaluator.evaluate(subject, &set)?;
        if args.json {
            println!("{}", json(subject, &source, &set, &evaluation));
        }
        table.add(subject, evaluation);
    }
    if args.json {
        return Ok(());
    }
    table.print();
    if args.per_class {
        table.print_classes(&set);
    }
    Ok(())
}

fn json(s: &Subject, source: &DataSource, set: &ImageSet, e: &Evaluation) -> serde_json::Value {
    let (kernel, threads) = e.arithmetic.kernels().unzip();
    let c = &e.confusion;
    serde_json::json!({
        "network": s.name(), "widths": s.widths(), "arithmetic": e.arithmetic.name(),
        "kernel": kernel.map(|k| k.join(", ")), "threads": threads,
        "bytes": s.bytes(), "data": set.source(), "source": source.describe(),
        "metrics": c.metrics(), "classes": set.class_names(), "per_class": c.per_class(),
    })
}
