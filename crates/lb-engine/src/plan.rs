//! A network made ready to run: weights packed, kernels chosen, memory laid out. Made once, shared
//! by any number of sessions.

use std::collections::HashSet;

use lb_format::graph::Shape;
use lb_format::{Layer, QuantizedNetwork, Weight};

use crate::EngineError;
use crate::buffers::{Assignment, Buffer, Need, Slot};
use crate::conv::{Conv, Epilogue, Kind};
use crate::fuse::{Fused, Value, ValueId, fuse};
use crate::integer::IntegerLayer;
use crate::kernel::window_sum::WindowSum;
use crate::kernel::{self, Kernel, Run};
use crate::plane::Plane;
use crate::simple::{CodeTable, ImageTable, Pool};

/// Most bytes that a plan may take for its layers, and most that a thread of a session may take for
/// values.
pub const MAX_MEMORY: u64 = 1 << 31;

/// Most bytes of a plan that do not grow with the file: tables, the weights of a layer when more than
/// one operation runs it, and zeros where kernels want whole vectors of channels. A file of some
/// kilobytes could ask for thousands of each.
pub const MAX_REPEATED: u64 = 1 << 25;

/// Most multiply-accumulates of one image, some ten times those of the largest vision networks: a
/// file of some kilobytes could ask for days.
pub const MAX_MACS: u64 = 1 << 40;

/// Real values between operations stay below this, so that no sum of theirs leaves `f32`.
const MAX_REAL: f64 = 1e37;

/// Weights beyond which a layer's are loaded once for several images instead of once an image: they
/// would push activations out of the second-level cache.
const RESIDENT_WEIGHTS: usize = 256 << 10;

/// Images that go through the network together from the first layer on whose weights are not
/// resident; before it, images go one by one, so that their activations stay in the cache.
const GROUP: usize = 16;

/// A network made ready to run.
pub struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) values: Vec<Need>,
    pub(crate) assignment: Assignment,
    pub(crate) logits: ValueId,
    /// Most images that a worker takes at once.
    pub(crate) group: usize,
    /// The first step that runs for a whole group.
    pub(crate) together_from: usize,
    pub(crate) sums: usize,
    pub(crate) sum_scratch: usize,
    pub(crate) scratch: usize,
    /// Channels of the widest pooling.
    pub(crate) pooled: usize,
    memory: u64,
    /// Of every value that has been written, the largest magnitude of what is held.
    largest: Vec<f64>,
    input: Shape,
    classes: Vec<String>,
    widths: String,
}

/// One operation, ready to run.
pub(crate) struct Step {
    /// For people: the layer's name or the operation's.
    pub name: String,
    pub run: Operation,
    pub inputs: Vec<ValueId>,
    pub out: ValueId,
}

pub(crate) enum Operation {
    Image(Box<ImageTable>),
    Table(CodeTable),
    Pad {
        stride: usize,
    },
    MaxPool {
        size: usize,
        stride: usize,
    },
    Conv {
        run: Box<dyn Run>,
        /// Of layers whose weights have offsets.
        sum: Option<WindowSum>,
        kernel: &'static str,
    },
    Pool(Pool),
}

/// What a plan does for one layer.
#[derive(Clone, Debug)]
pub struct LayerPlan {
    /// The layer's name, or the operation's.
    pub name: String,
    /// Kernel that runs it; `None` for operations that multiply nothing.
    pub kernel: Option<&'static str>,
    /// Multiply-accumulates an image, padding included.
    pub macs: usize,
    /// Output.
    pub output: Shape,
}

impl Plan {
    /// Plans `network` for this machine's kernels, or those that the environment variable
    /// `LB_KERNEL` names ([`kernel::named`]).
    ///
    /// # Errors
    /// If the network is invalid, not all integer, or asks for an unknown kernel.
    pub fn new(network: &QuantizedNetwork) -> Result<Self, EngineError> {
        let asked = std::env::var("LB_KERNEL").ok().filter(|k| !k.is_empty());
        Self::with_kernels(network, &kernel::named(asked.as_deref())?)
    }

