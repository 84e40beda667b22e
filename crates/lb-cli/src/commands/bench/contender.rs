//! What is measured: packed networks in integers, checkpoints in float.

use std::sync::Arc;

use anyhow::{Result, ensure};
use burn::tensor::Device;
use lb_data::{ImageSet, Normalization, Split, SyntheticConfig};
use lb_engine::{Plan, Session, SessionOptions};
use lb_format::NetworkInfo;
use lb_resnet::batch::images;
use lb_resnet::eval::top1;
use lb_resnet::model::FoldedNet;
use lb_resnet::ptq::{self, Method, Options};

use super::measure::Setting;
use crate::args::BenchArgs;
use crate::calibrated::Calibrated;
use crate::engine::{self, Planned, all_threads};
use crate::model_file::{Model, Place};
use crate::subject::{self, Named, Packed};

/// Calibration images where nothing is written: speed does not depend on the ranges.
const SAMPLES: usize = 64;

/// A network that is measured.
pub struct Contender {
    /// For people: its path.
    pub network: String,
    /// Widths and method, in words.
    pub widths: String,
    /// What it computes.
    pub info: NetworkInfo,
    way: Way,
}

enum Way {
    Integer(Arc<Plan>),
    Float(Box<Float>),
}

/// A float network. Batch normalization is folded: what one would deploy.
#[derive(Clone)]
struct Float {
    net: FoldedNet,
    normalization: Normalization,
    device: Device,
}

/// Something that classifies raw images.
pub trait Stream: Send {
    /// Classifies images `from .. from + n` of `set`.
    ///
    /// # Errors
    /// If it cannot.
    fn run(&mut self, set: &ImageSet, from: usize, n: usize) -> Result<()>;
}

impl Stream for Session {
    fn run(&mut self, set: &ImageSet, from: usize, n: usize) -> Result<()> {
        let bytes = set.image_bytes();
        Session::run(self, &set.pixels()[from * bytes..(from + n) * bytes], n)?;
        Ok(())
    }
}

impl Stream for Float {
    fn run(&mut self, set: &ImageSet, from: usize, n: usize) -> Result<()> {
        let x = images(set, from, n, &self.normalization, &self.device);
        // Reading the result waits for the device.
        top1(self.net.forward(x))?;
        Ok(())
    }
}

/// Everything that `args` names. Checkpoints are read only if they are measured: a start without
/// Burn takes milliseconds.
///
/// # Errors
/// If a file cannot be read, or nothing is left to measure.
pub fn all(args: &BenchArgs) -> Result<Vec<Contender>> {
    let named = subject::named(&args.paths, args.data.data.as_deref())?;
    let packed = named.iter().any(|n| !matches!(n, Named::Float(_)));
    let mut all = Vec::new();
    for named in named {
        match named {
            Named::Packed(path) => all.extend(Contender::integer(Packed::read(&path)?)?),
            Named::BuiltIn(artifact) => {
                all.extend(Contender::integer(Packed::built_in(artifact)?)?)
            }
            Named::Float(place) if place.which_built_in().is_some() && !packed => {
                all.extend(built_in(place, args.no_float)?);
            }
            Named::Float(place) if args.no_float => {
                // Nobody who names no files misses one.
                if !args.paths.is_empty() {
                    eprintln!("note: {}: left out (--no-float)", place.described);
                }
            }
            Named::Float(place) => all.push(Contender::float(place.load(&Device::flex())?)),
        }
    }
    ensure!(
        !all.is_empty(),
        "nothing to measure: `lb calibrate` writes packed files, `lb bench FILE.lbq` measures them"
    );
    Ok(all)
}

/// The built-in network at 2, 4 and 8 bits, quantized here, and in float.
fn built_in(place: Place, no_float: bool) -> Result<Vec<Contender>> {
    eprintln!("note: quantizing the {} in memory", place.described);
    let model = place.load(&Device::flex())?;
    let config = SyntheticConfig {
        train: SAMPLES,
        ..SyntheticConfig::default()
    };
    let train = config.generate(Split::Train)?;
    let calibrated = Calibrated::new(model, &train, (SAMPLES, 0), &Device::flex())?;
    let mut all = Vec::new();
    for bits in ["2", "4", "8"] {
        // Speed does not depend on the values, so the quickest method will do.
        let options = Options {
            method: Method::Mse,
            ..Options::new(bits.parse().map_err(anyhow::Error::msg)?)
        };
        let packed = Packed {
            name: calibrated.model.place.described.clone(),
            ..calibrated.subject(&options)?
        };
        all.extend(Contender::integer(packed)?);
    }
    if !no_float {
        all.insert(0, Contender::float(calibrated.model));
    }
    Ok(all)
}

impl Contender {
    /// A packed network in integers; `None`, and a note, if it cannot run so.
    fn integer(packed: Packed) -> Result<Option<Self>> {
        let plan = match engine::plan(&packed)? {
            Planned::Integer(plan) => *plan,
            Planned::Unsupported(why) => {
                eprintln!("note: {}: left out: {why}", packed.name);
                return Ok(None);
            }
        };
        Ok(Some(Self {
            widths: packed.widths(),
            info: packed.network.info,
            network: packed.name,
            way: Way::Integer(Arc::new(plan)),
        }))
    }

    fn float(model: Model) -> Self {
        let normalization = model.checkpoint.normalization();
        Self {
            network: model.place.described,
            widths: "float".into(),
            info: model.checkpoint.info,
            way: Way::Float(Box::new(Float {
                net: ptq::fold(model.checkpoint.net),
                normalization,
                device: Device::flex(),
            })),
        }
    }

    /// Its plan, if it runs in integers.
    pub fn plan(&self) -> Option<&Arc<Plan>> {
        match &self.way {
            Way::Integer(plan) => Some(plan),
            Way::Float(_) => None,
        }
    }

    /// In one word.
    pub fn arithmetic(&self) -> &'static str {
        match &self.way {
            Way::Integer(_) => "integer",
            Way::Float(_) => "float",
        }
    }

    /// What computes: the kernels, the one with most of the work first.
    pub fn kernel(&self) -> String {
        match &self.way {
            Way::Integer(plan) => plan.kernels().join(", "),
            Way::Float(_) => "burn flex".into(),
        }
    }

    /// Threads that it uses when asked for `setting`.
    pub fn threads(&self, setting: Setting) -> usize {
        match &self.way {
            Way::Integer(_) => setting.threads,
            Way::Float(_) => all_threads(),
        }
    }

    /// What runs side by side.
    ///
    /// # Errors
    /// If the operating system gives no threads.
    pub fn streams(&self, setting: Setting) -> Result<Vec<Box<dyn Stream>>> {
        let plan = match &self.way {
            Way::Float(float) => return Ok(vec![float.clone()]),
            Way::Integer(plan) => plan,
        };
        let (streams, threads) = match setting.batch {
            1 => (setting.threads, 1),
            _ => (1, setting.threads),
        };
        let options = SessionOptions {
            threads,
            ..SessionOptions::default()
        };
        (0..streams)
            .map(|_| Ok(Box::new(Session::new(plan.clone(), options)?) as Box<dyn Stream>))
            .collect()
    }
}
