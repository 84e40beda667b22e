//! Networks built node by node, with made-up weights and with scales that fit what flows: the
//! builder computes every node on an image of its own.

use lb_format::graph::{Graph, Op, Shape};
use lb_format::network::Recipe;
use lb_format::{
    Activation, Affine, BitWidth, Diffusion, Layer, LayerKind, Levels, NetworkInfo, PackedTensor,
    QParams, QuantizedNetwork, Weight,
};

use super::interpret::{self, Tensor};

/// SplitMix64 (Steele, Lea and Flood 2014).
pub struct Draw(pub u64);

impl Draw {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `lo .. hi`.
    pub fn real(&mut self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * ((self.next() >> 40) as f32 / (1u64 << 24) as f32)
    }

    /// In `lo ..= hi`.
    pub fn int(&mut self, lo: i32, hi: i32) -> i32 {
        lo + (self.next() % (i64::from(hi) - i64::from(lo) + 1) as u64) as i32
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}

/// Where a weight's real offset lies on its grid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Offset {
    None,
    /// Half a step, as binary weights have it.
    Half,
    /// Anywhere.
    Any,
}

/// How a weight is stored.
#[derive(Clone, Copy, Debug)]
pub struct WeightSpec {
    pub bits: u8,
    pub signed: bool,
    pub per_channel: bool,
    pub zero_point: bool,
    pub offset: Offset,
    /// Whether codes stand for entries of a table, and so are unsigned without zero point.
    pub levels: bool,
}

impl WeightSpec {
    /// Signed and symmetric, a scale a channel.
    pub const fn plain(bits: u8) -> Self {
        Self {
            bits,
            signed: true,
            per_channel: true,
            zero_point: false,
            offset: Offset::None,
            levels: false,
        }
    }

    /// As it is stored: what a table excludes is off.
    fn sound(self) -> Self {
        let levels = self.levels && self.bits <= 8;
        Self {
            levels,
            signed: self.signed && !levels,
            zero_point: self.zero_point && !levels,
            ..self
        }
    }
}

/// Distinct levels in a range, at most as many as `bits` bits have codes, fewer more often than not.
fn levels(draw: &mut Draw, bits: BitWidth, (lo, hi): (i32, i32)) -> Levels {
    let most = (bits.levels() as i32).min(hi - lo + 1);
    let n = draw.int(2, most) as usize;
    // Activations start at 0.
    let mut levels = std::collections::BTreeSet::from_iter((lo == 0).then_some(0));
    while levels.len() < n {
        levels.insert(draw.int(lo, hi));
    }
    Levels::new(levels.into_iter().collect()).unwrap()
}

/// What an activation rounds to.
#[derive(Clone, Copy, Debug)]
pub struct ActSpec {
    pub bits: u8,
    pub signed: bool,
    /// Where the zero point lies in the codes, 0 to 255; 0 stands for the code 0.
    pub zero: u8,
    /// Largest real code over the largest value: below 1 some are clamped.
    pub reach: f32,
    /// Whether the image is dithered; nothing else is.
    pub dither: bool,
    /// Seed of its diffusion's weights; nothing else has one, and none if it is dithered.
    pub diffusion: Option<u8>,
    /// Whether codes stand for entries of a table, and so are unsigned without zero point or dither.
    pub levels: bool,
}

impl ActSpec {
    /// Unsigned, from 0, nothing clamped.
    pub const fn plain(bits: u8) -> Self {
        Self {
            bits,
            signed: false,
            zero: 0,
            reach: 1.0,
            dither: false,
            diffusion: None,
            levels: false,
        }
    }

    /// Weights up to 1.5, of both signs.
    fn diffusion(self) -> Option<Diffusion> {
        let seed = self.diffusion?;
        if self.dither || self.levels || self.bits > 8 {
            return None;
        }
        let mut state = u32::from(seed);
        let mut weight = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 16) as i32 % 385) as i16 - 192
        };
        let mut mix = || [(); 3].map(|()| [(); 3].map(|()| 2 * weight()));
        let mut pixel = mix();
        for (to, row) in pixel.iter_mut().enumerate() {
            row[to..].fill(0);
        }
        Some(Diffusion {
            pixel,
            left: mix(),
            above: [mix(), mix(), mix()],
        })
    }

    /// As it is stored: what a table excludes is off.
    fn sound(self) -> Self {
        let levels = self.levels && self.bits <= 8;
        Self {
            levels,
            signed: self.signed && !levels,
            zero: if levels { 0 } else { self.zero },
            dither: self.dither && !levels,
            ..self
        }
    }
}

/// A convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvSpec {
    pub c_out: usize,
    /// Cut to the padded image.
    pub kernel: [usize; 2],
    pub stride: usize,
    pub padding: usize,
    pub weight: WeightSpec,
}