    /// Plans `network` for these kernels, of which each layer takes the cheapest.
    ///
    /// # Errors
    /// As [`new`](Self::new); also if no kernel runs a layer.
    pub fn with_kernels(
        network: &QuantizedNetwork,
        kernels: &[Box<dyn Kernel>],
    ) -> Result<Self, EngineError> {
        network.validate()?;
        let (fused, values) = fuse(network)?;
        let together_from = (fused.iter())
            .position(|f| matches!(f, Fused::Conv { layer, .. } if is_large(layer)))
            .unwrap_or(fused.len());
        let group = if together_from < fused.len() {
            GROUP
        } else {
            1
        };
        let mut needs: Vec<Need> = values.iter().map(need).collect();
        for step in &fused[together_from..] {
            for value in step.inputs().into_iter().chain([step.out()]) {
                needs[value].images = group;
            }
        }
        let uses: Vec<_> = fused.iter().map(|f| (f.inputs(), f.out())).collect();
        let mut plan = Self {
            logits: fused.last().expect("a network has layers").out(),
            assignment: Assignment::new(&needs, &uses),
            values: needs,
            steps: Vec::with_capacity(fused.len()),
            group,
            together_from,
            sums: 0,
            sum_scratch: 0,
            scratch: 0,
            pooled: 0,
            memory: 0,
            largest: vec![0.0; values.len()],
            input: network.graph.input,
            classes: network.info.classes.clone(),
            widths: network.recipe.widths.clone(),
        };
        let macs = (fused.iter()).fold(0u64, |n, f| n.saturating_add(macs(f, &values)));
        if macs > MAX_MACS {
            let reason = format!("an image takes {macs} multiply-accumulates, at most {MAX_MACS}");
            return Err(EngineError::unsupported("graph", reason));
        }
        let (layers, repeated) = held(&fused, &values);
        within(layers, "layers", MAX_MEMORY)?;
        within(
            repeated,
            "tables, repeated layers and padding",
            MAX_REPEATED,
        )?;
        within(plan.session_memory(), "values", MAX_MEMORY)?;
        for f in &fused {
            let step = plan.step(network, f, &values, kernels)?;
            plan.steps.push(step);
        }
        // Again: now kernels have said what they want.
        plan.memory = plan.session_memory();
        within(plan.memory, "values", MAX_MEMORY)?;
        Ok(plan)
    }

    /// Bytes that a session takes for each of its threads.
    pub fn memory(&self) -> u64 {
        self.memory
    }

    fn session_memory(&self) -> u64 {
        let buffers: u64 = self.assignment.buffers.iter().map(Buffer::size).sum();
        buffers + 4 * (self.sums + self.sum_scratch + self.pooled) as u64 + self.scratch as u64
    }

    /// Size of an image.
    pub fn input(&self) -> Shape {
        self.input
    }

    /// Bytes of an image.
    pub fn image_bytes(&self) -> usize {
        self.input.channels * self.input.height * self.input.width
    }

    /// Class names, in the order of the logits.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Widths in words, e.g. `W4A4, edge layers W8A8`.
    pub fn widths(&self) -> &str {
        &self.widths
    }

    /// What it does, operation by operation.
    pub fn layers(&self) -> Vec<LayerPlan> {
        let layer = |step: &Step| {
            let plane = self.values[step.out].plane;
            let (kernel, macs) = match &step.run {
                Operation::Conv { run, kernel, .. } => (Some(*kernel), run.conv().macs()),
                _ => (None, 0),
            };
            LayerPlan {
                name: step.name.clone(),
                kernel,
                macs,
                output: Shape::new(plane.channels, plane.height, plane.width),
            }
        };
        self.steps.iter().map(layer).collect()
    }

    /// The kernels it uses, the one with most multiply-accumulates first.
    pub fn kernels(&self) -> Vec<&'static str> {
        let mut macs: Vec<(&'static str, usize)> = Vec::new();
        for l in self.layers() {
            let Some(kernel) = l.kernel else { continue };
            match macs.iter_mut().find(|(k, _)| *k == kernel) {
                Some((_, n)) => *n += l.macs,
                None => macs.push((kernel, l.macs)),
            }
        }
        macs.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
        macs.into_iter().map(|(k, _)| k).collect()
    }

