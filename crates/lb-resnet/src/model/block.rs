//! The basic block.

use burn::module::Module;
use burn::tensor::Tensor;
use lb_nn::layer::{Act, Conv};
use lb_nn::pad_shortcut;
use lb_nn::pointwise::add;

use super::site::{ActRole, ActSite, ConvRole, ConvSite, Rewrite};
use super::trace::{Look, Seen};

/// Two 3×3 convolutions and a shortcut:
///
/// ```text
/// u = input(x)
/// y = act2(conv2(act1(conv1(u))) + shortcut)
/// ```
///
/// where the shortcut is `x` itself, option A of it (subsampled, zero-padded channels), or the
/// 1×1 convolution of `u`.
#[derive(Module, Debug)]
pub struct Block<C: Module, A: Module> {
    /// Requantizes the residual stream where the block computes at another width.
    pub input: A,
    /// First convolution; strided where the block halves the image.
    pub conv1: C,
    /// Activation between the convolutions.
    pub act1: A,
    /// Second convolution.
    pub conv2: C,
    /// Option-B convolution, where the shape changes.
    pub shortcut: Option<C>,
    /// Activation after the addition: the residual stream.
    pub act2: A,
    /// Output channels.
    pub channels: usize,
    /// 2 where the block halves the image, else 1.
    pub stride: usize,
}

/// Applies an activation and shows what goes in and what comes out.
pub(super) fn act<A: Act>(act: &A, name: &str, x: Tensor<4>, look: &mut Look) -> Tensor<4> {
    let x = look.see(Seen::ActInput, name, x);
    look.see(Seen::ActOutput, name, act.forward(x))
}

/// Applies a convolution and shows what goes in and what comes out.
pub(super) fn conv<C: Conv>(conv: &C, name: &str, x: Tensor<4>, look: &mut Look) -> Tensor<4> {
    let x = look.see(Seen::LayerInput, name, x);
    look.see(Seen::Layer, name, conv.forward(x))
}

/// Applies a convolution and an activation.
pub(super) fn conv_act<C: Conv, A: Act>(
    (layer, nonlinearity): (&C, &A),
    names: [&str; 2],
    x: Tensor<4>,
    look: &mut Look,
) -> Tensor<4> {
    if look.is_nobody() {
        return layer.forward_then(nonlinearity, x);
    }
    let y = conv(layer, names[0], x, look);
    act(nonlinearity, names[1], y, look)
}

impl<C: Conv, A: Act> Block<C, A> {
    pub(super) fn forward(&self, index: usize, x: Tensor<4>, look: &mut Look) -> Tensor<4> {
        let (y, shortcut) = self.branches(index, x, look);
        if look.is_nobody() {
            return self.act2.of_sum(y, shortcut);
        }
        act(
            &self.act2,
            &format!("blocks.{index}.act2"),
            add(y, shortcut),
            look,
        )
    }

    /// What the last activation is given the sum of.
    pub(super) fn branches(
        &self,
        index: usize,
        x: Tensor<4>,
        look: &mut Look,
    ) -> (Tensor<4>, Tensor<4>) {
        let name = |part: &str| format!("blocks.{index}.{part}");
        let u = act(&self.input, &name("input"), x.clone(), look);
        let first = (&self.conv1, &self.act1);
        let y = conv_act(first, [&name("conv1"), &name("act1")], u.clone(), look);
        let y = conv(&self.conv2, &name("conv2"), y, look);
        let shortcut = match &self.shortcut {
            Some(shortcut) => conv(shortcut, &name("shortcut"), u, look),
            None => pad_shortcut(x, self.channels, self.stride),
        };
        (y, shortcut)
    }

    pub(crate) fn rewrite<L, R: Rewrite<C, A, L>>(
        self,
        index: usize,
        last: bool,
        r: &mut R,
    ) -> Result<Block<R::Conv, R::Act>, R::Error> {
        let name = |part: &str| format!("blocks.{index}.{part}");
        let act = |part: &str, role| ActSite {
            name: name(part),
            role,
        };
        let conv = |part: &str, role, input: &str| ConvSite {
            name: name(part),
            role,
            input: input.into(),
        };
        Ok(Block {
            input: r.act(&act("input", ActRole::BlockInput), self.input)?,
            conv1: r.conv(&conv("conv1", ConvRole::Body, &name("input")), self.conv1)?,
            act1: r.act(&act("act1", ActRole::Inner), self.act1)?,
            conv2: r.conv(&conv("conv2", ConvRole::Body, &name("act1")), self.conv2)?,
            shortcut: match self.shortcut {
                Some(c) => Some(r.conv(&conv("shortcut", ConvRole::Shortcut, &name("input")), c)?),
                None => None,
            },
            act2: {
                let role = if last {
                    ActRole::BeforePool
                } else {
                    ActRole::Stream
                };
                r.act(&act("act2", role), self.act2)?
            },
            channels: self.channels,
            stride: self.stride,
        })
    }
}
