//! Evaluating a network, in the arithmetic that is asked for, and the table of what came out.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use burn::tensor::Device;
use lb_data::ImageSet;
use lb_engine::{Plan, Session, SessionOptions};
use lb_nn::layer::{Act, Conv, Dense};
use lb_resnet::checkpoint::normalization;
use lb_resnet::eval;
use lb_resnet::metrics::Confusion;
use lb_resnet::model::ResNet;
use lb_resnet::ptq;

use crate::args::Engine;
use crate::engine::{self, Planned};
use crate::progress::Images;
use crate::subject::{Packed, Subject};
use crate::table::{Rows, percent, thousands};

/// How networks are evaluated.
pub struct Evaluator {
    /// What float networks and simulations run on.
    pub device: Device,
    /// What packed networks run on; `None`: integers, and where those cannot, simulation.
    pub engine: Option<Engine>,
    /// Threads of the integer engine.
    pub threads: usize,
}

/// What came out.
pub struct Evaluation {
    /// Counts of (true class, predicted class).
    pub confusion: Confusion,
    /// How it was computed.
    pub arithmetic: Arithmetic,
}

/// How a network was computed.
pub enum Arithmetic {
    /// Real numbers.
    Float,
    /// Real numbers, rounded to codes.
    Simulated,
    /// Integers.
    Integer {
        /// Kernels, the one with most of the work first.
        kernels: Vec<&'static str>,
        /// Threads.
        threads: usize,
    },
}

impl Arithmetic {
    /// In one word.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Simulated => "simulated",
            Self::Integer { .. } => "integer",
        }
    }

    /// Kernels and threads of integers.
    pub fn kernels(&self) -> Option<(&[&'static str], usize)> {
        match self {
            Self::Integer { kernels, threads } => Some((kernels, *threads)),
            _ => None,
        }
    }
}

impl Evaluator {
    /// Evaluates `subject` on `set`.
    ///
    /// # Errors
    /// If the file does not fit its architecture, the data does not fit the network, or integers
    /// are asked for and cannot run it.
    pub fn evaluate(&self, subject: &Subject, set: &ImageSet) -> Result<Evaluation> {
        match subject {
            Subject::Float(m) => {
                let confusion = self.on_burn(&m.checkpoint.net, subject, set)?;
                let arithmetic = Arithmetic::Float;
                Ok(Evaluation {
                    confusion,
                    arithmetic,
                })
            }
            Subject::Packed(packed) => match self.plan(packed)? {
                Some(plan) => self.in_integers(plan, subject, set),
                None => {
                    let net = ptq::unpack(&packed.network, &self.device)
                        .map_err(|e| anyhow::anyhow!("{}: {e}", packed.name))?;
                    let confusion = self.on_burn(&net, subject, set)?;
                    let arithmetic = Arithmetic::Simulated;
                    Ok(Evaluation {
                        confusion,
                        arithmetic,
                    })
                }
            },
        }
    }

    /// How `packed` runs in integers; `None` if it is to be simulated.
    fn plan(&self, packed: &Packed) -> Result<Option<Plan>> {
        if self.engine == Some(Engine::Sim) {
            return Ok(None);
        }
        match (engine::plan(packed)?, self.engine) {
            (Planned::Integer(plan), _) => Ok(Some(*plan)),
            (Planned::Unsupported(why), None) => {
                eprintln!("note: {}: {why}: simulated", packed.name);
                Ok(None)
            }
            (Planned::Unsupported(why), Some(_)) => {
                bail!("{}: {why}; --engine sim simulates it", packed.name)
            }
        }
    }

    fn in_integers(&self, plan: Plan, subject: &Subject, set: &ImageSet) -> Result<Evaluation> {
        engine::check_size(subject.name(), &plan, set)?;
        let options = SessionOptions {
            threads: self.threads,
            ..SessionOptions::default()
        };
        let mut session = Session::new(Arc::new(plan), options)?;
        let mut predict = |from: usize, n: usize| -> Result<Vec<usize>> {
            eval::check_classes(session.plan().classes().len(), set)?;
            let bytes = set.image_bytes();
            let output = session.run(&set.pixels()[from * bytes..(from + n) * bytes], n)?;
            Ok(output.labels().collect())
        };
        let bar = bar(subject, set);
        let confusion = eval::confusion(set, &mut predict, &mut |done| bar.set(done))?;
        Ok(Evaluation {
            confusion,
            arithmetic: Arithmetic::Integer {
                kernels: session.plan().kernels(),
                threads: self.threads,
            },
        })
    }

    fn on_burn<C: Conv, A: Act, L: Dense>(
        &self,
        net: &ResNet<C, A, L>,
        subject: &Subject,
        set: &ImageSet,
    ) -> Result<Confusion> {
        let (n, bar) = (normalization(subject.info()), bar(subject, set));
        let mut progress = |done| bar.set(done);
        Ok(eval::evaluate(net, set, &n, &self.device, &mut progress)?)
    }
}

fn bar(subject: &Subject, set: &ImageSet) -> Images {
    let name = subject.name();
    let label = Path::new(name)
        .file_name()
        .map_or(name.into(), |n| n.to_string_lossy());
    Images::new(&label, set.len())
}

/// What was evaluated, as a table.
#[derive(Default)]
pub struct Results(Vec<(Vec<String>, Evaluation)>);

impl Results {
    /// Adds a row.
    pub fn add(&mut self, subject: &Subject, e: Evaluation) {
        let m = e.confusion.metrics();
        let row = vec![
            subject.name().to_string(),
            subject.widths(),
            e.arithmetic.name().into(),
            percent(m.accuracy),
            percent(m.precision),
            percent(m.recall),
            percent(m.f1),
            format!("{}/{}", thousands(m.correct), thousands(m.total)),
            thousands(subject.bytes()),
        ];
        self.0.push((row, e));
    }

    /// Prints the table, and what its arithmetics are.
    pub fn print(&self) {
        let mut rows = Rows::new(&[
            "network",
            "widths",
            "arithmetic",
            "accuracy %",
            "precision %",
            "recall %",
            "F1 %",
            "right",
            "bytes",
        ]);
        for (row, _) in &self.0 {
            rows.add(row.clone());
        }
        rows.print();
        println!();
        let mut used: Vec<&str> = Vec::new();
        let mut on = 0;
        for (kernels, threads) in self.0.iter().filter_map(|(_, e)| e.arithmetic.kernels()) {
            on = threads;
            let new = kernels.iter().filter(|k| !used.contains(k)).copied();
            used.extend(new.collect::<Vec<_>>());
        }
        if !used.is_empty() {
            let kernels = used.join(", ");
            println!("`integer`: computed in integers, threads: {on}, kernels: {kernels}.");
        }
        let is_simulated = |(_, e): &(_, Evaluation)| matches!(e.arithmetic, Arithmetic::Simulated);
        if self.0.iter().any(is_simulated) {
            println!("`simulated`: rounded to the integer grid, computed in float.");
        }
    }

    /// Prints a table for each network, with a row for each class.
    pub fn print_classes(&self, set: &ImageSet) {
        for (row, e) in &self.0 {
            println!("\n{} ({}, {})\n", row[0], row[1], row[2]);
            let mut rows = Rows::new(&["class", "precision %", "recall %", "F1 %", "images"]);
            for (name, c) in set.class_names().iter().zip(e.confusion.per_class()) {
                let images = thousands(c.images);
                rows.add(vec![
                    name.clone(),
                    percent(c.precision),
                    percent(c.recall),
                    percent(c.f1),
                    images,
                ]);
            }
            rows.print();
        }
    }
}
