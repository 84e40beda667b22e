//! Images on a device, in batches.

use std::ops::Range;
use std::sync::Arc;

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::{Device, Int, Tensor, TensorData};
use lb_data::{AugmentConfig, AugmentKey, ImageSet, Normalization};
use rand::SeedableRng;
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;

/// Normalised images and their labels.
#[derive(Clone, Debug)]
pub struct Batch {
    /// `[N, 3, 32, 32]`
    pub images: Tensor<4>,
    /// `[N]`
    pub labels: Tensor<1, Int>,
}

/// An image as bytes.
#[derive(Clone, Debug)]
pub struct Sample {
    /// `3 × 32 × 32`
    pub pixels: Vec<u8>,
    /// Class.
    pub label: u16,
}

/// One epoch of training: the images in a random order, augmented.
///
/// Order and augmentation are functions of (seed, epoch, image) alone, so an epoch can be entered
/// anywhere and gives the same batches again.
pub struct Epoch {
    set: Arc<ImageSet>,
    order: Vec<usize>,
    augment: AugmentConfig,
    seed: u64,
    epoch: u64,
}

impl Epoch {
    /// The part `range` of epoch number `epoch`.
    pub fn new(
        set: Arc<ImageSet>,
        augment: AugmentConfig,
        seed: u64,
        epoch: u64,
        range: Range<usize>,
    ) -> Self {
        let mut order: Vec<usize> = (0..set.len()).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // Every epoch has a stream of its own.
        rng.set_stream(epoch + 1);
        order.shuffle(&mut rng);
        let end = range.end.min(order.len());
        let order = order[range.start.min(end)..end].to_vec();
        Self {
            set,
            order,
            augment,
            seed,
            epoch,
        }
    }
}

impl Epoch {
    /// Images `part` of every whole batch of `batch`.
    pub fn part(&self, batch: usize, part: Range<usize>) -> Self {
        let batches = self.order.chunks_exact(batch);
        Self {
            set: self.set.clone(),
            order: batches.flat_map(|b| &b[part.clone()]).copied().collect(),
            augment: self.augment.clone(),
            ..*self
        }
    }
}

impl Dataset<Sample> for Epoch {
    fn get(&self, i: usize) -> Result<Sample, DatasetError> {
        let index = self.order[i];
        let key = AugmentKey {
            seed: self.seed,
            epoch: self.epoch,
            index: index as u64,
        };
        let mut pixels = vec![0; self.set.image_bytes()];
        let size = (self.set.height(), self.set.width());
        self.augment
            .apply(self.set.image(index), size, key, &mut pixels);
        Ok(Sample {
            pixels,
            label: self.set.label(index),
        })
    }

    fn len(&self) -> usize {
        self.order.len()
    }
}

/// Normalises samples and puts them on a device.
#[derive(Clone, Debug)]
pub struct NormalizedBatcher {
    /// Mean and standard deviation of each channel.
    pub normalization: Normalization,
    /// Image height and width.
    pub size: (usize, usize),
}

impl Batcher<Sample, Batch> for NormalizedBatcher {
    fn batch(&self, items: Vec<Sample>, device: &Device) -> Batch {
        let (h, w) = self.size;
        let mut values = vec![0f32; items.len() * 3 * h * w];
        for (item, out) in items.iter().zip(values.chunks_exact_mut(3 * h * w)) {
            self.normalization.normalize_into(&item.pixels, out);
        }
        let labels: Vec<i64> = items.iter().map(|s| i64::from(s.label)).collect();
        Batch {
            images: Tensor::from_data(TensorData::new(values, [items.len(), 3, h, w]), device),
            labels: Tensor::from_data(labels.as_slice(), device),
        }
    }
}

impl NormalizedBatcher {
    /// The images of `epoch` in their order, `batch` at a time, prepared while the device is busy.
    pub fn loader(self, epoch: Epoch, batch: usize, device: &Device) -> Arc<dyn DataLoader<Batch>> {
        // One worker keeps the batches in order.
        DataLoaderBuilder::new(self)
            .batch_size(batch)
            .num_workers(1)
            .set_device(device.clone())
            .build(epoch)
    }
}

/// Images `from .. from + n` of a set as they are, normalised, `[n, 3, H, W]`.
pub fn images(
    set: &ImageSet,
    from: usize,
    n: usize,
    normalization: &Normalization,
    device: &Device,
) -> Tensor<4> {
    let bytes = set.image_bytes();
    let mut values = vec![0f32; n * bytes];
    let pixels = &set.pixels()[from * bytes..(from + n) * bytes];
    normalization.normalize_batch_into(pixels, bytes, &mut values);
    let shape = [n, 3, set.height(), set.width()];
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// `(from, n)` of consecutive batches of at most `batch` that cover `len`.
pub fn spans(len: usize, batch: usize) -> impl ExactSizeIterator<Item = (usize, usize)> {
    let batch = batch.max(1);
    (0..len.div_ceil(batch)).map(move |i| (i * batch, batch.min(len - i * batch)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> Arc<ImageSet> {
        let names = vec!["a".to_string(), "b".to_string()];
        let pixels = (0..50 * 12).map(|i| (i / 12) as u8).collect();
        let labels = (0..50).map(|i| i % 2).collect();
        Arc::new(ImageSet::new(pixels, labels, names, (2, 2), "made up".into()).unwrap())
    }

    #[test]
    fn an_epoch_can_be_entered_anywhere() {
        let whole = Epoch::new(set(), AugmentConfig::default(), 7, 3, 0..50);
        let rest = Epoch::new(set(), AugmentConfig::default(), 7, 3, 16..50);
        assert_eq!(rest.len(), 34);
        for i in 0..rest.len() {
            let (a, b) = (whole.get(i + 16).unwrap(), rest.get(i).unwrap());
            assert_eq!((a.pixels, a.label), (b.pixels, b.label));
        }
    }

    #[test]
    fn parts_make_up_the_batches() {
        let whole = Epoch::new(set(), AugmentConfig::default(), 7, 3, 0..50);
        let parts = [0..4, 4..8].map(|part| whole.part(8, part));
        assert_eq!(parts.each_ref().map(Dataset::len), [24, 24]);
        for i in 0..48 {
            let (batch, at) = (i / 8, i % 8);
            let sample = parts[at / 4].get(batch * 4 + at % 4).unwrap();
            assert_eq!(sample.pixels, whole.get(i).unwrap().pixels, "{i}");
        }
    }

    #[test]
    fn epochs_are_different_permutations() {
        let order = |epoch| Epoch::new(set(), AugmentConfig::none(), 7, epoch, 0..50).order;
        let (mut a, b) = (order(0), order(1));
        assert_ne!(a, b);
        a.sort_unstable();
        assert_eq!(a, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn spans_cover_everything_once() {
        assert_eq!(spans(10, 4).collect::<Vec<_>>(), [(0, 4), (4, 4), (8, 2)]);
        assert_eq!(spans(0, 4).len(), 0);
    }
}
