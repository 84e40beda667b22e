//! From the graph, which speaks of real values, to operations on codes: every layer takes the
//! addition and the activation behind it along.

use lb_format::graph::{Edge, Op, Shape};
use lb_format::{Activation, Diffusion, Layer, Levels, QParams, QuantizedNetwork};

use crate::EngineError;
use crate::conv::Kind;

/// Index of a [`Value`].
pub type ValueId = usize;

/// What lies on an edge between two operations.
#[derive(Clone, Debug)]
pub struct Value {
    /// Its size.
    pub shape: Shape,
    /// Its codes; `None` for real values.
    pub params: Option<QParams>,
    /// Padding that its readers need.
    pub border: usize,
    /// Values from one pixel to the next.
    pub stride: usize,
}

impl Value {
    /// How it is held.
    pub fn kind(&self) -> Kind {
        match &self.params {
            None => Kind::F32,
            Some(q) if q.bits.get() <= 8 => Kind::U8,
            Some(_) => Kind::U16,
        }
    }

    /// The zero point, counted from the smallest code; 0 for real values.
    pub fn zero(&self) -> i32 {
        (self.params.as_ref()).map_or(0, |q| q.channel(0).zero_point - q.range().lo)
    }
}

/// What is added to an image before it is rounded.
#[derive(Clone, Copy, Debug)]
pub enum Added<'a> {
    /// Nothing.
    Nothing,
    /// The pattern of dither.
    Pattern,
    /// What rounding left of values before.
    Errors(&'a Diffusion),
}

/// An operation that reads and writes whole values.
#[derive(Debug)]
pub enum Fused<'a> {
    /// Pixels to codes.
    Image {
        /// ReLU before rounding.
        relu: bool,
        /// What is added before rounding.
        added: Added<'a>,
        /// Output.
        out: ValueId,
    },
    /// Codes to codes of other parameters.
    Table {
        /// ReLU in between.
        relu: bool,
        /// The codes that there are, unless all of them.
        levels: Option<&'a Levels>,
        /// Input.
        input: ValueId,
        /// Output.
        out: ValueId,
    },
    /// Option-A shortcut.
    Pad {
        /// Step between kept pixels.
        stride: usize,
        /// Input.
        input: ValueId,
        /// Output.
        out: ValueId,
    },
    /// Largest code of each window.
    MaxPool {
        /// Side of the window.
        size: usize,
        /// Step between windows.
        stride: usize,
        /// Input.
        input: ValueId,
        /// Output.
        out: ValueId,
    },
    /// Convolution or linear, and all that follows before the next value.
    Conv {
        /// Weights.
        layer: &'a Layer,
        /// Input.
        input: ValueId,
        /// What is added to its output.
        residual: Option<ValueId>,
        /// ReLU after the addition.
        relu: bool,
        /// Output.
        out: ValueId,
    },
    /// Mean over the image, then to codes.
    Pool {
        /// ReLU before rounding.
        relu: bool,
        /// Input.
        input: ValueId,
        /// Output.
        out: ValueId,
    },
}

impl Fused<'_> {
    /// What it reads.
    pub fn inputs(&self) -> Vec<ValueId> {
        match *self {
            Self::Image { .. } => Vec::new(),
            Self::Conv {
                input, residual, ..
            } => std::iter::once(input).chain(residual).collect(),
            Self::Table { input, .. }
            | Self::Pad { input, .. }
            | Self::MaxPool { input, .. }
            | Self::Pool { input, .. } => vec![input],
        }
    }

    /// What it writes.
    pub fn out(&self) -> ValueId {
        match *self {
            Self::Image { out, .. }
            | Self::Table { out, .. }
            | Self::Pad { out, .. }
            | Self::MaxPool { out, .. }
            | Self::Conv { out, .. }
            | Self::Pool { out, .. } => out,
        }
    }
}

/// The operations of `network`, in order, and their values; the last one gives the logits.
///
/// # Errors
/// If a place is left in real values that integers need as codes.
pub fn fuse(network: &QuantizedNetwork) -> Result<(Vec<Fused<'_>>, Vec<Value>), EngineError> {
    let mut fuse = Fuse {
        network,
        edges: network.graph.edges(network)?,
        made: Vec::new(),
        real: vec![None; network.graph.nodes.len()],
        steps: Vec::new(),
        values: Vec::new(),
    };
    for node in 0..network.graph.nodes.len() {
        let made = fuse.node(node)?;
        fuse.made.push(made);
    }
    // Real-valued logits: the last layer is still waiting for an activation.
    let last = fuse.made.len() - 1;
    let logits = match fuse.made[last] {
        Made::Waiting(node) => fuse.emit(node, false, None, last)?,
        Made::Value(v) => v,
    };
    if fuse.values[logits].params.is_some() {
        return Err(fuse.unsupported(last, "it rounds the logits to codes"));
    }
    Ok((fuse.steps, fuse.values))
}

