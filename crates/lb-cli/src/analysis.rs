//! What every place loses, takes in the file, and costs the engine, at every width.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use burn::tensor::Device;
use lb_data::ImageSet;
use lb_engine::Plan;
use lb_engine::timing::Stopwatch;
use lb_format::{BitWidth, QuantizedNetwork};
use lb_resnet::assign::{FileBytes, LayerTimes};
use lb_resnet::candidates;
use lb_resnet::model::QuantNet;
use lb_resnet::ptq::{self, Options};
use lb_resnet::sensitivity::{self, Measured, Place, Sensitivity};

use crate::calibrated::Calibrated;
use crate::engine::{self, Planned};
use crate::interrupt;
use crate::progress::Images;

/// Images a round of the stopwatch.
const TIMED: usize = 16;
/// Rounds of the stopwatch: at least so many, at most so many, and no new one after so long.
const ROUNDS: (usize, usize, Duration) = (5, 40, Duration::from_secs(10));

/// What was measured of a network's places.
pub struct Analysis {
    /// Places in order of execution, weights and activations, with their losses.
    pub places: Vec<Sensitivity>,
    /// Bytes in the packed file.
    pub bytes: FileBytes,
    /// Networks of one width each.
    uniform: Vec<(BitWidth, QuantizedNetwork)>,
    nets: Vec<(BitWidth, QuantNet)>,
    set: ImageSet,
    pixels: Vec<u8>,
}

impl Analysis {
    /// Analyzes `calibrated` at `widths`, quantized as `options` say, on the first `images` of its
    /// calibration images.
    ///
    /// # Errors
    /// If a place cannot be quantized, the device fails, or it is interrupted.
    pub fn new(
        calibrated: &Calibrated,
        widths: &[BitWidth],
        options: &Options,
        images: usize,
        device: &Device,
    ) -> Result<Self> {
        ensure!(!widths.is_empty(), "an analysis needs at least one width");
        let info = &calibrated.model.checkpoint.info;
        let (mut nets, mut uniform) = (Vec::new(), Vec::new());
        for &bits in widths {
            ensure!(!interrupt::requested(), "interrupted");
            let net = calibrated.quantize(&candidates::uniform(options, bits))?;
            let packed = ptq::pack(&net, info.clone(), Default::default())?;
            nets.push((bits, net));
            uniform.push((bits, packed));
        }
        let drawn = &calibrated.drawn;
        let some: Vec<usize> = (0..images.min(drawn.len())).collect();
        let set = drawn.subset(&some);
        let trials = sensitivity::Analysis::new(&calibrated.folded, nets.clone());
        let places = run(calibrated, &trials, &set, device)?.places;
        let pixels: Vec<u8> = (set.pixels().iter().copied().cycle())
            .take(TIMED * set.image_bytes())
            .collect();
        Ok(Self {
            places,
            bytes: FileBytes::measure(&uniform)?,
            uniform,
            nets,
            set,
            pixels,
        })
    }

    /// What changing single places of `base` does: those trials that `keep` accepts.
    ///
    /// # Errors
    /// If the device fails, or it is interrupted.
    pub fn around(
        &self,
        calibrated: &Calibrated,
        base: QuantNet,
        keep: &dyn Fn(&Place, BitWidth) -> bool,
        device: &Device,
    ) -> Result<Measured> {
        let trials = sensitivity::Analysis::new(&calibrated.folded, self.nets.clone());
        run(
            calibrated,
            &trials.around(base).only(keep),
            &self.set,
            device,
        )
    }

    /// One of the networks that places were taken from: its graph is that of all.
    pub fn network(&self) -> &QuantizedNetwork {
        &self.uniform[0].1
    }

    /// Times of every layer in the integer engine, with every width of `weights` and of the
    /// `activations` that it reads, on one thread. An operation that multiplies nothing counts with the
    /// layer behind it.
    ///
    /// # Errors
    /// If the engine cannot run a network, or it is interrupted.
    pub fn times(
        &self,
        weights: &BTreeSet<BitWidth>,
        activations: &BTreeSet<BitWidth>,
    ) -> Result<LayerTimes> {
        let (mut pairs, mut plans) = (Vec::new(), Vec::new());
        for &w in weights {
            for &a in activations {
                let network = QuantizedNetwork {
                    layers: self.uniform(w)?.layers.clone(),
                    ..self.uniform(a)?.clone()
                };
                pairs.push((w, a));
                plans.push(plan(&network)?);
            }
        }
        let stopwatch = self.measure(plans)?;
        let mut times = LayerTimes::default();
        for (i, &(w, a)) in pairs.iter().enumerate() {
            let mut before = Duration::ZERO;
            for (operation, time) in stopwatch.operations(i) {
                before += time;
                if operation.kernel.is_some() {
                    let ns = before.as_nanos() as u64;
                    times.ns.insert((operation.name, a, w), ns);
                    before = Duration::ZERO;
                }
            }
        }
        Ok(times)
    }

    /// The least time of one image, alone in its batch, on one thread.
    ///
    /// # Errors
    /// As [`times`](Self::times).
    pub fn image_time(&self, network: &QuantizedNetwork) -> Result<Duration> {
        Ok(self.measure(vec![plan(network)?])?.image(0))
    }

    fn uniform(&self, bits: BitWidth) -> Result<&QuantizedNetwork> {
        match self.uniform.iter().find(|(b, _)| *b == bits) {
            Some((_, network)) => Ok(network),
            None => bail!("{bits} bits were not analyzed"),
        }
    }

    fn measure(&self, plans: Vec<Arc<Plan>>) -> Result<Stopwatch> {
        let mut stopwatch = Stopwatch::new(plans)?;
        let (least, most, long) = ROUNDS;
        let start = Instant::now();
        for round in 0..most {
            ensure!(!interrupt::requested(), "interrupted");
            stopwatch.round(&self.pixels)?;
            if round + 1 >= least && start.elapsed() >= long {
                break;
            }
        }
        Ok(stopwatch)
    }
}

fn run(
    calibrated: &Calibrated,
    trials: &sensitivity::Analysis,
    set: &ImageSet,
    device: &Device,
) -> Result<Measured> {
    let bar = Images::new("sensitivity", trials.trials() * set.len());
    let normalization = calibrated.model.checkpoint.normalization();
    Ok(trials.run(set, &normalization, device, &mut |done| bar.set(done))?)
}

fn plan(network: &QuantizedNetwork) -> Result<Arc<Plan>> {
    match engine::plan_network(network, "the quantized network")? {
        Planned::Integer(plan) => Ok(Arc::from(plan)),
        Planned::Unsupported(why) => bail!("{why}: its time cannot be measured"),
    }
}
