//! The whole network.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use lb_nn::layer::{Act, Conv, Dense};
use lb_nn::learned::{EvaluatedConv2d, EvaluatedLinear, LearnedAct, LearnedConv2d, LearnedLinear};
use lb_nn::{
    ConvBn, ConvBnConfig, FloatAct, Nonlinearity, ObservedAct, QuantAct, QuantConv2d, QuantLinear,
};

use super::block::{act, conv_act};
use super::trace::Look;
use super::{
    ActRole, ActSite, Arch, Block, ConvRole, ConvSite, Rewrite, Seen, Shortcut, Trace, init,
};

/// A CIFAR ResNet whose convolutions are `C`, activations `A` and final layer `L`.
#[derive(Module, Debug)]
pub struct ResNet<C: Module, A: Module, L: Module> {
    /// On the image; quantizes it.
    pub input: A,
    /// First convolution.
    pub stem: C,
    /// After the stem: the residual stream.
    pub stem_act: A,
    /// Blocks, in order.
    pub blocks: Vec<Block<C, A>>,
    /// After the global average pooling.
    pub pooled: A,
    /// From features to classes.
    pub linear: L,
}

/// As trained: batch normalization behind every convolution.
pub type FloatNet = ResNet<ConvBn, FloatAct, Linear>;
/// Batch normalization folded into the convolutions.
pub type FoldedNet = ResNet<Conv2d, FloatAct, Linear>;
/// Folded, with observers at the activations.
pub type ObservedNet = ResNet<Conv2d, ObservedAct, Linear>;
/// Quantized, simulated in real arithmetic.
pub type QuantNet = ResNet<QuantConv2d, QuantAct, QuantLinear>;

/// Quantized, learning its codes, scales and biases.
pub type LearnedNet = ResNet<LearnedConv2d, LearnedAct, LearnedLinear>;
/// It, with weights and biases evaluated for one step.
pub type EvaluatedNet = ResNet<EvaluatedConv2d, LearnedAct, EvaluatedLinear>;

/// What `R` makes of a `ResNet<C, A, L>`.
pub type Rewritten<R, C, A, L> = ResNet<
    <R as Rewrite<C, A, L>>::Conv,
    <R as Rewrite<C, A, L>>::Act,
    <R as Rewrite<C, A, L>>::Linear,
>;

impl FloatNet {
    /// A network to be trained. The same seed gives the same weights on every backend.
    pub fn init(
        arch: Arch,
        shortcut: Shortcut,
        classes: usize,
        seed: u64,
        device: &Device,
    ) -> Self {
        init::seeded(Self::unseeded(arch, shortcut, classes, device), seed)
    }

    fn unseeded(arch: Arch, shortcut: Shortcut, classes: usize, device: &Device) -> Self {
        let identity = || FloatAct::new(Nonlinearity::Identity);
        let relu = || FloatAct::new(Nonlinearity::Relu);
        let conv = |c_in, c_out, kernel, stride, padding| {
            let channels = [c_in, c_out];
            ConvBnConfig {
                channels,
                kernel,
                stride,
                padding,
            }
            .init(device)
        };
        let blocks = arch
            .block_plan()
            .into_iter()
            .map(|(_, _, c_in, c_out, stride)| Block {
                input: identity(),
                conv1: conv(c_in, c_out, 3, stride, 1),
                act1: relu(),
                conv2: conv(c_out, c_out, 3, 1, 1),
                shortcut: (shortcut == Shortcut::B && c_in != c_out)
                    .then(|| conv(c_in, c_out, 1, stride, 0)),
                act2: relu(),
                channels: c_out,
                stride,
            });
        Self {
            input: identity(),
            stem: conv(3, arch.widths[0], 3, 1, arch.stem_padding),
            stem_act: relu(),
            blocks: blocks.collect(),
            pooled: identity(),
            linear: LinearConfig::new(arch.features(), classes).init(device),
        }
    }
}

