//! `lb import`

use std::path::PathBuf;

use lb_resnet::model::{Arch, Shortcut};

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
