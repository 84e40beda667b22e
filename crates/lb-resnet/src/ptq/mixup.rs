//! Sums of two images, of which a teacher knows more than it was ever shown.

use burn::tensor::{Int, Tensor};
use rand::rngs::ChaCha8Rng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Mixes the images of a batch with each other (Zhang et al. 2017, arXiv 1710.09412):
///
/// ```text
/// x_i ← λ · x_i + (1 − λ) · x_π(i)        λ uniform in 0..1, π a permutation
/// ```
///
/// λ and π are functions of (seed, step) alone. There are no labels to mix: the teacher is asked
/// about the mixture (Beyer et al. 2022, arXiv 2106.05237).
///
/// # Shapes
/// `[N, C, H, W]`, in and out.
pub(super) fn mixup(images: Tensor<4>, seed: u64, step: usize) -> Tensor<4> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Streams from the other end than those of epochs, which have the same seed.
    rng.set_stream(u64::MAX - step as u64);
    let [n, ..] = images.dims();
    let mut order: Vec<i32> = (0..n as i32).collect();
    order.shuffle(&mut rng);
    let share: f32 = rng.random();
    let order = Tensor::<1, Int>::from_data(order.as_slice(), &images.device());
    let others = images.clone().select(0, order);
    images * share + others * (1.0 - share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn every_step_mixes_otherwise_and_the_same_again() {
        let device = Device::flex();
        let x = Tensor::<4>::random([8, 1, 2, 2], Distribution::Normal(0.0, 1.0), &device);
        let mixed = |seed, step| mixup(x.clone(), seed, step).into_data();
        assert_eq!(mixed(1, 0), mixed(1, 0));
        assert_ne!(mixed(1, 0), mixed(1, 1));
        assert_ne!(mixed(1, 0), mixed(2, 0));
    }

    #[test]
    fn the_mean_of_a_batch_stays() {
        let device = Device::flex();
        let x = Tensor::<4>::random([16, 3, 2, 2], Distribution::Normal(1.0, 1.0), &device);
        let means = |x: Tensor<4>| x.mean_dim(0);
        let off = means(mixup(x.clone(), 3, 7)) - means(x);
        let off = off.abs().max().into_scalar::<f32>();
        assert!(off < 1e-5, "{off}");
    }
}
