//! The shortcut without parameters.

use crate::conv::{Values, ValuesMut};
use crate::plane::Plane;

/// Option-A shortcut of one image: every `stride`-th pixel, zero points in the new channels.
pub fn pad(stride: usize, from: (&Plane, Values), to: (&Plane, ValuesMut)) {
    match (from.1, to.1) {
        (Values::U8(x), ValuesMut::U8(y)) => pad_rows(stride, from.0, x, to.0, y, to.0.fill as u8),
        (Values::U16(x), ValuesMut::U16(y)) => pad_rows(stride, from.0, x, to.0, y, to.0.fill),
        _ => unreachable!("a shortcut keeps its codes"),
    }
}

fn pad_rows<T: Copy>(stride: usize, from: &Plane, x: &[T], to: &Plane, out: &mut [T], zero: T) {
    // Known lengths compile to a few vector instructions a pixel.
    match (from.channels, to.channels, to.stride) {
        (16, 32, 32) => pad_pixels::<T, 16, 32>(stride, from, x, to, out, zero),
        (32, 64, 64) => pad_pixels::<T, 32, 64>(stride, from, x, to, out, zero),
        (64, 128, 128) => pad_pixels::<T, 64, 128>(stride, from, x, to, out, zero),
        _ => {
            let before = (to.channels - from.channels) / 2;
            for_pixels(stride, from, x, to, out, |x, o| {
                o.fill(zero);
                o[before..before + from.channels].copy_from_slice(&x[..from.channels]);
            });
        }
    }
}

fn pad_pixels<T: Copy, const FROM: usize, const TO: usize>(
    stride: usize,
    from: &Plane,
    x: &[T],
    to: &Plane,
    out: &mut [T],
    zero: T,
) {
    for_pixels(stride, from, x, to, out, |x, o| {
        let before = (TO - FROM) / 2;
        let o: &mut [T; TO] = o.try_into().expect("a pixel");
        o[..before].fill(zero);
        o[before..before + FROM].copy_from_slice(&x[..FROM]);
        o[before + FROM..].fill(zero);
    });
}

/// Calls `put` with every `stride`-th pixel of the input and the pixel of the output it goes to.
fn for_pixels<T>(
    stride: usize,
    from: &Plane,
    x: &[T],
    to: &Plane,
    out: &mut [T],
    mut put: impl FnMut(&[T], &mut [T]),
) {
    for y in 0..to.height {
        let line = x[from.at(y * stride, 0)..]
            .chunks(from.stride)
            .step_by(stride);
        let row = out[to.at(y, 0)..]
            .chunks_exact_mut(to.stride)
            .take(to.width);
        for (x, o) in line.zip(row) {
            put(x, o);
        }
    }
}
