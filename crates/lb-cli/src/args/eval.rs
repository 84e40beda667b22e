//! `lb eval`

use std::path::PathBuf;

use clap::ValueEnum;

use super::values::{MAX_THREADS, at_least_one};
use super::{DataArgs, DeviceArgs};

#[derive(Debug, clap::Args)]
pub struct EvalArgs {
    /// Checkpoints (.safetensors) and packed files (.lbq), or folders of them [default: the newest
    /// checkpoint under runs/, else the built-in one, and its packed files]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// What runs packed files [default: int, and sim for files with layers in float]
    #[arg(long, value_enum)]
    pub engine: Option<Engine>,
    /// Threads of the integer engine [default: all]
    #[arg(long, value_parser = at_least_one(MAX_THREADS))]
    pub threads: Option<usize>,
    /// Also print precision, recall and F1 of every class
    #[arg(long)]
    pub per_class: bool,
    /// Print JSON lines instead of a table
    #[arg(long)]
    pub json: bool,
}

/// What runs packed files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// Integers, on the CPU.
    Int,
    /// Simulation: rounded to codes, computed in float on --backend.
    Sim,
}
