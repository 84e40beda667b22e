//! `lb finetune`

use std::path::PathBuf;

use lb_resnet::ptq::DistillConfig;

use super::values::at_least_one;
use super::{DataArgs, DeviceArgs};

#[derive(Debug, clap::Args)]
pub struct FinetuneArgs {
    /// A packed file (.lbq) that `lb calibrate` made; best of --method brecq+kl
    pub file: PathBuf,
    /// The checkpoint that it came from [default: the newest under runs/, else the built-in one]
    #[arg(long)]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Passes over the training images, whose labels are not read
    #[arg(long, default_value_t = 4.0)]
    pub epochs: f64,
    /// Images a step
    #[arg(long, default_value_t = 64, value_parser = at_least_one(4096))]
    pub batch: usize,
    /// Peak learning rate, in quantization steps; less than an epoch gets further with 0.03
    #[arg(long, default_value_t = DistillConfig::LEARNING_RATE)]
    pub lr: f64,
    /// Softens the classes that the float network teaches
    #[arg(long, default_value_t = DistillConfig::TEMPERATURE)]
    pub temperature: f32,
    /// Weight of the residual stream's error beside the classes'
    #[arg(long, default_value_t = DistillConfig::FEATURES)]
    pub features: f32,
    /// Tune on images as they are: no crop, no flip
    #[arg(long)]
    pub no_augment: bool,
    /// Mix images with each other: helps where they are few
    #[arg(long)]
    pub mixup: bool,
    /// Round factors of convolutions to bfloat16, which processors with AMX multiply faster
    #[arg(long)]
    pub bf16: bool,
    /// Evaluations on the held-out images, and packed files written, over the run
    #[arg(long, default_value_t = 8, value_parser = at_least_one(10_000))]
    pub evaluations: usize,
    /// Part of the training images that is held out to choose the best network
    #[arg(long, default_value_t = 0.02)]
    pub held_out: f64,
    /// Seed of order and augmentation
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder of the run [default: runs/FILE-finetune]
    #[arg(long)]
    pub run: Option<PathBuf>,
    /// Go on with the run in that folder
    #[arg(long)]
    pub resume: bool,
}
