//! `lb`: low-bit neural networks in pure Rust.
//!
//! Results go to standard output, progress and messages to standard error.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | done |
//! | 1 | failed: the message says which file or value, and what to do |
//! | 2 | the command line was not understood |
//! | 130 | interrupted with Ctrl-C; what was finished is kept |
//! | 141 | nobody reads the output any longer, as in `lb eval \| head` |

mod analysis;
mod args;
mod backend;
mod built_in;
mod calibrated;
mod commands;
mod dashboard;
mod engine;
mod evaluation;
mod interrupt;
mod memory;
mod model_file;
mod pace;
mod pipe;
mod plain;
mod progress;
mod refining;
mod subject;
mod table;
mod units;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    pipe::install();
    let args = args::Args::parse();
    interrupt::install();
    memory::keep();
    match commands::run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupt::requested() => {
            eprintln!("interrupted; what was finished is kept");
            ExitCode::from(130)
        }
        Err(e) => {
            eprintln!("error: {}", message(&e));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes, each said once.
fn message(e: &anyhow::Error) -> String {
    let mut text = e.to_string();
    for cause in e.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
