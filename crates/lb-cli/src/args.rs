//! The command line, as typed.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Parser, Subcommand, ValueEnum};
use lb_format::BitWidth;
use lb_nn::learned::Rounding;
use lb_resnet::model::{Arch, Shortcut};
use lb_resnet::ptq::{DistillConfig, LevelSet, Method, Widths, default_residual_bits};

use crate::backend::Backend;
use crate::units::{Points, Size, Time};

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

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Download a data set
    Fetch {
        /// Which one
        #[arg(value_enum)]
        set: Fetchable,
        /// Folder that the data set's folder is made in
        #[arg(long, default_value = "datasets")]
        dir: PathBuf,
        /// Another address to download from
        #[arg(long)]
        url: Option<String>,
    },
    /// Say what a path holds
    Info {
        #[command(flatten)]
        data: DataArgs,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Fetchable {
    /// The 60,000 images in the official binary layout (162 MB)
    Cifar10,
}

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

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// A .th, .pt, .pth or .safetensors file
    pub file: PathBuf,
    /// Its architecture
    #[arg(long)]
    pub arch: Arch,
    /// Its shortcut: a (pad) or b (1×1 convolution) [default: the architecture's]
    #[arg(long)]
    pub shortcut: Option<Shortcut>,
    /// Mean of R, G, B that it was trained with, of pixels in 0..1
    #[arg(
        long,
        value_delimiter = ',',
        num_args = 1,
        default_value = "0.485,0.456,0.406"
    )]
    pub mean: Vec<f32>,
    /// Standard deviation of R, G, B that it was trained with
    #[arg(
        long,
        value_delimiter = ',',
        num_args = 1,
        default_value = "0.229,0.224,0.225"
    )]
    pub std: Vec<f32>,
    /// Class names, comma separated [default: CIFAR-10's]
    #[arg(long, value_delimiter = ',')]
    pub classes: Option<Vec<String>>,
    /// Where to write it [default: runs/FILE/best.safetensors]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct CalibrateArgs {
    /// A checkpoint [default: the newest under runs/, else the built-in one]
    #[arg(long)]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Widths: 1 to 8 or 16; weights and activations apart as in w2a4. For a target, those that
    /// each layer and each activation may take [default: 2,4,8,16; 2,4 with --levels apot; for a
    /// target 2,3,4,6,8]
    #[arg(long, value_delimiter = ',')]
    pub bits: Vec<Widths>,
    /// Largest packed file, e.g. 80kB: widths for every layer that lose least within it
    #[arg(long, value_delimiter = ',', value_name = "SIZE")]
    pub target_size: Vec<Size>,
    /// Largest share of calibration images, in %, that may get another class than in float, e.g.
    /// 0.5: the smallest file found for which that holds. The accuracy on these images cannot drop
    /// by more points than that
    #[arg(long, value_delimiter = ',', value_name = "POINTS")]
    pub target_drop: Vec<Points>,
    /// Longest time of one image in the integer engine, on one thread of this machine, e.g. 150us:
    /// widths that lose least within it
    #[arg(long, value_delimiter = ',', value_name = "TIME")]
    pub target_latency: Vec<Time>,
    /// For a target of size or drop: most bits that an activation value may have on average
    #[arg(long, value_name = "BITS", value_parser = mean_bits, conflicts_with = "target_latency")]
    pub mean_activation_bits: Option<f64>,
    /// For a target of size or latency: most rounds in which places move to the next width, with
    /// losses measured around the network that was found
    #[arg(long, default_value_t = 0, value_name = "ROUNDS")]
    pub refine: usize,
    /// Least bits of the first convolution, its image, the final linear and its input; or `same`
    /// [default: 8; for a target `same`, so that they compete]
    #[arg(long, value_parser = floor)]
    pub edge_bits: Option<Floor>,
    /// Least bits of the residual stream; or `same` [default: 8 beside activations of 1 to 3 bits,
    /// else `same`, as with `--edge-bits same` or a target]
    #[arg(long, value_parser = floor)]
    pub residual_bits: Option<Floor>,
    /// minmax, moving-average, percentile, mse, kl; affine (mse, then mean and deviation of every
    /// channel corrected), gptq (the same, weights rounded so that their errors cancel), brecq (then
    /// blocks reconstructed), brecq+kl (then tuned end to end); or the predecessor's lbtorch
    /// [default: gptq, and mse at 16 bits; for targets gptq, and mse for --target-drop]
    #[arg(long)]
    pub method: Option<Method>,
    /// Levels of weights: uniform, or apot (sums of powers of two, denser near zero; 2 to 6 bits,
    /// wider edge layers stay uniform)
    #[arg(long, default_value = "uniform")]
    pub levels: LevelSet,
    /// Iterations of reconstruction a block, for brecq [default: 200; of adaround 800]
    #[arg(long, value_parser = at_least_one(1_000_000))]
    pub iterations: Option<usize>,
    /// How brecq rounds while it learns: straight (through, as LSQ) or adaround [default: straight]
    #[arg(long)]
    pub rounding: Option<Rounding>,
    /// Steps of end-to-end tuning, for brecq+kl [default: 400]
    #[arg(long, value_parser = at_least_one(1_000_000))]
    pub steps: Option<usize>,
    /// Memory for what a unit is given and should make of all calibration images, while layers are
    /// corrected or blocks reconstructed; images that do not fit are left out of that
    #[arg(long, default_value = "4GB", value_name = "SIZE")]
    pub cache: Size,
    /// Correct biases for the mean shift of quantized weights
    #[arg(long)]
    pub bias_correction: bool,
    /// Round an image of 4 or fewer bits without dither, which gptq, brecq and brecq+kl give it
    #[arg(long)]
    pub no_dither: bool,
    /// Calibration images, drawn from the training images, without labels or augmentation
    #[arg(long, default_value_t = 1024)]
    pub samples: usize,
    /// Seed that draws them
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Folder for the packed files [default: `quantized` beside the checkpoint]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print JSON lines instead of tables
    #[arg(long)]
    pub json: bool,
}

