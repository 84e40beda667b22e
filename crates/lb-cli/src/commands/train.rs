//! `lb train`

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use burn::tensor::Device;
use lb_data::{AugmentConfig, DataSource, Normalization, PadMode, Split, resolve_default};
use lb_format::NetworkInfo;
use lb_resnet::train::{Monitor, RunFolder, TrainConfig, TrainData, chosen, train};

use crate::args::TrainArgs;
use crate::dashboard::Dashboard;
use crate::plain::{Plain, epoch_line};
use crate::{backend, interrupt};

pub fn run(args: &TrainArgs) -> Result<()> {
    let devices = args.device.backend.devices(&args.devices)?;
    if args.bf16 {
        lb_resnet::require_bf16(&devices)?;
    }
    let source = match &args.data.data {
        Some(spec) => DataSource::open(spec)?,
        None => resolve_default()?,
    };
    let config = config(args);
    config.validate()?;
    let default_run = Path::new("runs").join(args.arch.name);
    let folder = RunFolder::new(args.run.clone().unwrap_or(default_run));
    let started = folder.state().exists();
    if started && !args.resume {
        bail!(
            "{}: holds a run already: --resume goes on with it, --run FOLDER starts another",
            folder.path().display()
        );
    }
    if !started && args.resume {
        bail!("{}: holds no run to resume", folder.path().display());
    }

    eprintln!("reading {}", source.describe());
    let all = source.load(Split::Train)?;
    let (mut kept, held_out) = all.split_held_out(args.held_out, args.seed)?;
    let mut trained_on = source.describe();
    for spec in &args.also {
        let more = DataSource::open(spec)?;
        trained_on = format!("{trained_on} and {}", more.describe());
        kept = kept.and(&more.load(Split::Train)?)?;
    }
    let data = TrainData {
        train: Arc::new(kept),
        held_out: (!held_out.is_empty()).then_some(held_out),
    };
    // Any fixed one serves, as long as the checkpoint says which.
    let normalization = Normalization::CIFAR10;
    let info = NetworkInfo {
        arch: args.arch.name.into(),
        shortcut: args
            .shortcut
            .unwrap_or(args.arch.default_shortcut)
            .to_string(),
        classes: all.class_names().to_vec(),
        mean: normalization.mean,
        std: normalization.std,
        trained_on,
    };
    // The state says whether settings and images are those it started with; not the machine.
    if !started || !folder.config().exists() {
        folder.save_config(&serde_json::json!({
            "lb": env!("CARGO_PKG_VERSION"),
            "network": info,
            "training": config,
            "data": all.source(),
            "held_out": args.held_out,
            "backend": format!("{:?}", args.device.backend).to_lowercase(),
            "device": backend::describe(&devices[0]),
            "devices": devices.len(),
        }))?;
    }
    eprintln!(
        "training {} (shortcut {}) on {} images, {} held out, {}; run folder {}",
        info.arch,
        info.shortcut,
        data.train.len(),
        data.held_out.as_ref().map_or(0, lb_data::ImageSet::len),
        on(&devices),
        folder.path().display()
    );
    drop(all);

    let dashboard = std::io::stdout().is_terminal();
    let mut monitor: Box<dyn Monitor> = match dashboard {
        true => Box::new(Dashboard::new(config.epochs, 0, config.batch)),
        false => Box::new(Plain::new(config.epochs, config.batch)),
    };
    let outcome = train(&config, &info, &data, &folder, &devices, monitor.as_mut());
    drop(monitor); // gives the terminal back
    let outcome = outcome?;
    if !outcome.finished {
        println!(
            "stopped; go on with: lb train … --run {} --resume",
            folder.path().display()
        );
        // `q` in the dashboard ends a run in good order; Ctrl-C is reported as such.
        anyhow::ensure!(!interrupt::requested(), "interrupted");
        return Ok(());
    }
    let held_out = data.held_out.as_ref().map_or(0, lb_data::ImageSet::len);
    if let Some(kept) = chosen(&outcome.epochs, held_out) {
        println!("kept {}", epoch_line(kept, config.epochs));
    }
    println!("checkpoint: {}", folder.best().display());
    println!(
        "next: lb calibrate --model {} --bits 2,4,8,16",
        folder.best().display()
    );
    Ok(())
}

/// In words.
fn on(devices: &[Device]) -> String {
    let first = backend::describe(&devices[0]);
    match devices.len() {
        1 => first,
        n => format!("{n} devices, the first {first}"),
    }
}

fn config(args: &TrainArgs) -> TrainConfig {
    let augment = match args.no_augment {
        true => AugmentConfig::none(),
        false => AugmentConfig {
            pad_mode: if args.reflect {
                PadMode::Reflect
            } else {
                PadMode::Zero
            },
            color_jitter: args.color_jitter,
            cutout: args.cutout,
            ..AugmentConfig::default()
        },
    };
    TrainConfig {
        epochs: args.epochs,
        batch: args.batch,
        learning_rate: args.lr,
        warmup_epochs: args.warmup.min(args.epochs as f64),
        momentum: args.momentum,
        nesterov: true,
        weight_decay: args.weight_decay,
        label_smoothing: args.label_smoothing,
        ema: args.ema,
        bf16: args.bf16,
        augment,
        seed: args.seed,
    }
}
