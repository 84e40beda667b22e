//! `lb inspect`

use anyhow::Result;
use burn::tensor::Device;
use lb_format::graph::Op;
use lb_format::{Activation, NetworkInfo, QuantizedNetwork};

use super::import::parameters;
use crate::args::InspectArgs;
use crate::engine::{self, Planned};
use crate::model_file::Place;
use crate::subject::Packed;
use crate::table::{Rows, thousands};

pub fn run(args: &InspectArgs) -> Result<()> {
    if args.file.extension().is_some_and(|e| e == "lbq") {
        return packed(args);
    }
    let model = Place::find(Some(&args.file), None).load(&Device::flex())?;
    network(&model.checkpoint.info);
    println!(
        "parameters:    {}",
        thousands(parameters(&model.checkpoint) as u64)
    );
    println!("training:      {}", model.checkpoint.training);
    Ok(())
}

fn network(info: &NetworkInfo) {
    println!("architecture:  {} (shortcut {})", info.arch, info.shortcut);
    println!("classes:       {}", info.classes.join(", "));
    println!("normalisation: mean {:?}, std {:?}", info.mean, info.std);
    if !info.trained_on.is_empty() {
        println!("trained on:    {}", info.trained_on);
    }
}

fn packed(args: &InspectArgs) -> Result<()> {
    let packed = Packed::read(&args.file)?;
    let net = &packed.network;
    network(&net.info);
    let r = &net.recipe;
    println!(
        "quantized:     {}, method {}, by {}",
        r.widths, r.method, r.producer
    );
    println!("calibrated on: {}, seed {}\n", r.calibrated_on, r.seed);
    layers(net);
    println!();
    activations(net);
    println!();
    graph(&packed)
}

/// Weights.
fn layers(net: &QuantizedNetwork) {
    let mut rows = Rows::new(&[
        "layer",
        "shape",
        "weight bits",
        "levels",
        "scales",
        "offsets",
    ]);
    for l in &net.layers {
        let (scales, offsets) = match &l.weight {
            lb_format::Weight::Codes { qparams: q, .. } => (
                q.affine.len(),
                q.affine.iter().filter(|a| a.offset != 0.0).count(),
            ),
            lb_format::Weight::Float { .. } => (0, 0),
        };
        let shape = l
            .weight
            .shape()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>();
        rows.add(vec![
            l.name.clone(),
            shape.join("×"),
            l.weight.width(),
            l.weight.levels().into(),
            scales.to_string(),
            offsets.to_string(),
        ]);
    }
    rows.print();
}

/// What is added before it is rounded.
fn added(a: &Activation) -> &'static str {
    match (&a.diffusion, a.dither) {
        (Some(_), _) => ", diffused",
        (None, true) => ", dithered",
        (None, false) => "",
    }
}

/// Activations.
fn activations(net: &QuantizedNetwork) {
    let mut rows = Rows::new(&["activation", "bits", "levels", "scale", "zero point"]);
    for a in &net.activations {
        rows.add(match &a.qparams {
            Some(q) => {
                let c = q.channel(0);
                vec![
                    a.name.clone(),
                    format!("{}{}", q.bits, added(a)),
                    match &q.levels {
                        Some(levels) => levels.to_string(),
                        None => "uniform".into(),
                    },
                    format!("{:.6}", c.scale),
                    c.zero_point.to_string(),
                ]
            }
            None => vec![
                a.name.clone(),
                "passes".into(),
                String::new(),
                String::new(),
                String::new(),
            ],
        });
    }
    rows.print();
}

/// How they are connected, and what would run them here.
fn graph(packed: &Packed) -> Result<()> {
    let net = &packed.network;
    let planned = engine::plan(packed)?;
    let kernel = |layer: &str| match &planned {
        Planned::Integer(plan) => (plan.layers().into_iter())
            .find(|l| l.name == layer)
            .and_then(|l| l.kernel),
        Planned::Unsupported(_) => None,
    };
    let mut rows = Rows::new(&["node", "operation", "reads", "output", "bits", "kernel"]);
    let edges = net.graph.edges(net)?;
    for (i, (node, edge)) in net.graph.nodes.iter().zip(edges).enumerate() {
        let reads: Vec<String> = node.inputs.iter().map(ToString::to_string).collect();
        let kernel = match &node.op {
            Op::Conv { layer } | Op::Linear { layer } => kernel(layer).unwrap_or("none"),
            _ => "",
        };
        rows.add(vec![
            i.to_string(),
            operation(&node.op),
            reads.join(", "),
            edge.shape.to_string(),
            edge.qparams.map_or("real".into(), |q| q.bits.to_string()),
            kernel.into(),
        ]);
    }
    rows.print();
    if let Planned::Unsupported(why) = planned {
        println!("\n{why}: `lb eval` simulates it.");
    }
    Ok(())
}

/// An operation in words.
fn operation(op: &Op) -> String {
    match op {
        Op::Image => "image".into(),
        Op::Conv { layer } => format!("convolution {layer}"),
        Op::Linear { layer } => format!("linear {layer}"),
        Op::Activation { name } => format!("activation {name}"),
        Op::Add => "add".into(),
        Op::PadShortcut { stride, channels } => {
            format!("shortcut, stride {stride}, {channels} channels")
        }
        Op::GlobalAveragePool => "average pool".into(),
        Op::MaxPool { size, stride } => format!("max pool {size}×{size}, stride {stride}"),
    }
}
