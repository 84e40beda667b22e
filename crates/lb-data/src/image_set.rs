//! Labelled images in memory, and choosing some of them.

use serde::{Deserialize, Serialize};

use crate::limits::MAX_CLASSES;
use crate::random::Stream;
use crate::{CHANNELS, DataError};

/// The two halves of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// To train and calibrate on.
    Train,
    /// To evaluate on.
    Test,
}

impl Split {
    /// `train` or `test`, also the name of its folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::Train => Self::Test,
            Self::Test => Self::Train,
        }
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Labelled 8-bit RGB images of one size.
///
/// Built only through [`ImageSet::new`], so every label names a class and every image is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSet {
    pixels: Vec<u8>,
    labels: Vec<u16>,
    class_names: Vec<String>,
    height: usize,
    width: usize,
    source: String,
}

impl ImageSet {
    /// Images from their parts.
    ///
    /// # Shapes
    /// `pixels`: `[N, 3, height, width]`, flattened; `labels`: `[N]`, each below
    /// `class_names.len()`. `N` may be 0.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when the parts do not fit together.
    pub fn new(
        pixels: Vec<u8>,
        labels: Vec<u16>,
        class_names: Vec<String>,
        (height, width): (usize, usize),
        source: String,
    ) -> Result<Self, DataError> {
        let invalid = |what: String| Err(DataError::Invalid(what));
        let expected = height
            .checked_mul(width)
            .and_then(|n| n.checked_mul(CHANNELS))
            .filter(|&n| n > 0)
            .and_then(|n| n.checked_mul(labels.len()));
        if expected != Some(pixels.len()) {
            return invalid(format!(
                "{} pixel bytes are not {} images of {CHANNELS}×{height}×{width}",
                pixels.len(),
                labels.len()
            ));
        }
        if class_names.is_empty() || class_names.len() > MAX_CLASSES {
            return invalid(format!("{} classes; 1..={MAX_CLASSES}", class_names.len()));
        }
        if let Some(i) = labels
            .iter()
            .position(|&l| usize::from(l) >= class_names.len())
        {
            return invalid(format!(
                "label {} of image {i} is out of range 0..{}",
                labels[i],
                class_names.len()
            ));
        }
        Ok(Self {
            pixels,
            labels,
            class_names,
            height,
            width,
            source,
        })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// True when there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// Class names; the index is the label.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Bytes of one image: `3 · height · width`.
    pub fn image_bytes(&self) -> usize {
        CHANNELS * self.height * self.width
    }

    /// All pixels, `[N, 3, height, width]` flattened.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// All labels, `[N]`.
    pub fn labels(&self) -> &[u16] {
        &self.labels
    }

    /// What was read and how much, for people: `CIFAR-10 binary, /path (509 test images)`.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Image `i`, `[3, height, width]` flattened.
    ///
    /// # Panics
    /// When `i >= len()`.
    pub fn image(&self, i: usize) -> &[u8] {
        let n = self.image_bytes();
        &self.pixels[i * n..(i + 1) * n]
    }

    /// Label of image `i`.
    ///
    /// # Panics
    /// When `i >= len()`.
    pub fn label(&self, i: usize) -> u16 {
        self.labels[i]
    }

    /// Images of each class, `[classes]`.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes()];
        for &label in &self.labels {
            counts[usize::from(label)] += 1;
        }
        counts
    }

    /// A copy of the images at `indices`, in that order; an index may occur twice.
    ///
    /// # Panics
    /// When an index is out of range.
    pub fn subset(&self, indices: &[usize]) -> Self {
        let mut pixels = Vec::with_capacity(indices.len() * self.image_bytes());
        for &i in indices {
            pixels.extend_from_slice(self.image(i));
        }
        Self {
            pixels,
            labels: indices.iter().map(|&i| self.labels[i]).collect(),
            class_names: self.class_names.clone(),
            height: self.height,
            width: self.width,
            source: format!("{} of {}", indices.len(), self.source),
        }
    }

    /// These images, and after them those of `others`.
    ///
    /// # Errors
    /// [`DataError::Invalid`] when they differ in size or classes.
    pub fn and(mut self, others: &Self) -> Result<Self, DataError> {
        if (self.height, self.width) != (others.height, others.width) {
            return Err(DataError::Invalid(format!(
                "{}: images of {}×{}, expected {}×{} as in {}",
                others.source, others.height, others.width, self.height, self.width, self.source
            )));
        }
        if self.class_names != others.class_names {
            return Err(DataError::Invalid(format!(
                "{}: classes {}, expected {} as in {}",
                others.source,
                others.class_names.join(" "),
                self.class_names.join(" "),
                self.source
            )));
        }
        self.pixels.extend_from_slice(&others.pixels);
        self.labels.extend_from_slice(&others.labels);
        self.source = format!("{} and {}", self.source, others.source);
        Ok(self)
    }

