//! The command line, as typed: a file for each command.

mod analyze;
mod bench;
mod calibrate;
mod data;
mod eval;
mod finetune;
mod import;
mod train;
mod values;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub use analyze::AnalyzeArgs;
pub use bench::BenchArgs;
pub use calibrate::CalibrateArgs;
pub use data::DataCommand;
pub use eval::{Engine, EvalArgs};
pub use finetune::FinetuneArgs;
pub use import::ImportArgs;
pub use train::TrainArgs;

use crate::backend::Backend;

/// Low-bit neural networks in pure Rust: train, import, calibrate, quantize, evaluate, measure.
#[derive(Debug, Parser)]
#[command(name = "lb", version, about, propagate_version = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 command line not understood, 130 interrupted, 141 output no longer read."
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Quantize and evaluate a built-in network: on CIFAR-10 where it lies, else on synthetic images
    Demo(DemoArgs),
    /// Fetch or describe image data
    #[command(subcommand)]
    Data(DataCommand),
    /// Train a ResNet
    Train(TrainArgs),
    /// Read a PyTorch checkpoint (or foreign safetensors)
    Import(ImportArgs),
    /// Measure which layer and activation suffers how much at which width
    Analyze(AnalyzeArgs),
    /// Fold, observe and quantize: one packed file per width, or per target
    Calibrate(CalibrateArgs),
    /// Tune a packed file on unlabelled images: the float network teaches its quantized self
    Finetune(FinetuneArgs),
    /// Evaluate float checkpoints and packed files
    Eval(EvalArgs),
    /// Measure how fast packed files run in integers, and float beside them
    Bench(BenchArgs),
    /// Describe a checkpoint or packed file
    Inspect(InspectArgs),
}

#[derive(Debug, clap::Args)]
pub struct DeviceArgs {
    /// What computes
    #[arg(long, value_enum, default_value = "flex")]
    pub backend: Backend,
}

#[derive(Debug, clap::Args)]
pub struct DataArgs {
    /// CIFAR binary files, an image folder (train/CLASS/*.jpg, test/…), a .tar(.gz) of either,
    /// or `synthetic` [default: datasets/cifar10; `synthetic` for a network trained on it]
    #[arg(long, value_name = "PATH")]
    pub data: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A checkpoint or a packed file
    pub file: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn what_people_run_parses() {
        for line in [
            "lb demo",
            "lb train --backend wgpu",
            "lb calibrate --bits 2,4,8,16",
            "lb calibrate --bits 2,4,8,16 --bits w2a4,w4a8 --edge-bits same",
            "lb analyze",
            "lb analyze --bits 2,3,4 --samples 64 --no-time --json",
            "lb calibrate --target-size 80kB,0.1MB --target-drop 0.5",
            "lb calibrate --target-latency 150us --bits w2a4,w3a4",
            "lb calibrate --target-size 80kB --mean-activation-bits 3.5",
            "lb eval",
            "lb eval --engine int --threads 2",
            "lb eval a.lbq --engine sim",
            "lb bench",
            "lb bench a.lbq b.lbq --batch 1,16,128 --threads 1,2 --seconds 0.5 --layers --json",
            "lb bench --no-float",
            "lb data fetch cifar10",
        ] {
            Args::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
        for line in [
            "lb calibrate --bits 9",
            "lb calibrate --edge-bits 12",
            "lb calibrate --target-size 80",
            "lb calibrate --target-drop 101",
            "lb calibrate --target-latency 5kB",
            "lb calibrate --target-latency 1ms --mean-activation-bits 3",
            "lb calibrate --target-size 80kB --mean-activation-bits 17",
            "lb analyze --bits w2a4",
            "lb analyze --samples 0",
            "lb train --arch vgg",
            "lb eval --engine float",
            "lb eval --threads 0",
            "lb bench --batch 0",
            "lb bench --threads 1,x",
            "lb bench --seconds 0",
            "lb bench --seconds nan",
        ] {
            assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
