//! The mean over the image.

use lb_format::QParams;

use super::recode;
use crate::conv::{Values, ValuesMut};
use crate::plane::Plane;

/// Mean over the image, then rounding to codes.
///
/// Of codes the sum is exact; real values are added row by row in `f32`, every channel in the same
/// order whatever the kernel.
#[derive(Debug)]
pub struct Pool {
    /// Real value of an input: `scale · (held − zero)`; of real inputs `(1, 0)`.
    from: (f32, i32),
    to: QParams,
    relu: bool,
}

impl Pool {
    /// From codes of `from` (`None`: real values) to codes of `to`.
    pub fn new(from: Option<&QParams>, to: &QParams, relu: bool) -> Self {
        let from = from.map_or((1.0, 0), |q| {
            let a = q.channel(0);
            (a.scale, a.zero_point - q.range().lo)
        });
        Self {
            from,
            to: to.clone(),
            relu,
        }
    }

    /// Codes of one image. `sums`: scratch of a value a channel.
    ///
    /// # Panics
    /// If a buffer is too short.
    pub fn run(
        &self,
        (plane, input): (&Plane, Values),
        sums: &mut [f32],
        (to, mut out): (&Plane, ValuesMut),
    ) {
        let sums = &mut sums[..plane.channels];
        let (height, width) = (plane.height, plane.width);
        match input {
            Values::F32(x) => {
                // Sixteen channels at a time stay in registers over all pixels. Real planes have
                // whole blocks of them.
                for (block, sums) in sums.chunks_mut(16).enumerate() {
                    let mut all = [0.0; 16];
                    for y in 0..height {
                        let row = &x[plane.at(y, 0)..][..width * plane.stride];
                        for pixel in row.chunks_exact(plane.stride) {
                            let pixel = pixel[16 * block..].first_chunk::<16>();
                            for (s, x) in all.iter_mut().zip(pixel.expect("a whole block")) {
                                *s += x;
                            }
                        }
                    }
                    sums.copy_from_slice(&all[..sums.len()]);
                }
            }
            codes => {
                for (c, s) in sums.iter_mut().enumerate() {
                    let mut sum = 0i64;
                    for y in 0..height {
                        for x in 0..width {
                            sum += codes.real(plane.at(y, x) + c) as i64 - i64::from(self.from.1);
                        }
                    }
                    *s = sum as f32;
                }
            }
        }
        let (positions, scale) = ((height * width) as f32, self.from.0);
        let at = to.at(0, 0);
        for (c, &sum) in sums.iter().enumerate() {
            let code = recode(&self.to, sum / positions * scale, self.relu);
            match out {
                ValuesMut::U8(ref mut v) => v[at + c] = code as u8,
                ValuesMut::U16(ref mut v) => v[at + c] = code,
                ValuesMut::F32(_) => unreachable!("pooled values become codes"),
            }
        }
    }
}
