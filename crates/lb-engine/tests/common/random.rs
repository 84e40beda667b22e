//! Random networks, drawn so that proptest can make them smaller.

use lb_format::QuantizedNetwork;
use lb_format::graph::Op;
use proptest::prelude::*;

use super::build::{ActSpec, Builder, ConvSpec, Offset, WeightSpec};

/// A description of a network.
#[derive(Clone, Debug)]
pub struct Spec {
    pub seed: u64,
    pub size: (usize, usize),
    pub input: ActSpec,
    /// The image is also rounded to these codes, and both are convolved and added.
    pub second_input: Option<ActSpec>,
    pub blocks: Vec<Block>,
    pub head: Head,
}

/// How a network ends.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The last layer's values are pooled before they become codes.
    pub real: Option<ConvSpec>,
    /// So is their sum with another layer's.
    pub sum: bool,
    pub pooled: ActSpec,
    pub relu: bool,
    pub classes: usize,
    pub weight: WeightSpec,
}

/// A part of a network.
#[derive(Clone, Debug)]
pub enum Block {
    Conv {
        conv: ConvSpec,
        relu: bool,
        out: ActSpec,
    },
    Residual(Residual),
    /// One convolution behind two activations, and the sum of a convolution of each.
    Fork {
        conv: ConvSpec,
        codes: [ActSpec; 2],
        weights: [WeightSpec; 2],
        out: ActSpec,
    },
    /// Codes to others, or only a ReLU on codes, or nothing at all.
    Requantize {
        relu: bool,
        out: Option<ActSpec>,
    },
    MaxPool {
        size: usize,
        stride: usize,
    },
}

/// Two convolutions and a way around them.
#[derive(Clone, Debug)]
pub struct Residual {
    /// Codes of the block's input, if others than those of the stream.
    pub input: Option<ActSpec>,
    pub side: usize,
    pub stride: usize,
    pub more: usize,
    pub weights: [WeightSpec; 2],
    pub inner: ActSpec,
    pub shortcut: Shortcut,
    /// Whether the way around comes first in the sum.
    pub swapped: bool,
    pub relu: bool,
    pub out: ActSpec,
}

/// The way around.
#[derive(Clone, Copy, Debug)]
pub enum Shortcut {
    /// Identity, or option A where the shape changes.
    Plain,
    /// Option B: a convolution.
    Conv(WeightSpec),
    /// A convolution whose values become codes.
    Rounded(WeightSpec, ActSpec),
    /// A convolution behind a ReLU, left real.
    Relu(WeightSpec),
}

impl Spec {
    /// The network.
    pub fn build(&self) -> QuantizedNetwork {
        let (h, w) = self.size;
        let mut b = Builder::new(h, w, self.seed);
        let mut x = b.input(self.input);
        if let Some(second) = self.second_input {
            let conv = ConvSpec::same(7, 3, 1, WeightSpec::plain(4));
            let y = b.input(second);
            let (x1, y1) = (b.conv(x, conv), b.conv(y, conv));
            let sum = b.op(Op::Add, &[x1, y1]);
            x = b.activation(sum, true, Some(self.input));
        }
        for block in &self.blocks {
            x = block.build(&mut b, x);
        }
        let head = self.head;
        if let Some(conv) = head.real {
            let y = b.conv(x, conv);
            x = match head.sum {
                true => {
                    let z = b.conv(x, conv);
                    b.op(Op::Add, &[y, z])
                }
                false => y,
            };
        }
        let x = b.op(Op::GlobalAveragePool, &[x]);
        let x = b.activation(x, head.relu, Some(head.pooled));
        b.linear(x, head.classes, head.weight);
        b.finish()
    }
}

impl Block {
    fn build(&self, b: &mut Builder, x: usize) -> usize {
        match self {
            Self::Conv { conv, relu, out } => {
                let x = b.conv(x, *conv);
                b.activation(x, *relu, Some(*out))
            }
            Self::Residual(r) => r.build(b, x),
            Self::Fork {
                conv,
                codes,
                weights,
                out,
            } => {
                let x = b.conv(x, *conv);
                let mut branch = |i: usize| {
                    let x = b.activation(x, i == 0, Some(codes[i]));
                    b.conv(x, ConvSpec::same(6, 1, 1, weights[i]))
                };
                let branches = [branch(0), branch(1)];
                let sum = b.op(Op::Add, &branches);
                b.activation(sum, false, Some(*out))
            }
            Self::Requantize { relu, out } => b.activation(x, *relu, *out),
            Self::MaxPool { size, stride } => {
                let s = b.shape(x);
                let (size, stride) = ((*size).min(s.height).min(s.width), *stride);
                b.op(Op::MaxPool { size, stride }, &[x])
            }
        }
    }
}

impl Residual {
    fn build(&self, b: &mut Builder, stream: usize) -> usize {
        let channels = b.shape(stream).channels;
        let c_out = channels + self.more;
        let x = match self.input {
            Some(codes) => b.activation(stream, false, Some(codes)),
            None => stream,
        };
        let y = b.conv(
            x,
            ConvSpec::same(c_out, self.side, self.stride, self.weights[0]),
        );
        let y = b.activation(y, true, Some(self.inner));
        let y = b.conv(y, ConvSpec::same(c_out, self.side, 1, self.weights[1]));
        let mut around = |weight| b.conv(x, ConvSpec::same(c_out, 1, self.stride, weight));
        let s = match self.shortcut {
            Shortcut::Plain if (self.stride, self.more) == (1, 0) => stream,
            Shortcut::Plain => {
                let pad = Op::PadShortcut {
                    stride: self.stride,
                    channels: c_out,
                };
                b.op(pad, &[stream])
            }
            Shortcut::Conv(weight) => around(weight),
            Shortcut::Rounded(weight, codes) => {
                let s = around(weight);
                b.activation(s, false, Some(codes))
            }
            Shortcut::Relu(weight) => {
                let s = around(weight);
                b.activation(s, true, None)
            }
        };
        let sum = match self.swapped {
            true => b.op(Op::Add, &[s, y]),
            false => b.op(Op::Add, &[y, s]),
        };
        b.activation(sum, self.relu, Some(self.out))
    }
}

