//! `lb bench`

use std::path::PathBuf;

use super::DataArgs;
use super::values::{MAX_THREADS, at_least_one, seconds};

/// 50 MB of images.
const MAX_BATCH: u64 = 16_384;

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Packed files (.lbq) and checkpoints (.safetensors), or folders of them [default: the newest
    /// checkpoint under runs/, else the built-in one, and its packed files]
    pub paths: Vec<PathBuf>,
    #[command(flatten)]
    pub data: DataArgs,
    /// Images a batch
    #[arg(long, value_delimiter = ',', default_value = "1,16,128", value_parser = at_least_one(MAX_BATCH))]
    pub batch: Vec<usize>,
    /// Threads. Single images take turns on as many independent sessions (streams), larger batches
    /// are shared out [default: 1, and all]
    #[arg(long, value_delimiter = ',', value_parser = at_least_one(MAX_THREADS))]
    pub threads: Vec<usize>,
    /// Seconds that each network is measured for, at each batch and number of threads
    #[arg(long, default_value = "1", value_parser = seconds)]
    pub seconds: f64,
    /// Also print the time of every operation
    #[arg(long)]
    pub layers: bool,
    /// Leave the checkpoint out, which Burn's flex backend runs in float on threads of its own
    #[arg(long)]
    pub no_float: bool,
    /// Print JSON lines instead of tables
    #[arg(long)]
    pub json: bool,
}
