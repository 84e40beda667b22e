//! Which errors of an image a network feels, and the weights that move them to where it feels least.

use lb_format::Diffusion;
use lb_format::diffusion::{MAX_WEIGHT, Mix, ONE_WEIGHT};

use crate::CoreError;
use crate::compensate::cholesky;

/// Where errors go: the pixel itself, and those that come after it and take over a part; rows and columns.
const REACH: [(isize, isize); 5] = [(0, 0), (0, 1), (1, 1), (1, 0), (1, -1)];

/// Colours of a pixel.
const COLOURS: usize = 3;

/// Errors of one colour at the places of [`REACH`].
const PARTS: usize = COLOURS * REACH.len();

/// Added to the diagonal, in parts of its mean. What an image is given to hide errors of rounding may
/// not become so large that a network with rounded weights, or a range that ends, feels it after all.
const RIDGE: f64 = 0.1;

/// Second moments of the gradient of what a network says, by colours and distance: how much it feels
/// errors e of an image,
///
/// ```text
/// KL ≈ ½ Σ_{p,q} e(p)ᵀ M(q − p) e(q)        M(τ) = mean over images and p of g(p) g(p + τ)ᵀ
/// ```
///
/// with g the gradient of the log-likelihood, whose second moment is Fisher's information, and M taken to
/// be the same at all places p.
#[derive(Clone, Debug, Default)]
pub struct Felt {
    /// `[places of REACH][places of REACH][colour][colour]`, summed.
    sums: Vec<f64>,
    count: u64,
}

impl Felt {
    /// Adds gradients of images, `[images, 3, height, width]`.
    ///
    /// # Panics
    /// If they are not whole images.
    pub fn add(&mut self, gradients: &[f32], (height, width): (usize, usize)) {
        let area = height * width;
        assert!(
            gradients.len().is_multiple_of(COLOURS * area),
            "whole images"
        );
        self.sums.resize(PARTS * PARTS, 0.0);
        let mut near = [0.0; PARTS];
        for image in gradients.chunks_exact(COLOURS * area) {
            // Only where all places lie inside.
            for y in 0..height.saturating_sub(1) {
                for x in 1..width.saturating_sub(1) {
                    for (place, (dy, dx)) in REACH.into_iter().enumerate() {
                        let at = y.wrapping_add_signed(dy) * width + x.wrapping_add_signed(dx);
                        for c in 0..COLOURS {
                            near[place * COLOURS + c] = f64::from(image[c * area + at]);
                        }
                    }
                    for (row, a) in self.sums.chunks_exact_mut(PARTS).zip(near) {
                        for (sum, b) in row.iter_mut().zip(near) {
                            *sum += a * b;
                        }
                    }
                    self.count += 1;
                }
            }
        }
    }

    /// Weights with which rounding costs least: of an error e of one colour, the colours behind it and the
    /// pixels behind it take over `A e`, so that
    ///
    /// ```text
    /// Σ_{k,l} A_kᵀ M(l − k) A_l  is least,   A_0 = 1 for the colour itself, 0 for those before
    /// ```
    ///
    /// plus a ridge (linear prediction in two dimensions and three colours: the matrix form of the Yule-Walker
    /// equations, as in Damera-Venkata and Evans 2001). [`Diffusion::NONE`] where nothing is felt.
    ///
    /// # Errors
    /// If a gradient was not finite.
    pub fn weights(&self) -> Result<Diffusion, CoreError> {
        let mut diffusion = Diffusion::NONE;
        let felt = |i: usize, j: usize| self.sums[i * PARTS + j];
        let mean = match self.count {
            0 => 0.0,
            _ => (0..PARTS).map(|i| felt(i, i)).sum::<f64>() / PARTS as f64,
        };
        if mean == 0.0 {
            return Ok(diffusion);
        }
        for colour in 0..COLOURS {
            let free = colour + 1..PARTS;
            let at = |i: usize, j: usize| {
                let ridge = if i == j { RIDGE * mean } else { 0.0 };
                felt(free.start + i, free.start + j) + ridge
            };
            let wanted: Vec<f64> = free.clone().map(|i| -felt(i, colour)).collect();
            let part = solve(wanted, at).ok_or(CoreError::Felt)?;
            for (to, a) in free.zip(part) {
                let most = f64::from(MAX_WEIGHT);
                let weight = (a * f64::from(ONE_WEIGHT)).round().clamp(-most, most) as i16;
                let (place, to) = (to / COLOURS, to % COLOURS);
                mix(&mut diffusion, place)[to][colour] = weight;
            }
        }
        Ok(diffusion)
    }
}

