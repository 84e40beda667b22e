//! A ten-class image set that is made, not downloaded: outlined and striped shapes in clutter.
//!
//! Image `i` of a split is a function of `(seed, split, i)` and of nothing else. It is the same,
//! bit for bit, on every machine: only `+ − × ÷ √`, which IEEE 754 defines exactly, and no
//! library function such as `sin`, whose last bit differs between platforms.
//!
//! The classes come in families that are easily confused: disc, ring and crescent; square, frame,
//! and squares striped along a side or along a diagonal; triangle, cross and star. Foreground and
//! background colour are drawn alike, so neither colour nor mean brightness tells a class.

mod scene;
mod shape;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::limits::MAX_IMAGES;
use crate::random::Stream;
use crate::{DataError, IMAGE_BYTES, ImageSet, SIDE, Split};
use scene::Scene;
use shape::Point;

/// Names of the ten classes; the index is the label.
pub const CLASSES: [&str; 10] = [
    "disc",
    "ring",
    "crescent",
    "square",
    "frame",
    "side-striped",
    "diagonal-striped",
    "triangle",
    "cross",
    "star",
];

/// Size, seed and difficulty of the synthetic set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyntheticConfig {
    /// Training images. The number does not change the images.
    pub train: usize,
    /// Test images.
    pub test: usize,
    /// Seed of everything.
    pub seed: u64,
    /// Standard deviation of the noise on each pixel and channel, in 0..255.
    pub noise: f32,
    /// Least and largest colour distance of shape and background, in 0..255 (root mean square
    /// over the channels).
    pub contrast: [f32; 2],
    /// Probability that a bar hides a part of the shape.
    pub occlusion: f32,
    /// Most small blobs and strokes around and on the shape.
    pub clutter: u32,
}

impl Default for SyntheticConfig {
    fn default() -> Self {
        Self {
            train: 10_000,
            test: 2_000,
            seed: 0,
            noise: 18.0,
            contrast: [36.0, 100.0],
            occlusion: 0.4,
            clutter: 4,
        }
    }
}

impl SyntheticConfig {
    /// Makes one split, on all threads. Classes take turns: label = index mod 10.
    ///
    /// # Errors
    /// [`DataError::Invalid`] for more than [`MAX_IMAGES`] images, or a parameter out of range.
    pub fn generate(&self, split: Split) -> Result<ImageSet, DataError> {
        self.check()?;
        let n = match split {
            Split::Train => self.train,
            Split::Test => self.test,
        };
        if n > MAX_IMAGES {
            return Err(DataError::Invalid(format!(
                "{n} synthetic images; at most {MAX_IMAGES}"
            )));
        }
        let mut pixels = vec![0; n * IMAGE_BYTES];
        pixels
            .par_chunks_exact_mut(IMAGE_BYTES)
            .enumerate()
            .for_each(|(i, out)| self.draw(split, i, out));
        let labels = (0..n).map(|i| (i % CLASSES.len()) as u16).collect();
        let names = CLASSES.iter().map(|&c| c.to_owned()).collect();
        let source = format!("synthetic shapes, seed {} ({n} {split} images)", self.seed);
        ImageSet::new(pixels, labels, names, (SIDE, SIDE), source)
    }

    fn check(&self) -> Result<(), DataError> {
        let [lo, hi] = self.contrast;
        let fits = (0.0..=255.0).contains(&self.noise)
            && (0.0..=1.0).contains(&self.occlusion)
            && (0.0..=hi).contains(&lo)
            && hi <= 255.0
            && self.clutter <= 100;
        if fits {
            return Ok(());
        }
        Err(DataError::Invalid(format!(
            "synthetic noise {}, occlusion {}, contrast {lo}..{hi} or clutter {} is out of range",
            self.noise, self.occlusion, self.clutter
        )))
    }

