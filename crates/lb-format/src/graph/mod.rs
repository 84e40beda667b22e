//! The order in which a network's layers and activations are applied: a small graph.
//!
//! A [`Graph`] says what is computed on **real** values; where an activation has [`QParams`], its
//! output is rounded to codes, and that edge carries codes. Whoever runs the graph in integers
//! fuses a layer with the addition and the activation behind it; whoever simulates it does not
//! need to. Weights and parameters stand in the [`QuantizedNetwork`] under the names that the
//! nodes mention, each once.
//!
//! ```
//! use lb_format::graph::{Graph, Op, Shape};
//!
//! // image → quantize → conv → ReLU and quantize → pool → quantize → linear
//! let mut g = Graph::new(Shape::new(3, 32, 32));
//! let x = g.push(Op::activation("input"), &[0]);
//! let x = g.push(Op::conv("conv"), &[x]);
//! let x = g.push(Op::activation("conv_act"), &[x]);
//! let x = g.push(Op::GlobalAveragePool, &[x]);
//! let x = g.push(Op::activation("pooled"), &[x]);
//! g.push(Op::linear("linear"), &[x]);
//! assert_eq!(g.nodes.len(), 7);
//! ```

use serde::{Deserialize, Serialize};

use crate::{FormatError, Layer, LayerKind, QParams, QuantizedNetwork};

/// Most values of one edge, for one image: 2^24. What a file asks for is bounded before anything
/// is allocated.
pub const MAX_EDGE: usize = 1 << 24;

/// Most values of all edges together, for one image.
pub const MAX_EDGES: usize = 1 << 27;

/// Most nodes.
pub const MAX_NODES: usize = 10_000;

/// Size of the values on an edge, for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// A shape of `channels` × `height` × `width`.
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self {
            channels,
            height,
            width,
        }
    }

    /// Number of values, `None` on overflow.
    fn values(self) -> Option<usize> {
        self.channels
            .checked_mul(self.height)?
            .checked_mul(self.width)
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}×{}×{}", self.channels, self.height, self.width)
    }
}

/// What a node computes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    /// The normalised image, `(pixel / 255 − mean) / std`. The first node, and only that.
    Image,
    /// The convolution of that name.
    Conv {
        /// A [`Layer`] of kind [`LayerKind::Conv`].
        layer: String,
    },
    /// The linear layer of that name, on a 1×1 image.
    Linear {
        /// A [`Layer`] of kind [`LayerKind::Linear`].
        layer: String,
    },
    /// The activation of that name: optional ReLU, then optional rounding to codes.
    Activation {
        /// An [`Activation`](crate::Activation).
        name: String,
    },
    /// Sum of two inputs of one shape.
    Add,
    /// Option-A shortcut: every `stride`-th pixel, and zero channels around the input's, the
    /// smaller half before, up to `channels`.
    PadShortcut {
        /// Step between kept pixels.
        stride: usize,
        /// Channels of the output.
        channels: usize,
    },
    /// Mean of every channel over the whole image.
    GlobalAveragePool,
    /// Largest value of each `size` × `size` window, `stride` apart, without padding.
    MaxPool {
        /// Side of the window.
        size: usize,
        /// Step between windows.
        stride: usize,
    },
}

impl Op {
    /// The convolution called `layer`.
    pub fn conv(layer: &str) -> Self {
        Self::Conv {
            layer: layer.into(),
        }
    }

    /// The linear layer called `layer`.
    pub fn linear(layer: &str) -> Self {
        Self::Linear {
            layer: layer.into(),
        }
    }

    /// The activation called `name`.
    pub fn activation(name: &str) -> Self {
        Self::Activation { name: name.into() }
    }

    const fn inputs(&self) -> usize {
        match self {
            Self::Image => 0,
            Self::Add => 2,
            _ => 1,
        }
    }
}

/// A node: an operation on the outputs of earlier nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it computes.
    #[serde(flatten)]
    pub op: Op,
    /// Indices of the nodes it reads, all smaller than its own.
    pub inputs: Vec<usize>,
}

/// A network's computation, in order of execution. The last node gives the logits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Graph {
    /// Size of the image.
    pub input: Shape,
    /// Nodes in order; node 0 is [`Op::Image`].
    pub nodes: Vec<Node>,
}

