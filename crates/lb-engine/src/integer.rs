//! A layer in integers: its weights as `w = s·q + o`, whatever codes and zero points it is stored
//! with.

use lb_format::{Affine, Layer, LayerKind, Weight};

use crate::EngineError;

/// A layer's integer weights and geometry.
#[derive(Clone, Debug, PartialEq)]
pub struct IntegerLayer {
    /// Path in the network.
    pub name: String,
    /// `q`, `[C_out, k_h, k_w, C_in]`: input channels innermost, as they lie in memory.
    pub q: Vec<i32>,
    /// `s`, one per output channel.
    pub scale: Vec<f32>,
    /// `o`, one per output channel.
    pub offset: Vec<f32>,
    /// Output channels.
    pub c_out: usize,
    /// Input channels.
    pub c_in: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Step between output positions.
    pub stride: usize,
    /// Pixels added on every side.
    pub padding: usize,
    /// Bias in real units, one per output channel.
    pub bias: Vec<f32>,
    /// Bits a stored weight. Where it has a table of levels, `q` is wider.
    pub bits: u8,
}

impl IntegerLayer {
    /// Turns stored codes `k` into `q`, channel by channel, so that as many channels as possible
    /// have no offset:
    ///
    /// - `o = 0`: `q = k − z`;
    /// - `o = s·h/2` with an integer `h` (binary weights, half-integer zero points):
    ///   `q = 2(k − z) + h` with half the scale;
    /// - otherwise `q = k − z` and the offset stays.
    ///
    /// Codes of a table of levels (additive powers of two) are looked up here, once: `k` is then the
    /// level, which fits 8 bits, and kernels never see that it was stored in fewer.
    ///
    /// Where `q` would not fit 8 bits though the codes do, `q = k − 2^(b−1)` and the difference
    /// goes into the offset.
    ///
    /// # Errors
    /// If the weight is float.
    pub fn new(layer: &Layer) -> Result<Self, EngineError> {
        let Weight::Codes { codes, qparams } = &layer.weight else {
            let place = format!("layer `{}`", layer.name);
            return Err(EngineError::unsupported(place, "its weight is float"));
        };
        let (c_out, c_in, kernel, stride, padding) = match (layer.kind, codes.shape()) {
            (LayerKind::Conv { stride, padding }, &[o, i, h, w]) => (o, i, [h, w], stride, padding),
            (LayerKind::Linear, &[o, i]) => (o, i, [1, 1], 1, 0),
            _ => unreachable!("validated networks have no other layers"),
        };
        let mut unpacked = codes.unpack();
        if let Some(levels) = &qparams.levels {
            unpacked.iter_mut().for_each(|k| *k = levels.level(*k));
        }
        let (row, area) = (c_in * kernel[0] * kernel[1], kernel[0] * kernel[1]);
        let middle = match codes.signed() || qparams.levels.is_some() {
            true => 0,
            false => codes.bits().levels() as i32 / 2,
        };
        let mut q = Vec::with_capacity(unpacked.len());
        let (mut scale, mut offset) = (Vec::new(), Vec::new());
        for (c, k) in unpacked.chunks_exact(row).enumerate() {
            let form = Form::of(qparams.channel(c), k, middle);
            scale.push(form.scale);
            offset.push(form.offset);
            // [C_in, k_h, k_w] → [k_h, k_w, C_in]
            q.extend((0..row).map(|i| form.integer(k[(i % c_in) * area + i / c_in])));
        }
        Ok(Self {
            name: layer.name.clone(),
            q,
            scale,
            offset,
            c_out,
            c_in,
            kernel,
            stride,
            padding,
            bias: layer.bias.clone(),
            bits: codes.bits().get(),
        })
    }

    /// Products a position sums, `C_in · k_h · k_w`.
    pub fn depth(&self) -> usize {
        self.c_in * self.kernel[0] * self.kernel[1]
    }

    /// The integers of output channel `c`.
    pub fn channel(&self, c: usize) -> &[i32] {
        let row = self.depth();
        &self.q[c * row..(c + 1) * row]
    }

    /// Whether every `q` is in `−128 ..= 127`.
    pub fn fits_i8(&self) -> bool {
        self.q.iter().all(|&q| i8::try_from(q).is_ok())
    }
}

/// `q = factor·k + shift` of one channel, with the scale and offset that belong to it.
struct Form {
    factor: i32,
    shift: i32,
    scale: f32,
    offset: f32,
}

impl Form {
    fn of(a: Affine, codes: &[i32], middle: i32) -> Self {
        let plain = Self {
            factor: 1,
            shift: -a.zero_point,
            scale: a.scale,
            offset: a.offset,
        };
        if a.offset == 0.0 && plain.fits(codes) {
            return plain;
        }
        // The doubled form is taken only where it is exactly the same map.
        let h = 2.0 * a.offset / a.scale;
        if h.fract() == 0.0 && h.abs() < 256.0 && h * 0.5 * a.scale == a.offset {
            let doubled = Self {
                factor: 2,
                shift: h as i32 - 2 * a.zero_point,
                scale: a.scale * 0.5,
                offset: 0.0,
            };
            if doubled.fits(codes) && doubled.scale.is_normal() {
                return doubled;
            }
        }
        if plain.fits(codes) {
            return plain;
        }
        let moved = f64::from(a.scale) * f64::from(middle - a.zero_point) + f64::from(a.offset);
        let centred = Self {
            factor: 1,
            shift: -middle,
            scale: a.scale,
            offset: moved as f32,
        };
        if centred.fits(codes) { centred } else { plain }
    }

