//! Evaluation.

use burn::tensor::{Device, Tensor};
use lb_data::{ImageSet, Normalization};
use lb_nn::layer::{Act, Conv, Dense};

use crate::ResnetError;
use crate::batch::{images, spans};
use crate::metrics::Confusion;
use crate::model::ResNet;

/// Images a batch; larger gains nothing on a CPU and little on a GPU for networks this small.
pub const BATCH: usize = 128;

/// The confusion matrix of `net` on `set`. `progress` is told the images done and may stop the
/// evaluation by returning `false`.
///
/// # Errors
/// If the device fails, the numbers of classes differ, or `progress` stopped it.
pub fn evaluate<C: Conv, A: Act, L: Dense>(
    net: &ResNet<C, A, L>,
    set: &ImageSet,
    normalization: &Normalization,
    device: &Device,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Confusion, ResnetError> {
    let mut confusion = Confusion::new(set.classes());
    for (from, n) in spans(set.len(), BATCH) {
        let logits = net.forward(images(set, from, n, normalization, device));
        let [_, classes] = logits.dims();
        if classes != set.classes() {
            return Err(ResnetError::Invalid(format!(
                "the network has {classes} classes, {} has {}",
                set.source(),
                set.classes()
            )));
        }
        for (i, class) in top1(logits)?.into_iter().enumerate() {
            confusion.add(usize::from(set.label(from + i)), class);
        }
        if !progress(from + n) {
            return Err(ResnetError::Invalid("interrupted".into()));
        }
    }
    Ok(confusion)
}

/// The class of the largest logit of each row; of equals the first.
///
/// # Errors
/// If the device fails.
pub fn top1(logits: Tensor<2>) -> Result<Vec<usize>, ResnetError> {
    let [_, classes] = logits.dims();
    let values: Vec<f32> = logits
        .try_into_vec_as()
        .map_err(|e| ResnetError::Device(e.to_string()))?;
    Ok(values
        .chunks_exact(classes)
        .map(|row| (0..classes).fold(0, |best, c| if row[c] > row[best] { c } else { best }))
        .collect())
}
