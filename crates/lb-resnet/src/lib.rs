//! CIFAR ResNets from pixels to a packed, quantized file.
//!
//! | module | idea |
//! |---|---|
//! | [`model`] | the topology, generic over the stage of its parts |
//! | [`batch`] | images on a device, in batches |
//! | [`train`] | training that can be interrupted and resumed exactly |
//! | [`checkpoint`] | safetensors with metadata; PyTorch import |
//! | [`ptq`] | fold, observe, quantize: reads top to bottom |
//! | [`finetune`](mod@finetune) | end-to-end tuning of a quantized network, interrupted and resumed exactly |
//! | [`eval`], [`metrics`] | accuracy, precision, recall and F1 |
//! | [`report`] | per-layer signal to noise ratio |
//! | [`divergence`] | how far a quantized network's answers are from the float network's |
//! | [`sensitivity`] | which place suffers how much at which width |
//! | [`candidates`], [`assign`], [`knapsack`] | the widths that lose least within a budget |

pub mod assign;
pub mod batch;
pub mod candidates;
pub mod checkpoint;
pub mod divergence;
mod error;
pub mod eval;
pub mod finetune;
pub mod knapsack;
mod lanes;
pub mod metrics;
pub mod model;
pub mod ptq;
pub mod report;
mod run_files;
pub mod sensitivity;
mod state_file;
#[cfg(test)]
mod test_data;
pub mod train;

pub use error::ResnetError;
pub use lanes::require_bf16;
