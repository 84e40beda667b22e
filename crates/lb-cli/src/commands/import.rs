//! `lb import`

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use burn::tensor::Device;
use lb_data::CIFAR10_CLASSES;
use lb_resnet::checkpoint::{self, ImportRequest};

use crate::args::ImportArgs;
use crate::table::thousands;

pub fn run(args: &ImportArgs) -> Result<()> {
    let triple = |name: &str, values: &[f32]| -> Result<[f32; 3]> {
        let wrong = |_| anyhow!("--{name} takes three numbers (R,G,B), not {}", values.len());
        values.try_into().map_err(wrong)
    };
    let request = ImportRequest {
        arch: args.arch,
        shortcut: args.shortcut.unwrap_or(args.arch.default_shortcut),
        classes: match &args.classes {
            Some(names) => names.clone(),
            None => CIFAR10_CLASSES.map(str::to_string).to_vec(),
        },
        mean: triple("mean", &args.mean)?,
        std: triple("std", &args.std)?,
    };
    let out = args.out.clone().unwrap_or_else(|| default_out(&args.file));
    let imported = checkpoint::import(&args.file, &request, &Device::flex())?;
    checkpoint::save(&out, &imported)?;
    let parameters: usize = parameters(&imported);
    println!(
        "{}: {} (shortcut {}), {} parameters, {} classes",
        args.file.display(),
        request.arch,
        request.shortcut,
        thousands(parameters as u64),
        request.classes.len()
    );
    println!("checkpoint: {}", out.display());
    println!(
        "next: lb calibrate --model {} --bits 2,4,8,16",
        out.display()
    );
    Ok(())
}

/// Trainable parameters: Burn counts BatchNorm's running statistics as well.
pub fn parameters(c: &checkpoint::Checkpoint) -> usize {
    use burn::module::Module;
    let statistics: usize = c
        .net
        .convolutions()
        .iter()
        .map(|(_, conv)| 2 * conv.bn.gamma.val().dims()[0])
        .sum();
    c.net.num_params() - statistics
}

fn default_out(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default();
    Path::new("runs").join(stem).join("best.safetensors")
}
