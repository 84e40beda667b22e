//! Bytes to the numbers a network was trained on.

use serde::{Deserialize, Serialize};

use crate::CHANNELS;

/// Per-channel normalisation of pixels scaled to 0..1: `y = (x / 255 − mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// Mean of red, green and blue, in 0..1.
    pub mean: [f32; CHANNELS],
    /// Standard deviation of red, green and blue, in 0..1; positive.
    pub std: [f32; CHANNELS],
}

impl Normalization {
    /// ImageNet statistics, as the published CIFAR ResNets of `pytorch_resnet_cifar10` use them.
    pub const IMAGENET: Self = Self {
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
    };
    /// Statistics of CIFAR-10's own 50,000 training images.
    pub const CIFAR10: Self = Self {
        mean: [0.4914, 0.4822, 0.4465],
        std: [0.2470, 0.2435, 0.2616],
    };

    /// True when applying it gives finite numbers: finite means, positive deviations.
    pub fn is_valid(&self) -> bool {
        self.mean.iter().all(|m| m.is_finite())
            && self.std.iter().all(|s| s.is_normal() && *s > 0.0)
    }

    /// Normalises one or more images.
    ///
    /// # Shapes
    /// `image_bytes` is the size of one image, `3 · H · W`. `pixels` and `out`:
    /// `[N, 3, H, W]`, flattened.
    ///
    /// # Panics
    /// When the lengths differ or are not a whole number of images.
    pub fn normalize_batch_into(&self, pixels: &[u8], image_bytes: usize, out: &mut [f32]) {
        assert_eq!(pixels.len(), out.len());
        assert!(image_bytes > 0 && pixels.len().is_multiple_of(image_bytes));
        let tables = self.tables();
        for (image, out) in pixels
            .chunks_exact(image_bytes)
            .zip(out.chunks_exact_mut(image_bytes))
        {
            apply(&tables, image, out);
        }
    }

    /// Normalises one image, `[3, H, W]` flattened.
    ///
    /// # Panics
    /// When the lengths differ or are not a multiple of three.
    pub fn normalize_into(&self, image: &[u8], out: &mut [f32]) {
        self.normalize_batch_into(image, image.len().max(CHANNELS), out);
    }

    /// The formula for each of the 256 bytes: as exact as computing it, and no division a pixel.
    fn tables(&self) -> [[f32; 256]; CHANNELS] {
        std::array::from_fn(|c| {
            std::array::from_fn(|x| (x as f32 / 255.0 - self.mean[c]) / self.std[c])
        })
    }
}

fn apply(tables: &[[f32; 256]; CHANNELS], image: &[u8], out: &mut [f32]) {
    assert!(image.len().is_multiple_of(CHANNELS));
    let plane = image.len() / CHANNELS;
    for (c, table) in tables.iter().enumerate() {
        let span = c * plane..(c + 1) * plane;
        for (y, &x) in out[span.clone()].iter_mut().zip(&image[span]) {
            *y = table[usize::from(x)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_formula_per_channel() {
        let pixels: Vec<u8> = (0..=255).cycle().take(2 * 3 * 256).collect();
        let mut out = vec![0.0; pixels.len()];
        Normalization::IMAGENET.normalize_batch_into(&pixels, 768, &mut out);
        for (i, (&x, &y)) in pixels.iter().zip(&out).enumerate() {
            let c = i / 256 % 3;
            let n = Normalization::IMAGENET;
            assert_eq!(y, (f32::from(x) / 255.0 - n.mean[c]) / n.std[c]);
        }
        let mut one = vec![0.0; 768];
        Normalization::IMAGENET.normalize_into(&pixels[..768], &mut one);
        assert_eq!(one, out[..768]);
    }

    #[test]
    fn validity() {
        assert!(Normalization::CIFAR10.is_valid());
        let mut bad = Normalization::CIFAR10;
        bad.std[1] = 0.0;
        assert!(!bad.is_valid());
        bad.std[1] = f32::NAN;
        assert!(!bad.is_valid());
    }
}