    /// Draws image `index`, `[3, 32, 32]` flattened.
    fn draw(&self, split: Split, index: usize, out: &mut [u8]) {
        let tag = match split {
            Split::Train => 0x7472_6169_6e00,
            Split::Test => 0x7465_7374_0000,
        };
        let mut random = Stream::new([self.seed, tag, index as u64, 0x7379_6e74]);
        let scene = Scene::new(self, index % CLASSES.len(), &mut random);

        let mut noise = vec![0u8; 4 * IMAGE_BYTES];
        random.fill(&mut noise);
        // The sum of four uniform bytes has mean 510 and variance 4 · (256² − 1) / 12, and is
        // near enough to a bell.
        let sd = (4.0f32 * 65_535.0 / 12.0).sqrt();
        for y in 0..SIDE {
            for x in 0..SIDE {
                let color = scene.color(Point {
                    x: x as f32 + 0.5,
                    y: y as f32 + 0.5,
                });
                for (c, value) in color.into_iter().enumerate() {
                    let at = (c * SIDE + y) * SIDE + x;
                    let bytes = &noise[4 * at..4 * at + 4];
                    let sum: u32 = bytes.iter().map(|&b| u32::from(b)).sum();
                    let value = value + (sum as f32 - 510.0) / sd * self.noise;
                    out[at] = value.round_ties_even().clamp(0.0, 255.0) as u8;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(train: usize, test: usize) -> SyntheticConfig {
        SyntheticConfig {
            train,
            test,
            ..SyntheticConfig::default()
        }
    }

    /// FNV-1a.
    fn checksum(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        })
    }

    /// Networks are trained on these very pixels; a change here makes the committed ones wrong.
    #[test]
    fn pixels_are_pinned() {
        let config = config(200, 200);
        let sums =
            [Split::Train, Split::Test].map(|s| checksum(config.generate(s).unwrap().pixels()));
        assert_eq!(
            sums,
            [0x922b_005e_a212_d566, 0x2911_929e_cd68_67da],
            "{sums:#x?}"
        );
    }

    #[test]
    fn an_image_depends_on_seed_split_and_index_alone() {
        let (small, large) = (config(20, 20), config(50, 30));
        let train = small.generate(Split::Train).unwrap();
        assert_eq!(
            train.pixels(),
            &large.generate(Split::Train).unwrap().pixels()[..20 * IMAGE_BYTES]
        );
        assert_ne!(
            train.pixels(),
            small.generate(Split::Test).unwrap().pixels()
        );
        let reseeded = SyntheticConfig { seed: 1, ..small };
        assert_ne!(
            train.pixels(),
            reseeded.generate(Split::Train).unwrap().pixels()
        );
    }

    #[test]
    fn classes_are_balanced() {
        let set = config(0, 2_000).generate(Split::Test).unwrap();
        assert_eq!(set.class_counts(), [200; 10]);
        assert!(config(0, 0).generate(Split::Train).unwrap().is_empty());
    }

    #[test]
    fn parameters_are_checked() {
        let bad = |change: fn(&mut SyntheticConfig)| {
            let mut config = config(10, 10);
            change(&mut config);
            assert!(config.generate(Split::Test).is_err(), "{config:?}");
        };
        bad(|c| c.noise = f32::NAN);
        bad(|c| c.occlusion = 1.5);
        bad(|c| c.contrast = [50.0, 20.0]);
        bad(|c| c.clutter = 1_000_000);
        bad(|c| c.test = MAX_IMAGES + 1);
    }

    /// Neither the nearest training image nor the nearest class mean nor the mean colour tells
    /// the class; chance is 10 %.
    #[test]
    fn pixels_alone_tell_little() {
        let train = config(4_000, 0).generate(Split::Train).unwrap();
        let test = config(0, 300).generate(Split::Test).unwrap();
        let distance = |a: &[u8], b: &[u8]| -> u64 {
            a.iter()
                .zip(b)
                .map(|(&a, &b)| u64::from(a.abs_diff(b)).pow(2))
                .sum()
        };
        let nearest = (0..test.len())
            .into_par_iter()
            .filter(|&i| {
                let best =
                    (0..train.len()).min_by_key(|&j| distance(test.image(i), train.image(j)));
                train.label(best.unwrap()) == test.label(i)
            })
            .count();

        let mut means = vec![vec![0.0f64; IMAGE_BYTES]; 10];
        let mut colors = [[0.0f64; 3]; 10];
        for j in 0..train.len() {
            let class = usize::from(train.label(j));
            for (m, &x) in means[class].iter_mut().zip(train.image(j)) {
                *m += f64::from(x) / 400.0;
            }
        }
        for (color, mean) in colors.iter_mut().zip(&means) {
            *color = std::array::from_fn(|c| {
                mean[c * 1024..(c + 1) * 1024].iter().sum::<f64>() / 1024.0
            });
        }
        let closest = |score: &dyn Fn(usize) -> f64| {
            (0..10)
                .min_by(|&a, &b| score(a).total_cmp(&score(b)))
                .unwrap()
        };
        let (mut by_mean, mut by_color) = (0, 0);
        for i in 0..test.len() {
            let (image, class) = (test.image(i), usize::from(test.label(i)));
            let d = |c: usize| -> f64 {
                let squares = image.iter().zip(&means[c]);
                squares.map(|(&x, m)| (f64::from(x) - m).powi(2)).sum()
            };
            by_mean += usize::from(closest(&d) == class);
            let color: [f64; 3] = std::array::from_fn(|c| {
                let plane = &image[c * 1024..(c + 1) * 1024];
                plane.iter().map(|&x| f64::from(x)).sum::<f64>() / 1024.0
            });
            let d = |c: usize| -> f64 {
                color
                    .iter()
                    .zip(colors[c])
                    .map(|(x, m)| (x - m).powi(2))
                    .sum()
            };
            by_color += usize::from(closest(&d) == class);
        }
        println!("of 300: nearest image {nearest}, nearest mean {by_mean}, mean colour {by_color}");
        assert!(nearest < 90 && by_mean < 75 && by_color < 60);
    }
}
