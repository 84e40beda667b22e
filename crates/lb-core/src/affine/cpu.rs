//! Fake quantization with one map for the whole tensor, in one pass over memory on the CPU.

use burn::backend::Flex;
use burn::tensor::Tensor;
use lb_format::{Affine, CodeRange};
use rayon::prelude::*;

use crate::host::{self, OnHost};

/// Values a piece of work.
const CHUNK: usize = 1 << 15;

/// `None` if `x` is not on the CPU, or tracks gradients.
pub(super) fn fake_quantize<const D: usize>(
    x: &Tensor<D>,
    a: Affine,
    range: CodeRange,
) -> Option<Tensor<D>> {
    let OnHost::Plain(x) = host::on_host(x)? else {
        return None;
    };
    let x = x.to_contiguous();
    // Clipping before rounding gives the same codes, as the bounds are whole numbers.
    let (lo, hi) = (range.lo - a.zero_point, range.hi - a.zero_point);
    let (lo, hi) = (lo as f32, hi as f32);
    let values = host::values(&x);
    let mut y = vec![0.0; values.len()];
    y.par_chunks_mut(CHUNK)
        .zip(values.par_chunks(CHUNK))
        .for_each(|(y, x)| {
            for (y, x) in y.iter_mut().zip(x) {
                let steps = ((x - a.offset) / a.scale).clamp(lo, hi);
                *y = host::round(steps) * a.scale + a.offset;
            }
        });
    let shape = x.layout().shape().to_vec();
    Some(Tensor::from_primitive::<Flex>(host::tensor(y, &shape)))
}
