//! Files for a target: the widths that lose least within a size or a time, or the smallest file
//! that loses little enough.
//!
//! Widths are compared by plain rounding. What refines a network afterwards changes neither its
//! bytes nor its time. For a drop, each network that is tried is refined before it is measured, if
//! that is asked for: unless it is, plain rounding stays, as what is fitted to images flips few of
//! them and says little about others.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use burn::tensor::Device;
use lb_format::{BitWidth, QuantizedNetwork};
use lb_resnet::assign::Tradeoff;
use lb_resnet::candidates::Candidates;
use lb_resnet::divergence::{Divergence, Reference};
use lb_resnet::knapsack::Choice;
use lb_resnet::ptq::{self, Assignment, Method, Options};
use lb_resnet::sensitivity::{PlaceKind, Sensitivity};

use super::improve::{Budget, Fit};
use crate::analysis::Analysis;
use crate::args::CalibrateArgs;
use crate::calibrated::Calibrated;
use crate::progress::Images;
use crate::table::{percent, thousands};
use crate::units::{Points, Size, Time};

/// Calibration images that places are analyzed on. Results are measured on all.
const ANALYZED: usize = 256;

/// What is asked for.
#[derive(Clone)]
pub enum Target {
    /// Bytes of the file.
    Size(Size),
    /// Images with another class.
    Drop(Points),
    /// Time of one image.
    Latency(Time),
}

/// For a file's name and for people: `80kB`, `drop0.5`, `150us`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => size.fmt(f),
            Self::Drop(points) => write!(f, "drop{points}"),
            Self::Latency(time) => time.fmt(f),
        }
    }
}

/// Widths that meet a target.
pub struct Met {
    /// With the assignment.
    pub options: Options,
    /// What was asked for.
    pub target: Target,
    /// What losses that add up would give, nats an image: those of single places, or of the last
    /// moves.
    pub predicted_kl: f64,
    /// Bytes of the file, or nanoseconds an image, as predicted; bytes for a drop.
    pub predicted_cost: u64,
    /// Nanoseconds an image, measured; for a time.
    pub ns: Option<u64>,
    /// Whether giving all places one width turned out better than what was predicted to be best.
    pub uniform: bool,
    /// Rounds of moves around what was found that lost less.
    pub refined: usize,
    /// Networks that were quantized and measured on the way.
    pub tried: usize,
}

impl Met {
    /// Refuses a file that is larger than what was asked for: the search measured it by another
    /// one, which has as many codes.
    ///
    /// # Errors
    /// Says by how much.
    pub fn check(&self, bytes: u64) -> Result<()> {
        match &self.target {
            Target::Size(size) if bytes > size.bytes => bail!(
                "--target-size {size}: refined, the file has {} bytes; use --method mse, or a larger file",
                thousands(bytes)
            ),
            _ => Ok(()),
        }
    }

    /// For scripts.
    pub fn json(&self) -> serde_json::Value {
        let (weights, activations) = self.options.assignment.mean_bits();
        serde_json::json!({
            "target": self.target.to_string(), "predicted_kl": self.predicted_kl,
            "predicted_cost": self.predicted_cost, "us": self.ns.map(|ns| ns as f64 / 1e3),
            "uniform": self.uniform, "refined": self.refined, "tried": self.tried,
            "mean_weight_bits": weights, "mean_activation_bits": activations,
        })
    }
}

/// What targets are met with.
pub struct Search<'a> {
    /// The widths that each place may take.
    pub candidates: Candidates,
    /// What was measured, at these widths.
    pub places: Vec<Sensitivity>,
    /// Most bits of an activation value on average.
    pub mean_activation_bits: Option<f64>,
    /// Most rounds of moves around what was found.
    pub refine: usize,
    /// Losses, bytes and times.
    pub analysis: Analysis,
    /// The method as typed.
    asked: Option<Method>,
    base: Options,
    /// The network.
    pub calibrated: &'a Calibrated,
    reference: &'a Reference<'a>,
    /// What computes.
    pub device: &'a Device,
}