/// What a node's output is.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// Its size.
    pub shape: Shape,
    /// Parameters of its codes; `None` where real values flow.
    pub qparams: Option<QParams>,
}

impl Graph {
    /// A graph that holds its image.
    pub fn new(input: Shape) -> Self {
        Self {
            input,
            nodes: vec![Node {
                op: Op::Image,
                inputs: Vec::new(),
            }],
        }
    }

    /// Adds a node and gives its index.
    pub fn push(&mut self, op: Op, inputs: &[usize]) -> usize {
        self.nodes.push(Node {
            op,
            inputs: inputs.to_vec(),
        });
        self.nodes.len() - 1
    }

    /// Every node's output, after checking everything that a consumer relies on: order, arity,
    /// names, shapes, sizes within [`MAX_EDGE`] and [`MAX_EDGES`], nothing unused, and logits for
    /// every class.
    ///
    /// # Errors
    /// Names the first node that is wrong.
    pub fn edges(&self, network: &QuantizedNetwork) -> Result<Vec<Edge>, FormatError> {
        if !(1..=MAX_NODES).contains(&self.nodes.len()) {
            let problem = format!("{} nodes, expected 1 to {MAX_NODES}", self.nodes.len());
            return Err(FormatError::invalid("graph", problem));
        }
        let mut edges: Vec<Edge> = Vec::with_capacity(self.nodes.len());
        let mut used = vec![false; self.nodes.len()];
        let mut total = 0usize;
        for (i, node) in self.nodes.iter().enumerate() {
            let wrong = |problem: String| {
                FormatError::invalid(format!("graph node {i} ({:?})", node.op), problem)
            };
            if (i == 0) != (node.op == Op::Image) {
                return Err(wrong("the image is node 0, and only that".into()));
            }
            if node.inputs.len() != node.op.inputs() || node.inputs.iter().any(|&n| n >= i) {
                return Err(wrong(format!(
                    "inputs {:?}, expected {} earlier nodes",
                    node.inputs,
                    node.op.inputs()
                )));
            }
            for &n in &node.inputs {
                used[n] = true;
            }
            self.check_image(node, network).map_err(&wrong)?;
            let inputs: Vec<&Edge> = node.inputs.iter().map(|&n| &edges[n]).collect();
            let edge = self.edge(&node.op, &inputs, network).map_err(&wrong)?;
            let values = edge.shape.values().filter(|n| (1..=MAX_EDGE).contains(n));
            total += values.ok_or_else(|| {
                wrong(format!(
                    "its output is {}: at least 1 and at most {MAX_EDGE} values are supported",
                    edge.shape
                ))
            })?;
            if total > MAX_EDGES {
                return Err(wrong(format!("all outputs exceed {MAX_EDGES} values")));
            }
            edges.push(edge);
        }
        if let Some(n) = used[..used.len() - 1].iter().position(|u| !u) {
            return Err(FormatError::invalid(
                format!("graph node {n}"),
                "its output is not used",
            ));
        }
        let classes = network.info.classes.len();
        let output = edges.last().expect("there is a node").shape;
        if output != Shape::new(classes, 1, 1) {
            return Err(FormatError::invalid(
                "graph",
                format!("its output is {output}, expected {classes}×1×1 logits"),
            ));
        }
        self.all_parts_used(network)?;
        Ok(edges)
    }

