//! `lb demo`

use std::time::Instant;

use anyhow::Result;
use lb_data::Split;
use lb_resnet::ptq::{Method, Options};

use crate::args::DemoArgs;
use crate::backend;
use crate::built_in::BuiltIn;
use crate::calibrated::Calibrated;
use crate::engine::all_threads;
use crate::evaluation::{Evaluator, Results};
use crate::model_file::{self, Place};
use crate::subject::{Packed, Subject};

/// Calibration images.
const SAMPLES: usize = 512;
/// Test images; all 2,000 of them would take two CPU cores more than a minute.
const TEST: usize = 1_000;

pub fn run(args: &DemoArgs) -> Result<()> {
    let start = Instant::now();
    let device = args.device.backend.device()?;
    let spec = args.data.data.as_deref();
    let which = BuiltIn::of(spec);
    let model = Place::built_in(which).load(&device)?;
    let source = model_file::data(spec, &model.checkpoint.info)?;
    let (train, test) = (source.load(Split::Train)?, source.load(Split::Test)?);
    let test = test.subset(&test.sample_indices(TEST, 0));
    let calibrated = Calibrated::new(model, &train, (SAMPLES, 0), &device)?;
    let model = &calibrated.model;
    println!(
        "network:     {} {}, trained by `lb train`",
        model.place.described, model.checkpoint.info.arch
    );
    println!("calibration: {}, without labels", calibrated.drawn.source());
    println!("evaluation:  {}", test.source());
    println!("device:      {}\n", backend::describe(&device));

    let mut results = Results::default();
    let mut rows = Vec::new();
    for options in rows_of_interest()? {
        rows.push(Subject::Packed(calibrated.subject(&options)?));
    }
    for artifact in which.packed() {
        rows.push(Subject::Packed(Packed::built_in(*artifact)?));
    }
    let float = Subject::Float(Box::new(calibrated.model));
    let evaluator = Evaluator {
        device,
        engine: None,
        threads: all_threads(),
    };
    for subject in std::iter::once(&float).chain(&rows) {
        results.add(subject, evaluator.evaluate(subject, &test)?);
    }
    results.print();
    println!("`lbtorch`: the predecessor's scheme, for comparison.");
    println!("{:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// The defaults at 16, 8, 4 and 2 bits, then the choices that matter at few bits.
fn rows_of_interest() -> Result<Vec<Options>> {
    let at = |bits: &str| -> Result<Options> {
        Ok(Options::new(bits.parse().map_err(anyhow::Error::msg)?))
    };
    let mut all = vec![at("16")?, at("8")?, at("4")?, at("2")?];
    all.push(Options {
        edge_bits: None,
        ..at("4")?
    });
    all.push(at("w2a4")?);
    all.push(Options {
        method: Method::Lbtorch,
        ..at("4")?
    });
    all.push(Options {
        method: Method::Lbtorch,
        ..at("2")?
    });
    Ok(all)
}