/// A network that was quantized.
pub struct Tried {
    /// Its widths.
    pub assignment: Assignment,
    /// It, packed.
    pub network: QuantizedNetwork,
    /// Bytes of its file.
    pub bytes: u64,
}

/// A network that meets a target.
pub struct Found {
    /// It.
    pub file: Tried,
    /// What was predicted.
    pub predicted: Choice,
    /// Nanoseconds an image, if they were measured.
    pub ns: Option<u64>,
    /// Networks that were quantized on the way.
    pub tried: usize,
    /// Whether all places have one width.
    pub uniform: bool,
    /// Rounds of moves that led here.
    pub refined: usize,
}

/// The targets of `args`.
pub fn targets(args: &CalibrateArgs) -> Vec<Target> {
    let sizes = args.target_size.iter().cloned().map(Target::Size);
    let drops = args.target_drop.iter().cloned().map(Target::Drop);
    let times = args.target_latency.iter().cloned().map(Target::Latency);
    sizes.chain(drops).chain(times).collect()
}

impl<'a> Search<'a> {
    /// Analyzes the network.
    ///
    /// # Errors
    /// If the method leaves layers in float, a place cannot be quantized, or it is interrupted.
    pub fn new(
        args: &CalibrateArgs,
        calibrated: &'a Calibrated,
        reference: &'a Reference<'a>,
        device: &'a Device,
    ) -> Result<Self> {
        if let Some(method) = args.method
            && method.refinement(0).reconstruct.is_some()
            && !args.target_drop.is_empty()
        {
            bail!(
                "--method {method} takes minutes for each network that --target-drop tries: use --method gptq for it"
            );
        }
        ensure!(
            args.method != Some(Method::Lbtorch),
            "--method lbtorch leaves layers in float, and has no widths to choose there: use another method for a target"
        );
        let widths = args.widths();
        let candidates = Candidates {
            weights: widths.iter().map(|w| w.weights).collect(),
            activations: widths.iter().map(|w| w.activations).collect(),
            edge_bits: args.edges(),
            residual_bits: args.residual_bits.and_then(|floor| floor.0),
        };
        let base = Options {
            method: args.method.unwrap_or(Method::Gptq),
            bias_correction: args.bias_correction,
            image_rounding: args.image_rounding,
            // Every place has a width of its own.
            residual_bits: None,
            ..Options::new(widths[0])
        };
        let analysis = Analysis::new(calibrated, &candidates.all(), &base, ANALYZED, device)?;
        Ok(Self {
            places: candidates.restrict(&analysis.places),
            mean_activation_bits: args.mean_activation_bits,
            refine: args.refine,
            candidates,
            analysis,
            asked: args.method,
            base,
            calibrated,
            reference,
            device,
        })
    }

    /// Finds widths that meet `target`.
    ///
    /// # Errors
    /// If it cannot be met: says what can. If it is interrupted.
    pub fn meet(&self, target: &Target) -> Result<Met> {
        match target {
            Target::Size(size) => self.size(size),
            Target::Drop(points) => self.drop(points),
            Target::Latency(time) => self.latency(time),
        }
    }

    fn size(&self, size: &Size) -> Result<Met> {
        let places = self.with_mean_activation()?;
        let by = |places: &[Sensitivity]| self.by_size(places);
        let check = |file: &Tried| {
            Ok(match file.bytes.checked_sub(size.bytes) {
                None | Some(0) => Fit::Meets(None),
                Some(over) => Fit::Over(over),
            })
        };
        let budget = Budget {
            by: &by,
            cost: size.bytes,
            check: &check,
        };
        let tradeoff = by(&places)?;
        let Some(found) = self.within(&tradeoff, &budget)? else {
            let smallest = self.quantize(tradeoff.assignment(0))?;
            bail!(
                "--target-size {size}: the smallest file of these widths has {} bytes; allow fewer bits (--bits), or a larger file",
                thousands(smallest.bytes)
            );
        };
        let found = self.improve(found, &budget)?;
        Ok(self.met(Target::Size(size.clone()), found))
    }

