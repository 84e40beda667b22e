//! The epilogue of a block of 16 channels in plain loops, for values of every kind. Whoever calls it is
//! compiled for vector instructions, and with them so is this.

use super::epilogue::{Epilogue, LANES};
use crate::conv::{Conv, Io, Values, ValuesMut};

/// Requantizes 16 channels, from channel `16 · block` on, of position (`y`, `x`), and stores them.
/// `acc` are their sums, rounded once; `epilogue` is the convolution's.
///
/// # Panics
/// If the position is not the convolution's, or a buffer shorter than it has to be
/// ([`check`](super::check)).
#[inline(always)]
pub fn finish(
    (conv, epilogue): (&Conv, &Epilogue),
    io: &mut Io,
    acc: &[f32; LANES],
    block: usize,
    (y, x): (usize, usize),
) {
    let constants = &epilogue.blocks[block];
    let mut t = constants.bias.0;
    if conv.requant.sum.is_some() {
        let sum = io.sums[y * conv.output.width + x];
        for (t, b) in t.iter_mut().zip(&constants.sum.0) {
            *t = b.mul_add(sum, *t);
        }
    }
    for ((t, a), acc) in t.iter_mut().zip(&constants.acc.0).zip(acc) {
        *t = a.mul_add(*acc, *t);
    }
    if let (Some(values), Some((plane, _))) = (&io.residual, conv.residual) {
        let r = read(values, plane.at(y, x) + block * LANES);
        for (t, r) in t.iter_mut().zip(r) {
            *t = epilogue.residual.mul_add(r, *t);
        }
    }
    let (lo, hi) = epilogue.bounds;
    for t in &mut t {
        // As `Requant::real`.
        *t = if *t > lo { *t } else { lo };
        *t = if *t < hi { *t } else { hi };
    }
    let code = |t: f32| {
        let rounded = t.round_ties_even();
        // SAFETY: between the bounds of codes, also where it was no number, and those are less than
        // 2¹⁷ as `Conv::new` takes no zero point that is no code. (`as`, which looks for what does
        // not fit, is no vector instruction.)
        let rounded = unsafe { rounded.to_int_unchecked::<i32>() };
        // Bounds make the code fit.
        rounded + epilogue.zero_point
    };
    let at = conv.output.at(y, x) + block * LANES;
    match &mut io.output {
        ValuesMut::U8(v) => (v[at..][..LANES].iter_mut())
            .zip(t)
            .for_each(|(v, t)| *v = code(t) as u8),
        ValuesMut::U16(v) => (v[at..][..LANES].iter_mut())
            .zip(t)
            .for_each(|(v, t)| *v = code(t) as u16),
        ValuesMut::F32(v) => v[at..][..LANES].copy_from_slice(&t),
    }
}

/// Sixteen values; those behind the last channel hold anything.
#[inline(always)]
fn read(values: &Values, at: usize) -> [f32; LANES] {
    fn lanes<T: Copy + Into<f32>>(v: &[T], at: usize) -> [f32; LANES] {
        let v = &v[at..][..LANES];
        std::array::from_fn(|i| v[i].into())
    }
    match values {
        Values::U8(v) => lanes(v, at),
        Values::U16(v) => lanes(v, at),
        Values::F32(v) => lanes(v, at),
    }
}