    pub(crate) fn slot(&self, value: ValueId) -> Slot {
        self.assignment.slots[value]
    }

    fn step(
        &mut self,
        network: &QuantizedNetwork,
        fused: &Fused,
        values: &[Value],
        kernels: &[Box<dyn Kernel>],
    ) -> Result<Step, EngineError> {
        let params = |v: ValueId| values[v].params.as_ref();
        let held = |v: ValueId| (self.values[v].plane, self.values[v].kind);
        let codes = |v: ValueId| params(v).expect("fusing left codes here");
        let (name, run) = match *fused {
            Fused::Image { relu, added, out } => {
                let table = ImageTable::new(&network.info, codes(out), relu, added);
                let scratch = table.scratch(self.values[out].plane.width);
                self.sum_scratch = self.sum_scratch.max(scratch);
                ("image".to_string(), Operation::Image(Box::new(table)))
            }
            Fused::Table {
                relu,
                levels,
                input,
                out,
            } => {
                let table = CodeTable::new(codes(input), (codes(out), levels), relu);
                ("requantize".to_string(), Operation::Table(table))
            }
            Fused::Pad { stride, .. } => ("shortcut".to_string(), Operation::Pad { stride }),
            Fused::MaxPool { size, stride, .. } => {
                ("max pool".to_string(), Operation::MaxPool { size, stride })
            }
            Fused::Pool { relu, input, out } => {
                let pool = Pool::new(params(input), codes(out), relu);
                let Need { plane, kind, .. } = self.values[input];
                let sum = self.largest[input] * (plane.height * plane.width) as f64;
                if kind == Kind::F32 && sum > MAX_REAL {
                    let reason = format!("it sums values that can reach {sum:e}");
                    return Err(EngineError::unsupported("average pool", reason));
                }
                self.pooled = self.pooled.max(self.values[out].plane.channels);
                ("average pool".to_string(), Operation::Pool(pool))
            }
            Fused::Conv {
                layer,
                input,
                residual,
                relu,
                out,
            } => {
                let epilogue = Epilogue {
                    residual: residual.map(|r| {
                        let scale = params(r).map_or(1.0, |q| q.channel(0).scale);
                        (scale, values[r].zero())
                    }),
                    relu,
                    output: params(out).cloned(),
                };
                let conv = Conv::new(
                    IntegerLayer::new(layer)?,
                    (self.values[input].plane, codes(input)),
                    held(out),
                    residual.map(held),
                    &epilogue,
                )?;
                let largest = conv.largest(residual.map_or(0.0, |r| self.largest[r]));
                if epilogue.output.is_none() {
                    if largest > MAX_REAL {
                        return Err(EngineError::Numeric {
                            layer: layer.name.clone(),
                            problem: format!("its output can reach {largest:e}, too large"),
                        });
                    }
                    self.largest[out] = largest;
                }
                (layer.name.clone(), self.conv(conv, kernels)?)
            }
        };
        if let Some(q) = params(fused.out()) {
            self.largest[fused.out()] = f64::from(q.range().steps());
        }
        Ok(Step {
            name,
            run,
            inputs: fused.inputs(),
            out: fused.out(),
        })
    }

