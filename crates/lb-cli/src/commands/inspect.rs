//! `lb inspect`

use anyhow::Result;
use burn::tensor::Device;
use lb_format::NetworkInfo;

use super::import::parameters;
use crate::args::InspectArgs;
use crate::model_file::Model;
use crate::table::{Rows, thousands};

pub fn run(args: &InspectArgs) -> Result<()> {
    if args.file.extension().is_some_and(|e| e == "lbq") {
        return packed(args);
    }
    let model = Model::find(Some(&args.file), &Device::flex())?;
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
    let net = lb_format::read(&args.file)?;
    network(&net.info);
    let r = &net.recipe;
    println!(
        "quantized:     {}, method {}, by {}",
        r.widths, r.method, r.producer
    );
    println!("calibrated on: {}, seed {}\n", r.calibrated_on, r.seed);
    let mut rows = Rows::new(&["layer", "shape", "weight bits", "scales", "offsets"]);
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
            scales.to_string(),
            offsets.to_string(),
        ]);
    }
    rows.print();
    println!();
    let mut rows = Rows::new(&["activation", "bits", "scale", "zero point"]);
    for a in &net.activations {
        rows.add(match &a.qparams {
            Some(q) => {
                let c = q.channel(0);
                vec![
                    a.name.clone(),
                    q.bits.to_string(),
                    format!("{:.6}", c.scale),
                    c.zero_point.to_string(),
                ]
            }
            None => vec![
                a.name.clone(),
                "passes".into(),
                String::new(),
                String::new(),
            ],
        });
    }
    rows.print();
    Ok(())
}
