//! A convolution as kernels see it. A linear layer is one of 1×1 on a 1×1 image.

use lb_format::QParams;

use crate::EngineError;
use crate::integer::IntegerLayer;
use crate::plane::Plane;
use crate::requant::Requant;

/// What a layer does to its accumulators, before a kernel is chosen.
#[derive(Clone, Debug)]
pub struct Epilogue {
    /// Scale and zero point of the residual's codes, `(1, 0)` for real values; `None` without.
    pub residual: Option<(f32, i32)>,
    /// Whether negative results become zero.
    pub relu: bool,
    /// Parameters of the output; `None` for real values.
    pub output: Option<QParams>,
}

/// A convolution with everything that is known before any image is.
#[derive(Clone, Debug)]
pub struct Conv {
    /// Integer weights.
    pub(crate) layer: IntegerLayer,
    /// Layout of the input's codes.
    pub(crate) input: Plane,
    /// Largest input code.
    pub(crate) input_max: i32,
    /// How the input's codes are held.
    pub(crate) input_kind: Kind,
    /// Layout of the output.
    pub(crate) output: Plane,
    /// How the output is held.
    pub(crate) output_kind: Kind,
    /// Layout and kind of the residual.
    pub(crate) residual: Option<(Plane, Kind)>,
    /// `−z_x Σ q`, one per output channel: where an accumulator starts.
    pub(crate) start: Vec<i64>,
    /// `z_x · K`, subtracted from a sum of raw input codes.
    pub(crate) sum_start: i64,
    /// Accumulator to output.
    pub(crate) requant: Requant,
}

/// How values are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Codes of at most 8 bits.
    U8,
    /// Codes of 16 bits.
    U16,
    /// Real values.
    F32,
}

