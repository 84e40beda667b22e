//! Images on a device, in batches.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Epoch after epoch: the images in a random order, another one each time, augmented.
///
/// Order and augmentation are functions of (seed, epoch, image) alone, so training can be entered
/// anywhere and sees the same batches again. A last batch of another size would weigh its images
/// more; it is left out.
pub struct Epochs {
    set: Arc<ImageSet>,
    augment: AugmentConfig,
    seed: u64,
    batch: usize,
    /// Counted over all epochs.
    batches: Range<usize>,
    /// Which images of every batch.
    part: Range<usize>,
    /// That of the epoch that was read last.
    order: Mutex<Option<(usize, Arc<[usize]>)>>,
}

impl Epochs {
    /// The `batches` of `batch` images, counted from the first of the first epoch.
    ///
    /// # Panics
    /// If the images do not fill one batch.
    pub fn new(
        set: Arc<ImageSet>,
        augment: AugmentConfig,
        seed: u64,
        batch: usize,
        batches: Range<usize>,
    ) -> Self {
        assert!(
            (1..=set.len()).contains(&batch),
            "{} images in batches of {batch}",
            set.len()
        );
        Self {
            set,
            augment,
            seed,
            batch,
            batches,
            part: 0..batch,
            order: Mutex::new(None),
        }
    }

    /// Images `part` of every batch.
    pub fn part(&self, part: Range<usize>) -> Self {
        Self {
            set: self.set.clone(),
            augment: self.augment.clone(),
            batches: self.batches.clone(),
            part,
            order: Mutex::new(None),
            ..*self
        }
    }

    /// Epoch, and image of the set, of item `i`.
    fn locate(&self, i: usize) -> (usize, usize) {
        let (batch, at) = (i / self.part.len(), i % self.part.len());
        let (batch, per_epoch) = (self.batches.start + batch, self.set.len() / self.batch);
        let epoch = batch / per_epoch;
        let place = batch % per_epoch * self.batch + self.part.start + at;
        (epoch, self.order(epoch)[place])
    }

    fn order(&self, epoch: usize) -> Arc<[usize]> {
        let mut last = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((of, order)) if *of == epoch => order.clone(),
            _ => {
                let mut order: Vec<usize> = (0..self.set.len()).collect();
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
                // Every epoch has a stream of its own.
                rng.set_stream(epoch as u64 + 1);
                order.shuffle(&mut rng);
                let order: Arc<[usize]> = order.into();
                *last = Some((epoch, order.clone()));
                order
            }
        }
    }
}

impl Dataset<Sample> for Epochs {
    fn get(&self, i: usize) -> Result<Sample, DatasetError> {
        let (epoch, index) = self.locate(i);
        let key = AugmentKey {
            seed: self.seed,
            epoch: epoch as u64,
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
        self.batches.len() * self.part.len()
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
    /// The images of `epochs` in their order, `batch` at a time, prepared while the device is busy.
    ///
    /// One for a whole run: a thread that puts images on a GPU leaves its memory there.
    pub fn loader(
        self,
        epochs: Epochs,
        batch: usize,
        device: &Device,
    ) -> Arc<dyn DataLoader<Batch>> {
        // One worker keeps the batches in order.
        DataLoaderBuilder::new(self)
            .batch_size(batch)
            .num_workers(1)
            .set_device(device.clone())
            .build(epochs)
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

    fn epochs(batches: Range<usize>) -> Epochs {
        Epochs::new(set(), AugmentConfig::default(), 7, 8, batches)
    }

    #[test]
    fn training_can_be_entered_anywhere() {
        // Six batches of 8 are an epoch of 50 images.
        let (whole, rest) = (epochs(0..15), epochs(4..15));
        assert_eq!((whole.len(), rest.len()), (120, 88));
        for i in 0..rest.len() {
            let (a, b) = (whole.get(i + 32).unwrap(), rest.get(i).unwrap());
            assert_eq!((a.pixels, a.label), (b.pixels, b.label));
        }
    }

    #[test]
    fn parts_make_up_the_batches() {
        let whole = epochs(3..9);
        let parts = [0..4, 4..8].map(|part| whole.part(part));
        assert_eq!(parts.each_ref().map(Dataset::len), [24, 24]);
        for i in 0..48 {
            let (batch, at) = (i / 8, i % 8);
            let sample = parts[at / 4].get(batch * 4 + at % 4).unwrap();
            assert_eq!(sample.pixels, whole.get(i).unwrap().pixels, "{i}");
        }
    }

    #[test]
    fn epochs_are_different_permutations() {
        let all = epochs(0..12);
        let order = |epoch: usize| -> Vec<usize> {
            let places = epoch * 48..(epoch + 1) * 48;
            places
                .map(|i| all.locate(i))
                .map(|(e, image)| {
                    assert_eq!(e, epoch);
                    image
                })
                .collect()
        };
        let (mut a, b) = (order(0), order(1));
        assert_ne!(a, b);
        assert_eq!(a, order(0));
        a.sort_unstable();
        a.dedup();
        assert_eq!(a.len(), 48);
    }

    #[test]
    fn spans_cover_everything_once() {
        assert_eq!(spans(10, 4).collect::<Vec<_>>(), [(0, 4), (4, 4), (8, 2)]);
        assert_eq!(spans(0, 4).len(), 0);
    }
}
