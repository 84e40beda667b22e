//! `lb finetune`

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lb_data::{AugmentConfig, Split};
use lb_resnet::finetune::{
    Evaluation, FinetuneConfig, FinetuneFolder, FinetuneMonitor, Task, finetune,
};
use lb_resnet::ptq::{self, DistillConfig, DistillProgress};

use crate::args::FinetuneArgs;
use crate::model_file::{self, Place};
use crate::pace::Pace;
use crate::plain::clock;
use crate::progress::Steps;
use crate::table::percent;
use crate::{backend, interrupt};

pub fn run(args: &FinetuneArgs) -> Result<()> {
    ensure!(
        args.epochs > 0.0 && args.epochs <= 10_000.0,
        "--epochs is {}, expected above 0",
        args.epochs
    );
    ensure!(
        args.temperature > 0.0,
        "--temperature is {}, expected above 0",
        args.temperature
    );
    ensure!(
        (0.0..=1e3).contains(&args.features),
        "--features is {}, expected 0 to 1000",
        args.features
    );
    ensure!(
        (1e-6..=1.0).contains(&args.lr),
        "--lr is {}, expected 0.000001 to 1",
        args.lr
    );
    let device = args.device.backend.device()?;
    if args.bf16 {
        lb_resnet::require_bf16(std::slice::from_ref(&device))?;
    }
    let packed = lb_format::file::read(&args.file)?;
    let model = Place::find_for(args.model.as_deref(), &packed.info).load(&device)?;
    let info = &model.checkpoint.info;
    ensure!(
        (&info.arch, &info.shortcut, &info.classes)
            == (
                &packed.info.arch,
                &packed.info.shortcut,
                &packed.info.classes
            ),
        "{}: is a {} (shortcut {}) of {} classes, {} is a {} (shortcut {}) of {}, or they have other names: name its checkpoint with --model",
        args.file.display(),
        packed.info.arch,
        packed.info.shortcut,
        packed.info.classes.len(),
        model.place.described,
        info.arch,
        info.shortcut,
        info.classes.len()
    );
    let start = ptq::unpack(&packed, &device).with_context(|| args.file.display().to_string())?;
    let source = model_file::data(args.data.data.as_deref(), info)?;
    let stem = args.file.file_stem().unwrap_or_default().to_string_lossy();
    let default_run = Path::new("runs").join(format!("{stem}-finetune"));
    let folder = FinetuneFolder::new(args.run.clone().unwrap_or(default_run));
    let path = folder.path().display().to_string();
    match (folder.state().exists(), args.resume) {
        (true, false) => bail!(
            "{path}: holds a run already: --resume goes on with it, --run FOLDER starts another"
        ),
        (false, true) => bail!("{path}: holds no run to resume"),
        _ => {}
    }
    eprintln!("reading {}", source.describe());
    let all = source.load(Split::Train)?;
    let (train, held_out) = all.split_held_out(args.held_out, args.seed)?;
    ensure!(
        !held_out.is_empty(),
        "--held-out {} holds out no image, and nothing would choose the best network",
        args.held_out
    );
    let steps = ((args.epochs * train.len() as f64 / args.batch as f64).round() as usize).max(1);
    let config = FinetuneConfig {
        distill: DistillConfig {
            batch: args.batch,
            learning_rate: args.lr,
            temperature: args.temperature,
            features: args.features,
            augment: match args.no_augment {
                true => AugmentConfig::none(),
                false => AugmentConfig::default(),
            },
            mixup: args.mixup,
            bf16: args.bf16,
            ..DistillConfig::new(steps, args.seed)
        },
        evaluations: args.evaluations,
    };
    let mut recipe = packed.recipe.clone();
    recipe.method += "+finetune";
    recipe.calibrated_on += &format!(
        "; tuned on {} of {} without labels, {} epochs, seed {}",
        train.len(),
        all.source(),
        args.epochs,
        args.seed
    );
    // The state says whether settings and images are those it started with; not the machine.
    if !args.resume || !folder.config().exists() {
        folder.save_config(&serde_json::json!({
            "lb": env!("CARGO_PKG_VERSION"),
            "file": args.file, "recipe": packed.recipe, "tuning": config,
            "data": all.source(), "held_out": held_out.len(),
            "backend": format!("{:?}", args.device.backend).to_lowercase(),
            "device": backend::describe(&device),
        }))?;
    }
    eprintln!(
        "tuning {} ({}) on {} images without labels, {} held out, {steps} steps, {}; run folder {path}",
        args.file.display(),
        packed.recipe.widths,
        train.len(),
        held_out.len(),
        backend::describe(&device)
    );
    drop(all);
    let folded = ptq::fold(model.checkpoint.net.clone());
    let task = Task {
        teacher: &folded,
        start: &start,
        train: Arc::new(train),
        held_out: &held_out,
        normalization: model.checkpoint.normalization(),
        info: packed.info.clone(),
        recipe,
    };
    let mut monitor = Progress::new(steps, args.batch);
    let outcome = finetune(&task, &config, &folder, &device, &mut monitor);
    drop(monitor);
    let (evaluations, finished) = outcome?;
    if !finished {
        println!("stopped; go on with the same command and --resume");
        bail!("interrupted");
    }
    let best = evaluations
        .iter()
        .min_by(|a, b| a.held_out_kl.total_cmp(&b.held_out_kl));
    if let Some(best) = best {
        println!("best {}", line(best));
    }
    println!("packed: {}", folder.best().display());
    println!("next: lb eval {}", folder.best().display());
    Ok(())
}

fn line(e: &Evaluation) -> String {
    format!(
        "step {}/{}: held-out KL {:.4} nats an image, same class as float {} % (simulated)",
        e.step,
        e.steps,
        e.held_out_kl,
        percent(e.held_out_agreement)
    )
}

/// A bar on a terminal, and a line now and then elsewhere.
struct Progress {
    bar: Steps,
    batch: usize,
    pace: Pace,
}

impl Progress {
    fn new(steps: usize, batch: usize) -> Self {
        Self {
            bar: Steps::new("tuning", steps),
            batch,
            pace: Pace::new(Duration::from_secs(30)),
        }
    }
}

impl FinetuneMonitor for Progress {
    fn step(&mut self, p: &DistillProgress) -> bool {
        let go_on = self.bar.set(p.step, &format!("loss {:.4}", p.loss));
        if self.bar.is_hidden()
            && let Some(rate) = self.pace.step()
        {
            eprintln!(
                "step {}/{}: loss {:.4}, {:.0} images/s, {} left",
                p.step,
                p.steps,
                p.loss,
                rate * self.batch as f64,
                clock((p.steps - p.step) as f64 / rate)
            );
        }
        go_on
    }

    fn evaluated(&mut self, evaluation: &Evaluation) {
        self.bar.suspend(|| println!("{}", line(evaluation)));
        self.pace.restart();
    }

    fn evaluating(&mut self, _: usize) -> bool {
        !interrupt::requested()
    }
}