    /// Indices `(kept, held_out)`, both ascending, with `round(fraction · n)` images of each
    /// class held out; a function of the labels and the seed alone.
    ///
    /// # Errors
    /// [`DataError::Invalid`] unless `0 <= fraction < 1`.
    pub fn held_out_indices(
        &self,
        fraction: f64,
        seed: u64,
    ) -> Result<(Vec<usize>, Vec<usize>), DataError> {
        if !(0.0..1.0).contains(&fraction) {
            return Err(DataError::Invalid(format!(
                "held-out fraction {fraction}; expected 0 or more and below 1"
            )));
        }
        let mut by_class = vec![Vec::new(); self.classes()];
        for (i, &label) in self.labels.iter().enumerate() {
            by_class[usize::from(label)].push(i);
        }
        let (mut kept, mut held) = (Vec::new(), Vec::new());
        for (class, mut members) in by_class.into_iter().enumerate() {
            Stream::new([seed, HELD_OUT, class as u64, 0]).shuffle(&mut members);
            let n = (fraction * members.len() as f64).round() as usize;
            kept.extend_from_slice(&members[n..]);
            held.extend_from_slice(&members[..n]);
        }
        kept.sort_unstable();
        held.sort_unstable();
        Ok((kept, held))
    }

    /// `(kept, held_out)` copies; see [`Self::held_out_indices`].
    ///
    /// # Errors
    /// [`DataError::Invalid`] unless `0 <= fraction < 1`.
    pub fn split_held_out(&self, fraction: f64, seed: u64) -> Result<(Self, Self), DataError> {
        let (kept, held) = self.held_out_indices(fraction, seed)?;
        Ok((self.subset(&kept), self.subset(&held)))
    }

    /// `min(n, len())` different indices in random order, a function of `len()` and the seed.
    /// A smaller `n` gives a prefix of a larger one.
    pub fn sample_indices(&self, n: usize, seed: u64) -> Vec<usize> {
        let mut indices: Vec<usize> = (0..self.len()).collect();
        Stream::new([seed, SAMPLE, 0, 0]).shuffle(&mut indices);
        indices.truncate(n);
        indices
    }
}

// Purposes, so that the same seed gives unrelated choices.
const HELD_OUT: u64 = 0x68656c64;
const SAMPLE: u64 = 0x73616d70;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(labels: Vec<u16>, classes: usize) -> ImageSet {
        let pixels = (0..labels.len() * 12).map(|i| (i / 12) as u8).collect();
        let names = (0..classes).map(|c| c.to_string()).collect();
        ImageSet::new(pixels, labels, names, (2, 2), "made up".into()).unwrap()
    }

    #[test]
    fn parts_must_fit() {
        let names = vec!["a".to_string(), "b".to_string()];
        let new = |pixels, labels: Vec<u16>| {
            ImageSet::new(
                vec![0; pixels],
                labels,
                names.clone(),
                (2, 2),
                String::new(),
            )
        };
        assert!(new(24, vec![0, 1]).is_ok());
        assert!(new(23, vec![0, 1]).is_err());
        assert!(new(24, vec![0, 2]).is_err());
        assert!(new(0, vec![]).is_ok());
    }

    #[test]
    fn subset_keeps_order_and_pairs() {
        let s = set(vec![0, 1, 2, 0, 1, 2], 3);
        let t = s.subset(&[4, 0, 4]);
        assert_eq!(t.labels(), [1, 0, 1]);
        assert_eq!(t.image(0), [4; 12]);
        assert_eq!(t.image(1), [0; 12]);
        assert_eq!(t.source(), "3 of made up");
    }

    #[test]
    fn sets_of_the_same_classes_join() {
        let (a, b) = (set(vec![0, 1], 2), set(vec![1, 0, 1], 2));
        let both = a.clone().and(&b).unwrap();
        assert_eq!((both.len(), both.labels()), (5, &[0, 1, 1, 0, 1][..]));
        assert_eq!(both.image(1), a.image(1));
        assert_eq!(both.image(4), b.image(2));
        let error = a.and(&set(vec![0], 3)).unwrap_err().to_string();
        assert!(error.contains("classes"), "{error}");
    }

    proptest! {
        #[test]
        fn held_out_is_a_stratified_partition(
            labels in prop::collection::vec(0u16..4, 0..200), fraction in 0.0..0.99f64, seed: u64
        ) {
            let s = set(labels, 4);
            let (kept, held) = s.held_out_indices(fraction, seed).unwrap();
            let mut all = [kept.clone(), held.clone()].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..s.len()).collect::<Vec<_>>());
            for (n, h) in s.class_counts().iter().zip(s.subset(&held).class_counts()) {
                prop_assert_eq!(h, (fraction * *n as f64).round() as usize);
            }
            prop_assert_eq!((kept, held), s.held_out_indices(fraction, seed).unwrap());
        }

        #[test]
        fn samples_are_distinct_prefixes(len in 0usize..100, n in 0usize..120, seed: u64) {
            let s = set(vec![0; len], 1);
            let sample = s.sample_indices(n, seed);
            prop_assert_eq!(sample.len(), n.min(len));
            prop_assert_eq!(&s.sample_indices(len, seed)[..sample.len()], &sample[..]);
            let unique: std::collections::BTreeSet<_> = sample.iter().collect();
            prop_assert_eq!(unique.len(), sample.len());
        }
    }

    #[test]
    fn fraction_is_checked() {
        for bad in [-0.1, 1.0, f64::NAN] {
            assert!(set(vec![0, 1], 2).split_held_out(bad, 0).is_err());
        }
    }
}
