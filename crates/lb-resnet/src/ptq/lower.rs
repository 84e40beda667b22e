//! From the topology to the graph that an engine runs; reads like `ResNet::forward`.

use lb_format::Graph;
use lb_format::graph::{Op, Shape};

use crate::model::{Block, QuantNet};

/// The images that these networks see.
const IMAGE: Shape = Shape::new(3, 32, 32);

/// The graph of `net`. Its names are those of [`pack`](super::pack).
pub(super) fn lower(net: &QuantNet) -> Graph {
    let mut g = Graph::new(IMAGE);
    let x = g.push(Op::activation("input"), &[0]);
    let x = g.push(Op::conv("stem"), &[x]);
    let mut x = g.push(Op::activation("stem_act"), &[x]);
    let mut channels = net.stem.weight.val().dims()[0];
    for (i, block) in net.blocks.iter().enumerate() {
        x = lower_block(&mut g, i, block, x, channels);
        channels = block.channels;
    }
    let x = g.push(Op::GlobalAveragePool, &[x]);
    let x = g.push(Op::activation("pooled"), &[x]);
    g.push(Op::linear("linear"), &[x]);
    g
}

fn lower_block(
    g: &mut Graph,
    index: usize,
    block: &Block<lb_nn::QuantConv2d, lb_nn::QuantAct>,
    x: usize,
    channels: usize,
) -> usize {
    let name = |part: &str| format!("blocks.{index}.{part}");
    let u = g.push(Op::activation(&name("input")), &[x]);
    let y = g.push(Op::conv(&name("conv1")), &[u]);
    let y = g.push(Op::activation(&name("act1")), &[y]);
    let y = g.push(Op::conv(&name("conv2")), &[y]);
    let shortcut = match (&block.shortcut, block.stride) {
        (Some(_), _) => g.push(Op::conv(&name("shortcut")), &[u]),
        (None, 1) if channels == block.channels => x,
        (None, stride) => g.push(
            Op::PadShortcut {
                stride,
                channels: block.channels,
            },
            &[x],
        ),
    };
    let y = g.push(Op::Add, &[y, shortcut]);
    g.push(Op::activation(&name("act2")), &[y])
}
