//! One file a command.

mod analyze;
mod bench;
mod calibrate;
mod data;
mod demo;
mod eval;
mod finetune;
pub mod import;
mod inspect;
mod train;

use anyhow::Result;

use crate::args::Command;

/// Runs a command.
///
/// # Errors
/// Whatever went wrong, in words for people.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(args) => demo::run(&args),
        Command::Data(command) => data::run(&command),
        Command::Train(args) => train::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Analyze(args) => analyze::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Finetune(args) => finetune::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Inspect(args) => inspect::run(&args),
    }
}
