//! Training augmentation of one image, a function of its key alone.

use serde::{Deserialize, Serialize};

use crate::CHANNELS;
use crate::random::Stream;

/// What a crop shows beyond the edge of the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PadMode {
    /// Black pixels, before normalisation: what torchvision's `RandomCrop(32, padding=4)` does to
    /// a picture, and what the published CIFAR ResNets were trained with. After normalisation the
    /// border is `−mean / std`, not zero.
    #[default]
    Zero,
    /// The image mirrored at its edge, the edge pixel not repeated.
    Reflect,
}

/// Which random changes an image gets, in this order: crop, flip, colour jitter, cutout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Pixels by which the image is padded on each side before a crop of its own size; 0: none.
    pub crop_pad: usize,
    /// What the padding is.
    pub pad_mode: PadMode,
    /// Mirror left to right, every second time.
    pub flip: bool,
    /// Brightness, contrast and saturation are each multiplied by a factor in `[1 − j, 1 + j]`.
    pub color_jitter: Option<f32>,
    /// Side of a square of black pixels around a random centre (DeVries & Taylor 2017).
    pub cutout: Option<usize>,
}

impl Default for AugmentConfig {
    /// Pad-4 crop and flip (He et al. 2016), nothing else.
    fn default() -> Self {
        Self {
            crop_pad: 4,
            pad_mode: PadMode::Zero,
            flip: true,
            color_jitter: None,
            cutout: None,
        }
    }
}

/// Names one random draw: the same key gives the same image, whatever thread computes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AugmentKey {
    /// Seed of the training run.
    pub seed: u64,
    /// Epoch, from 0.
    pub epoch: u64,
    /// Index of the image in its set.
    pub index: u64,
}

const AUGMENT: u64 = 0x6175676d;

impl AugmentConfig {
    /// No change at all: images as they are.
    pub fn none() -> Self {
        Self {
            crop_pad: 0,
            pad_mode: PadMode::Zero,
            flip: false,
            color_jitter: None,
            cutout: None,
        }
    }

    /// Writes a changed copy of `image` to `out`.
    ///
    /// # Shapes
    /// `image`, `out`: `[3, height, width]`, flattened.
    ///
    /// # Panics
    /// When the lengths do not match the size.
    pub fn apply(
        &self,
        image: &[u8],
        (height, width): (usize, usize),
        key: AugmentKey,
        out: &mut [u8],
    ) {
        assert_eq!(image.len(), CHANNELS * height * width);
        assert_eq!(image.len(), out.len());
        if image.is_empty() {
            return;
        }
        let mut random = Stream::new([key.seed, key.epoch, key.index, AUGMENT]);
        // Every draw is made whether it is used or not: switching one change on or off leaves the
        // others as they were.
        let span = u32::try_from(2 * self.crop_pad as u64 + 1).unwrap_or(u32::MAX);
        let top = i64::from(random.below(span)) - self.crop_pad as i64;
        let left = i64::from(random.below(span)) - self.crop_pad as i64;
        let flip = random.chance(0.5) && self.flip;
        let factors = [random.unit(), random.unit(), random.unit()];
        let hole = (random.below(height as u32), random.below(width as u32));

        for y in 0..height {
            let from_y = self.pad_mode.locate(y as i64 + top, height);
            for x in 0..width {
                let x_in = if flip { width - 1 - x } else { x };
                let from_x = self.pad_mode.locate(x_in as i64 + left, width);
                for c in 0..CHANNELS {
                    out[(c * height + y) * width + x] = match (from_y, from_x) {
                        (Some(fy), Some(fx)) => image[(c * height + fy) * width + fx],
                        _ => 0,
                    };
                }
            }
        }
        if let Some(strength) = self.color_jitter {
            jitter(out, strength.clamp(0.0, 1.0), factors);
        }
        if let Some(side) = self.cutout {
            let bounds = |centre: u32, size: usize| {
                let start = (centre as usize).saturating_sub(side / 2);
                let end = (centre as usize + side.min(2 * size).div_ceil(2)).min(size);
                start..end.max(start)
            };
            for y in bounds(hole.0, height) {
                for c in 0..CHANNELS {
                    let row = (c * height + y) * width;
                    let span = bounds(hole.1, width);
                    out[row + span.start..row + span.end].fill(0);
                }
            }
        }
    }
}

impl PadMode {
    /// Where position `i` lies in `0..n`; `None` in the black.
    fn locate(self, i: i64, n: usize) -> Option<usize> {
        let n = n as i64;
        match self {
            Self::Zero => (0..n).contains(&i).then_some(i as usize),
            Self::Reflect if n == 1 => Some(0),
            Self::Reflect => {
                let period = 2 * (n - 1);
                let i = i.rem_euclid(period);
                Some(i.min(period - i) as usize)
            }
        }
    }
}

