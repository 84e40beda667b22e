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
    let mut predict = |from, n| {
        let logits = net.forward(images(set, from, n, normalization, device));
        let [_, classes] = logits.dims();
        check_classes(classes, set)?;
        top1(logits)
    };
    confusion(set, &mut predict, progress)
}

/// The confusion matrix of whatever says the classes of `n` images from image `from` on:
/// `predict(from, n)`, with at most [`BATCH`] images at once. `progress` as in [`evaluate`].
///
/// # Errors
/// If `predict` fails, or `progress` stopped it.
///
/// # Panics
/// If a class is out of range.
pub fn confusion<E: From<ResnetError>>(
    set: &ImageSet,
    predict: &mut dyn FnMut(usize, usize) -> Result<Vec<usize>, E>,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Confusion, E> {
    let mut confusion = Confusion::new(set.classes());
    for (from, n) in spans(set.len(), BATCH) {
        for (i, class) in predict(from, n)?.into_iter().enumerate() {
            confusion.add(usize::from(set.label(from + i)), class);
        }
        if !progress(from + n) {
            return Err(ResnetError::Invalid("interrupted".into()).into());
        }
    }
    Ok(confusion)
}

/// Refuses to evaluate a network of `classes` classes on a set that has others.
///
/// # Errors
/// If their numbers differ.
pub fn check_classes(classes: usize, set: &ImageSet) -> Result<(), ResnetError> {
    if classes == set.classes() {
        return Ok(());
    }
    Err(ResnetError::Invalid(format!(
        "the network has {classes} classes, {} has {}",
        set.source(),
        set.classes()
    )))
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
