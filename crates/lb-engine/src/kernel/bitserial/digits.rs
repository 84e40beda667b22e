//! Weights of one or two bits as binary digits, whatever integers they stand for.

use crate::conv::Conv;
use crate::kernel::direct::takes;

/// How products of digits are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `Σ u x` by `and`: wants `g · Σ x` besides.
    And,
    /// Levels that are symmetric around zero, by `xor`: wants nothing besides.
    Xor,
    /// Two bits by two bits in three counts instead of four.
    Three,
}

/// `q = f·u + g` of one output channel, `u` in `0 .. 2^planes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The step.
    pub f: i32,
    /// The integer of code 0.
    pub g: i32,
}

/// A layer's weights as digits.
#[derive(Clone, Debug)]
pub struct Digits {
    /// Binary digits a weight: 1 or 2.
    pub planes: usize,
    /// Binary digits an input code.
    pub input_planes: usize,
    /// How to count.
    pub form: Form,
    /// One per output channel.
    pub levels: Vec<Levels>,
}

impl Digits {
    /// The digits of `conv`, counted in the best form. `None` if input codes or weights have more
    /// than two bits.
    pub fn of(conv: &Conv) -> Option<Self> {
        if conv.input_max > 3 {
            return None;
        }
        let mut digits = Self::plain(conv)?;
        if digits.planes == 2 && digits.input_planes == 2 {
            digits.form = Form::Three;
            return Some(digits);
        }
        let symmetric = (0..conv.layer.c_out)
            .map(|c| Span::of(conv.layer.channel(c)).symmetric(digits.planes))
            .collect();
        if let Some(levels) = symmetric {
            digits.form = Form::Xor;
            digits.levels = levels;
        }
        Some(digits)
    }

    /// The digits of `conv`, whatever its input codes, with as few `g` as possible. `None` if
    /// weights have more than two bits, or something has more than 8.
    pub fn plain(conv: &Conv) -> Option<Self> {
        if !takes(conv) {
            return None;
        }
        let spans: Vec<Span> = (0..conv.layer.c_out)
            .map(|c| Span::of(conv.layer.channel(c)))
            .collect();
        let planes = match spans.iter().map(Span::last).max()? {
            ..=1 => 1,
            2..=3 => 2,
            _ => return None,
        };
        let levels = |s: &Span| s.through_zero(planes).unwrap_or(s.upwards());
        Some(Self {
            planes,
            input_planes: (i32::BITS - conv.input_max.leading_zeros()).max(1) as usize,
            form: Form::And,
            levels: spans.iter().map(levels).collect(),
        })
    }

    /// `u` of a weight `q` of channel `c`.
    pub fn code(&self, c: usize, q: i32) -> u32 {
        let Levels { f, g } = self.levels[c];
        let u = (q - g) / f;
        debug_assert!(u * f + g == q && (0..1 << self.planes).contains(&u));
        u as u32
    }
}

/// What integers a channel has.
struct Span {
    min: i32,
    max: i32,
    /// Greatest common divisor of their differences; 0 if there are none.
    step: i32,
}

impl Span {
    fn of(q: &[i32]) -> Self {
        let (min, max) = (q.iter()).fold((i32::MAX, i32::MIN), |(a, b), &q| (a.min(q), b.max(q)));
        let gcd = |mut a: i32, mut b: i32| {
            while b != 0 {
                (a, b) = (b, a % b);
            }
            a
        };
        let step = q.iter().fold(0, |step, &q| gcd(step, q - min));
        Self { min, max, step }
    }

    /// The largest code when counted from the smallest integer.
    fn last(&self) -> i32 {
        (self.max - self.min) / self.step.max(1)
    }

    /// Counted from the smallest integer.
    fn upwards(&self) -> Levels {
        Levels {
            f: self.step.max(1),
            g: self.min,
        }
    }

    /// Levels `−a ..= a`.
    fn symmetric(&self, planes: usize) -> Option<Levels> {
        let last = (1 << planes) - 1;
        let f = match self.step {
            0 => 2 * self.min.abs(),
            step => step,
        };
        if f % 2 != 0 || f == 0 {
            return None;
        }
        let g = -last * (f / 2);
        let fits = (self.min - g) % f == 0 && self.min >= g && self.max <= g + last * f;
        fits.then_some(Levels { f, g })
    }

    /// Levels of which one is code 0 and integer 0.
    fn through_zero(&self, planes: usize) -> Option<Levels> {
        let last = (1 << planes) - 1;
        let f = match self.step {
            0 if self.min == 0 => 1,
            0 => self.min,
            step if self.max <= 0 => -step,
            step => step,
        };
        let fits = |q: i32| q % f == 0 && (0..=last).contains(&(q / f));
        (fits(self.min) && fits(self.max)).then_some(Levels { f, g: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_found() {
        let symmetric = |q: &[i32], planes| Span::of(q).symmetric(planes).map(|l| (l.f, l.g));
        assert_eq!(symmetric(&[-1, 1, 1], 1), Some((2, -1)));
        assert_eq!(symmetric(&[5], 1), Some((10, -5)));
        assert_eq!(symmetric(&[-5], 2), Some((10, -15)));
        assert_eq!(symmetric(&[0], 1), None);
        assert_eq!(symmetric(&[-1, 0], 1), None);
        assert_eq!(symmetric(&[-1, 1, 3], 2), Some((2, -3)));
        assert_eq!(symmetric(&[-1, 1], 2), Some((2, -3)));
        assert_eq!(symmetric(&[-2, -1, 0, 1], 2), None);
        let zero = |q: &[i32], planes| Span::of(q).through_zero(planes).map(|l| (l.f, l.g));
        assert_eq!(zero(&[-1, 0], 1), Some((-1, 0)));
        assert_eq!(zero(&[0, 3], 1), Some((3, 0)));
        assert_eq!(zero(&[0], 1), Some((1, 0)));
        assert_eq!(zero(&[-7], 1), Some((-7, 0)));
        assert_eq!(zero(&[2, 4], 2), Some((2, 0)));
        assert_eq!(zero(&[2, 4], 1), None);
        assert_eq!(zero(&[-2, 1], 2), None);
    }
}
