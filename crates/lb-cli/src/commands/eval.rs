//! `lb eval`

use std::path::{Path, PathBuf};

use anyhow::Result;
use burn::tensor::Device;
use lb_data::{DataSource, ImageSet, Split};
use lb_format::{NetworkInfo, QuantizedNetwork};
use lb_nn::layer::{Act, Conv, Dense};
use lb_resnet::checkpoint::normalization;
use lb_resnet::eval::evaluate;
use lb_resnet::metrics::Confusion;
use lb_resnet::model::ResNet;
use lb_resnet::ptq;

use crate::args::EvalArgs;
use crate::backend;
use crate::model_file::{self, Model};
use crate::progress::Images;
use crate::table::{Rows, percent, thousands};

pub fn run(args: &EvalArgs) -> Result<()> {
    let device = args.device.backend.device()?;
    let subjects = subjects(&args.paths, &device)?;
    let source = model_file::data(args.data.data.as_deref(), subjects[0].info())?;
    let set = source.load(Split::Test)?;
    if !args.json {
        println!("data:   {}", set.source());
        println!("device: {}\n", backend::describe(&device));
    }
    let mut table = Results::default();
    for subject in &subjects {
        let confusion = subject.evaluate(&set, &device)?;
        if args.json {
            println!("{}", subject.json(&source, &set, &confusion));
        }
        table.add(subject, &confusion);
    }
    if args.json {
        return Ok(());
    }
    table.print();
    if args.per_class {
        table.print_classes(&set);
    }
    Ok(())
}

/// Something to evaluate.
pub enum Subject {
    /// A checkpoint.
    Float(Box<Model>),
    /// A packed file, its name and its size in bytes.
    Packed {
        network: Box<QuantizedNetwork>,
        name: String,
        bytes: u64,
    },
}

impl Subject {
    fn open(path: &Path, device: &Device) -> Result<Self> {
        if path.extension().is_some_and(|e| e == "lbq") {
            return Ok(Self::Packed {
                network: Box::new(lb_format::read(path)?),
                name: path.display().to_string(),
                bytes: std::fs::metadata(path)?.len(),
            });
        }
        Ok(Self::Float(Box::new(Model::find(Some(path), device)?)))
    }

    fn info(&self) -> &NetworkInfo {
        match self {
            Self::Float(model) => &model.checkpoint.info,
            Self::Packed { network, .. } => &network.info,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Float(model) => &model.described,
            Self::Packed { name, .. } => name,
        }
    }

    fn widths(&self) -> String {
        match self {
            Self::Float(_) => "float".into(),
            Self::Packed { network, .. } => {
                format!("{} ({})", network.recipe.widths, network.recipe.method)
            }
        }
    }

    /// How it was computed, in one word.
    fn arithmetic(&self) -> &'static str {
        match self {
            Self::Float(_) => "float",
            Self::Packed { .. } => "simulated",
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Float(model) => 4 * super::import::parameters(&model.checkpoint) as u64,
            Self::Packed { bytes, .. } => *bytes,
        }
    }

    /// Its confusion matrix on `set`.
    ///
    /// # Errors
    /// If the file does not fit its architecture, or the data does not fit the network.
    pub fn evaluate(&self, set: &ImageSet, device: &Device) -> Result<Confusion> {
        match self {
            Self::Float(m) => on(&m.checkpoint.net, self.name(), self.info(), set, device),
            Self::Packed { network, .. } => {
                let net = ptq::unpack(network, device)
                    .map_err(|e| anyhow::anyhow!("{}: {e}", self.name()))?;
                on(&net, self.name(), self.info(), set, device)
            }
        }
    }

    fn json(&self, source: &DataSource, set: &ImageSet, c: &Confusion) -> serde_json::Value {
        serde_json::json!({
            "network": self.name(), "widths": self.widths(), "arithmetic": self.arithmetic(),
            "bytes": self.bytes(), "data": set.source(), "source": source.describe(),
            "metrics": c.metrics(), "classes": set.class_names(), "per_class": c.per_class(),
        })
    }
}

fn on<C: Conv, A: Act, L: Dense>(
    net: &ResNet<C, A, L>,
    name: &str,
    info: &NetworkInfo,
    set: &ImageSet,
    device: &Device,
) -> Result<Confusion> {
    let label = Path::new(name)
        .file_name()
        .map_or(name.into(), |n| n.to_string_lossy());
    let bar = Images::new(&label, set.len());
    Ok(evaluate(
        net,
        set,
        &normalization(info),
        device,
        &mut |done| bar.set(done),
    )?)
}

/// What was evaluated, as a table.
#[derive(Default)]
pub struct Results(Vec<(Vec<String>, Confusion)>);

impl Results {
    /// Adds a row.
    pub fn add(&mut self, subject: &Subject, c: &Confusion) {
        let m = c.metrics();
        let row = vec![
            subject.name().to_string(),
            subject.widths(),
            subject.arithmetic().into(),
            percent(m.accuracy),
            percent(m.precision),
            percent(m.recall),
            percent(m.f1),
            format!("{}/{}", thousands(m.correct), thousands(m.total)),
            thousands(subject.bytes()),
        ];
        self.0.push((row, c.clone()));
    }

    /// Prints the table.
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
    }

    fn print_classes(&self, set: &ImageSet) {
        for (row, confusion) in &self.0 {
            println!("\n{} ({})\n", row[0], row[1]);
            let mut rows = Rows::new(&["class", "precision %", "recall %", "F1 %", "images"]);
            for (name, c) in set.class_names().iter().zip(confusion.per_class()) {
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

/// What the paths name; without one, the default network and its packed files.
fn subjects(paths: &[PathBuf], device: &Device) -> Result<Vec<Subject>> {
    let mut subjects = Vec::new();
    if paths.is_empty() {
        let model = Model::find(None, device)?;
        let folder = model.quantized_folder();
        subjects.push(Subject::Float(Box::new(model)));
        if !folder.is_dir() {
            eprintln!(
                "note: no packed files in {}; `lb calibrate` writes them",
                folder.display()
            );
            return Ok(subjects);
        }
        for file in model_file::expand(&folder)? {
            subjects.push(Subject::open(&file, device)?);
        }
        return Ok(subjects);
    }
    for path in paths {
        for file in model_file::expand(path)? {
            subjects.push(Subject::open(&file, device)?);
        }
    }
    Ok(subjects)
}
