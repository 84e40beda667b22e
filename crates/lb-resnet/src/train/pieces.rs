//! A batch on the CPU, in pieces side by side.
//!
//! Every operator that spreads itself over all cores waits for the slowest at its end, and the small
//! ones between run on one core alone. Pieces, each on cores of its own, wait for each other at batch
//! normalizations only, which see the whole batch: the pass is that of the batch but for the order of
//! sums, and does not depend on the number of threads.

use std::num::NonZeroUsize;

use burn::module::Module;
use burn::tensor::Device;
use burn::train::{TrainOutput, TrainStep};
use lb_nn::Group;

use super::pass::{Part, Scored};
use crate::batch::{Batch, spans};
use crate::lanes::{self, Lanes};
use crate::model::FloatNet;

/// Images of a piece, at least. Fewer would spend more on what is done once a piece.
const LEAST: usize = 32;
/// Pieces at most; fixed, so that a run is the same on any number of cores.
const MOST: usize = 2;

/// Cores for each piece.
pub(super) struct Pieces {
    lanes: Lanes,
    /// Images of one.
    size: usize,
}

impl Pieces {
    /// Of batches of this size on this device; `None` if they pass whole.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub(super) fn new(batch: usize, device: &Device) -> std::io::Result<Option<Self>> {
        let pieces = (batch / LEAST).min(MOST);
        match NonZeroUsize::new(pieces) {
            Some(pieces) if pieces.get() > 1 && lanes::on_cpu(device) => Ok(Some(Self {
                lanes: Lanes::one_each(pieces)?,
                size: batch.div_ceil(pieces.get()),
            })),
            _ => Ok(None),
        }
    }

    /// All pieces of a batch through `net`, forward and backward, in order.
    pub(super) fn pass(
        &self,
        net: &FloatNet,
        whole: Part,
        device: &Device,
    ) -> Vec<TrainOutput<Scored>> {
        let Batch { images, labels } = whole.batch;
        let n = images.dims()[0];
        let pieces: Vec<_> = spans(n, self.size).collect();
        let group = Group::new(pieces.len(), rayon::current_num_threads());
        let pieces = pieces.into_iter().enumerate().map(|(index, (from, size))| {
            let mut criterion = whole.criterion;
            criterion.share *= size as f32 / n as f32;
            let part = Part {
                batch: Batch {
                    images: images.clone().narrow(0, from, size),
                    labels: labels.clone().narrow(0, from, size),
                },
                criterion,
                bf16: whole.bf16,
                lanes: None,
                index,
            };
            // Graphs that shared parameters would wait for each other.
            (net.clone().fork(device), part)
        });
        (self.lanes).map(pieces.collect(), |(net, part)| {
            group.join(part.index, || TrainStep::step(&net, part))
        })
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;
    use crate::batch::{Epochs, NormalizedBatcher};
    use crate::model::Shortcut;
    use crate::test_data;
    use crate::train::TrainConfig;
    use crate::train::pass::{Pass, Passes};
    use lb_data::{AugmentConfig, Normalization};
    use std::sync::Arc;

    const BATCH: usize = 136;

    /// Gradient and running variance of some layers, then the loss.
    fn step(threads: usize, whole: bool, bf16: bool) -> Vec<Vec<f32>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let device = Device::flex().autodiff();
            let net = FloatNet::init("resnet8".parse().unwrap(), Shortcut::B, 10, 3, &device);
            let set = Arc::new(test_data::calibration_images(BATCH));
            let batcher = NormalizedBatcher {
                normalization: Normalization::CIFAR10,
                size: (set.height(), set.width()),
            };
            let images = Epochs::new(set, AugmentConfig::none(), 0, BATCH, 0..1);
            let loaders = [batcher.loader(images, BATCH, &device)];
            let config = TrainConfig {
                batch: BATCH,
                label_smoothing: 0.1,
                bf16,
                ..Default::default()
            };
            let mut passes = Passes::new(&config, &[device]).unwrap();
            assert!(passes.pieces.is_some());
            if whole {
                passes.pieces = None;
            }
            let Pass {
                mut gradients,
                score,
            } = passes.over(&loaders).next(&net).unwrap().unwrap();
            let mut all = vec![vec![score.loss.into_scalar()]];
            for (_, layer) in net.convolutions() {
                let gradient = gradients.remove::<4>(layer.conv.weight.id).unwrap();
                all.push(gradient.try_into_vec_as().unwrap());
                let variance = layer.bn.running_var.valid().value();
                all.push(variance.try_into_vec_as().unwrap());
            }
            all
        })
    }

    #[test]
    fn pieces_give_what_the_batch_gives() {
        let (pieces, whole) = (step(2, false, false), step(2, true, false));
        assert_eq!(pieces.len(), whole.len());
        for (i, (a, b)) in pieces.iter().zip(&whole).enumerate() {
            let largest = b.iter().fold(0f32, |l, x| l.max(x.abs()));
            let off = (a.iter().zip(b)).fold(0f32, |l, (a, b)| l.max((a - b).abs()));
            assert!(
                largest > 0.0 && off < 1e-4 * largest,
                "{i}: {off} of {largest}"
            );
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        for bf16 in [false, true] {
            let two = step(2, false, bf16);
            assert!(step(1, false, bf16) == two && step(7, false, bf16) == two);
        }
    }

    #[test]
    fn bfloat16_changes_a_step_by_little() {
        if !lb_nn::conv2d::has_bf16() {
            eprintln!("SKIPPED bfloat16_changes_a_step_by_little: no AMX with bfloat16");
            return;
        }
        let (rounded, exact) = (step(2, false, true), step(2, false, false));
        assert!(rounded != exact);
        for (i, (a, b)) in rounded.iter().zip(&exact).enumerate() {
            let length = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
            let off = length(&mut a.iter().zip(b).map(|(a, b)| a - b));
            let off = off / length(&mut b.iter().copied());
            // The stem's gradient has gone through all layers. A wrong one would be 1 away, or more.
            assert!(off < 0.2, "{i}: {off}");
        }
    }
}
