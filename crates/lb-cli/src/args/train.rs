//! `lb train`

use std::path::PathBuf;

use lb_resnet::model::{Arch, Shortcut};

use super::{DataArgs, DeviceArgs};

#[derive(Debug, clap::Args)]
pub struct TrainArgs {
    /// resnet8, resnet20, resnet32, resnet44, resnet56, resnet110 or resnet20-wide
    #[arg(long, default_value = "resnet20")]
    pub arch: Arch,
    /// Shortcut: a (pad) or b (1×1 convolution) [default: the architecture's]
    #[arg(long)]
    pub shortcut: Option<Shortcut>,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Devices of the backend, by number, e.g. 0,1: each gets an equal part of every batch. On the
    /// CPU each is a share of the cores [default: the backend's first]
    #[arg(long, value_delimiter = ',', value_name = "N,…")]
    pub devices: Vec<usize>,
    /// Passes over the training images
    #[arg(long, default_value_t = 200)]
    pub epochs: usize,
    /// Images a step
    #[arg(long, default_value_t = 128)]
    pub batch: usize,
    /// Peak learning rate
    #[arg(long, default_value_t = 0.1)]
    pub lr: f64,
    /// Epochs of linear warm-up
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// L2 penalty
    #[arg(long, default_value_t = 5e-4)]
    pub weight_decay: f64,
    /// Momentum (Nesterov)
    #[arg(long, default_value_t = 0.9)]
    pub momentum: f64,
    /// Label smoothing, e.g. 0.1
    #[arg(long, default_value_t = 0.0)]
    pub label_smoothing: f64,
    /// Average the weights with this decay, e.g. 0.999, and evaluate and save the average
    #[arg(long)]
    pub ema: Option<f64>,
    /// Round factors of convolutions to bfloat16, which processors with AMX multiply faster
    #[arg(long)]
    pub bf16: bool,
    /// Pad crops by mirroring instead of black pixels
    #[arg(long)]
    pub reflect: bool,
    /// Train on images as they are: no crop, no flip
    #[arg(long)]
    pub no_augment: bool,
    /// Vary brightness, contrast and saturation by up to this fraction, e.g. 0.2
    #[arg(long)]
    pub color_jitter: Option<f32>,
    /// Black out a square of this many pixels
    #[arg(long)]
    pub cutout: Option<usize>,
    /// Part of the training images that is held out to choose an epoch: the last one that they
    /// cannot tell from the best, by one standard error
    #[arg(long, default_value_t = 0.05)]
    pub held_out: f64,
    /// Trains on the training images of these data, too, named as for --data; none of them is held
    /// out
    #[arg(long, value_name = "PATH")]
    pub also: Vec<String>,
    /// Seed of weights, order and augmentation
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder of the run [default: runs/ARCH]
    #[arg(long)]
    pub run: Option<PathBuf>,
    /// Go on with the run in that folder
    #[arg(long)]
    pub resume: bool,
}