    fn edge(&self, op: &Op, inputs: &[&Edge], network: &QuantizedNetwork) -> Result<Edge, String> {
        let real = |shape| Edge {
            shape,
            qparams: None,
        };
        let x = inputs.first().map_or(self.input, |e| e.shape);
        match op {
            Op::Image => match x.channels {
                3 => Ok(real(x)),
                n => Err(format!("{n} channels, expected red, green and blue")),
            },
            Op::Conv { layer } => {
                let layer = network.layer(layer).map_err(|e| e.to_string())?;
                Ok(real(conv_shape(layer, x)?))
            }
            Op::Linear { layer } => {
                let layer = network.layer(layer).map_err(|e| e.to_string())?;
                if layer.kind != LayerKind::Linear {
                    return Err("the layer is not linear".into());
                }
                let &[outputs, n] = layer.weight.shape() else {
                    return Err(format!("weight {:?}", layer.weight.shape()));
                };
                if x != Shape::new(n, 1, 1) {
                    return Err(format!("input {x}, expected {n}×1×1"));
                }
                Ok(real(Shape::new(outputs, 1, 1)))
            }
            Op::Activation { name } => {
                let act = network.activation(name).map_err(|e| e.to_string())?;
                let passed = match act.relu {
                    // A ReLU leaves the grid of its input only if there is none.
                    true => None,
                    false => inputs[0].qparams.clone(),
                };
                Ok(Edge {
                    shape: x,
                    qparams: act.qparams.clone().or(passed),
                })
            }
            Op::Add => match inputs[1].shape {
                y if y == x => Ok(real(x)),
                y => Err(format!("{x} and {y} cannot be added")),
            },
            Op::PadShortcut { stride, channels } => {
                if !(1..=16).contains(stride) || *channels < x.channels {
                    return Err(format!("stride {stride}, {channels} channels from {x}"));
                }
                Ok(Edge {
                    shape: Shape::new(
                        *channels,
                        x.height.div_ceil(*stride),
                        x.width.div_ceil(*stride),
                    ),
                    qparams: inputs[0].qparams.clone(),
                })
            }
            Op::GlobalAveragePool => Ok(real(Shape::new(x.channels, 1, 1))),
            Op::MaxPool { size, stride } => {
                let fits = (1..=x.height.min(x.width)).contains(size) && (1..=16).contains(stride);
                if !fits {
                    return Err(format!("size {size}, stride {stride} on {x}"));
                }
                let out = |n: usize| (n - size) / stride + 1;
                Ok(Edge {
                    shape: Shape::new(x.channels, out(x.height), out(x.width)),
                    qparams: inputs[0].qparams.clone(),
                })
            }
        }
    }

    /// Dither and diffusion are in steps of codes, and made for pixels.
    fn check_image(&self, node: &Node, network: &QuantizedNetwork) -> Result<(), String> {
        let Op::Activation { name } = &node.op else {
            return Ok(());
        };
        let act = network.activation(name).map_err(|e| e.to_string())?;
        let of_image = node.inputs == [0] && !act.relu && act.qparams.is_some();
        let problem = if of_image {
            return Ok(());
        } else if act.dither {
            "is dithered"
        } else if act.diffusion.is_some() {
            "has diffusion"
        } else {
            return Ok(());
        };
        Err(format!("only the image {problem}, where it becomes codes"))
    }

    /// A part that no node mentions would be bytes that mean nothing.
    fn all_parts_used(&self, network: &QuantizedNetwork) -> Result<(), FormatError> {
        let mentioned: std::collections::HashSet<&str> = (self.nodes.iter())
            .filter_map(|n| match &n.op {
                Op::Conv { layer } | Op::Linear { layer } => Some(layer.as_str()),
                Op::Activation { name } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        let names = network.layers.iter().map(|l| &l.name);
        for name in names.chain(network.activations.iter().map(|a| &a.name)) {
            if !mentioned.contains(name.as_str()) {
                return Err(FormatError::invalid(
                    "graph",
                    format!("`{name}` is stored, but no node uses it"),
                ));
            }
        }
        Ok(())
    }
}

/// Output of a convolution: `(n + 2·padding − k) / stride + 1` along each axis.
fn conv_shape(layer: &Layer, x: Shape) -> Result<Shape, String> {
    let LayerKind::Conv { stride, padding } = layer.kind else {
        return Err("the layer is not a convolution".into());
    };
    let [c_out, c_in, kh, kw] = *layer.weight.shape() else {
        return Err(format!("weight {:?}", layer.weight.shape()));
    };
    if x.channels != c_in {
        return Err(format!(
            "input {x}, but the weight is {c_out}×{c_in}×{kh}×{kw}"
        ));
    }
    // The layer may not have been validated: no step may overflow, whatever it says.
    let out = |n: usize, k: usize| {
        let padded = padding.checked_mul(2)?.checked_add(n)?;
        let steps = padded.checked_sub(k)?.checked_div(stride)?;
        steps.checked_add(1)
    };
    match (out(x.height, kh), out(x.width, kw)) {
        (Some(height), Some(width)) => Ok(Shape::new(c_out, height, width)),
        _ => Err(format!(
            "a window of {kh}×{kw}, stride {stride}, does not fit {x} with padding {padding}"
        )),
    }
}
#[cfg(test)]
mod tests;
