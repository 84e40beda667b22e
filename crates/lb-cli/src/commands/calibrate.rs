//! `lb calibrate`

mod improve;
mod target;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use lb_data::Split;
use lb_resnet::assign::activations_read;
use lb_resnet::divergence::{Divergence, Reference};
use lb_resnet::ptq::{self, Assignment, ImageRounding, Method, Options, Widths};
use lb_resnet::report::{self, LayerReport};

use self::target::{Met, Search, Target};
use crate::args::CalibrateArgs;
use crate::calibrated::Calibrated;
use crate::commands::import::parameters;
use crate::model_file::{self, Place};
use crate::progress::Images;
use crate::refining::Effort;
use crate::table::{Rows, percent, thousands};

pub fn run(args: &CalibrateArgs) -> Result<()> {
    anyhow::ensure!(args.samples > 0, "--samples must be at least 1");
    anyhow::ensure!(
        args.mean_activation_bits.is_none() || args.has_targets(),
        "--mean-activation-bits is for --target-size and --target-drop; one width is `--bits w4a3`"
    );
    anyhow::ensure!(
        args.levels.is_uniform() || !args.has_targets(),
        "--levels {} is not supported with a target: what a place loses is measured with uniform levels; name one width with --bits",
        args.levels
    );
    anyhow::ensure!(
        args.activation_levels.is_uniform() || !args.has_targets(),
        "--activation-levels {} is not supported with a target: what a place loses is measured with uniform levels; name one width with --bits",
        args.activation_levels
    );
    if !args.has_targets() {
        for options in of_widths(args) {
            options.check_levels().map_err(anyhow::Error::msg)?;
        }
    }
    let device = args.device.backend.device()?;
    let model = Place::find(args.model.as_deref(), args.data.data.as_deref()).load(&device)?;
    let source = model_file::data(args.data.data.as_deref(), &model.checkpoint.info)?;
    let train = source.load(Split::Train)?;
    let draw = (args.samples, args.seed);
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| model.place.quantized_folder());
    let mut calibrated = Calibrated::new(model, &train, draw, &device)?;
    calibrated.effort = Effort {
        iterations: args.iterations,
        rounding: args.rounding,
        steps: args.steps,
        cache: Some(args.cache.bytes),
    };
    let calibrated = calibrated;
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
        "KL nats",
        "same class %",
    ]);
    // What int8 takes is measured too, not reckoned: same writer, same layers.
    let int8 = Options::new("8".parse().map_err(anyhow::Error::msg)?);
    let int8_bytes = calibrated.pack_unrefined(&int8)?.1.len() as u64;
    let measuring = |what: &str| Images::new(what, drawn.len());
    let reference = {
        let bar = measuring("float");
        let mut watch = |done| bar.set(done);
        Reference::new(folded, drawn, &normalization, &device, &mut watch)?
    };
    let (mut columns, mut mixed, mut refined) = (Vec::new(), Vec::new(), Vec::new());
    let search = match args.has_targets() {
        true => Some(Search::new(args, &calibrated, &reference, &device)?),
        false => None,
    };
    // A target that cannot be met ends the work, but what was written before it is still shown.
    let mut failed = None;
    for wanted in wanted(args) {
        let (options, met) = match (wanted, &search) {
            (Wanted::Options(options), _) => (options, None),
            (Wanted::Target(target), Some(search)) => match search.meet(&target) {
                Ok(met) => (met.options.clone(), Some(met)),
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            },
            (Wanted::Target(_), None) => unreachable!("there is a search if there are targets"),
        };
        let start = Instant::now();
        let path = out.join(file_name(&calibrated, &options, met.as_ref()));
        let (net, units) = calibrated.refine(&options, Some(&path.with_extension("partial")))?;
        let seconds = start.elapsed().as_secs_f64();
        let (network, bytes) = calibrated.pack_net(&net, &options)?;
        if let Some(Err(e)) = met.as_ref().map(|m| m.check(bytes.len() as u64)) {
            failed = Some(e);
            break;
        }
        lb_format::atomic::write(&path, &bytes)?;
        let simulated = ptq::unpack(&network, &device)?;
        let layers = report::layers(folded, &simulated, &network, drawn, &normalization, &device)?;
        let divergence = {
            let bar = measuring("simulating");
            reference.divergence(&simulated, &mut |done| bar.set(done))?
        };
        let size = bytes.len() as u64;
        if args.json {
            println!(
                "{}",
                serde_json::json!({
                    "file": path, "options": options, "widths": options.to_string(),
                    "bytes": size, "float_bytes": float_bytes, "int8_bytes": int8_bytes,
                    "recipe": network.recipe, "layers": layers, "arithmetic": "simulated",
                    "divergence": divergence, "units": units, "seconds": seconds, "target": met.as_ref().map(Met::json),
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
            format!("{:.4}", divergence.kl),
            percent(divergence.agreement()),
        ]);
        if !units.is_empty() {
            refined.push((options.to_string(), units));
        }
        match met {
            Some(met) => {
                columns.push((met.target.to_string(), layers));
                mixed.push((met, activations_read(&network), size, divergence));
            }
            None => columns.push((options.widths.to_string(), layers)),
        }
    }
    if let Some(e) = failed.take_if(|_| args.json || columns.is_empty()) {
        return Err(e);
    }
    if !args.json {
        println!(
            "float:       {} bytes of parameters",
            thousands(float_bytes)
        );
        println!(
            "method:      {}{}\n",
            match (args.method, search.is_some()) {
                (Some(method), _) => method.to_string(),
                (None, true) => "by target".into(),
                (None, false) => "by width".into(),
            },
            if args.bias_correction {
                " with bias correction"
            } else {
                ""
            }
        );
        rows.print();
        println!(
            "\n`KL` and `same class`: against float, simulated, on the {} calibration images.",
            thousands(drawn.len() as u64)
        );
        if let Some((_, layers)) = columns.first().filter(|_| !mixed.is_empty()) {
            print_targets(&mixed, layers);
        }
        print_layers(&columns);
        units::print(&refined);
        println!("\nnext: {}", next(args, &out));
    }
    failed.map_or(Ok(()), Err)
}

/// A file to write.
enum Wanted {
    /// Of these options.
    Options(Options),
    /// With widths that are to be found.
    Target(Target),
}

/// What is to be written: a file for each target, or one for each width.
fn wanted(args: &CalibrateArgs) -> Vec<Wanted> {
    if args.has_targets() {
        let targets = target::targets(args).into_iter();
        return targets.map(Wanted::Target).collect();
    }
    (of_widths(args).into_iter()).map(Wanted::Options).collect()
}

/// One width for all, each of those asked for.
fn of_widths(args: &CalibrateArgs) -> Vec<Options> {
    let options = |widths: Widths| Options {
        widths,
        edge_bits: args.edges(),
        residual_bits: args.residual(widths.activations),
        method: args.method.unwrap_or(Method::default_for(widths)),
        bias_correction: args.bias_correction,
        image_rounding: args.image_rounding,
        levels: args.levels,
        activation_levels: args.activation_levels,
        assignment: Assignment::new(),
    };
    args.widths().into_iter().map(options).collect()
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

/// `resnet20-w2a4-e8-mse.lbq`, or `resnet20-mixed-80kB-w2.7a8.0-mse.lbq`; everything that the command
/// line can change is in the name, but the widths that a target may choose from.
fn file_name(calibrated: &Calibrated, o: &Options, met: Option<&Met>) -> PathBuf {
    let mut name = calibrated.model.checkpoint.info.arch.clone();
    if let Some(met) = met {
        let (weights, activations) = o.assignment.mean_bits();
        name += &format!("-mixed-{}-w{weights:.1}a{activations:.1}", met.target);
    } else {
        name += &format!("-w{}a{}", o.widths.weights, o.widths.activations);
    }
    if o.method != Method::Lbtorch && met.is_none() {
        match o.edge_bits {
            Some(bits) => name += &format!("-e{bits}"),
            None => name += "-all",
        }
        if let Some(bits) = o.residual_bits {
            name += &format!("-r{bits}");
        }
    }
    name += &format!("-{}{}", o.method, calibrated.effort.suffix(o.method));
    if !o.levels.is_uniform() {
        name += &format!("-{}", o.levels);
    }
    if !o.activation_levels.is_uniform() {
        name += &format!("-{}", o.activation_levels);
    }
    if o.bias_correction {
        name += "-bc";
    }
    if o.image_rounding != ImageRounding::BEST {
        name += &format!("-{}", o.image_rounding);
    }
    PathBuf::from(name + ".lbq")
}

/// A file for a target, what each of its layers reads, its bytes, and how far it is from float.
type Mixed = (Met, BTreeMap<String, String>, u64, Divergence);

/// Predictions against what was measured, and the widths that were chosen.
fn print_targets(mixed: &[Mixed], layers: &[LayerReport]) {
    println!();
    for (met, _, size, d) in mixed {
        let cost = match met.ns {
            Some(ns) => format!(
                "{:.1} µs an image on one thread (layers alone {:.1})",
                ns as f64 / 1e3,
                met.predicted_cost as f64 / 1e3
            ),
            None => format!(
                "{} bytes (predicted {})",
                thousands(*size),
                thousands(met.predicted_cost)
            ),
        };
        let how = match (met.uniform, met.refined) {
            (true, _) => "one width for all, as that lost less".to_string(),
            (false, 0) => "from places one by one".to_string(),
            (false, rounds) => format!("after {rounds} rounds of moves"),
        };
        let rounding = match met.options.method.refinement(0).correct {
            true => " for plain rounding",
            false => "",
        };
        println!(
            "{}: {cost}; KL {:.4} nats, predicted {:.4}{rounding}; another class for {} of {} images; {how}; {} networks tried",
            met.target,
            d.kl,
            met.predicted_kl,
            thousands(d.flips),
            thousands(d.images),
            met.tried
        );
    }
    println!("\nBits of each layer's weight and of the activation that it reads\n");
    let targets: Vec<String> = mixed.iter().map(|m| m.0.target.to_string()).collect();
    let head: Vec<&str> = (["layer", "reads"].into_iter())
        .chain(targets.iter().map(String::as_str))
        .collect();
    let mut rows = Rows::new(&head);
    for LayerReport { layer, .. } in layers {
        let read = mixed.iter().find_map(|(_, reads, ..)| reads.get(layer));
        let read = read.cloned().unwrap_or_default();
        let bits = |(met, ..): &Mixed| {
            let a = &met.options.assignment;
            match (a.weight(layer), a.activation(&read)) {
                (Some(w), Some(a)) => format!("W{w}A{a}"),
                _ => String::new(),
            }
        };
        let cells = mixed.iter().map(bits);
        rows.add([vec![layer.clone(), read.clone()], cells.collect()].concat());
    }
    rows.print();
}

/// Weight and output SQNR of every layer, a column for each file.
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