    fn drop(&self, target: &Points) -> Result<Met> {
        let method = self.method(&Target::Drop(target.clone()));
        let tradeoff = self.by_size(&self.with_mean_activation()?)?;
        let points: Vec<Choice> = tradeoff.points().collect();
        let mut tried = 0;
        let mut passes = |assignment: Assignment| -> Result<(bool, Tried, Divergence)> {
            tried += 1;
            let file = self.corrected(assignment, method)?;
            let d = self.divergence(&file)?;
            Ok((d.flip_rate() * 100.0 <= target.points, file, d))
        };
        let last = points.len() - 1;
        let (passed, mut best, d) = passes(tradeoff.assignment(last))?;
        ensure!(
            passed,
            "--target-drop {target}: with the most bits of these widths {} of {} calibration images ({} %) get another class than in float; allow more bits (--bits), or a larger drop",
            thousands(d.flips),
            thousands(d.images),
            percent(d.flip_rate())
        );
        // Smaller files are taken to flip more: the first point that passes lies in failed .. best.
        let (mut least, mut passing) = (0, last);
        while least < passing {
            let middle = least + (passing - least) / 2;
            match passes(tradeoff.assignment(middle))? {
                (true, file, _) => (passing, best) = (middle, file),
                (false, ..) => least = middle + 1,
            }
        }
        let (mut predicted, mut uniform) = (points[passing], false);
        // Giving all one width is not on the way, but may be smaller and good enough.
        for (assignment, rival) in self.rivals(&self.by_size(&self.places)?) {
            if rival.cost < best.bytes && self.mean_allows(&assignment) {
                let (passed, file, _) = passes(assignment)?;
                if passed && file.bytes < best.bytes {
                    (predicted, uniform, best) = (rival, true, file);
                }
            }
        }
        let found = Found {
            file: best,
            predicted,
            ns: None,
            tried,
            uniform,
            refined: 0,
        };
        Ok(self.met(Target::Drop(target.clone()), found))
    }

    fn latency(&self, target: &Time) -> Result<Met> {
        let widths = |kind: PlaceKind| -> BTreeSet<BitWidth> {
            let of = self.places.iter().filter(|s| s.place.kind == kind);
            of.flat_map(|s| s.widths.iter().map(|w| w.bits)).collect()
        };
        let (weights, activations) = (widths(PlaceKind::Weight), widths(PlaceKind::Activation));
        let times = self.analysis.times(&weights, &activations)?;
        let network = self.analysis.network();
        let by = |places: &[Sensitivity]| Ok(Tradeoff::by_time(places, &times, network)?);
        let tradeoff = by(&self.places)?;
        // What layers take one by one is not what they take in a row: corrected by what the fastest
        // ones take.
        let fastest = self.quantize(tradeoff.assignment(0))?;
        let ns = self.time(&fastest)?;
        ensure!(
            ns <= target.ns,
            "--target-latency {target}: the fastest widths of these take {:.1} µs an image on one thread of this machine; allow others (--bits), or more time",
            ns as f64 / 1e3
        );
        let alone = tradeoff.points().next().map_or(1, |p| p.cost.max(1));
        let scale = ns as f64 / alone as f64;
        let check = |file: &Tried| {
            let ns = self.time(file)?;
            Ok(match ns.checked_sub(target.ns) {
                None | Some(0) => Fit::Meets(Some(ns)),
                Some(over) => Fit::Over((over as f64 / scale) as u64),
            })
        };
        let budget = Budget {
            by: &by,
            cost: ((target.ns as f64 / scale) as u64).max(alone),
            check: &check,
        };
        let found = match self.within(&tradeoff, &budget)? {
            Some(found) => found,
            // It met the target a moment ago; the machine was disturbed since.
            None => Found {
                file: fastest,
                predicted: tradeoff.points().next().expect("there is a point"),
                ns: Some(ns),
                tried: 1,
                uniform: false,
                refined: 0,
            },
        };
        let found = self.improve(found, &budget)?;
        Ok(self.met(Target::Latency(target.clone()), found))
    }