impl ConvSpec {
    /// `side`×`side` with as much padding as keeps the size at stride 1.
    pub const fn same(c_out: usize, side: usize, stride: usize, weight: WeightSpec) -> Self {
        Self {
            c_out,
            kernel: [side, side],
            stride,
            padding: side / 2,
            weight,
        }
    }
}

/// Builds a network.
pub struct Builder {
    pub network: QuantizedNetwork,
    pub draw: Draw,
    image: Vec<u8>,
    values: Vec<Tensor>,
}

impl Builder {
    pub fn new(height: usize, width: usize, seed: u64) -> Self {
        let mut draw = Draw(seed);
        let shape = Shape::new(3, height, width);
        let info = NetworkInfo {
            arch: "made up".into(),
            shortcut: String::new(),
            classes: Vec::new(),
            mean: std::array::from_fn(|_| draw.real(0.3, 0.6)),
            std: std::array::from_fn(|_| draw.real(0.15, 0.35)),
            trained_on: String::new(),
        };
        let mut builder = Self {
            image: draw.bytes(3 * height * width),
            draw,
            network: QuantizedNetwork {
                info,
                recipe: Recipe::default(),
                layers: Vec::new(),
                activations: Vec::new(),
                graph: Graph::new(shape),
            },
            values: Vec::new(),
        };
        builder.compute(0);
        builder
    }

    /// What flows out of `node`.
    pub fn shape(&self, node: usize) -> Shape {
        self.values[node].shape
    }

    /// Appends a node that mentions nothing new.
    pub fn op(&mut self, op: Op, inputs: &[usize]) -> usize {
        let node = self.network.graph.push(op, inputs);
        self.compute(node);
        node
    }

    fn compute(&mut self, node: usize) {
        let inputs = &self.network.graph.nodes[node].inputs;
        let inputs: Vec<&Tensor> = inputs.iter().map(|&n| &self.values[n]).collect();
        let value = interpret::evaluate(&self.network, node, &inputs, &self.image);
        self.values.push(value);
    }

    pub fn conv(&mut self, x: usize, spec: ConvSpec) -> usize {
        let s = self.shape(x);
        let fit = |k: usize, n: usize| k.min(n + 2 * spec.padding);
        let [kh, kw] = spec.kernel;
        let shape = [spec.c_out, s.channels, fit(kh, s.height), fit(kw, s.width)];
        let kind = LayerKind::Conv {
            stride: spec.stride,
            padding: spec.padding,
        };
        let name = self.layer(kind, &shape, spec.weight);
        self.op(Op::conv(&name), &[x])
    }

    pub fn linear(&mut self, x: usize, outputs: usize, weight: WeightSpec) -> usize {
        let shape = [outputs, self.shape(x).channels];
        let name = self.layer(LayerKind::Linear, &shape, weight);
        self.op(Op::linear(&name), &[x])
    }

    fn layer(&mut self, kind: LayerKind, shape: &[usize], spec: WeightSpec) -> String {
        let name = format!("layer{}", self.network.layers.len());
        let spec = spec.sound();
        let bits = BitWidth::new(spec.bits).unwrap();
        let all = (-Levels::LARGEST, Levels::LARGEST);
        let levels = spec.levels.then(|| levels(&mut self.draw, bits, all));
        let range = (levels.as_ref()).map_or(bits.range(spec.signed), Levels::range);
        let reach = match &levels {
            Some(_) => 2.0 * Levels::LARGEST as f32,
            None => bits.levels() as f32,
        };
        let depth: usize = shape[1..].iter().product();
        let draw = &mut self.draw;
        let codes: Vec<i32> = (0..shape[0] * depth)
            .map(|_| draw.int(range.lo, range.hi))
            .collect();
        let size = 2.0 / (reach * (depth as f32).sqrt());
        let affine = |_| {
            let scale = size * draw.real(0.5, 1.5);
            Affine {
                scale,
                zero_point: match spec.zero_point {
                    true => draw.int(range.lo, range.hi),
                    false => 0,
                },
                offset: match spec.offset {
                    Offset::None => 0.0,
                    // Exact, so that it can be recognised.
                    Offset::Half => scale * 0.5,
                    Offset::Any => scale * draw.real(-2.0, 2.0),
                },
            }
        };
        let maps = if spec.per_channel { shape[0] } else { 1 };
        let qparams = QParams {
            bits,
            signed: spec.signed,
            affine: (0..maps).map(affine).collect(),
            levels,
        };
        let bias = (0..shape[0]).map(|_| self.draw.real(-0.3, 0.3)).collect();
        self.network.layers.push(Layer {
            name: name.clone(),
            kind,
            weight: Weight::Codes {
                codes: PackedTensor::pack(&codes, shape, bits, spec.signed).unwrap(),
                qparams,
            },
            bias,
        });
        name
    }

