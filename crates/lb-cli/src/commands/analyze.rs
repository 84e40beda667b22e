//! `lb analyze`

use anyhow::{Result, ensure};
use lb_data::Split;
use lb_format::BitWidth;
use lb_resnet::assign::{LayerTimes, activations_read};
use lb_resnet::ptq::{Method, Options, Widths};
use lb_resnet::sensitivity::{PlaceKind, Sensitivity, WidthLoss};

use crate::analysis::Analysis;
use crate::args::AnalyzeArgs;
use crate::backend;
use crate::calibrated::Calibrated;
use crate::model_file::{self, Place};
use crate::table::{Rows, percent, thousands};

pub fn run(args: &AnalyzeArgs) -> Result<()> {
    ensure!(
        args.method != Method::Lbtorch,
        "--method lbtorch leaves layers in float: analyze another method"
    );
    let device = args.device.backend.device()?;
    let model = Place::find(args.model.as_deref(), args.data.data.as_deref()).load(&device)?;
    let source = model_file::data(args.data.data.as_deref(), &model.checkpoint.info)?;
    let train = source.load(Split::Train)?;
    let calibrated = Calibrated::new(model, &train, (args.samples, args.seed), &device)?;
    let mut bits = args.bits.clone();
    bits.sort_unstable();
    bits.dedup();
    let widths = Widths {
        weights: bits[0],
        activations: bits[0],
    };
    let options = Options {
        method: args.method,
        ..Options::new(widths)
    };
    if !args.json {
        println!("model:  {}", calibrated.model.place.described);
        println!(
            "images: {}, seed {}, without labels",
            calibrated.drawn.source(),
            args.seed
        );
        println!("method: {}", args.method);
        println!("device: {}\n", backend::describe(&device));
    }
    let analysis = Analysis::new(&calibrated, &bits, &options, args.samples, &device)?;
    let times = match args.no_time {
        true => None,
        false => {
            let all = bits.iter().copied().collect();
            Some(analysis.times(&all, &all)?)
        }
    };
    match args.json {
        true => json_lines(args, &calibrated, &analysis, times.as_ref()),
        false => tables(&bits, &analysis, times.as_ref()),
    }
    Ok(())
}

fn tables(bits: &[BitWidth], analysis: &Analysis, times: Option<&LayerTimes>) {
    let of = |kind: PlaceKind| analysis.places.iter().filter(move |s| s.place.kind == kind);
    println!(
        "One place quantized, all others float: KL divergence of the logits from float in nats an image / images with another class in % (simulated)\n"
    );
    for (kind, what) in [
        (PlaceKind::Weight, "weight of"),
        (PlaceKind::Activation, "activation"),
    ] {
        let mut rows = table(&[what, "values"], bits);
        for s in of(kind) {
            let loss = |w: &WidthLoss| {
                let d = w.divergence;
                format!("{:.4} / {}", d.kl, percent(d.flip_rate()))
            };
            let cells = s.widths.iter().map(loss).collect();
            rows.add([vec![s.place.path.clone(), thousands(s.place.values)], cells].concat());
        }
        rows.print();
        println!();
    }
    let reads = activations_read(analysis.network());
    let measured = if times.is_some() {
        " / µs an image in the engine, weight and input of that width"
    } else {
        ""
    };
    println!("Bytes in the file above the narrowest width's{measured}\n");
    let mut rows = table(&["layer", "reads"], bits);
    for s in of(PlaceKind::Weight) {
        let path = &s.place.path;
        let cell = |&b: &BitWidth| {
            let bytes = analysis.bytes.of(path, b).unwrap_or(0);
            match times.and_then(|t| t.ns.get(&(path.clone(), b, b))) {
                Some(&ns) => format!("{} / {:.2}", thousands(bytes), ns as f64 / 1e3),
                None => thousands(bytes),
            }
        };
        let from = reads.get(path).cloned().unwrap_or_default();
        let cells = bits.iter().map(cell).collect();
        rows.add([vec![path.clone(), from], cells].concat());
    }
    rows.print();
    println!(
        "\nnext: lb calibrate --target-size SIZE | --target-drop POINTS | --target-latency TIME"
    );
}

/// A table with a column for each width behind those of `head`.
fn table(head: &[&str], bits: &[BitWidth]) -> Rows {
    let widths: Vec<String> = bits.iter().map(|b| format!("{b} bits")).collect();
    let all: Vec<&str> = (head.iter().copied())
        .chain(widths.iter().map(String::as_str))
        .collect();
    Rows::new(&all)
}

/// One line a place and width; of a weight with the times at every width of its input.
fn json_lines(
    args: &AnalyzeArgs,
    calibrated: &Calibrated,
    analysis: &Analysis,
    times: Option<&LayerTimes>,
) {
    let reads = activations_read(analysis.network());
    for s in &analysis.places {
        for w in &s.widths {
            println!(
                "{}",
                line(
                    args,
                    calibrated,
                    analysis,
                    times,
                    s,
                    w,
                    reads.get(&s.place.path)
                )
            );
        }
    }
}

fn line(
    args: &AnalyzeArgs,
    calibrated: &Calibrated,
    analysis: &Analysis,
    times: Option<&LayerTimes>,
    s: &Sensitivity,
    w: &WidthLoss,
    reads: Option<&String>,
) -> serde_json::Value {
    let path = &s.place.path;
    let weight = s.place.kind == PlaceKind::Weight;
    let us = times.filter(|_| weight).map(|t| {
        let of_layer =
            (t.ns.iter()).filter(|((layer, _, bits), _)| layer == path && *bits == w.bits);
        let pair = |((_, a, _), ns): (&(String, BitWidth, BitWidth), &u64)| {
            (a.to_string(), serde_json::Value::from(*ns as f64 / 1e3))
        };
        of_layer.map(pair).collect::<serde_json::Map<_, _>>()
    });
    serde_json::json!({
        "model": calibrated.model.place.described, "data": calibrated.drawn.source(),
        "samples": calibrated.drawn.len(), "seed": args.seed, "method": args.method,
        "arithmetic": "simulated", "kind": s.place.kind, "place": path, "values": s.place.values,
        "bits": w.bits, "kl": w.divergence.kl, "flips": w.divergence.flips,
        "images": w.divergence.images, "bytes": analysis.bytes.of(path, w.bits).filter(|_| weight),
        "reads": reads.filter(|_| weight), "us_by_input_bits": us,
    })
}
