//! The engine against the interpreter, operation by operation.

use std::sync::Arc;

use lb_engine::{Plan, Session, SessionOptions};
use lb_format::graph::Op;
use lb_format::{QParams, QuantizedNetwork};

use super::interpret::{self, Tensor};

/// Error of `f32` arithmetic for each unit of [`Tensor::mass`]: some roundings of 2^−24 each.
const ROUNDING: f64 = 1.0 / (1 << 21) as f64;

/// What a comparison found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Codes compared.
    pub compared: usize,
    /// Codes one apart, at a rounding tie. Equal values in a row, as channels without weights have
    /// them everywhere, count once: they are one tie.
    pub ties: usize,
    /// How many values lie so near a tie that `f32` may fall on either side, by chance.
    pub doubtful: f64,
}

impl Counts {
    /// Adds what another comparison found.
    pub fn add(&mut self, other: Self) {
        self.compared += other.compared;
        self.ties += other.ties;
        self.doubtful += other.doubtful;
    }

    /// Whether there are no more ties than chance explains.
    pub fn plausible(&self) -> bool {
        self.ties as f64 <= 8.0 + self.doubtful
    }
}

/// How the engine must treat a node: its own reading of the graph's rules.
struct Meaning<'a> {
    network: &'a QuantizedNetwork,
    /// Of every node whose output the engine holds as codes, their parameters.
    codes: Vec<Option<QParams>>,
    /// Whether the engine must write the node's output somewhere.
    written: Vec<bool>,
    /// The node whose values this one passes on; itself for most.
    source: Vec<usize>,
}

impl<'a> Meaning<'a> {
    fn new(network: &'a QuantizedNetwork) -> Self {
        let nodes = &network.graph.nodes;
        let mut m = Self {
            network,
            codes: Vec::new(),
            written: Vec::new(),
            source: Vec::new(),
        };
        for (i, node) in nodes.iter().enumerate() {
            let input = node.inputs.first().map(|&n| m.source[n]);
            let of_input = input.and_then(|n| m.codes[n].clone());
            let (codes, written, source) = match &node.op {
                Op::Activation { name } => {
                    let act = network.activation(name).unwrap();
                    match (act.relu, act.qparams.clone()) {
                        (false, None) => (of_input, false, input.unwrap()),
                        (_, q) => (q.or(of_input), true, i),
                    }
                }
                Op::PadShortcut { .. } | Op::MaxPool { .. } => (of_input, true, i),
                _ => (None, i + 1 == nodes.len(), i),
            };
            m.codes.push(codes);
            m.written.push(written);
            m.source.push(source);
        }
        let last = nodes.len() - 1;
        m.written[m.source[last]] = true;
        m
    }

    fn op(&self, node: usize) -> &Op {
        &self.network.graph.nodes[node].op
    }

    /// The layer that an addition is fused into.
    fn main(&self, add: usize) -> usize {
        let inputs = &self.network.graph.nodes[add].inputs;
        let layer = |n: &usize| matches!(self.op(*n), Op::Conv { .. } | Op::Linear { .. });
        let sources = inputs.iter().map(|&n| self.source[n]);
        sources.into_iter().find(layer).expect("one is a layer")
    }

    /// What the engine calls the operation that writes `node`.
    fn step_name(&self, node: usize) -> &str {
        match self.op(node) {
            Op::Image => "image",
            Op::Conv { layer } | Op::Linear { layer } => layer,
            Op::Add => self.step_name(self.main(node)),
            Op::GlobalAveragePool => "average pool",
            Op::PadShortcut { .. } => "shortcut",
            Op::MaxPool { .. } => "max pool",
            Op::Activation { .. } => {
                let from = self.source[self.network.graph.nodes[node].inputs[0]];
                match self.written[from] {
                    true => "requantize",
                    false => self.step_name(from),
                }
            }
        }
    }

    fn has_levels(&self, node: usize) -> bool {
        let levels = self.codes[node].as_ref().map(|q| q.levels.is_some());
        matches!(self.op(node), Op::Activation { .. }) && levels == Some(true)
    }

    /// The node whose real values a step called `name` writes: a layer's, or the addition's that it
    /// is fused into.
    fn real_node(&self, name: &str) -> usize {
        let nodes = 0..self.network.graph.nodes.len();
        let mut fits = nodes.filter(|&n| match self.op(n) {
            Op::Conv { layer } => layer == name,
            Op::Add => self.step_name(n) == name,
            _ => false,
        });
        let node = fits.next().expect("every step belongs to a node");
        fits.next().unwrap_or(node)
    }