    fn met(&self, target: Target, found: Found) -> Met {
        Met {
            options: self.options(found.file.assignment, self.method(&target)),
            target,
            predicted_kl: found.predicted.loss,
            predicted_cost: found.predicted.cost,
            ns: found.ns,
            uniform: found.uniform,
            refined: found.refined,
            tried: found.tried,
        }
    }

    fn by_size(&self, places: &[Sensitivity]) -> Result<Tradeoff> {
        Ok(Tradeoff::by_size(places, &self.analysis.bytes)?)
    }

    /// Whether the mean of the activations' bits is what was asked for.
    pub fn mean_allows(&self, assignment: &Assignment) -> bool {
        let mean = assignment.mean_bits().1;
        self.mean_activation_bits.is_none_or(|most| mean <= most)
    }

    /// The places; where the mean of the activations' bits is bounded, each activation at the one
    /// width that loses least within it. Bytes depend on weights alone, so this may come first.
    fn with_mean_activation(&self) -> Result<Vec<Sensitivity>> {
        let Some(most) = self.mean_activation_bits else {
            return Ok(self.places.clone());
        };
        let tradeoff = Tradeoff::by_activation_bits(&self.places)?;
        let activations = self.places.iter().map(|s| match s.place.kind {
            PlaceKind::Activation => s.place.values,
            PlaceKind::Weight => 0,
        });
        let values: u64 = activations.sum();
        let point = tradeoff.within((most * values as f64) as u64);
        let point = point.ok_or_else(|| {
            let least = tradeoff.assignment(0).mean_bits().1;
            anyhow!(
                "--mean-activation-bits {most}: with the fewest bits of these widths an activation value has {least:.2}; allow fewer (--bits)"
            )
        })?;
        let assignment = tradeoff.assignment(point);
        let mut places = self.places.clone();
        for s in &mut places {
            if let Some(bits) = assignment.activation(&s.place.path)
                && s.place.kind == PlaceKind::Activation
            {
                s.widths.retain(|w| w.bits == bits);
            }
        }
        Ok(places)
    }

    /// What a network for `target` is quantized with.
    fn method(&self, target: &Target) -> Method {
        match target {
            Target::Drop(_) => self.asked.unwrap_or(Method::Mse),
            Target::Size(_) | Target::Latency(_) => self.base.method,
        }
    }

    fn options(&self, assignment: Assignment, method: Method) -> Options {
        Options {
            assignment,
            method,
            ..self.base.clone()
        }
    }

    /// The network of these widths, corrected as `method` says.
    fn corrected(&self, assignment: Assignment, method: Method) -> Result<Tried> {
        let options = self.options(assignment.clone(), method);
        let (net, _) = self.calibrated.refine(&options, None)?;
        let (network, bytes) = self.calibrated.pack_net(&net, &options)?;
        Ok(Tried {
            assignment,
            network,
            bytes: bytes.len() as u64,
        })
    }

    /// The network of these widths, by plain rounding: as large and as fast as when it is refined.
    ///
    /// # Errors
    /// If it cannot be quantized, or it is interrupted.
    pub fn quantize(&self, assignment: Assignment) -> Result<Tried> {
        ensure!(!crate::interrupt::requested(), "interrupted");
        let (network, bytes) = self
            .calibrated
            .pack_unrefined(&self.options(assignment.clone(), self.base.method))?;
        Ok(Tried {
            assignment,
            network,
            bytes: bytes.len() as u64,
        })
    }

    /// Simulated, on all calibration images.
    ///
    /// # Errors
    /// If the device fails, or it is interrupted.
    pub fn divergence(&self, file: &Tried) -> Result<Divergence> {
        let net = ptq::unpack(&file.network, self.device)?;
        let bar = Images::new("measuring", self.calibrated.drawn.len());
        Ok(self.reference.divergence(&net, &mut |done| bar.set(done))?)
    }

    fn time(&self, file: &Tried) -> Result<u64> {
        let time: Duration = self.analysis.image_time(&file.network)?;
        Ok(time.as_nanos() as u64)
    }
}