fn bits() -> impl Strategy<Value = u8> {
    (0usize..9).prop_map(|i| [8, 4, 2, 1, 3, 5, 6, 7, 16][i])
}

fn weight() -> impl Strategy<Value = WeightSpec> {
    let offset = prop_oneof![
        3 => Just(Offset::None),
        1 => Just(Offset::Half),
        1 => Just(Offset::Any),
    ];
    let flags = (
        any::<bool>(),
        any::<bool>(),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.2),
    );
    (bits(), flags, offset).prop_map(
        |(bits, (signed, per_channel, zero_point, levels), offset)| WeightSpec {
            bits,
            signed,
            per_channel,
            zero_point,
            offset,
            levels,
        },
    )
}

fn act() -> impl Strategy<Value = ActSpec> {
    let zero = prop_oneof![2 => Just(0u8), 1 => any::<u8>()];
    let levels = prop::bool::weighted(0.3);
    (bits(), any::<bool>(), zero, 0.3f32..1.3, levels).prop_map(
        |(bits, signed, zero, reach, levels)| ActSpec {
            levels,
            bits,
            signed,
            zero,
            reach,
            dither: false,
            diffusion: None,
        },
    )
}

fn of_image() -> impl Strategy<Value = ActSpec> {
    let diffusion = prop::option::of(any::<u8>());
    (act(), any::<bool>(), diffusion).prop_map(|(act, dither, diffusion)| ActSpec {
        dither,
        diffusion,
        ..act
    })
}

/// Few channels, some around the width of vectors, never many.
fn channels() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 1usize..12, 2 => 13usize..20, 1 => 30usize..35, 1 => 63usize..67]
}

fn conv() -> impl Strategy<Value = ConvSpec> {
    let kernel = prop_oneof![
        Just([3, 3]),
        Just([1, 1]),
        Just([5, 5]),
        Just([2, 3]),
        Just([1, 4])
    ];
    (channels(), kernel, 1usize..4, 0usize..3, weight()).prop_map(
        |(c_out, kernel, stride, padding, weight)| ConvSpec {
            c_out,
            kernel,
            stride,
            padding,
            weight,
        },
    )
}

fn shortcut() -> impl Strategy<Value = Shortcut> {
    prop_oneof![
        3 => Just(Shortcut::Plain),
        1 => weight().prop_map(Shortcut::Conv),
        1 => (weight(), act()).prop_map(|(w, a)| Shortcut::Rounded(w, a)),
        1 => weight().prop_map(Shortcut::Relu),
    ]
}

fn residual() -> impl Strategy<Value = Residual> {
    let geometry = (
        prop_oneof![3 => Just(3usize), 1 => Just(1usize), 1 => Just(5usize)],
        1usize..3,
        prop_oneof![2 => Just(0usize), 2 => 1usize..9],
    );
    let flags = (any::<bool>(), any::<bool>());
    (
        prop::option::of(act()),
        geometry,
        [weight(), weight()],
        [act(), act()],
        shortcut(),
        flags,
    )
        .prop_map(
            |(input, (side, stride, more), weights, [inner, out], shortcut, (swapped, relu))| {
                Residual {
                    input,
                    side,
                    stride,
                    more,
                    weights,
                    inner,
                    shortcut,
                    swapped,
                    relu,
                    out,
                }
            },
        )
}

fn block() -> impl Strategy<Value = Block> {
    prop_oneof![
        3 => (conv(), any::<bool>(), act())
            .prop_map(|(conv, relu, out)| Block::Conv { conv, relu, out }),
        3 => residual().prop_map(Block::Residual),
        1 => (conv(), [act(), act()], [weight(), weight()], act()).prop_map(
            |(conv, codes, weights, out)| Block::Fork { conv, codes, weights, out }
        ),
        1 => (any::<bool>(), prop::option::of(act()))
            .prop_map(|(relu, out)| Block::Requantize { relu, out }),
        1 => (1usize..4, 1usize..3).prop_map(|(size, stride)| Block::MaxPool { size, stride }),
    ]
}

fn head() -> impl Strategy<Value = Head> {
    (
        prop::option::weighted(0.3, conv()),
        act(),
        any::<[bool; 2]>(),
        2usize..20,
        weight(),
    )
        .prop_map(|(real, pooled, [sum, relu], classes, weight)| Head {
            real,
            sum,
            pooled,
            relu,
            classes,
            weight,
        })
}

/// Any network.
pub fn specs() -> impl Strategy<Value = Spec> {
    (
        any::<u64>(),
        (1usize..14, 1usize..14),
        of_image(),
        prop::option::weighted(0.2, of_image()),
        prop::collection::vec(block(), 0..5),
        head(),
    )
        .prop_map(|(seed, size, input, second_input, blocks, head)| Spec {
            seed,
            size,
            input,
            second_input,
            blocks,
            head,
        })
}