    /// An activation; without `spec` it leaves real values.
    pub fn activation(&mut self, x: usize, relu: bool, spec: Option<ActSpec>) -> usize {
        let largest = (self.values[x].values.iter())
            .map(|v| if relu { v.max(0.0) } else { v.abs() })
            .fold(0.0, f64::max);
        let spec = spec.map(ActSpec::sound);
        let qparams = spec.map(|spec| {
            let bits = BitWidth::new(spec.bits).unwrap();
            let levels = (spec.levels).then(|| levels(&mut self.draw, bits, (0, Levels::LARGEST)));
            let range = bits.range(spec.signed);
            let zero_point = match spec.zero {
                0 => 0,
                z => range.lo + range.steps() * i32::from(z) / 255,
            };
            let half = match &levels {
                Some(levels) => *levels.as_slice().last().unwrap(),
                None => (range.hi - zero_point).max(zero_point - range.lo),
            };
            let affine = Affine {
                scale: (spec.reach * largest as f32 / half as f32).max(1e-5),
                zero_point,
                offset: 0.0,
            };
            QParams {
                levels,
                ..QParams::per_tensor(bits, spec.signed, affine)
            }
        });
        let name = format!("act{}", self.network.activations.len());
        self.network.activations.push(Activation {
            name: name.clone(),
            relu,
            dither: x == 0 && spec.is_some_and(|spec| spec.dither),
            diffusion: spec.filter(|_| x == 0).and_then(|spec| spec.diffusion()),
            qparams: qparams.clone(),
        });
        let node = self.op(Op::activation(&name), &[x]);
        if let Some(q) = &qparams {
            let t = &mut self.values[node];
            let codes: Vec<i32> = (t.values.iter().map(|&v| interpret::round(v, q).1)).collect();
            *t = Tensor::of_codes(t.shape, &codes, q);
        }
        node
    }

    /// image → codes.
    pub fn input(&mut self, spec: ActSpec) -> usize {
        self.activation(0, false, Some(spec))
    }

    /// The end of most networks: mean, codes, linear.
    pub fn head(&mut self, x: usize, pooled: ActSpec, classes: usize, weight: WeightSpec) {
        let x = self.op(Op::GlobalAveragePool, &[x]);
        let x = self.activation(x, false, Some(pooled));
        self.linear(x, classes, weight);
    }

    /// The network, whose last node gives the logits.
    pub fn finish(mut self) -> QuantizedNetwork {
        let classes = self.values.last().unwrap().shape.channels;
        self.network.info.classes = (0..classes).map(|c| format!("class {c}")).collect();
        self.network.validate().unwrap();
        self.network
    }
}

/// A small residual network with everything that engines distinguish: several widths, both
/// shortcuts, max pooling, offsets, zero points, tables of levels, diffusion.
pub fn small(seed: u64) -> QuantizedNetwork {
    let mut b = Builder::new(9, 8, seed);
    let x = b.input(ActSpec {
        zero: 110,
        diffusion: Some(3),
        ..ActSpec::plain(8)
    });
    let x = b.conv(x, ConvSpec::same(5, 3, 1, WeightSpec::plain(8)));
    let x = b.activation(x, true, Some(ActSpec::plain(8)));
    let affine = WeightSpec {
        offset: Offset::Any,
        zero_point: true,
        signed: false,
        ..WeightSpec::plain(4)
    };
    let on_levels = ActSpec {
        levels: true,
        ..ActSpec::plain(4)
    };
    let narrow = b.activation(x, false, Some(on_levels));
    let y = b.conv(narrow, ConvSpec::same(9, 3, 2, affine));
    let y = b.activation(y, true, Some(on_levels));
    let table = WeightSpec {
        offset: Offset::Any,
        levels: true,
        ..WeightSpec::plain(3)
    };
    let y = b.conv(y, ConvSpec::same(9, 3, 1, table));
    let shortcut = Op::PadShortcut {
        stride: 2,
        channels: 9,
    };
    let s = b.op(shortcut, &[x]);
    let x = b.op(Op::Add, &[y, s]);
    let x = b.activation(x, true, Some(ActSpec::plain(16)));
    let y = b.conv(x, ConvSpec::same(17, 3, 1, WeightSpec::plain(2)));
    let s = b.conv(x, ConvSpec::same(17, 1, 1, WeightSpec::plain(16)));
    let x = b.op(Op::Add, &[y, s]);
    let x = b.activation(x, true, Some(ActSpec::plain(8)));
    let x = b.op(Op::MaxPool { size: 2, stride: 1 }, &[x]);
    b.head(x, ActSpec::plain(8), 3, WeightSpec::plain(8));
    b.finish()
}