    fn integer(&self, code: i32) -> i32 {
        self.factor * code + self.shift
    }

    fn fits(&self, codes: &[i32]) -> bool {
        (codes.iter()).all(|&k| i8::try_from(self.integer(k)).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_format::{BitWidth, Levels, PackedTensor, QParams};

    fn layer(bits: u8, signed: bool, codes: &[i32], affine: Affine) -> Layer {
        let bits = BitWidth::new(bits).unwrap();
        Layer {
            name: "x".into(),
            kind: LayerKind::Linear,
            weight: Weight::Codes {
                codes: PackedTensor::pack(codes, &[1, codes.len()], bits, signed).unwrap(),
                qparams: QParams::per_tensor(bits, signed, affine),
            },
            bias: vec![0.0],
        }
    }

    /// Whatever form is chosen, `s·q + o` are the stored weights.
    #[test]
    fn the_real_weights_are_those_of_the_file() {
        let affine = |scale, zero_point, offset| Affine {
            scale,
            zero_point,
            offset,
        };
        let cases = [
            (8, true, vec![-128, 0, 127], affine(0.25, 0, 0.0), false),
            (8, false, vec![0, 100, 255], affine(0.25, 128, 0.0), false),
            // Zero point 0 and codes up to 255 do not fit i8: an offset takes over.
            (8, false, vec![0, 100, 255], affine(0.25, 0, 0.0), true),
            (1, true, vec![-1, 0], affine(0.5, 0, 0.25), false),
            (2, true, vec![-2, -1, 0, 1], affine(0.5, 0, 0.25), false),
            (4, true, vec![-8, 3, 7], affine(0.5, 1, 0.1), true),
            (16, false, vec![0, 9, 65535], affine(0.5, 7, 0.0), false),
        ];
        for (bits, signed, codes, a, offset) in cases {
            let stored = layer(bits, signed, &codes, a);
            let integer = IntegerLayer::new(&stored).unwrap();
            assert_eq!(integer.offset[0] != 0.0, offset, "{bits} {a:?}");
            assert!(bits == 16 || integer.fits_i8(), "{bits} {a:?}");
            for (q, w) in integer.q.iter().zip(stored.weight.dequantize()) {
                let real = *q as f32 * integer.scale[0] + integer.offset[0];
                assert!((real - w).abs() <= 1e-6 * w.abs(), "{real} {w} {a:?}");
            }
        }
    }

    #[test]
    fn input_channels_lie_innermost() {
        let bits = BitWidth::EIGHT;
        let codes: Vec<i32> = (0..2 * 2 * 3).collect();
        let one = Affine {
            scale: 1.0,
            zero_point: 0,
            offset: 0.0,
        };
        let conv = Layer {
            name: "x".into(),
            kind: LayerKind::Conv {
                stride: 1,
                padding: 0,
            },
            weight: Weight::Codes {
                codes: PackedTensor::pack(&codes, &[1, 2, 2, 3], bits, true).unwrap(),
                qparams: QParams::per_tensor(bits, true, one),
            },
            bias: vec![0.0],
        };
        let q = IntegerLayer::new(&conv).unwrap().q;
        assert_eq!(q, [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]);
    }

    #[test]
    fn codes_of_a_table_become_its_levels() {
        let four = BitWidth::new(4).unwrap();
        let levels = Levels::additive_powers_of_two(four).unwrap();
        let codes: Vec<i32> = (0..15).collect();
        for offset in [0.0, 0.01] {
            let affine = Affine {
                scale: 0.25,
                zero_point: 0,
                offset,
            };
            let mut l = layer(4, false, &codes, affine);
            let Weight::Codes { qparams, .. } = &mut l.weight else {
                unreachable!()
            };
            qparams.levels = Some(levels.clone());
            let integer = IntegerLayer::new(&l).unwrap();
            assert_eq!(integer.q, levels.as_slice());
            assert!(integer.fits_i8());
            assert_eq!((integer.scale[0], integer.offset[0]), (0.25, offset));
            assert_eq!(integer.bits, 4);
        }
    }

    #[test]
    fn float_weights_are_refused_by_name() {
        let mut l = layer(
            8,
            true,
            &[1],
            Affine {
                scale: 1.0,
                zero_point: 0,
                offset: 0.0,
            },
        );
        l.weight = Weight::Float {
            shape: vec![1, 1],
            values: vec![1.0],
        };
        let e = IntegerLayer::new(&l).unwrap_err().to_string();
        assert!(e.contains("layer `x`") && e.contains("float"), "{e}");
    }
}
