//! Forward and backward through the network, on one device or on several.

use std::num::NonZeroUsize;
use std::sync::Arc;

use burn::backend::ExecutionError;
use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::nn::loss::{CrossEntropyLoss, CrossEntropyLossConfig};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Int, Tensor};
use burn::train::train::MultiDevicesTrainStep;
use burn::train::{InferenceStep, ItemLazy, TrainOutput, TrainStep};
use lb_nn::conv2d::in_bf16;

use super::TrainConfig;
use super::pieces::Pieces;
use crate::ResnetError;
use crate::batch::Batch;
use crate::lanes::Lanes;
use crate::model::FloatNet;

/// What the network makes of a batch.
pub(super) struct Pass {
    /// Of the mean loss.
    pub gradients: GradientsParams,
    pub score: Score,
}

/// How well it does.
#[derive(Debug)]
pub(super) struct Score {
    /// Mean cross entropy, `[1]`.
    pub loss: Tensor<1>,
    /// Right predictions, `[1]`.
    pub right: Tensor<1, Int>,
}

/// Passes over batches, each on its device at once.
///
/// On several devices this is data parallelism in Burn's strategy of a main device: each has a copy
/// of the network and a part of the batch, and their gradients are added up on the first. A batch
/// normalization sees the part of its device. On one CPU a batch passes in pieces as well, but a batch
/// normalization sees all of it ([`pieces`](super::pieces)).
pub(super) struct Passes {
    criterion: Criterion,
    bf16: bool,
    main: Device,
    workers: Option<MultiDevicesTrainStep<FloatNet>>,
    /// Cores of each device, where several of them are the CPU.
    lanes: Option<Arc<Lanes>>,
    /// Of a batch on one CPU.
    pub(super) pieces: Option<Pieces>,
}

impl Passes {
    /// `devices` must not be empty, and track gradients.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub(super) fn new(config: &TrainConfig, devices: &[Device]) -> Result<Self, ResnetError> {
        let smoothing = (config.label_smoothing > 0.0).then_some(config.label_smoothing as f32);
        let lanes = match NonZeroUsize::new(devices.len()) {
            Some(count) if count.get() > 1 => Lanes::of_device(&devices[0], count)
                .map_err(|e| ResnetError::Device(e.to_string()))?,
            _ => None,
        };
        Ok(Self {
            criterion: Criterion {
                smoothing,
                share: 1.0 / devices.len() as f32,
            },
            bf16: config.bf16,
            main: devices[0].clone(),
            workers: (devices.len() > 1).then(|| MultiDevicesTrainStep::new(devices)),
            lanes: lanes.map(Arc::new),
            pieces: match devices {
                [device] => Pieces::new(config.batch, device)
                    .map_err(|e| ResnetError::Device(e.to_string()))?,
                _ => None,
            },
        })
    }

    /// Over what `loaders` hold, one for each device.
    pub(super) fn over<'a>(&'a self, loaders: &'a [Arc<dyn DataLoader<Batch>>]) -> Over<'a> {
        let parts = loaders.iter().enumerate().map(|(index, loader)| {
            let part = PartIterator {
                batches: loader.iter(),
                criterion: self.criterion,
                bf16: self.bf16,
                lanes: self.lanes.clone(),
                index,
            };
            Box::new(part) as Box<dyn DataLoaderIterator<Part>>
        });
        Over {
            passes: self,
            parts: parts.collect(),
        }
    }
}

/// Passes over an epoch.
pub(super) struct Over<'a> {
    passes: &'a Passes,
    parts: Vec<Box<dyn DataLoaderIterator<Part> + 'a>>,
}

impl Over<'_> {
    /// The next batch, through `net`; `None` after the last.
    pub(super) fn next(&mut self, net: &FloatNet) -> Option<Result<Pass, ResnetError>> {
        let failed = |e: &dyn std::fmt::Display| ResnetError::Device(e.to_string());
        let Some(workers) = &self.passes.workers else {
            let part = self.parts[0].next()?.map_err(|e| failed(&e));
            let main = &self.passes.main;
            return Some(part.map(|part| match &self.passes.pieces {
                Some(pieces) => sum(pieces.pass(net, part, main), net, main),
                None => sum(vec![TrainStep::step(net, part)], net, main),
            }));
        };
        match workers.step(&mut self.parts, net) {
            Err(e) => Some(Err(failed(&e))),
            Ok((outputs, _)) if outputs.is_empty() => None,
            // A loader that died looks like one at its end.
            Ok((outputs, _)) if outputs.len() < self.parts.len() => {
                Some(Err(ResnetError::Device(format!(
                    "only {} of {} devices were given images",
                    outputs.len(),
                    self.parts.len()
                ))))
            }
            Ok((outputs, _)) => {
                let outputs = outputs.into_iter().map(|o| o.output).collect();
                Some(Ok(sum(outputs, net, &self.passes.main)))
            }
        }
    }
}

/// The parts of a batch, added up on `main`.
fn sum(mut outputs: Vec<TrainOutput<Scored>>, net: &FloatNet, main: &Device) -> Pass {
    // They come as they are done; float sums depend on the order.
    outputs.sort_by_key(|o| o.item.index);
    let mut gradients = GradientsAccumulator::new();
    let mut score: Option<Score> = None;
    let inner = main.clone().inner();
    for output in outputs {
        gradients.accumulate(net, output.grads.to_device(&inner, net));
        let Score { loss, right } = output.item.score;
        let (loss, right) = (loss.to_device(&inner), right.to_device(&inner));
        score = Some(match score {
            None => Score { loss, right },
            Some(sum) => Score {
                loss: sum.loss + loss,
                right: sum.right + right,
            },
        });
    }
    Pass {
        gradients: gradients.grads(),
        score: score.expect("at least one part"),
    }
}