/// The weights of what goes to a place of [`REACH`]: seen from there, it comes from the opposite side.
fn mix(diffusion: &mut Diffusion, place: usize) -> &mut Mix {
    match REACH[place] {
        (0, 0) => &mut diffusion.pixel,
        (0, _) => &mut diffusion.left,
        (_, dx) => &mut diffusion.above[(1 - dx) as usize],
    }
}

/// x of `A x = b`; `None` if A is not positive definite.
fn solve(mut b: Vec<f64>, a: impl Fn(usize, usize) -> f64) -> Option<Vec<f64>> {
    let k = b.len();
    let l = cholesky(k, a)?;
    for i in 0..k {
        let sum: f64 = (0..i).map(|j| l[i * k + j] * b[j]).sum();
        b[i] = (b[i] - sum) / l[i * k + i];
    }
    for i in (0..k).rev() {
        let sum: f64 = (i + 1..k).map(|j| l[j * k + i] * b[j]).sum();
        b[i] = (b[i] - sum) / l[i * k + i];
    }
    Some(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in −1..1.
    fn noise(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// What `weights` makes of a network that feels `g(noise at colours and places)`.
    fn of(
        g: impl Fn(&dyn Fn(usize, usize, usize) -> f32, usize, usize, usize) -> f32,
    ) -> Diffusion {
        let (h, w) = (200, 200);
        let noise = noise(3 * (h + 2) * (w + 2));
        let at = |c: usize, y: usize, x: usize| noise[(c * (h + 2) + y) * (w + 2) + x];
        let places = (0..3).flat_map(|c| (0..h).flat_map(move |y| (0..w).map(move |x| (c, y, x))));
        let gradients: Vec<f32> = places.map(|(c, y, x)| g(&at, c, y, x)).collect();
        let mut felt = Felt::default();
        felt.add(&gradients, (h, w));
        felt.weights().unwrap()
    }

    #[test]
    fn of_what_is_felt_as_it_is_nothing_is_moved() {
        let diffusion = of(|at, c, y, x| at(c, y, x));
        let all = [&diffusion.pixel, &diffusion.left]
            .into_iter()
            .chain(&diffusion.above);
        assert!(
            all.flatten().flatten().all(|w| w.abs() < 8),
            "{diffusion:?}"
        );
        diffusion.validate().unwrap();
    }

    #[test]
    fn where_only_brightness_is_felt_the_next_colour_takes_all_over() {
        let diffusion = of(|at, _, y, x| at(0, y, x));
        // With a ridge r colours that are felt alike share it: (1 + Σ a)² + r Σ a² is least at a = −1 / (n + r) of n.
        let shared = |n: f64| (-256.0 * n / (n + RIDGE)) as i16;
        let of_red = diffusion.pixel[1][0] + diffusion.pixel[2][0];
        assert!((of_red - shared(2.0)).abs() < 6, "{diffusion:?}");
        let of_green = diffusion.pixel[2][1];
        assert!((of_green - shared(1.0)).abs() < 6, "{diffusion:?}");
        diffusion.validate().unwrap();
    }

    #[test]
    fn where_means_are_felt_errors_go_to_neighbours_and_each_weight_to_its_place() {
        // A network that takes means of a pixel and the one on its left feels g alike at both.
        let left = of(|at, c, y, x| at(c, y, x + 1) + at(c, y, x));
        let above = of(|at, c, y, x| at(c, y + 1, x) + at(c, y, x));
        let slanted = of(|at, c, y, x| at(c, y + 1, x) + at(c, y, x + 1));
        for c in 0..3 {
            assert!(left.left[c][c] < -90, "{left:?}");
            assert!(above.above[1][c][c] < -90, "{above:?}");
            assert!(slanted.above[2][c][c] < -90, "{slanted:?}");
            assert!(left.above[1][c][c].abs() < 16 && above.left[c][c].abs() < 16);
            assert!(slanted.above[0][c][c].abs() < 16, "{slanted:?}");
        }
    }

    #[test]
    fn nothing_is_moved_where_nothing_is_felt_and_what_is_no_number_is_refused() {
        let mut felt = Felt::default();
        assert_eq!(felt.weights().unwrap(), Diffusion::NONE);
        felt.add(&[0.0; 3 * 16], (4, 4));
        assert_eq!(felt.weights().unwrap(), Diffusion::NONE);
        felt.add(&[f32::NAN; 3 * 16], (4, 4));
        assert!(matches!(felt.weights(), Err(CoreError::Felt)));
    }
}