    fn conv(&mut self, conv: Conv, kernels: &[Box<dyn Kernel>]) -> Result<Operation, EngineError> {
        if conv.requant.sum.is_some() {
            let largest = conv.layer.depth() as i64 * i64::from(conv.input_max);
            if largest > i64::from(i32::MAX) {
                return Err(EngineError::Numeric {
                    layer: conv.layer.name,
                    problem: format!("a sum of its inputs can reach {largest}, beyond 32 bits"),
                });
            }
            self.sums = self.sums.max(kernel::sums_apart(&conv) * self.group);
            self.sum_scratch = self.sum_scratch.max(WindowSum::scratch(&conv));
        }
        let costs = kernels.iter().filter_map(|k| Some((k.cost(&conv)?, k)));
        let Some((_, kernel)) = costs.min_by(|a, b| a.0.total_cmp(&b.0)) else {
            let place = format!("layer `{}`", conv.layer.name);
            return Err(EngineError::unsupported(place, "no kernel takes it"));
        };
        let sum = (conv.requant.sum.as_ref()).map(|_| kernel.window_sum(&conv));
        let run = kernel.prepare(conv);
        self.scratch = self.scratch.max(run.scratch());
        Ok(Operation::Conv {
            run,
            sum,
            kernel: kernel.name(),
        })
    }
}

fn weights(layer: &Layer) -> u64 {
    layer.weight.shape().iter().map(|&n| n as u64).product()
}

/// Multiply-accumulates an image.
fn macs(fused: &Fused, values: &[Value]) -> u64 {
    match fused {
        Fused::Conv { layer, out, .. } => {
            let shape = values[*out].shape;
            weights(layer).saturating_mul((shape.height * shape.width) as u64)
        }
        _ => 0,
    }
}

/// Bytes that a plan holds for a layer: its integers, and a kernel's packing of them; `wide` if 16
/// bits are involved.
fn packed(layer: &Layer, stride: usize, wide: bool) -> u64 {
    let [kh, kw] = match layer.weight.shape() {
        &[_, _, kh, kw] => [kh, kw],
        _ => [1, 1],
    };
    // Rows of whole vectors, 16 output channels together; two bytes a weight, or transformed. Of
    // 16 bits, two bytes that bytes multiply, or two digits of 16 bits in pairs of inputs.
    let channels = layer.bias.len();
    let rows = channels.next_multiple_of(16) as u64 * kh as u64;
    let vectors = rows * (kw * stride).next_multiple_of(64) as u64;
    if wide {
        let pairs = rows * (kw * stride.next_multiple_of(2)) as u64;
        return 4 * weights(layer) + (2 * vectors).max(4 * pairs);
    }
    4 * weights(layer) + (2 * vectors).max(4 * weights(layer))
}

/// Bytes that a plan holds for `fused`: what grows with the weights in the file, and what does not.
fn held(fused: &[Fused], values: &[Value]) -> (u64, u64) {
    let mut seen = HashSet::new();
    let (mut layers, mut repeated) = (0, 0);
    for f in fused {
        match f {
            Fused::Conv { layer, out, .. } => {
                let all = f.inputs().into_iter().chain([*out]);
                let wide = matches!(&layer.weight, Weight::Codes { codes, .. } if codes.bits().get() > 8)
                    || all.into_iter().any(|v| values[v].kind() == Kind::U16);
                let bytes = packed(layer, values[f.inputs()[0]].stride, wide);
                // Where every position lies.
                let shape = values[*out].shape;
                layers += 64 * (shape.height * shape.width) as u64;
                let paid = match seen.insert(&layer.name) {
                    true => bytes.min(16 * weights(layer)),
                    false => 0,
                };
                layers += paid;
                repeated += bytes - paid;
            }
            Fused::Table { input, .. } => {
                let codes = values[*input].params.as_ref();
                // Two bytes a code, and a byte each of 256 again.
                repeated += codes.map_or(0, |q| 2 * u64::from(q.bits.levels()) + 256);
            }
            _ => {}
        }
    }
    (layers, repeated)
}

fn within(bytes: u64, what: &str, most: u64) -> Result<(), EngineError> {
    if bytes > most {
        let reason = format!("it takes {bytes} bytes for {what}, at most {most}");
        return Err(EngineError::unsupported("graph", reason));
    }
    Ok(())
}

fn need(value: &Value) -> Need {
    let fill = value.zero() as u16;
    let plane = Plane::with_stride(value.shape, value.stride, value.border, fill);
    Need::one(plane, value.kind())
}

fn is_large(layer: &Layer) -> bool {
    layer.weight.shape().iter().product::<usize>() > RESIDENT_WEIGHTS
}
