//! The largest code of each window.

use crate::conv::{Values, ValuesMut};
use crate::plane::Plane;

/// Largest code of each window of one image: codes grow with the values they stand for.
pub fn max_pool(size: usize, stride: usize, from: (&Plane, Values), to: (&Plane, ValuesMut)) {
    match (from.1, to.1) {
        (Values::U8(x), ValuesMut::U8(y)) => max_rows(size, stride, from.0, x, to.0, y),
        (Values::U16(x), ValuesMut::U16(y)) => max_rows(size, stride, from.0, x, to.0, y),
        _ => unreachable!("max pooling keeps its codes"),
    }
}

fn max_rows<T: Copy + Ord>(
    size: usize,
    stride: usize,
    from: &Plane,
    x: &[T],
    to: &Plane,
    out: &mut [T],
) {
    for y in 0..to.height {
        for column in 0..to.width {
            let o = &mut out[to.at(y, column)..][..to.channels];
            o.copy_from_slice(&x[from.at(y * stride, column * stride)..][..to.channels]);
            for dy in 0..size {
                for dx in 0..size {
                    let at = from.at(y * stride + dy, column * stride + dx);
                    for (o, &x) in o.iter_mut().zip(&x[at..]) {
                        *o = (*o).max(x);
                    }
                }
            }
        }
    }
}