/// What a node has become.
#[derive(Clone, Copy)]
enum Made {
    Value(ValueId),
    /// Real values of this node that an operation yet to come will take along.
    Waiting(usize),
}

struct Fuse<'a> {
    network: &'a QuantizedNetwork,
    edges: Vec<Edge>,
    made: Vec<Made>,
    /// Of every node that waits, its real values, once something asked for them.
    real: Vec<Option<ValueId>>,
    steps: Vec<Fused<'a>>,
    values: Vec<Value>,
}

impl<'a> Fuse<'a> {
    fn node(&mut self, node: usize) -> Result<Made, EngineError> {
        let graph = &self.network.graph;
        let input = graph.nodes[node].inputs.first().copied();
        match (&graph.nodes[node].op, input) {
            (Op::Activation { name }, Some(input)) => {
                let act = self.network.activation(name)?;
                self.activation(node, act, input)
            }
            (Op::PadShortcut { stride, .. }, Some(input)) => {
                let (input, stride) = (self.codes(input, node)?, *stride);
                let out = self.value(node, self.values[input].params.clone());
                self.steps.push(Fused::Pad { stride, input, out });
                Ok(Made::Value(out))
            }
            (Op::MaxPool { size, stride }, Some(input)) => {
                let input = self.codes(input, node)?;
                let out = self.value(node, self.values[input].params.clone());
                self.steps.push(Fused::MaxPool {
                    size: *size,
                    stride: *stride,
                    input,
                    out,
                });
                Ok(Made::Value(out))
            }
            (Op::Add, _) => {
                // Its other input is needed whatever comes next. Asked for here and not when the
                // sum is emitted, a chain of sums is as deep as one.
                let (_, other) = self.summands(node)?;
                self.value_of(other)?;
                Ok(Made::Waiting(node))
            }
            _ => Ok(Made::Waiting(node)),
        }
    }

    /// The layer that takes the addition `node` along, and what is added to it.
    fn summands(&self, node: usize) -> Result<(usize, Made), EngineError> {
        let inputs = &self.network.graph.nodes[node].inputs;
        match (self.made[inputs[0]], self.made[inputs[1]]) {
            (Made::Waiting(n), other) if self.is_layer(n) => Ok((n, other)),
            (other, Made::Waiting(n)) if self.is_layer(n) => Ok((n, other)),
            _ => Err(self.unsupported(node, "it adds two values of no layer")),
        }
    }

    /// What was made as a value: of a waiting node its real values, computed once for all readers.
    fn value_of(&mut self, made: Made) -> Result<ValueId, EngineError> {
        match made {
            Made::Value(v) => Ok(v),
            Made::Waiting(n) => match self.real[n] {
                Some(v) => Ok(v),
                None => {
                    let v = self.emit(n, false, None, n)?;
                    self.real[n] = Some(v);
                    Ok(v)
                }
            },
        }
    }

    fn activation(
        &mut self,
        node: usize,
        act: &'a Activation,
        input: usize,
    ) -> Result<Made, EngineError> {
        // Levels are held as codes of their own, those that they are.
        let levels = act.qparams.as_ref().and_then(|q| q.levels.as_ref());
        let params = act.qparams.as_ref().map(QParams::held);
        if let Some(q) = &params {
            let (scale, offset) = (q.channel(0).scale, q.channel(0).offset);
            if offset != 0.0 {
                return Err(
                    self.unsupported(node, &format!("its codes have the real offset {offset}"))
                );
            }
            if !(scale * q.range().steps() as f32).is_finite() {
                return Err(self.unsupported(
                    node,
                    &format!("codes of the scale {scale:e} stand for values beyond `f32`"),
                ));
            }
        }
        let relu = act.relu;
        match self.made[input] {
            made if !relu && params.is_none() => Ok(made),
            Made::Waiting(waiting) => {
                let mut out = self.emit(waiting, relu, params.clone(), node)?;
                if let (Some(params), Some(_)) = (params, levels) {
                    out = self.table(node, out, (false, levels), params);
                }
                Ok(Made::Value(out))
            }
            Made::Value(input) => {
                let Some(params) = params.or_else(|| self.values[input].params.clone()) else {
                    return Err(self.unsupported(node, "it turns real values into real values"));
                };
                if self.values[input].params.is_none() {
                    return Err(self.unsupported(node, "it rounds values that a ReLU left real"));
                }
                let out = self.table(node, input, (relu, levels), params);
                Ok(Made::Value(out))
            }
        }
    }

