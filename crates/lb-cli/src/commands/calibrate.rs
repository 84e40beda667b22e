//! `lb calibrate`

use std::path::{Path, PathBuf};

use anyhow::Result;
use lb_data::Split;
use lb_resnet::ptq::{self, Assignment, Method, Options};
use lb_resnet::report::{self, LayerReport};

use crate::args::CalibrateArgs;
use crate::calibrated::Calibrated;
use crate::commands::import::parameters;
use crate::model_file::{self, Model, Place};
use crate::table::{Rows, thousands};

pub fn run(args: &CalibrateArgs) -> Result<()> {
    anyhow::ensure!(args.samples > 0, "--samples must be at least 1");
    let device = args.device.backend.device()?;
    let model = Place::find(args.model.as_deref()).load(&device)?;
    let source = model_file::data(args.data.data.as_deref(), &model.checkpoint.info)?;
    let train = source.load(Split::Train)?;
    let draw = (args.samples, args.seed);
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| model.place.quantized_folder());
    let calibrated = Calibrated::new(model, &train, draw, &device)?;
    let Calibrated {
        model,
        folded,
        drawn,
        ..
    } = &calibrated;
    let normalization = model.checkpoint.normalization();
    if !args.json {
        println!("model:       {}", model.place.described);
        println!(
            "calibration: {}, seed {}, without labels",
            drawn.source(),
            args.seed
        );
    }

    let float_bytes = 4 * parameters(&model.checkpoint) as u64;
    let mut rows = Rows::new(&[
        "file",
        "widths",
        "bytes",
        "of float",
        "of int8",
        "logit SQNR dB",
    ]);
    // What int8 takes is measured too, not reckoned: same writer, same layers.
    let int8 = Options {
        method: args.method,
        ..Options::new("8".parse().map_err(anyhow::Error::msg)?)
    };
    let int8_bytes = calibrated.pack(&int8)?.1.len() as u64;
    let mut columns = Vec::new();
    for &widths in &args.bits {
        let options = Options {
            widths,
            edge_bits: args.edge_bits.0,
            residual_bits: args.residual_bits.0,
            method: args.method,
            bias_correction: args.bias_correction,
            assignment: Assignment::new(),
        };
        let (network, bytes) = calibrated.pack(&options)?;
        let path = out.join(file_name(model, &options));
        lb_format::atomic::write(&path, &bytes)?;
        let simulated = ptq::unpack(&network, &device)?;
        let layers = report::layers(folded, &simulated, &network, drawn, &normalization, &device)?;
        let size = bytes.len() as u64;
        if args.json {
            println!(
                "{}",
                serde_json::json!({
                    "file": path, "options": options, "widths": options.to_string(),
                    "bytes": size, "float_bytes": float_bytes, "int8_bytes": int8_bytes,
                    "recipe": network.recipe, "layers": layers,
                })
            );
            continue;
        }
        rows.add(vec![
            path.display().to_string(),
            options.to_string(),
            thousands(size),
            format!("1/{:.1}", float_bytes as f64 / size as f64),
            format!("1/{:.1}", int8_bytes as f64 / size as f64),
            layers
                .last()
                .map_or(String::new(), |l| format!("{:.1}", l.output_db)),
        ]);
        columns.push((widths.to_string(), layers));
    }
    if !args.json {
        println!(
            "float:       {} bytes of parameters",
            thousands(float_bytes)
        );
        println!(
            "method:      {}{}\n",
            args.method,
            if args.bias_correction {
                " with bias correction"
            } else {
                ""
            }
        );
        rows.print();
        print_layers(&columns);
        println!("\nnext: {}", next(args, &out));
    }
    Ok(())
}

/// The command that evaluates what was written: as short as it can be.
fn next(args: &CalibrateArgs, out: &Path) -> String {
    let mut words = vec!["lb eval".to_string()];
    words.extend(args.model.as_ref().map(|m| m.display().to_string()));
    if args.model.is_some() || args.out.is_some() {
        words.push(out.display().to_string());
    }
    words.extend(args.data.data.as_ref().map(|d| format!("--data {d}")));
    words.join(" ")
}

/// `resnet20-w2a4-e8-mse.lbq`; everything that the command line can change is in the name.
fn file_name(model: &Model, o: &Options) -> PathBuf {
    let mut name = format!(
        "{}-w{}a{}",
        model.checkpoint.info.arch, o.widths.weights, o.widths.activations
    );
    if o.method != Method::Lbtorch {
        match o.edge_bits {
            Some(bits) => name += &format!("-e{bits}"),
            None => name += "-all",
        }
        if let Some(bits) = o.residual_bits {
            name += &format!("-r{bits}");
        }
    }
    name += &format!("-{}", o.method);
    if o.bias_correction {
        name += "-bc";
    }
    PathBuf::from(name + ".lbq")
}

/// Weight and output SQNR of every layer, a column for each width.
fn print_layers(columns: &[(String, Vec<LayerReport>)]) {
    let Some((_, first)) = columns.first() else {
        return;
    };
    println!(
        "\nSignal to quantization noise, dB: the layer's weight / its output, which hears all noise before it\n"
    );
    let head: Vec<&str> = std::iter::once("layer")
        .chain(columns.iter().map(|c| c.0.as_str()))
        .collect();
    let mut rows = Rows::new(&head);
    for (i, layer) in first.iter().enumerate() {
        let cell = |l: &LayerReport| format!("{:.1} / {:.1}", l.weight_db, l.output_db);
        let cells = columns.iter().map(|(_, layers)| cell(&layers[i]));
        rows.add(std::iter::once(layer.layer.clone()).chain(cells).collect());
    }
    rows.print();
}
