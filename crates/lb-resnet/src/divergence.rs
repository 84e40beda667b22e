//! How far a quantized network's answers are from the float network's, without labels.
//!
//! For float logits `f` and quantized logits `q` of one image, with `p = softmax(f)`:
//!
//! ```text
//! KL(f ‖ q) = Σ_c p_c · (log softmax(f)_c − log softmax(q)_c)    in nats, ≥ 0
//! flip      = argmax f ≠ argmax q
//! ```
//!
//! Both are counted over images: KL as a mean, flips as a number. Where labels exist, the accuracies
//! of the two networks differ by at most the share of flips, as only a flipped image can have become
//! wrong, or right.

use burn::tensor::{Device, Tensor};
use lb_data::{ImageSet, Normalization};
use lb_nn::layer::{Act, Conv, Dense};
use serde::{Deserialize, Serialize};

use crate::ResnetError;
use crate::batch::{images, spans};
use crate::eval::BATCH;
use crate::model::ResNet;

/// KL divergence and flips over some images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Mean KL divergence of the quantized from the float softmax, nats an image.
    pub kl: f64,
    /// Images of which the two name different classes.
    pub flips: u64,
    /// Images.
    pub images: u64,
}

impl Divergence {
    /// Of two sets of logits, row by row `classes` of them.
    ///
    /// # Panics
    /// If they are not equally many, or not whole rows.
    pub fn of(float: &[f32], quantized: &[f32], classes: usize) -> Self {
        assert_eq!(float.len(), quantized.len(), "as many logits");
        assert_eq!(float.len() % classes, 0, "whole rows");
        let (mut kl, mut flips) = (0.0, 0);
        let rows = float.chunks_exact(classes);
        for (f, q) in rows.zip(quantized.chunks_exact(classes)) {
            let (log_f, log_q) = (log_softmax(f), log_softmax(q));
            let row: f64 = (log_f.iter().zip(&log_q))
                .map(|(f, q)| f.exp() * (f - q))
                .sum();
            // Nothing but rounding takes it below zero.
            kl += row.max(0.0);
            flips += u64::from(top1(f) != top1(q));
        }
        let images = (float.len() / classes) as u64;
        Self {
            kl: kl / images.max(1) as f64,
            flips,
            images,
        }
    }

    /// Flips over images, 0 to 1: a bound of the change in accuracy on these images.
    pub fn flip_rate(&self) -> f64 {
        self.flips as f64 / self.images.max(1) as f64
    }

    /// Images on which both name the same class, over images: 0 to 1.
    pub fn agreement(&self) -> f64 {
        1.0 - self.flip_rate()
    }
}

/// `x − log Σ exp x`, in `f64`.
fn log_softmax(x: &[f32]) -> Vec<f64> {
    let most = f64::from(x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = x.iter().map(|&v| (f64::from(v) - most).exp()).sum();
    let log_sum = most + sum.ln();
    x.iter().map(|&v| f64::from(v) - log_sum).collect()
}

/// The largest, of equals the first: as [`eval::top1`](crate::eval::top1).
fn top1(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, c| if row[c] > row[best] { c } else { best })
}

/// Logits on the host, row by row.
///
/// # Errors
/// If the device fails, or a logit is no finite number: nothing can be compared with that.
pub fn host(logits: Tensor<2>) -> Result<Vec<f32>, ResnetError> {
    let values: Vec<f32> = logits
        .try_into_vec_as()
        .map_err(|e| ResnetError::Device(e.to_string()))?;
    match values.iter().find(|v| !v.is_finite()) {
        Some(bad) => Err(ResnetError::Invalid(format!(
            "a logit is {bad}: the network's weights are damaged, or an activation overflows"
        ))),
        None => Ok(values),
    }
}

/// The float network's logits on some images, which quantized networks are compared with.
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    set: &'a ImageSet,
    normalization: Normalization,
    device: Device,
    logits: Vec<f32>,
}

