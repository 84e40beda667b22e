//! Sums of the input codes under every output position: the price of a weight's real offset, paid
//! once for all output channels.

use crate::conv::{Conv, Values};

/// Sums behind the last position that kernels may read.
pub const SLACK: usize = 32;

/// Writes `Σ x − z_x K` for every output position, row by row: added in integers, converted last.
///
/// First every pixel's channels are summed, then the window: `k_h · k_w` additions a position
/// instead of `k_h · k_w · C_in`.
///
/// # Shapes
/// `scratch`: at least [`scratch`] values; `sums`: `[H_out · W_out + SLACK]`.
///
/// # Panics
/// If a buffer is too short.
pub fn window_sums(conv: &Conv, input: Values, scratch: &mut [i32], sums: &mut [f32]) {
    let (plane, layer, out) = (conv.input, &conv.layer, conv.output);
    let columns = plane.width + 2 * plane.border;
    let (pixels, scratch) = scratch.split_at_mut((plane.height + 2 * plane.border) * columns);
    let row = &mut scratch[..out.width];
    match input {
        Values::U8(x) => channel_sums(x, plane.stride, plane.channels, pixels),
        Values::U16(x) => channel_sums(x, plane.stride, plane.channels, pixels),
        Values::F32(_) => panic!("real values have no codes to sum"),
    }
    let [kh, kw] = layer.kernel;
    let inset = plane.border - layer.padding;
    let start = -i32::try_from(conv.sum_start).expect("checked by the plan");
    let rows = sums.chunks_exact_mut(out.width).take(out.height);
    for (y, sums) in rows.enumerate() {
        row.fill(start);
        for ky in 0..kh {
            let from = (y * layer.stride + ky + inset) * columns + inset;
            let line = &pixels[from..][..(out.width - 1) * layer.stride + kw];
            for kx in 0..kw {
                add_every(row, &line[kx..], layer.stride);
            }
        }
        for (s, &x) in sums.iter_mut().zip(&*row) {
            *s = x as f32;
        }
    }
}

/// Values of scratch that [`window_sums`] wants.
pub fn scratch(conv: &Conv) -> usize {
    let p = conv.input;
    (p.height + 2 * p.border) * (p.width + 2 * p.border) + conv.output.width
}

fn add_every(row: &mut [i32], line: &[i32], stride: usize) {
    match stride {
        1 => {
            for (s, x) in row.iter_mut().zip(line) {
                *s += x;
            }
        }
        _ => {
            for (s, x) in row.iter_mut().zip(line.iter().step_by(stride)) {
                *s += x;
            }
        }
    }
}

/// The sum of each pixel's channels. Channels beyond `channels` hold anything and are left out.
fn channel_sums<T: Copy + Into<u32>>(x: &[T], stride: usize, channels: usize, pixels: &mut [i32]) {
    match (stride, channels) {
        // Known lengths compile to a few vector instructions.
        (16, 16) => fixed::<T, 16>(x, pixels),
        (32, 32) => fixed::<T, 32>(x, pixels),
        (64, 64) => fixed::<T, 64>(x, pixels),
        _ => {
            for (s, x) in pixels.iter_mut().zip(x.chunks_exact(stride)) {
                *s = x[..channels].iter().map(|&x| x.into()).sum::<u32>() as i32;
            }
        }
    }
}

fn fixed<T: Copy + Into<u32>, const N: usize>(x: &[T], pixels: &mut [i32]) {
    for (s, x) in pixels.iter_mut().zip(x.as_chunks::<N>().0) {
        *s = x.iter().map(|&x| x.into()).sum::<u32>() as i32;
    }
}