/// The loss.
#[derive(Clone, Copy, Debug)]
pub(super) struct Criterion {
    smoothing: Option<f32>,
    /// Weight of a part's mean.
    pub share: f32,
}

impl Criterion {
    fn init(self, device: &Device) -> CrossEntropyLoss {
        CrossEntropyLossConfig::new()
            .with_smoothing(self.smoothing)
            .init(device)
    }
}

/// The part of a batch that a device gets, or a piece of it.
pub struct Part {
    pub(super) batch: Batch,
    pub(super) criterion: Criterion,
    /// As [`TrainConfig::bf16`].
    pub(super) bf16: bool,
    pub(super) lanes: Option<Arc<Lanes>>,
    pub(super) index: usize,
}

/// What comes of it.
pub struct Scored {
    score: Score,
    index: usize,
}

impl ItemLazy for Scored {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl TrainStep for FloatNet {
    type Input = Part;
    type Output = Scored;

    fn step(&self, mut part: Part) -> TrainOutput<Scored> {
        let (lanes, index, net) = (part.lanes.take(), part.index, self.clone());
        let pass = move || {
            in_bf16(part.bf16, || {
                let (loss, scored) = forward(&net, part);
                TrainOutput::new(&net, loss.backward(), scored)
            })
        };
        match lanes {
            Some(lanes) => lanes.within(index, pass),
            None => pass(),
        }
    }
}

/// Burn's strategies ask for it; evaluation here is [`evaluate`](crate::eval::evaluate).
impl InferenceStep for FloatNet {
    type Input = Part;
    type Output = Scored;

    fn step(&self, part: Part) -> Scored {
        forward(self, part).1
    }
}

fn forward(net: &FloatNet, part: Part) -> (Tensor<1>, Scored) {
    let Part {
        batch,
        criterion,
        index,
        ..
    } = part;
    let device = batch.images.device();
    let logits = net.forward(batch.images);
    let right = logits
        .clone()
        .argmax(1)
        .flatten::<1>(0, 1)
        .equal(batch.labels.clone());
    let loss = criterion.init(&device).forward(logits, batch.labels) * criterion.share;
    let score = Score {
        loss: loss.clone().detach(),
        right: right.int().sum(),
    };
    (loss, Scored { score, index })
}

struct PartIterator<'a> {
    batches: Box<dyn DataLoaderIterator<Batch> + 'a>,
    criterion: Criterion,
    bf16: bool,
    lanes: Option<Arc<Lanes>>,
    index: usize,
}

impl Iterator for PartIterator<'_> {
    type Item = Result<Part, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(batch.map(|batch| Part {
            batch,
            criterion: self.criterion,
            bf16: self.bf16,
            lanes: self.lanes.clone(),
            index: self.index,
        }))
    }
}

impl DataLoaderIterator<Part> for PartIterator<'_> {
    fn progress(&self) -> Progress {
        self.batches.progress()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Epochs, NormalizedBatcher};
    use crate::model::Shortcut;
    use crate::test_data;
    use burn::data::dataloader::DataLoaderBuilder;
    use lb_data::{AugmentConfig, Normalization};

    /// Eight images, `copies` times over, in one batch.
    fn loader(copies: usize, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        let set = Arc::new(test_data::calibration_images(8));
        let batcher = NormalizedBatcher {
            normalization: Normalization::CIFAR10,
            size: (set.height(), set.width()),
        };
        let epoch = Epochs::new(set, AugmentConfig::none(), 0, 8, 0..1);
        let repeated = burn::data::dataset::transform::ComposedDataset::new(
            (0..copies).map(|_| epoch.part(0..8)).collect(),
        );
        DataLoaderBuilder::new(batcher)
            .batch_size(8 * copies)
            .set_device(device.clone())
            .build(repeated)
    }

    fn pass(config: &TrainConfig, devices: usize) -> (Vec<f32>, f32, i64) {
        let device = Device::flex().autodiff();
        let net = FloatNet::init("resnet8".parse().unwrap(), Shortcut::B, 10, 3, &device);
        let passes = Passes::new(config, &vec![device.clone(); devices]).unwrap();
        let loaders: Vec<_> = (0..devices).map(|_| loader(2 / devices, &device)).collect();
        let mut over = passes.over(&loaders);
        let mut pass = over.next(&net).unwrap().unwrap();
        assert!(over.next(&net).is_none());
        let stem = net.convolutions()[0].1.conv.weight.id;
        let gradient = pass.gradients.remove::<4>(stem).unwrap();
        (
            gradient.try_into_vec_as().unwrap(),
            pass.score.loss.into_scalar(),
            pass.score.right.into_scalar(),
        )
    }

    #[test]
    fn parts_add_up_to_the_batch() {
        let config = TrainConfig {
            label_smoothing: 0.1,
            ..Default::default()
        };
        // The statistics of a batch are those of its halves if these are equal.
        let (one, two) = (pass(&config, 1), pass(&config, 2));
        assert!((one.1 - two.1).abs() < 1e-5 * one.1, "{} {}", one.1, two.1);
        assert_eq!(one.2, two.2);
        let largest = one.0.iter().fold(0f32, |l, g| l.max(g.abs()));
        let off = one
            .0
            .iter()
            .zip(&two.0)
            .fold(0f32, |l, (a, b)| l.max((a - b).abs()));
        assert!(largest > 0.0 && off < 1e-4 * largest, "{off} of {largest}");
    }
}