impl<C: Conv, A: Act, L: Dense> ResNet<C, A, L> {
    /// Every convolution with its path, in order of execution.
    pub fn convolutions(&self) -> Vec<(String, &C)> {
        let mut all = vec![("stem".to_string(), &self.stem)];
        for (i, b) in self.blocks.iter().enumerate() {
            all.push((format!("blocks.{i}.conv1"), &b.conv1));
            all.push((format!("blocks.{i}.conv2"), &b.conv2));
            if let Some(shortcut) = &b.shortcut {
                all.push((format!("blocks.{i}.shortcut"), shortcut));
            }
        }
        all
    }

    /// Logits of normalised images.
    ///
    /// # Shapes
    /// - `x`: `[N, 3, 32, 32]`
    /// - output: `[N, classes]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        self.forward_seen(x, &mut Look::Nobody)
    }

    /// As [`forward`](Self::forward), showing `trace` every layer's output, and every activation's
    /// input and output; the logits as [`Seen::Layer`] `linear`, `[N, classes, 1, 1]`. The network
    /// goes on with what `trace` gives back.
    pub fn forward_traced(&self, x: Tensor<4>, trace: Trace) -> Tensor<2> {
        self.forward_seen(x, &mut Look::Trace(trace))
    }

    fn forward_seen(&self, x: Tensor<4>, look: &mut Look) -> Tensor<2> {
        let all = 0..self.segments();
        all.fold(x, |x, i| self.segment_seen(i, x, look))
            .flatten(1, 3)
    }

    /// Number of parts that run one after the other, with one value in between: the stem, every
    /// block, and the head.
    pub fn segments(&self) -> usize {
        self.blocks.len() + 2
    }

    /// Runs part `index` of [`segments`](Self::segments) on the output of the part before it; the
    /// first on normalised images. The last gives logits `[N, classes, 1, 1]`.
    ///
    /// # Panics
    /// If there is no such part.
    pub fn segment(&self, index: usize, x: Tensor<4>, trace: Trace) -> Tensor<4> {
        self.segment_seen(index, x, &mut Look::Trace(trace))
    }

    fn segment_seen(&self, index: usize, x: Tensor<4>, look: &mut Look) -> Tensor<4> {
        if index == 0 {
            let x = act(&self.input, "input", x, look);
            return conv_act((&self.stem, &self.stem_act), ["stem", "stem_act"], x, look);
        }
        if index <= self.blocks.len() {
            return self.blocks[index - 1].forward(index - 1, x, look);
        }
        assert_eq!(index, self.blocks.len() + 1, "a network has no such part");
        let x = act(&self.pooled, "pooled", x.mean_dim(3).mean_dim(2), look);
        let logits = self.linear.forward(x.flatten(1, 3));
        let [n, classes] = logits.dims();
        look.see(Seen::Layer, "linear", logits.reshape([n, classes, 1, 1]))
    }

    /// The same topology with every part turned by `r`, in order of execution.
    ///
    /// # Errors
    /// The first error of `r`.
    pub fn rewrite<R: Rewrite<C, A, L>>(
        self,
        r: &mut R,
    ) -> Result<Rewritten<R, C, A, L>, R::Error> {
        let act = |name: &str, role| ActSite {
            name: name.into(),
            role,
        };
        let stem = ConvSite {
            name: "stem".into(),
            role: ConvRole::Stem,
            input: "input".into(),
        };
        let last = self.blocks.len() - 1;
        Ok(ResNet {
            input: r.act(&act("input", ActRole::Image), self.input)?,
            stem: r.conv(&stem, self.stem)?,
            stem_act: r.act(&act("stem_act", ActRole::Stream), self.stem_act)?,
            blocks: (self.blocks.into_iter().enumerate())
                .map(|(i, block)| block.rewrite(i, i == last, r))
                .collect::<Result<_, _>>()?,
            pooled: r.act(&act("pooled", ActRole::Pooled), self.pooled)?,
            linear: r.linear(self.linear)?,
        })
    }
}
