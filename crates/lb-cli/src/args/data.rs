//! `lb data`

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::DataArgs;

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