    /// Of every step of `plan`, the node that it writes.
    fn nodes_of_steps(&self, plan: &Plan) -> Vec<usize> {
        let names: Vec<String> = plan.layers().into_iter().map(|l| l.name).collect();
        let mut of_steps = Vec::new();
        let written = (0..self.written.len()).filter(|&n| self.written[n]);
        for node in written {
            let expected = self.step_name(node);
            // Residuals that stay real are written before the operation that adds them.
            while names[of_steps.len()] != expected {
                of_steps.push(self.real_node(&names[of_steps.len()]));
            }
            of_steps.push(node);
            // A layer rounds to whole steps, of which a table then makes levels.
            if self.has_levels(node) && expected != "requantize" {
                assert_eq!(names[of_steps.len()], "requantize");
                of_steps.push(node);
            }
        }
        assert_eq!(of_steps.len(), names.len(), "{names:?}");
        of_steps
    }
}

/// Compares what `plan` does with each of `images` (planar) with the meaning of `network`, every
/// node from the engine's own inputs.
pub fn compare(network: &QuantizedNetwork, plan: &Arc<Plan>, images: &[u8]) -> Counts {
    let meaning = Meaning::new(network);
    let of_steps = meaning.nodes_of_steps(plan);
    let nodes = network.graph.nodes.len();
    let batch = images.len() / plan.image_bytes();
    let mut traced: Vec<Vec<Option<Vec<f32>>>> = vec![vec![None; nodes]; batch];
    let mut session = Session::new(plan.clone(), SessionOptions::default()).unwrap();
    let mut see = |step: usize, image: usize, values: &[f32]| {
        traced[image][of_steps[step]] = Some(values.to_vec());
    };
    session.trace(images, batch, &mut see).unwrap();
    let mut counts = Counts::default();
    for (traced, image) in traced.iter().zip(images.chunks_exact(plan.image_bytes())) {
        let mut values: Vec<Tensor> = Vec::with_capacity(nodes);
        for (node, traced) in traced.iter().enumerate() {
            let inputs = &network.graph.nodes[node].inputs;
            let inputs: Vec<&Tensor> = inputs.iter().map(|&n| &values[n]).collect();
            let mut value = interpret::evaluate(network, node, &inputs, image);
            if let Some(engine) = traced {
                let place = || format!("node {node} ({:?})", meaning.op(node));
                assert_eq!(engine.len(), value.values.len(), "{}", place());
                match &meaning.codes[node] {
                    Some(q) => codes(engine, &mut value, q, &place, &mut counts),
                    None => reals(engine, &mut value, &place),
                }
            }
            values.push(value);
        }
    }
    counts
}

/// Compares codes, puts the engine's in `value` and counts ties.
fn codes(
    engine: &[f32],
    value: &mut Tensor,
    q: &QParams,
    place: &dyn Fn() -> String,
    counts: &mut Counts,
) {
    let scale = f64::from(q.channel(0).scale);
    let mut found = Vec::with_capacity(engine.len());
    let mut last_tie = f64::NAN;
    for (i, &e) in engine.iter().enumerate() {
        let code = e as i32 + q.range().lo;
        let (steps, expected) = interpret::round(value.values[i], q);
        let to_tie = (steps - steps.floor() - 0.5).abs();
        let slack = 1e-6 + ROUNDING * value.mass[i] / scale;
        if code != expected {
            let beside = match &q.levels {
                None => code.abs_diff(expected) == 1,
                Some(levels) => [steps.floor(), steps.ceil()]
                    .map(|n| interpret::level(n, levels.as_slice()))
                    .contains(&code),
            };
            assert!(
                beside && to_tie <= slack,
                "{}, value {i}: code {code} instead of {expected}; {steps} steps, {to_tie} from a \
                 tie, slack {slack}, {q:?}",
                place()
            );
            counts.ties += usize::from(steps != last_tie);
            last_tie = steps;
        }
        counts.compared += 1;
        counts.doubtful += (2.0 * slack).min(1.0);
        found.push(code);
    }
    *value = Tensor::of_codes(value.shape, &found, q);
}

/// Compares real values and puts the engine's in `value`.
fn reals(engine: &[f32], value: &mut Tensor, place: &dyn Fn() -> String) {
    for (i, &e) in engine.iter().enumerate() {
        let (expected, slack) = (value.values[i], ROUNDING * value.mass[i] + 1e-30);
        let error = (f64::from(e) - expected).abs();
        assert!(
            error <= slack,
            "{}, value {i}: {e} instead of {expected}, slack {slack}",
            place()
        );
        value.values[i] = f64::from(e);
    }
}