impl Conv {
    /// Puts the constants of [`requant`](crate::requant) together.
    ///
    /// # Errors
    /// If the planes do not fit the layer, a zero point is no code, or a constant of requantization
    /// leaves `f32`.
    pub fn new(
        layer: IntegerLayer,
        (input, input_params): (Plane, &QParams),
        (output, output_kind): (Plane, Kind),
        residual: Option<(Plane, Kind)>,
        epilogue: &Epilogue,
    ) -> Result<Self, EngineError> {
        let numeric = |problem: String| EngineError::Numeric {
            layer: layer.name.clone(),
            problem,
        };
        // Kernels rely on it: bounds of codes stay within 17 bits.
        for q in epilogue.output.iter().chain([input_params]) {
            let zero = q.channel(0).zero_point;
            if !q.range().contains(zero) {
                return Err(numeric(format!("a zero point of {zero} is no code")));
            }
        }
        let range = input_params.range();
        let x = input_params.channel(0);
        // Codes are held from 0, whatever their signedness.
        let zero = i64::from(x.zero_point - range.lo);
        let input_max = range.steps();
        let kind = match &epilogue.output {
            None => Kind::F32,
            Some(q) if q.bits.get() <= 8 => Kind::U8,
            Some(_) => Kind::U16,
        };
        let planes = fit(&layer, &input, &output, residual.map(|r| r.0));
        if !planes.unwrap_or(false) || i64::from(input.fill) != zero || output_kind != kind {
            return Err(numeric("its planes do not fit it".into()));
        }
        let depth = layer.depth() as i64;
        let start: Vec<i64> = (0..layer.c_out)
            .map(|c| -zero * layer.channel(c).iter().map(|&q| i64::from(q)).sum::<i64>())
            .collect();
        let (s_x, s_y) = (
            f64::from(x.scale),
            (epilogue.output.as_ref()).map_or(1.0, |q| f64::from(q.channel(0).scale)),
        );
        let (s_r, z_r) = epilogue.residual.unwrap_or((0.0, 0));
        let (mut acc, mut sum, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        for c in 0..layer.c_out {
            acc.push((s_x * f64::from(layer.scale[c]) / s_y) as f32);
            sum.push((s_x * f64::from(layer.offset[c]) / s_y) as f32);
            let shifted = f64::from(layer.bias[c]) - f64::from(s_r) * f64::from(z_r);
            bias.push((shifted / s_y) as f32);
        }
        let residual_scale = (f64::from(s_r) / s_y) as f32;
        // Every term stays far inside f32, so that no step of (6) can give an infinity.
        let largest = depth as f64 * f64::from(input_max) * 70_000.0;
        for t in acc.iter().chain(&sum).chain([&residual_scale]).chain(&bias) {
            if !t.is_finite() || f64::from(*t).abs() * largest > 1e36 {
                return Err(numeric(format!(
                    "its scales give the factor {t:e}, too large to compute with"
                )));
            }
        }
        // Rounded to codes, a vanishing factor adds nothing. A real output would lose its digits.
        if epilogue.output.is_none() {
            for c in 0..layer.c_out {
                for (w, t) in [(layer.scale[c], acc[c]), (layer.offset[c], sum[c])] {
                    if w != 0.0 && !t.is_normal() {
                        return Err(numeric(format!(
                            "its scales give the factor {:e}, too small to compute with",
                            s_x * f64::from(w)
                        )));
                    }
                }
            }
        }
        let bounds = match &epilogue.output {
            Some(q) => {
                let (r, z) = (q.range(), q.channel(0).zero_point);
                let lo = if epilogue.relu { z } else { r.lo };
                ((lo - z) as f32, (r.hi - z) as f32)
            }
            None if epilogue.relu => (0.0, f32::INFINITY),
            None => (f32::NEG_INFINITY, f32::INFINITY),
        };
        let zero_point =
            (epilogue.output.as_ref()).map_or(0, |q| q.channel(0).zero_point - q.range().lo);
        let with_offset = layer.offset.iter().any(|&o| o != 0.0);
        Ok(Self {
            requant: Requant {
                acc,
                sum: with_offset.then_some(sum),
                residual: residual_scale,
                bias,
                bounds,
                zero_point,
            },
            layer,
            input,
            input_max,
            input_kind: match input_params.bits.get() {
                ..=8 => Kind::U8,
                _ => Kind::U16,
            },
            output,
            output_kind,
            residual,
            start,
            sum_start: zero * depth,
        })
    }

    /// Largest magnitude of (6) before it is clamped, if what the residual holds (codes, or real
    /// values) is at most `residual`.
    pub fn largest(&self, residual: f64) -> f64 {
        let zero = i64::from(self.input.fill);
        let input = zero.max(i64::from(self.input_max) - zero) as f64;
        let sum = input * self.layer.depth() as f64;
        let magnitude = |t: f32| f64::from(t).abs();
        let of_channel = |c: usize| {
            let q = self.layer.channel(c).iter().map(|&q| i64::from(q).abs());
            let weights = q.sum::<i64>() as f64;
            magnitude(self.requant.acc[c]) * weights * input
                + self.requant.sum.as_ref().map_or(0.0, |b| magnitude(b[c])) * sum
                + magnitude(self.requant.bias[c])
        };
        let own = (0..self.layer.c_out).map(of_channel).fold(0.0, f64::max);
        own + magnitude(self.requant.residual) * residual
    }

    /// Layout of the output.
    pub fn output(&self) -> Plane {
        self.output
    }

    /// Multiply-accumulates an image, padding included.
    pub fn macs(&self) -> usize {
        self.output.height * self.output.width * self.layer.c_out * self.layer.depth()
    }

    /// Whether inputs are bytes, weights are `i8`, and no partial sum can leave 32 bits: what the
    /// vector kernels need.
    pub fn is_narrow(&self) -> bool {
        let largest = (0..self.layer.c_out).map(|c| {
            let magnitude: i64 = (self.layer.channel(c).iter())
                .map(|&q| i64::from(q).abs())
                .sum();
            magnitude * i64::from(self.input_max) + self.start[c].abs()
        });
        self.input_kind == Kind::U8
            && self.output_kind != Kind::U16
            && self.residual.is_none_or(|(_, kind)| kind != Kind::U16)
            && self.layer.fits_i8()
            && largest.max().unwrap_or(0) <= i64::from(i32::MAX)
    }

    /// Whether `t` of [`requant`](crate::requant) stays within 30 bits whatever the input, so that
    /// it can be rounded before it is clamped.
    pub fn is_bounded(&self) -> bool {
        let r = &self.requant;
        let depth = self.layer.depth() as f64 * f64::from(self.input_max);
        let residual = match self.residual {
            None => 0.0,
            Some((_, Kind::U8)) => 255.0,
            Some((_, Kind::U16)) => 65535.0,
            Some((_, Kind::F32)) => return false,
        };
        (0..self.layer.c_out).all(|c| {
            let magnitude: i64 = (self.layer.channel(c).iter())
                .map(|&q| i64::from(q).abs())
                .sum();
            let acc = magnitude as f64 * f64::from(self.input_max) + self.start[c].abs() as f64;
            let sum = r
                .sum
                .as_ref()
                .map_or(0.0, |s| f64::from(s[c].abs()) * 2.0 * depth);
            let rest = f64::from(r.residual.abs()) * residual + f64::from(r.bias[c].abs());
            f64::from(r.acc[c].abs()) * acc + sum + rest < f64::from(1 << 30)
        })
    }

    /// Index of the first input value under output (`y`, `x`).
    pub fn window(&self, y: usize, x: usize) -> usize {
        let inset = self.input.border - self.layer.padding;
        (self.input).padded(y * self.layer.stride + inset, x * self.layer.stride + inset)
    }
}

impl Kind {
    /// Bytes a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Whether a layer fits between these planes, so that kernels may index without looking; `None`
/// where a size overflows.
fn fit(
    layer: &IntegerLayer,
    input: &Plane,
    output: &Plane,
    residual: Option<Plane>,
) -> Option<bool> {
    let [kh, kw] = layer.kernel;
    let sizes = [kh, kw, layer.stride, layer.c_in, layer.c_out];
    let some = |p: &Plane| p.height > 0 && p.width > 0 && p.stride >= p.channels;
    // The last window ends inside the padded input.
    let reach = |n: usize, k: usize| (n - 1).checked_mul(layer.stride)?.checked_add(k);
    let padded = |n: usize| n.checked_add(layer.padding.checked_mul(2)?);
    let c_out = layer.c_out;
    let per_channel = [layer.scale.len(), layer.offset.len(), layer.bias.len()];
    let size = |p: &Plane| (p.channels, p.height, p.width);
    for plane in [input, output].into_iter().chain(&residual) {
        // Of bytes, twice as many as `f32`s take.
        plane.checked_len()?.checked_mul(8)?;
    }
    let depth = kh.checked_mul(kw)?.checked_mul(layer.c_in)?;
    Some(
        sizes.iter().all(|&n| n > 0)
            && [input, output].into_iter().chain(&residual).all(some)
            && reach(output.height, kh)? <= padded(input.height)?
            && reach(output.width, kw)? <= padded(input.width)?
            && input.border >= layer.padding
            && input.channels == layer.c_in
            && input.stride.is_multiple_of(4)
            && output.channels == c_out
            && output.stride.is_multiple_of(16)
            && residual.is_none_or(|r| size(&r) == size(output))
            && per_channel == [c_out; 3]
            && layer.q.len() == c_out.checked_mul(depth)?,
    )
}

/// Values of an edge, read.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// Codes of at most 8 bits.
    U8(&'a [u8]),
    /// Codes of 16 bits.
    U16(&'a [u16]),
    /// Real values.
    F32(&'a [f32]),
}

/// Values of an edge, written.
#[derive(Debug)]
pub enum ValuesMut<'a> {
    /// Codes of at most 8 bits.
    U8(&'a mut [u8]),
    /// Codes of 16 bits.
    U16(&'a mut [u16]),
    /// Real values.
    F32(&'a mut [f32]),
}

impl Values<'_> {
    /// The value at `i`: exact, codes have at most 16 bits.
    #[inline]
    pub fn real(&self, i: usize) -> f32 {
        match self {
            Self::U8(v) => f32::from(v[i]),
            Self::U16(v) => f32::from(v[i]),
            Self::F32(v) => v[i],
        }
    }

    /// How they are held.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::U8(_) => Kind::U8,
            Self::U16(_) => Kind::U16,
            Self::F32(_) => Kind::F32,
        }
    }

    /// How many there are, [`TAIL`](crate::plane::TAIL) included.
    pub const fn len(&self) -> usize {
        match self {
            Self::U8(v) => v.len(),
            Self::U16(v) => v.len(),
            Self::F32(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl ValuesMut<'_> {
    /// The same values, to read.
    pub const fn as_ref(&self) -> Values<'_> {
        match self {
            Self::U8(v) => Values::U8(v),
            Self::U16(v) => Values::U16(v),
            Self::F32(v) => Values::F32(v),
        }
    }
}

/// The buffers of one convolution of one image.
#[derive(Debug)]
pub struct Io<'a> {
    /// Input codes, `[H + 2·border, W + 2·border, stride]` and [`TAIL`](crate::plane::TAIL).
    pub input: Values<'a>,
    /// Residual, of the kind and layout that the convolution was made for.
    pub residual: Option<Values<'a>>,
    /// Sums of window codes, one per output position and [`SLACK`](crate::kernel::window_sum::SLACK)
    /// more, if [`Requant::sum`] is there.
    pub sums: &'a [f32],
    /// Output; its border is not touched.
    pub output: ValuesMut<'a>,
    /// At least [`Run::scratch`](crate::kernel::Run::scratch) bytes, of any content.
    pub scratch: &'a mut [u8],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Recipe, params};

    #[test]
    fn zero_points_that_are_no_codes_are_refused() {
        let recipe = Recipe {
            residual: None,
            ..Recipe::body(16, 4, 8)
        };
        let conv = recipe.conv();
        let with = |input_zero: i32, output_zero: i32| {
            let epilogue = Epilogue {
                residual: None,
                relu: false,
                output: Some(params(4, 1.0, output_zero)),
            };
            let input = Plane {
                fill: input_zero as u16,
                ..conv.input
            };
            let output = (conv.output, Kind::U8);
            let layer = conv.layer.clone();
            Conv::new(
                layer,
                (input, &params(8, 1.0, input_zero)),
                output,
                None,
                &epilogue,
            )
        };
        assert!(with(0, 0).is_ok() && with(255, 15).is_ok());
        for (input, output) in [(0, 16), (0, -1), (256, 0), (-1, 0), (0, i32::MIN)] {
            let error = with(input, output).unwrap_err().to_string();
            assert!(error.contains("zero point"), "{input}, {output}: {error}");
        }
    }
}
