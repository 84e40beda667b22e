//! `lb analyze`

use std::path::PathBuf;

use lb_format::BitWidth;
use lb_resnet::ptq::Method;

use super::values::{at_least_one, width};
use super::{DataArgs, DeviceArgs};

/// More images than any data set has here.
const MAX_SAMPLES: u64 = 10_000_000;

#[derive(Debug, clap::Args)]
pub struct AnalyzeArgs {
    /// A checkpoint [default: the newest under runs/, else the built-in one]
    #[arg(long)]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Widths: 1 to 8 or 16
    #[arg(long, value_delimiter = ',', default_value = "2,3,4,6,8", value_parser = width)]
    pub bits: Vec<BitWidth>,
    /// minmax, moving-average, percentile, mse or kl
    #[arg(long, default_value = "mse")]
    pub method: Method,
    /// Calibration images, drawn from the training images, without labels or augmentation
    #[arg(long, default_value_t = 256, value_parser = at_least_one(MAX_SAMPLES))]
    pub samples: usize,
    /// Seed that draws them
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Leave the engine's times out
    #[arg(long)]
    pub no_time: bool,
    /// Print JSON lines instead of tables
    #[arg(long)]
    pub json: bool,
}