    fn table(
        &mut self,
        node: usize,
        input: ValueId,
        (relu, levels): (bool, Option<&'a Levels>),
        params: QParams,
    ) -> ValueId {
        let out = self.value(node, Some(params));
        // Keep the layout: an image has fewer channels than kernels write.
        self.values[out].stride = self.values[input].stride;
        self.steps.push(Fused::Table {
            relu,
            levels,
            input,
            out,
        });
        out
    }

    fn added(&self, node: usize) -> Result<Added<'a>, EngineError> {
        let Op::Activation { name } = &self.network.graph.nodes[node].op else {
            return Ok(Added::Nothing);
        };
        let act = self.network.activation(name)?;
        Ok(match (&act.diffusion, act.dither) {
            (Some(diffusion), _) => Added::Errors(diffusion),
            (None, true) => Added::Pattern,
            (None, false) => Added::Nothing,
        })
    }

    /// Emits the operation of `waiting`, whose output becomes that of `node`.
    fn emit(
        &mut self,
        waiting: usize,
        relu: bool,
        params: Option<QParams>,
        node: usize,
    ) -> Result<ValueId, EngineError> {
        let graph = &self.network.graph;
        let inputs = &graph.nodes[waiting].inputs;
        match &graph.nodes[waiting].op {
            Op::Image => {
                if params.is_none() {
                    return Err(self.unsupported(node, "the image is left in real values"));
                }
                let out = self.value(node, params);
                self.values[out].stride = 4;
                let added = self.added(node)?;
                self.steps.push(Fused::Image { relu, added, out });
                Ok(out)
            }
            Op::Conv { .. } | Op::Linear { .. } => self.conv(waiting, None, relu, params, node),
            Op::Add => {
                let (main, other) = self.summands(waiting)?;
                let residual = self.value_of(other)?;
                self.conv(main, Some(residual), relu, params, node)
            }
            Op::GlobalAveragePool => {
                if params.is_none() {
                    return Err(self.unsupported(node, "the pooled values are left real"));
                }
                let input = self.value_of(self.made[inputs[0]])?;
                let out = self.value(node, params);
                self.steps.push(Fused::Pool { relu, input, out });
                Ok(out)
            }
            Op::Activation { .. } | Op::PadShortcut { .. } | Op::MaxPool { .. } => {
                unreachable!("these never wait")
            }
        }
    }

    fn conv(
        &mut self,
        waiting: usize,
        residual: Option<ValueId>,
        relu: bool,
        params: Option<QParams>,
        node: usize,
    ) -> Result<ValueId, EngineError> {
        let n = &self.network.graph.nodes[waiting];
        let (Op::Conv { layer } | Op::Linear { layer }) = &n.op else {
            unreachable!("only layers are emitted here");
        };
        let layer = self.network.layer(layer)?;
        let input = self.codes(n.inputs[0], waiting)?;
        if let lb_format::LayerKind::Conv { padding, .. } = layer.kind {
            let border = &mut self.values[input].border;
            *border = (*border).max(padding);
        }
        let out = self.value(node, params);
        self.steps.push(Fused::Conv {
            layer,
            input,
            residual,
            relu,
            out,
        });
        Ok(out)
    }

    fn is_layer(&self, node: usize) -> bool {
        let op = &self.network.graph.nodes[node].op;
        matches!(op, Op::Conv { .. } | Op::Linear { .. })
    }

    /// The codes that `node` reads from `input`.
    fn codes(&self, input: usize, node: usize) -> Result<ValueId, EngineError> {
        match self.made[input] {
            Made::Value(v) if self.values[v].params.is_some() => Ok(v),
            _ => Err(self.unsupported(node, "it reads values that no activation made codes")),
        }
    }

    fn value(&mut self, node: usize, params: Option<QParams>) -> ValueId {
        let shape = self.edges[node].shape;
        self.values.push(Value {
            shape,
            params,
            border: 0,
            stride: shape.channels.next_multiple_of(16),
        });
        self.values.len() - 1
    }

    fn unsupported(&self, node: usize, reason: &str) -> EngineError {
        let op = &self.network.graph.nodes[node].op;
        let place = match op {
            Op::Conv { layer } | Op::Linear { layer } => format!("layer `{layer}`"),
            Op::Activation { name } => format!("activation `{name}`"),
            op => format!("graph node {node} ({op:?})"),
        };
        EngineError::unsupported(place, reason)
    }
}