impl CalibrateArgs {
    /// Whether files for targets are asked for, and not files of one width.
    pub fn has_targets(&self) -> bool {
        !(self.target_size.is_empty()
            && self.target_drop.is_empty()
            && self.target_latency.is_empty())
    }

    /// Widths, those typed or the default.
    pub fn widths(&self) -> Vec<Widths> {
        let default = match self.has_targets() {
            true => [2, 3, 4, 6, 8].as_slice(),
            false if !self.levels.is_uniform() => &[2, 4],
            false => &[2, 4, 8, 16],
        };
        match self.bits.as_slice() {
            [] => default.iter().map(|&b| same(b)).collect(),
            typed => typed.to_vec(),
        }
    }

    /// Least bits of edge layers, as typed or the default; `None`: as all others.
    pub fn edges(&self) -> Option<BitWidth> {
        match self.edge_bits {
            Some(Floor(typed)) => typed,
            None => (!self.has_targets()).then_some(BitWidth::EIGHT),
        }
    }

    /// Least bits of the residual stream beside such activations, as typed or the default; `None`:
    /// as all others.
    pub fn residual(&self, activations: BitWidth) -> Option<BitWidth> {
        match self.residual_bits {
            Some(Floor(typed)) => typed,
            None => default_residual_bits(activations, self.edges()),
        }
    }
}

/// One width for weights and activations.
fn same(bits: u8) -> Widths {
    let bits = BitWidth::new(bits).expect("a supported width");
    Widths {
        weights: bits,
        activations: bits,
    }
}

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

/// More images than any data set has here.
const MAX_SAMPLES: u64 = 10_000_000;
/// Far more than any machine has.
const MAX_THREADS: u64 = 1024;
/// 50 MB of images.
const MAX_BATCH: u64 = 16_384;

fn at_least_one(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

fn seconds(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3600.0 => Ok(seconds),
        _ => Err(format!("`{s}` is not a number of seconds up to 3600")),
    }
}

#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// A checkpoint or a packed file
    pub file: PathBuf,
}

fn width(s: &str) -> Result<BitWidth, String> {
    let bits = s.parse().ok().and_then(|b| BitWidth::new(b).ok());
    bits.ok_or_else(|| format!("width `{s}` is not supported: use 1 to 8 or 16"))
}

fn mean_bits(s: &str) -> Result<f64, String> {
    match s.parse::<f64>() {
        Ok(bits) if (1.0..=16.0).contains(&bits) => Ok(bits),
        _ => Err(format!("`{s}` is not a number of bits from 1 to 16")),
    }
}

/// A least number of bits: `None` is "the same as all others".
#[derive(Clone, Copy, Debug)]
pub struct Floor(pub Option<BitWidth>);

fn floor(s: &str) -> Result<Floor, String> {
    if s == "same" {
        return Ok(Floor(None));
    }
    let bits = s.parse::<u8>().ok().and_then(|b| BitWidth::new(b).ok());
    match bits {
        Some(b) => Ok(Floor(Some(b))),
        None => Err(format!(
            "`{s}` is neither `same` nor a width of 1 to 8 or 16 bits"
        )),
    }
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
