//! The network as a chain of units: what is corrected and reconstructed at once.
//!
//! A unit is an activation and the layers that it feeds, up to the next activation of the chain:
//! the image and the stem, the residual stream and a block, the pooled features and the linear
//! layer. What passes between units is real-valued and non-negative, as the activation that
//! quantizes it belongs to the unit that reads it: its step is learned where its errors are felt.

use burn::module::Module;
use burn::tensor::Tensor;
use lb_nn::layer::{Act, Conv, Dense};
use lb_nn::pointwise::{add_relu, relu};

use super::block::conv;
use super::trace::{Look, Seen, Trace};
use super::{Block, ResNet};

/// One link of the chain.
#[derive(Module, Debug)]
pub enum Unit<C: Module, A: Module, L: Module> {
    /// The image and the first convolution.
    Stem(StemUnit<C, A>),
    /// The residual stream and a block.
    Block(BlockUnit<C, A>),
    /// The pooled features and the final layer.
    Head(HeadUnit<A, L>),
}

/// `relu(stem(act(image)))`
#[derive(Module, Debug)]
pub struct StemUnit<C: Module, A: Module> {
    act: A,
    conv: C,
}

/// `relu(conv2(act1(conv1(u))) + shortcut)` with `u = act(stream)`; the block's own last
/// activation takes no part.
#[derive(Module, Debug)]
pub struct BlockUnit<C: Module, A: Module> {
    act: A,
    block: Block<C, A>,
    index: usize,
}

/// `linear(act(mean of the stream over its positions))`
#[derive(Module, Debug)]
pub struct HeadUnit<A: Module, L: Module> {
    act: A,
    linear: L,
}

impl<C: Conv, A: Act, L: Dense> Unit<C, A, L> {
    /// # Shapes
    /// `[N, C, H, W]` → `[N, C', H', W']`; of the head: `[N, classes, 1, 1]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_seen(x, &mut Look::Nobody)
    }

    /// As [`forward`](Self::forward), showing every layer's output and the activations inside a
    /// block.
    pub fn forward_traced(&self, x: Tensor<4>, trace: Trace) -> Tensor<4> {
        self.forward_seen(x, &mut Look::Trace(trace))
    }

    fn forward_seen(&self, x: Tensor<4>, look: &mut Look) -> Tensor<4> {
        match self {
            Self::Stem(unit) => relu(conv(&unit.conv, "stem", unit.act.forward(x), look)),
            Self::Block(unit) => {
                let x = unit.act.forward(x);
                let (y, shortcut) = unit.block.branches(unit.index, x, look);
                add_relu(y, shortcut)
            }
            Self::Head(unit) => {
                let x = unit.act.forward(x.mean_dim(3).mean_dim(2));
                let x = look.see(Seen::LayerInput, "linear", x);
                let logits = unit.linear.forward(x.flatten(1, 3));
                let [n, classes] = logits.dims();
                look.see(Seen::Layer, "linear", logits.reshape([n, classes, 1, 1]))
            }
        }
    }
}

impl<C: Conv, A: Act, L: Dense> ResNet<C, A, L> {
    /// Number of units.
    pub fn units(&self) -> usize {
        self.blocks.len() + 2
    }

    /// Unit `i`, a copy.
    ///
    /// # Panics
    /// If there is none.
    pub fn unit(&self, i: usize) -> Unit<C, A, L> {
        match i.checked_sub(1) {
            None => Unit::Stem(StemUnit {
                act: self.input.clone(),
                conv: self.stem.clone(),
            }),
            Some(index) if index < self.blocks.len() => Unit::Block(BlockUnit {
                act: match index {
                    0 => self.stem_act.clone(),
                    _ => self.blocks[index - 1].act2.clone(),
                },
                block: self.blocks[index].clone(),
                index,
            }),
            Some(index) => {
                assert_eq!(index, self.blocks.len(), "there are {} units", self.units());
                Unit::Head(HeadUnit {
                    act: self.pooled.clone(),
                    linear: self.linear.clone(),
                })
            }
        }
    }

    /// Puts `unit` back in its place.
    pub fn set_unit(&mut self, unit: Unit<C, A, L>) {
        match unit {
            Unit::Stem(unit) => {
                self.input = unit.act;
                self.stem = unit.conv;
            }
            Unit::Block(unit) => {
                match unit.index {
                    0 => self.stem_act = unit.act,
                    i => self.blocks[i - 1].act2 = unit.act,
                }
                self.blocks[unit.index] = unit.block;
            }
            Unit::Head(unit) => {
                self.pooled = unit.act;
                self.linear = unit.linear;
            }
        }
    }
}

impl<C: Conv, A: Act, L: Dense> Unit<C, A, L> {
    /// Path, as users know it.
    pub fn name(&self) -> String {
        match self {
            Self::Stem(_) => "stem".into(),
            Self::Block(unit) => format!("blocks.{}", unit.index),
            Self::Head(_) => "linear".into(),
        }
    }

    /// Its convolutions with their paths, in order of execution; the shortcut before the second
    /// convolution of a block, which makes up for what it gets wrong.
    pub fn convolutions_mut(&mut self) -> Vec<(String, &mut C)> {
        match self {
            Self::Stem(unit) => vec![("stem".into(), &mut unit.conv)],
            Self::Block(unit) => {
                let name = |part: &str| format!("blocks.{}.{part}", unit.index);
                let block = &mut unit.block;
                let mut all = vec![(name("conv1"), &mut block.conv1)];
                all.extend(block.shortcut.as_mut().map(|c| (name("shortcut"), c)));
                all.push((name("conv2"), &mut block.conv2));
                all
            }
            Self::Head(_) => Vec::new(),
        }
    }

    /// Its linear layer, if it is the head.
    pub fn linear_mut(&mut self) -> Option<&mut L> {
        match self {
            Self::Head(unit) => Some(&mut unit.linear),
            _ => None,
        }
    }

    /// The convolutions that [`convolutions_mut`](Self::convolutions_mut) names.
    pub fn convolutions(&self) -> Vec<&C> {
        match self {
            Self::Stem(unit) => vec![&unit.conv],
            Self::Block(unit) => {
                let block = &unit.block;
                let mut all = vec![&block.conv1];
                all.extend(&block.shortcut);
                all.push(&block.conv2);
                all
            }
            Self::Head(_) => Vec::new(),
        }
    }

    /// Its linear layer, if it is the head.
    pub fn linear(&self) -> Option<&L> {
        match self {
            Self::Head(unit) => Some(&unit.linear),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Arch, Shortcut};
    use crate::ptq;
    use crate::test_data::network;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn the_chain_is_the_network() {
        let device = Device::flex();
        for (arch, shortcut) in [("resnet8", Shortcut::A), ("resnet20-wide", Shortcut::B)] {
            let arch: Arch = arch.parse().unwrap();
            let net = ptq::fold(network(arch, shortcut, &device));
            let x = Tensor::random([2, 3, 32, 32], Distribution::Normal(0.0, 1.0), &device);
            let mut copy = net.clone();
            let mut y = x.clone();
            for i in 0..net.units() {
                let unit = net.unit(i);
                y = unit.forward(y);
                copy.set_unit(unit);
            }
            let logits = net.forward(x.clone());
            assert_eq!(y.flatten::<2>(1, 3).into_data(), logits.into_data());
            assert_eq!(
                copy.forward(x.clone()).into_data(),
                net.forward(x).into_data()
            );
        }
    }
}
