//! Fake quantization with one map for the whole tensor, in one pass over memory on the CPU.

use burn::backend::Flex;
use burn::tensor::Tensor;
use lb_format::{Affine, CodeRange};

use crate::host::{self, OnHost};

/// Values a piece of work.
const CHUNK: usize = 1 << 15;

/// Gives `x` back if it is not on the CPU, or tracks gradients.
pub(super) fn fake_quantize<const D: usize>(
    x: Tensor<D>,
    a: Affine,
    range: CodeRange,
) -> Result<Tensor<D>, Tensor<D>> {
    let Some(OnHost::Plain(host)) = host::on_host(&x) else {
        return Err(x);
    };
    drop(x);
    // Clipping before rounding gives the same codes, as the bounds are whole numbers.
    let (lo, hi) = (range.lo - a.zero_point, range.hi - a.zero_point);
    let (lo, hi) = (lo as f32, hi as f32);
    let y = host::map_pieces(host, CHUNK, |_, x| {
        host::vectorized(|| {
            for x in x {
                let steps = ((*x - a.offset) / a.scale).clamp(lo, hi);
                *x = host::round(steps) * a.scale + a.offset;
            }
        });
    });
    Ok(Tensor::from_primitive::<Flex>(y))
}
