//! What a graph means, in `f64` on real values: weights and codes are dequantized, everything is
//! computed as its definition says, and activations round with the formula. It shares no code with
//! the engine; of `lb-format` it takes the graph, the parameters and the unpacked codes.

use lb_format::graph::{Op, Shape};
use lb_format::{Diffusion, Layer, LayerKind, QParams, QuantizedNetwork, Weight};

/// Real values `[C, H, W]` of one image.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub shape: Shape,
    pub values: Vec<f64>,
    /// Of every value, the size of the numbers that `f32` arithmetic adds up to get it: what its
    /// rounding error is proportional to.
    pub mass: Vec<f64>,
}

impl Tensor {
    /// What codes stand for. Where they are added, an engine adds code and zero point one by one.
    pub fn of_codes(shape: Shape, codes: &[i32], q: &QParams) -> Self {
        let (a, lo) = (q.channel(0), q.range().lo);
        let mass = |&code: &i32| {
            let parts = (code - lo) + (a.zero_point - lo);
            f64::from(a.scale) * f64::from(parts)
        };
        let real = |&code: &i32| f64::from(a.scale) * f64::from(code - a.zero_point);
        Self {
            shape,
            values: codes.iter().map(real).collect(),
            mass: codes.iter().map(mass).collect(),
        }
    }

    fn map(&self, shape: Shape, f: impl Fn(usize, usize, usize) -> Option<usize>) -> Self {
        let at = |of: &[f64], i: Option<usize>| i.map_or(0.0, |i| of[i]);
        let (mut values, mut mass) = (Vec::new(), Vec::new());
        for c in 0..shape.channels {
            for y in 0..shape.height {
                for x in 0..shape.width {
                    let from = f(c, y, x);
                    values.push(at(&self.values, from));
                    mass.push(at(&self.mass, from));
                }
            }
        }
        Self {
            shape,
            values,
            mass,
        }
    }
}

/// Where `x` would lie on the grid of `q`, and the code that it rounds to, or with a table the level.
pub fn round(x: f64, q: &QParams) -> (f64, i32) {
    let (a, range) = (q.channel(0), q.range());
    let steps = x / f64::from(a.scale);
    if let Some(levels) = &q.levels {
        return (steps, level(steps.round_ties_even(), levels.as_slice()));
    }
    let code = steps.round_ties_even() + f64::from(a.zero_point);
    let code = code.clamp(f64::from(range.lo), f64::from(range.hi));
    (steps, code as i32)
}

/// The level nearest to `n`; of two the lower one, which stands first.
pub fn level(n: f64, levels: &[i32]) -> i32 {
    // Of huge numbers the distances would all be one.
    let n = n.clamp(f64::from(levels[0]), f64::from(levels[levels.len() - 1]));
    let distance = |l: &&i32| (f64::from(**l) - n).abs();
    *(levels.iter())
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .unwrap()
}

/// The pattern of four thresholds, as it stands in the definition.
fn add_dither(image: &mut Tensor, q: &QParams) {
    let (s, scale) = (image.shape, f64::from(q.channel(0).scale));
    for i in 0..image.values.len() {
        let (c, y, x) = (
            i / (s.height * s.width),
            i / s.width % s.height,
            i % s.width,
        );
        let (y, x) = (y + usize::from(c == 1), x + usize::from(c == 2));
        let d = [[-0.375, 0.125], [0.375, -0.125]][y % 2][x % 2] * scale;
        image.values[i] += d;
        image.mass[i] += d.abs();
    }
}

/// The image as the definition of diffusion is given it: to the last bit.
fn exact_image(network: &QuantizedNetwork, pixels: &[u8]) -> Vec<f32> {
    let area = network.graph.input.height * network.graph.input.width;
    let pixels = pixels.iter().enumerate();
    pixels
        .map(|(i, &p)| network.info.real_pixel(i / area, p))
        .collect()
}