/// `x' = grey' + saturation · (x'' − grey')`, where `x'' = mean + contrast · (b·x − mean)`, as
/// torchvision's `ColorJitter` with one strength for all three.
fn jitter(image: &mut [u8], strength: f32, units: [f32; 3]) {
    let [brightness, contrast, saturation] = units.map(|u| 1.0 + strength * (2.0 * u - 1.0));
    let plane = image.len() / CHANNELS;
    let luma = |r: f32, g: f32, b: f32| 0.299 * r + 0.587 * g + 0.114 * b;
    let at = |image: &[u8], c: usize, i: usize| f32::from(image[c * plane + i]) * brightness;
    let mut mean = 0.0;
    for i in 0..plane {
        mean += luma(at(image, 0, i), at(image, 1, i), at(image, 2, i));
    }
    mean /= plane as f32;
    for i in 0..plane {
        let rgb: [f32; 3] = std::array::from_fn(|c| mean + contrast * (at(image, c, i) - mean));
        let grey = luma(rgb[0], rgb[1], rgb[2]);
        for (c, x) in rgb.into_iter().enumerate() {
            let x = grey + saturation * (x - grey);
            image[c * plane + i] = x.round_ties_even().clamp(0.0, 255.0) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: (usize, usize) = (32, 32);

    fn key(index: u64) -> AugmentKey {
        AugmentKey {
            seed: 3,
            epoch: 1,
            index,
        }
    }

    /// No pixel is black, and all pixels of a plane differ from their neighbours.
    fn picture() -> Vec<u8> {
        (0..3 * 1024).map(|i| (i % 251 + 1) as u8).collect()
    }

    fn apply(config: &AugmentConfig, index: u64) -> Vec<u8> {
        let mut out = vec![7; 3 * 1024];
        config.apply(&picture(), SIZE, key(index), &mut out);
        out
    }

    #[test]
    fn none_is_the_identity() {
        assert_eq!(apply(&AugmentConfig::none(), 5), picture());
    }

    #[test]
    fn flip_mirrors_about_every_second_image() {
        let config = AugmentConfig {
            flip: true,
            ..AugmentConfig::none()
        };
        let mirrored: Vec<u8> = picture()
            .chunks(32)
            .flat_map(|row| row.iter().rev().copied())
            .collect();
        let flips = (0..1000).filter(|&i| {
            let out = apply(&config, i);
            assert!(out == mirrored || out == picture());
            out == mirrored
        });
        assert!((430..570).contains(&flips.count()));
    }

    #[test]
    fn crop_shifts_by_up_to_the_padding_and_shows_black() {
        let config = AugmentConfig {
            crop_pad: 4,
            ..AugmentConfig::none()
        };
        let source = picture();
        let mut shifts = std::collections::BTreeSet::new();
        for i in 0..2_000 {
            let out = apply(&config, i);
            let matches = |dy: i64, dx: i64| {
                (0..32 * 32).all(|at: i64| {
                    let (y, x) = (at / 32 + dy, at % 32 + dx);
                    let inside = (0..32).contains(&y) && (0..32).contains(&x);
                    let expected = if inside {
                        source[(y * 32 + x) as usize]
                    } else {
                        0
                    };
                    out[at as usize] == expected
                })
            };
            let found = (-4..=4)
                .flat_map(|dy| (-4..=4).map(move |dx| (dy, dx)))
                .find(|&(dy, dx)| matches(dy, dx));
            shifts.insert(found.expect("a shift within the padding"));
        }
        assert_eq!(shifts.len(), 81);
    }

    #[test]
    fn reflection_does_not_repeat_the_edge() {
        let at = |i| PadMode::Reflect.locate(i, 4).unwrap();
        assert_eq!(
            (-3..8).map(at).collect::<Vec<_>>(),
            [3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]
        );
        assert_eq!(PadMode::Reflect.locate(-5, 1), Some(0));
        let config = AugmentConfig {
            crop_pad: 4,
            pad_mode: PadMode::Reflect,
            ..AugmentConfig::none()
        };
        assert!((0..100).all(|i| !apply(&config, i).contains(&0)));
    }

    #[test]
    fn cutout_blackens_one_clipped_square() {
        let config = AugmentConfig {
            cutout: Some(8),
            ..AugmentConfig::none()
        };
        let black = |i| apply(&config, i).iter().filter(|&&x| x == 0).count();
        let counts: Vec<_> = (0..500).map(black).collect();
        assert_eq!(counts.iter().max(), Some(&(3 * 64)));
        assert!(counts.iter().all(|&n| n >= 3 * 16));
    }

    #[test]
    fn jitter_of_strength_zero_changes_nothing_and_more_does() {
        let config = |strength| AugmentConfig {
            color_jitter: Some(strength),
            ..AugmentConfig::none()
        };
        let same = apply(&config(0.0), 1);
        assert!(same.iter().zip(picture()).all(|(&a, b)| a.abs_diff(b) <= 1));
        assert_ne!(apply(&config(0.4), 1), picture());
    }

    #[test]
    fn switching_one_change_leaves_the_others() {
        let flip = AugmentConfig {
            flip: true,
            ..AugmentConfig::none()
        };
        let with_cutout = AugmentConfig {
            cutout: Some(4),
            ..flip.clone()
        };
        for i in 0..50 {
            let (a, b) = (apply(&flip, i), apply(&with_cutout, i));
            assert!(a.iter().zip(&b).all(|(&a, &b)| b == 0 || a == b));
        }
    }

    proptest! {
        #[test]
        fn any_config_and_size_works(
            height in 1usize..20, width in 1usize..20, crop_pad in 0usize..60, reflect: bool,
            flip: bool, color_jitter in prop::option::of(any::<f32>()),
            cutout in prop::option::of(any::<usize>()), index: u64
        ) {
            let pad_mode = if reflect { PadMode::Reflect } else { PadMode::Zero };
            let config = AugmentConfig { crop_pad, pad_mode, flip, color_jitter, cutout };
            let image: Vec<u8> = (0..3 * height * width).map(|i| i as u8).collect();
            let run = || {
                let mut out = vec![1; image.len()];
                config.apply(&image, (height, width), key(index), &mut out);
                out
            };
            prop_assert_eq!(run(), run());
        }
    }
}
