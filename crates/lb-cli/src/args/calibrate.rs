//! `lb calibrate`

use std::path::PathBuf;

use lb_format::BitWidth;
use lb_nn::learned::Rounding;
use lb_resnet::ptq::{
    ActivationLevels, ImageRounding, LevelSet, Method, Widths, default_residual_bits,
};

use super::values::{Floor, at_least_one, floor, mean_bits};
use super::{DataArgs, DeviceArgs};
use crate::units::{Points, Size, Time};

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
    /// each layer and each activation may take [default: 2,4,8,16; 2,4 with --levels apot or
    /// --activation-levels fitted; for a target 2,3,4,6,8]
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
    /// Levels of activations of 2 to 6 bits but the image's: uniform, or fitted to calibration images
    /// (denser near zero; small integers, which are multiplied like codes of 7 bits)
    #[arg(long, default_value = "uniform")]
    pub activation_levels: ActivationLevels,
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
    /// How gptq, brecq and brecq+kl round an image of few bits: nearest; dither, a pattern added (4 or fewer); or
    /// diffusion, errors passed on to pixels and colours where the network feels them least (5 or fewer)
    #[arg(long, default_value_t = ImageRounding::BEST)]
    pub image_rounding: ImageRounding,
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
            false if !self.levels.is_uniform() || !self.activation_levels.is_uniform() => &[2, 4],
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
