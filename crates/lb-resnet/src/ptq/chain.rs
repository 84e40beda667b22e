//! The calibration images on their way through the float and the quantized network, a unit at a
//! time.

use burn::tensor::{Device, Tensor};
use lb_data::{ImageSet, Normalization};
use lb_nn::layer::{Act, Conv, Dense};

use crate::batch::{images, spans};
use crate::model::{FoldedNet, Unit};

/// Images a forward pass.
const BATCH: usize = 128;

/// What unit `i` is given in both networks, `[N, C, H, W]` of all images.
pub(super) struct Chain {
    pub float: Tensor<4>,
    pub quantized: Tensor<4>,
}

impl Chain {
    /// Before the first unit: the normalised images.
    pub(super) fn start(set: &ImageSet, normalization: &Normalization, device: &Device) -> Self {
        let images = images(set, 0, set.len(), normalization, device);
        Self {
            quantized: images.clone(),
            float: images,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.float.dims()[0]
    }

    /// Of the first `n` images.
    pub(super) fn first(&self, n: usize) -> Self {
        let first = |x: &Tensor<4>| x.clone().narrow(0, 0, n);
        Self {
            float: first(&self.float),
            quantized: first(&self.quantized),
        }
    }
}

/// Bytes that [`refine`](super::refine) keeps of an image, at the unit where they are most: what the
/// unit is given in both networks, and what it makes of it.
pub fn cached_bytes(
    net: &FoldedNet,
    set: &ImageSet,
    normalization: &Normalization,
    device: &Device,
) -> u64 {
    let mut x = images(set, 0, 1, normalization, device);
    let mut most = 0;
    for i in 0..net.units() {
        let y = net.unit(i).forward(x.clone());
        most = most.max(2 * (x.shape().num_elements() + y.shape().num_elements()));
        x = y;
    }
    (most * size_of::<f32>()) as u64
}

/// The outputs of `unit` for all of `x`.
pub(super) fn forward<C: Conv, A: Act, L: Dense>(unit: &Unit<C, A, L>, x: &Tensor<4>) -> Tensor<4> {
    let batches =
        spans(x.dims()[0], BATCH).map(|(from, n)| unit.forward(x.clone().narrow(0, from, n)));
    Tensor::cat(batches.collect(), 0)
}

/// Calls `see` with the path and the output of every layer of `unit`, batch after batch.
pub(super) fn layers<C: Conv, A: Act, L: Dense>(
    unit: &Unit<C, A, L>,
    x: &Tensor<4>,
    see: &mut dyn FnMut(&str, &Tensor<4>),
) {
    for (from, n) in spans(x.dims()[0], BATCH) {
        unit.forward_traced(x.clone().narrow(0, from, n), &mut |seen, name, y| {
            if seen == crate::model::Seen::Layer {
                see(name, &y);
            }
            y
        });
    }
}