/// Values with the errors of those before, as it stands in the definition: in 4,096ths of a step, weights in 256ths.
/// Half of one of these more, where rounding to even and upwards are one.
fn diffuse(image: &mut Tensor, exact: &[f32], q: &QParams, diffusion: &Diffusion) {
    let (s, a, range) = (image.shape, q.channel(0), q.range());
    let scale = f64::from(a.scale);
    let at = |c: usize, y: usize, x: usize| (c * s.height + y) * s.width + x;
    let mut errors = vec![0i64; image.values.len()];
    for y in 0..s.height {
        for x in 0..s.width {
            for c in 0..3 {
                let value = f64::from(exact[at(c, y, x)]);
                let value = (value / scale).clamp(-256.0, 256.0) * 4096.0;
                let mut sum = 128;
                for j in 0..3 {
                    let mut pass = |weight: i16, y: Option<usize>, x: Option<usize>| {
                        if let (Some(y), Some(x)) = (y, x.filter(|x| *x < s.width)) {
                            sum += i64::from(weight) * errors[at(j, y, x)];
                        }
                    };
                    pass(diffusion.pixel[c][j], Some(y), Some(x));
                    pass(diffusion.left[c][j], Some(y), x.checked_sub(1));
                    let above = y.checked_sub(1);
                    pass(diffusion.above[0][c][j], above, x.checked_sub(1));
                    pass(diffusion.above[1][c][j], above, Some(x));
                    pass(diffusion.above[2][c][j], above, Some(x + 1));
                }
                let v = value.round_ties_even() as i64 + (sum >> 8);
                let code = ((v + 2048) >> 12) + i64::from(a.zero_point);
                let code = code.clamp(range.lo.into(), range.hi.into());
                let n = code - i64::from(a.zero_point);
                errors[at(c, y, x)] = ((n << 12) - v).clamp(-2048, 2048);
                image.values[at(c, y, x)] = (v as f64 + 0.5) / 4096.0 * scale;
            }
        }
    }
    // It is integer arithmetic: nothing is rounded on the way.
    image.mass.fill(0.0);
}

/// The output of node `node` from its inputs', **before** rounding if it is an activation.
/// `pixels`: planar bytes.
pub fn evaluate(
    network: &QuantizedNetwork,
    node: usize,
    inputs: &[&Tensor],
    pixels: &[u8],
) -> Tensor {
    match &network.graph.nodes[node].op {
        Op::Image => image(network, pixels),
        Op::Conv { layer } | Op::Linear { layer } => conv(network.layer(layer).unwrap(), inputs[0]),
        Op::Activation { name } => {
            let mut x = inputs[0].clone();
            let act = network.activation(name).unwrap();
            if act.relu {
                x.values.iter_mut().for_each(|v| *v = v.max(0.0));
            }
            if act.dither {
                add_dither(&mut x, act.qparams.as_ref().unwrap());
            }
            if let Some(diffusion) = &act.diffusion {
                let exact = exact_image(network, pixels);
                diffuse(&mut x, &exact, act.qparams.as_ref().unwrap(), diffusion);
            }
            x
        }
        Op::Add => {
            let mut sum = inputs[0].clone();
            let add = |a: &mut [f64], b: &[f64]| a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            add(&mut sum.values, &inputs[1].values);
            add(&mut sum.mass, &inputs[1].mass);
            sum
        }
        &Op::PadShortcut { stride, channels } => {
            let x = inputs[0];
            let (s, before) = (x.shape, (channels - x.shape.channels) / 2);
            let out = |n: usize| n.div_ceil(stride);
            x.map(
                Shape::new(channels, out(s.height), out(s.width)),
                |c, y, x| {
                    let c = c.checked_sub(before).filter(|&c| c < s.channels)?;
                    Some((c * s.height + y * stride) * s.width + x * stride)
                },
            )
        }
        Op::GlobalAveragePool => pool(inputs[0]),
        &Op::MaxPool { size, stride } => {
            let (t, s) = (inputs[0], inputs[0].shape);
            let out = |n: usize| (n - size) / stride + 1;
            t.map(
                Shape::new(s.channels, out(s.height), out(s.width)),
                |c, y, x| {
                    let window = (0..size * size).map(|i| {
                        let (y, x) = (y * stride + i / size, x * stride + i % size);
                        (c * s.height + y) * s.width + x
                    });
                    window.max_by(|&a, &b| t.values[a].total_cmp(&t.values[b]))
                },
            )
        }
    }
}

fn image(network: &QuantizedNetwork, pixels: &[u8]) -> Tensor {
    let shape = network.graph.input;
    let area = shape.height * shape.width;
    let (mut values, mut mass) = (Vec::new(), Vec::new());
    for (i, &p) in pixels.iter().enumerate() {
        let mean = f64::from(network.info.mean[i / area]);
        let std = f64::from(network.info.std[i / area]);
        values.push((f64::from(p) / 255.0 - mean) / std);
        mass.push((f64::from(p) / 255.0 + mean.abs()) / std);
    }
    Tensor {
        shape,
        values,
        mass,
    }
}

