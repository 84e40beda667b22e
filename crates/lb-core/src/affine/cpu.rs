//! Fake quantization with one map for the whole tensor, in one pass over memory on the CPU.

use lb_format::{Affine, CodeRange};

use crate::host::{self, FlexTensor};

/// Values a piece of work.
const CHUNK: usize = 1 << 15;

/// In place where nobody else holds `x`.
pub(super) fn fake_quantize(x: FlexTensor, a: Affine, range: CodeRange) -> FlexTensor {
    // Clipping before rounding gives the same codes, as the bounds are whole numbers.
    let (lo, hi) = (range.lo - a.zero_point, range.hi - a.zero_point);
    let (lo, hi) = (lo as f32, hi as f32);
    host::map_pieces(x, CHUNK, |_, x| {
        host::vectorized(|| {
            for x in x {
                let steps = host::clamp((*x - a.offset) / a.scale, lo, hi);
                *x = host::round(steps) * a.scale + a.offset;
            }
        });
    })
}
