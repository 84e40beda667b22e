//! From codes to codes of other parameters.

use lb_format::{Levels, QParams};

use super::recode;
use crate::conv::{Values, ValuesMut};
use crate::kernel::lookup::Lookup;
use crate::kernel::steps::Steps;
use crate::plane::Plane;

/// The new code of every code, and what gives the same for many codes at once.
#[derive(Debug)]
pub struct CodeTable {
    codes: Vec<u16>,
    many: Option<Many>,
}

#[derive(Debug)]
enum Many {
    Lookup(Lookup),
    Steps(Steps),
}

impl Many {
    fn of(codes: &[u16]) -> Option<Self> {
        let lookup = Lookup::of(codes).map(Self::Lookup);
        lookup.or_else(|| Steps::of(codes).map(Self::Steps))
    }

    fn run(&self, x: &[u8], y: &mut [u8]) {
        match self {
            Self::Lookup(lookup) => lookup.run(x, y),
            Self::Steps(steps) => steps.run(x, y),
        }
    }
}

impl CodeTable {
    /// From the codes of `from` to those of `to`, or those of them that are `levels`.
    pub fn new(from: &QParams, (to, levels): (&QParams, Option<&Levels>), relu: bool) -> Self {
        let code = |code| {
            let code = recode(to, from.channel(0).dequantize(code), relu);
            match levels {
                Some(levels) => levels.level(levels.nearest_to_whole(f32::from(code))) as u16,
                None => code,
            }
        };
        let codes: Vec<u16> = (from.range().lo..=from.range().hi).map(code).collect();
        Self {
            many: Many::of(&codes),
            codes,
        }
    }

    /// Codes of one image.
    pub fn run(&self, from: (&Plane, Values), to: (&Plane, ValuesMut)) {
        match (from.1, to.1) {
            (Values::U8(x), ValuesMut::U8(y)) => match &self.many {
                Some(many) if from.0.stride == to.0.stride => {
                    rows(from.0, x, to.0, y, |x, y| many.run(x, y));
                }
                _ => self.rows(from.0, x, to.0, y, usize::from, |c| c as u8),
            },
            (Values::U8(x), ValuesMut::U16(y)) => {
                self.rows(from.0, x, to.0, y, usize::from, |c| c);
            }
            (Values::U16(x), ValuesMut::U8(y)) => {
                self.rows(from.0, x, to.0, y, usize::from, |c| c as u8);
            }
            (Values::U16(x), ValuesMut::U16(y)) => {
                self.rows(from.0, x, to.0, y, usize::from, |c| c);
            }
            _ => unreachable!("a table maps codes"),
        }
    }

    fn rows<X: Copy, Y>(
        &self,
        from: &Plane,
        x: &[X],
        to: &Plane,
        out: &mut [Y],
        index: impl Fn(X) -> usize,
        code: impl Fn(u16) -> Y,
    ) {
        rows(from, x, to, out, |x, out| {
            let pixels = x.chunks_exact(from.stride);
            for (out, x) in out.chunks_exact_mut(to.stride).zip(pixels) {
                for (out, &x) in out.iter_mut().zip(&x[..from.channels]) {
                    *out = code(self.codes[index(x)]);
                }
            }
        });
    }
}

/// Calls `put` with every row of the input and of the output, without borders.
fn rows<X, Y>(
    from: &Plane,
    x: &[X],
    to: &Plane,
    out: &mut [Y],
    mut put: impl FnMut(&[X], &mut [Y]),
) {
    for y in 0..from.height {
        put(
            &x[from.at(y, 0)..][..from.width * from.stride],
            &mut out[to.at(y, 0)..][..to.width * to.stride],
        );
    }
}