fn pool(x: &Tensor) -> Tensor {
    let area = x.shape.height * x.shape.width;
    let mean = |v: &[f64]| v.iter().sum::<f64>() / area as f64;
    // A sum of n values, one after the other, rounds n times.
    let rounded = |v: &[f64]| mean(v) * (1.0 + area as f64 / 8.0);
    Tensor {
        shape: Shape::new(x.shape.channels, 1, 1),
        values: x.values.chunks_exact(area).map(mean).collect(),
        mass: x.mass.chunks_exact(area).map(rounded).collect(),
    }
}

/// The weights `s·w + o` of output channel `c`: the integers `w`, and `s` and `o`. Products of `w`
/// with inputs are exact in `f64`, whatever the scales are.
fn weights(layer: &Layer, codes: &[i32], c: usize) -> (Vec<f64>, f64, f64) {
    let Weight::Codes { qparams, .. } = &layer.weight else {
        panic!("a float weight")
    };
    let a = qparams.channel(c);
    let row = codes.len() / layer.bias.len();
    let w = codes[c * row..(c + 1) * row].iter();
    let integer = |&k: &i32| match &qparams.levels {
        Some(levels) => levels.as_slice()[k as usize],
        None => k - a.zero_point,
    };
    let w = w.map(|k| f64::from(integer(k))).collect();
    (w, f64::from(a.scale), f64::from(a.offset))
}

fn conv(layer: &Layer, x: &Tensor) -> Tensor {
    let Weight::Codes { codes, qparams } = &layer.weight else {
        panic!("a float weight")
    };
    let (stride, padding) = match layer.kind {
        LayerKind::Conv { stride, padding } => (stride, padding),
        LayerKind::Linear => (1, 0),
    };
    let shape = layer.weight.shape();
    let (kh, kw) = (*shape.get(2).unwrap_or(&1), *shape.get(3).unwrap_or(&1));
    let s = x.shape;
    let out = |n: usize, k: usize| (n + 2 * padding - k) / stride + 1;
    let to = Shape::new(shape[0], out(s.height, kh), out(s.width, kw));
    let area = to.height * to.width;
    // Adds `w · x` of one tap to every position; outside the image x is zero.
    let tap = |w: f64, i: usize, ky: usize, kx: usize, sums: &mut [f64]| {
        for (y, row) in sums.chunks_exact_mut(to.width).enumerate() {
            let Some(from) = (y * stride + ky).checked_sub(padding) else {
                continue;
            };
            if from >= s.height {
                continue;
            }
            let line = &x.values[(i * s.height + from) * s.width..][..s.width];
            for (column, sum) in row.iter_mut().enumerate() {
                if let Some(&v) =
                    ((column * stride + kx).checked_sub(padding)).and_then(|at| line.get(at))
                {
                    *sum += w * v;
                }
            }
        }
    };
    let taps = |w: &dyn Fn(usize) -> f64| {
        let mut sums = vec![0.0; area];
        for at in 0..shape[1] * kh * kw {
            let (i, ky, kx) = (at / (kh * kw), at / kw % kh, at % kw);
            tap(w(at), i, ky, kx, &mut sums);
        }
        sums
    };
    let inputs = taps(&|_| 1.0); // Σ x
    let codes = codes.unpack();
    let (mut values, mut mass) = (Vec::new(), Vec::new());
    for c in 0..to.channels {
        let (w, scale, offset) = weights(layer, &codes, c);
        let bias = f64::from(layer.bias[c]);
        // An engine may move the zero point of the weights into their offset or back: what it adds
        // up can be larger than the terms here.
        let from_zero = qparams.signed || qparams.levels.is_some();
        let largest = match &qparams.levels {
            Some(_) => 256,
            None => qparams.bits.levels(),
        };
        let moved = match from_zero && qparams.channel(c).zero_point == 0 && offset == 0.0 {
            true => 0.0,
            false => 2.0 * (offset.abs() + 2.0 * scale * f64::from(largest)),
        };
        for (sum, x) in taps(&|at| w[at]).into_iter().zip(&inputs) {
            let y = scale * sum + offset * x;
            values.push(y + bias);
            mass.push(y.abs() + bias.abs() + moved * x.abs());
        }
    }
    Tensor {
        shape: to,
        values,
        mass,
    }
}