impl<'a> Reference<'a> {
    /// Runs `float` on `set`. `progress` is told the images done and may stop it by returning
    /// `false`.
    ///
    /// # Errors
    /// If `set` is empty, the device fails, a logit is not finite, or `progress` stopped it.
    pub fn new<C: Conv, A: Act, L: Dense>(
        float: &ResNet<C, A, L>,
        set: &'a ImageSet,
        normalization: &Normalization,
        device: &Device,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Self, ResnetError> {
        if set.is_empty() {
            return Err(ResnetError::Invalid(
                "comparing networks needs at least one image".into(),
            ));
        }
        let mut reference = Self {
            set,
            normalization: *normalization,
            device: device.clone(),
            logits: Vec::new(),
        };
        reference.logits = reference.run(float, progress)?;
        Ok(reference)
    }

    /// How far `net` is from the float network, on the same images. `progress` as in
    /// [`new`](Self::new).
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn divergence<C: Conv, A: Act, L: Dense>(
        &self,
        net: &ResNet<C, A, L>,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Divergence, ResnetError> {
        let logits = self.run(net, progress)?;
        let classes = self.logits.len() / self.set.len();
        Ok(Divergence::of(&self.logits, &logits, classes))
    }

    fn run<C: Conv, A: Act, L: Dense>(
        &self,
        net: &ResNet<C, A, L>,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<f32>, ResnetError> {
        let mut logits = Vec::new();
        for (from, n) in spans(self.set.len(), BATCH) {
            let x = images(self.set, from, n, &self.normalization, &self.device);
            logits.extend(host(net.forward(x))?);
            if !progress(from + n) {
                return Err(ResnetError::Invalid("interrupted".into()));
            }
        }
        Ok(logits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::normalization;
    use crate::model::Shortcut;
    use crate::ptq;
    use crate::test_data::{calibration_images, info, network};

    #[test]
    fn equal_logits_diverge_by_nothing_and_a_shift_changes_nothing() {
        let f = [1.0, 2.0, 3.0, -1.0, 0.0, 500.0];
        let shifted = f.map(|v| v + 7.0);
        for q in [f, shifted] {
            let d = Divergence::of(&f, &q, 3);
            assert!(d.kl.abs() < 1e-6 && d.flips == 0 && d.images == 2, "{d:?}");
        }
    }

    #[test]
    fn two_classes_agree_with_the_formula() {
        // p = (3/4, 1/4) against (1/2, 1/2): 0.75 ln 1.5 + 0.25 ln 0.5.
        let d = Divergence::of(&[3f32.ln(), 0.0], &[0.0, 0.0], 2);
        let expected = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
        assert!((d.kl - expected).abs() < 1e-7, "{d:?}");
        assert_eq!((d.flips, d.flip_rate()), (0, 0.0));
        let d = Divergence::of(&[1.0, 0.0, 0.0, 1.0], &[0.0, 1.0, 0.0, 1.0], 2);
        assert_eq!((d.flips, d.images, d.agreement()), (1, 2, 0.5));
    }

    #[test]
    fn a_network_is_nothing_apart_from_itself_and_something_from_others() {
        let device = Device::flex();
        let arch = "resnet8".parse().unwrap();
        let net = ptq::fold(network(arch, Shortcut::A, &device));
        let set = calibration_images(8);
        let n = normalization(&info("resnet8", Shortcut::A));
        let reference = Reference::new(&net, &set, &n, &device, &mut |_| true).unwrap();
        let d = reference.divergence(&net, &mut |_| true).unwrap();
        assert_eq!((d.kl, d.flips, d.images), (0.0, 0, 8));
        let float = network(arch, Shortcut::B, &device);
        let other = reference.divergence(&float, &mut |_| true).unwrap();
        assert!(other.kl > 0.0);
        assert!(reference.divergence(&net, &mut |_| false).is_err());
        let none = set.subset(&[]);
        assert!(Reference::new(&net, &none, &n, &device, &mut |_| true).is_err());
    }
}
