//! Files for a target: the widths that lose least within a size or a time, or the smallest file
//! that loses little enough.

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

use crate::analysis::Analysis;
use crate::args::CalibrateArgs;
use crate::calibrated::Calibrated;
use crate::progress::Images;
use crate::table::{percent, thousands};
use crate::units::{Points, Size, Time};

/// Calibration images that places are analyzed on. Results are measured on all.
const ANALYZED: usize = 256;

/// Assignments that are measured at most for a time: predictions are corrected by what was measured.
const TIMED: usize = 8;

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
    /// Sum of the losses of single places, nats an image.
    pub predicted_kl: f64,
    /// Bytes of the file, or nanoseconds an image, as predicted; bytes for a drop.
    pub predicted_cost: u64,
    /// Nanoseconds an image, measured; for a time.
    pub ns: Option<u64>,
    /// Whether giving all places one width turned out better than what was predicted to be best.
    pub uniform: bool,
    /// Networks that were quantized and measured on the way.
    pub tried: usize,
}

impl Met {
    /// For scripts.
    pub fn json(&self) -> serde_json::Value {
        let (weights, activations) = self.options.assignment.mean_bits();
        serde_json::json!({
            "target": self.target.to_string(), "predicted_kl": self.predicted_kl,
            "predicted_cost": self.predicted_cost, "us": self.ns.map(|ns| ns as f64 / 1e3),
            "uniform": self.uniform, "tried": self.tried,
            "mean_weight_bits": weights, "mean_activation_bits": activations,
        })
    }
}

/// Finds widths for every target of `args`.
///
/// # Errors
/// If a target cannot be met: says what can. If it is interrupted.
pub fn meet(
    args: &CalibrateArgs,
    calibrated: &Calibrated,
    reference: &Reference,
    device: &Device,
) -> Result<Vec<Met>> {
    ensure!(
        args.method != Some(Method::Lbtorch),
        "--method lbtorch leaves layers in float, and has no widths to choose there: use another method for a target"
    );
    let widths = args.widths();
    let candidates = Candidates {
        weights: widths.iter().map(|w| w.weights).collect(),
        activations: widths.iter().map(|w| w.activations).collect(),
        edge_bits: args.edges(),
        residual_bits: args.residual_bits.0,
    };
    let base = Options {
        method: args.method.unwrap_or(Method::Affine),
        bias_correction: args.bias_correction,
        ..Options::new(widths[0])
    };
    let analysis = Analysis::new(calibrated, &candidates.all(), &base, ANALYZED, device)?;
    let search = Search {
        places: candidates.restrict(&analysis.places),
        mean_activation_bits: args.mean_activation_bits,
        candidates,
        analysis,
        base,
        calibrated,
        reference,
        device,
    };
    let mut met = Vec::new();
    for size in &args.target_size {
        met.push(search.size(size)?);
    }
    for points in &args.target_drop {
        met.push(search.drop(points)?);
    }
    for time in &args.target_latency {
        met.push(search.latency(time)?);
    }
    Ok(met)
}

struct Search<'a> {
    candidates: Candidates,
    /// What was measured, at the widths that each place may take.
    places: Vec<Sensitivity>,
    mean_activation_bits: Option<f64>,
    analysis: Analysis,
    base: Options,
    calibrated: &'a Calibrated,
    reference: &'a Reference<'a>,
    device: &'a Device,
}

/// A network that was quantized.
struct Tried {
    assignment: Assignment,
    network: QuantizedNetwork,
    bytes: u64,
}

impl Search<'_> {
    fn size(&self, size: &Size) -> Result<Met> {
        let tradeoff = Tradeoff::by_size(&self.with_mean_activation()?, &self.analysis.bytes)?;
        let points: Vec<Choice> = tradeoff.points().collect();
        let mut tried = 0;
        let mut point = tradeoff.within(size.bytes);
        // Predicted bytes are right to some digits in the header.
        let found = loop {
            let Some(p) = point else {
                let smallest = self.quantize(tradeoff.assignment(0))?;
                bail!(
                    "--target-size {size}: the smallest file of these widths has {} bytes; allow fewer bits (--bits), or a larger file",
                    thousands(smallest.bytes)
                );
            };
            tried += 1;
            let file = self.quantize(tradeoff.assignment(p))?;
            match file.bytes.checked_sub(size.bytes) {
                None | Some(0) => break (p, file),
                Some(over) => point = tradeoff.within(points[p].cost.saturating_sub(over)),
            }
        };
        let (p, file) = found;
        let fits = |_: &Assignment, cost: u64| cost <= size.bytes;
        let met = Met {
            predicted_kl: points[p].loss,
            predicted_cost: points[p].cost,
            ..self.met(Target::Size(size.clone()), file.assignment.clone(), tried)
        };
        let check = |rival: &Tried| Ok((rival.bytes <= size.bytes).then_some(None));
        self.or_uniform(met, &file, &self.by_size()?, &fits, &check)
    }

    fn drop(&self, target: &Points) -> Result<Met> {
        let tradeoff = Tradeoff::by_size(&self.with_mean_activation()?, &self.analysis.bytes)?;
        let points: Vec<Choice> = tradeoff.points().collect();
        let mut tried = 0;
        let mut passes = |assignment: Assignment| -> Result<(bool, Tried, Divergence)> {
            tried += 1;
            let file = self.quantize(assignment)?;
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
        let (mut failed, mut passing) = (None, last);
        loop {
            let least = failed.map_or(0, |f: usize| f + 1);
            if least >= passing {
                break;
            }
            let middle = least + (passing - least) / 2;
            match passes(tradeoff.assignment(middle))? {
                (true, file, _) => (passing, best) = (middle, file),
                (false, ..) => failed = Some(middle),
            }
        }
        // Giving all one width is not on the way, but may be smaller and good enough.
        let mut chosen = (points[passing], false);
        let all = self.by_size()?;
        for rival in self.rivals(&all) {
            let (assignment, predicted) = rival;
            if predicted.cost >= best.bytes || !self.mean_allows(&assignment) {
                continue;
            }
            let (passed, file, _) = passes(assignment)?;
            if passed && file.bytes < best.bytes {
                (chosen, best) = ((predicted, true), file);
            }
        }
        Ok(Met {
            predicted_kl: chosen.0.loss,
            predicted_cost: chosen.0.cost,
            uniform: chosen.1,
            ..self.met(Target::Drop(target.clone()), best.assignment, tried)
        })
    }

    fn latency(&self, target: &Time) -> Result<Met> {
        let widths = |kind: PlaceKind| -> BTreeSet<BitWidth> {
            let of = self.places.iter().filter(|s| s.place.kind == kind);
            of.flat_map(|s| s.widths.iter().map(|w| w.bits)).collect()
        };
        let (weights, activations) = (widths(PlaceKind::Weight), widths(PlaceKind::Activation));
        let times = self.analysis.times(&weights, &activations)?;
        let tradeoff = Tradeoff::by_time(&self.places, &times, self.analysis.network())?;
        let points: Vec<Choice> = tradeoff.points().collect();
        // What layers take one by one is not what they take in a row: corrected by measuring.
        let mut scale = 1.0;
        let mut seen: Vec<usize> = Vec::new();
        let mut best: Option<(usize, Tried, u64)> = None;
        let mut fastest = u64::MAX;
        while seen.len() < TIMED {
            let p = tradeoff.within((target.ns as f64 / scale) as u64);
            let p = p.unwrap_or(0);
            if seen.contains(&p) {
                break;
            }
            seen.push(p);
            let file = self.quantize(tradeoff.assignment(p))?;
            let ns = self.time(&file)?;
            fastest = fastest.min(ns);
            scale = ns as f64 / points[p].cost.max(1) as f64;
            if ns <= target.ns && best.as_ref().is_none_or(|b| b.0 < p) {
                best = Some((p, file, ns));
            }
        }
        let Some((p, file, ns)) = best else {
            if !seen.contains(&0) {
                let file = self.quantize(tradeoff.assignment(0))?;
                fastest = fastest.min(self.time(&file)?);
            }
            bail!(
                "--target-latency {target}: the fastest widths of these take {:.1} µs an image on one thread of this machine; allow others (--bits), or more time",
                fastest as f64 / 1e3
            );
        };
        let met = Met {
            predicted_kl: points[p].loss,
            predicted_cost: points[p].cost,
            ns: Some(ns),
            ..self.met(
                Target::Latency(target.clone()),
                file.assignment.clone(),
                seen.len(),
            )
        };
        let fits = |_: &Assignment, cost: u64| cost as f64 * scale <= target.ns as f64;
        let check = |rival: &Tried| {
            let ns = self.time(rival)?;
            Ok((ns <= target.ns).then_some(Some(ns)))
        };
        self.or_uniform(met, &file, &tradeoff, &fits, &check)
    }

    /// `met`, or the best assignment of one width for all that meets the target too, if that turns
    /// out to lose less: losses do not quite add up, and a promise to be better must be kept.
    fn or_uniform(
        &self,
        met: Met,
        file: &Tried,
        tradeoff: &Tradeoff,
        fits: &dyn Fn(&Assignment, u64) -> bool,
        check: &dyn Fn(&Tried) -> Result<Option<Option<u64>>>,
    ) -> Result<Met> {
        let rivals = self.rivals(tradeoff).into_iter();
        let rival = rivals
            .filter(|(a, predicted)| self.mean_allows(a) && fits(a, predicted.cost))
            .min_by(|a, b| a.1.loss.total_cmp(&b.1.loss));
        let Some((assignment, predicted)) = rival else {
            return Ok(met);
        };
        let rival = self.quantize(assignment)?;
        let Some(ns) = check(&rival)? else {
            return Ok(met);
        };
        let better = self.divergence(&rival)?.kl < self.divergence(file)?.kl;
        Ok(match better {
            false => Met {
                tried: met.tried + 1,
                ..met
            },
            true => Met {
                options: self.options(rival.assignment),
                predicted_kl: predicted.loss,
                predicted_cost: predicted.cost,
                ns,
                uniform: true,
                tried: met.tried + 1,
                ..met
            },
        })
    }

    /// One width for all weights, and one for all activations; with their predictions.
    fn rivals(&self, tradeoff: &Tradeoff) -> Vec<(Assignment, Choice)> {
        let all = self.candidates.uniform(&self.places).into_iter();
        all.filter_map(|a| {
            let predicted = tradeoff.predict(&a)?;
            Some((a, predicted))
        })
        .collect()
    }

    fn by_size(&self) -> Result<Tradeoff> {
        Ok(Tradeoff::by_size(&self.places, &self.analysis.bytes)?)
    }

    fn mean_allows(&self, assignment: &Assignment) -> bool {
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

    fn met(&self, target: Target, assignment: Assignment, tried: usize) -> Met {
        Met {
            options: self.options(assignment),
            target,
            predicted_kl: 0.0,
            predicted_cost: 0,
            ns: None,
            uniform: false,
            tried,
        }
    }

    fn options(&self, assignment: Assignment) -> Options {
        Options {
            assignment,
            ..self.base.clone()
        }
    }

    fn quantize(&self, assignment: Assignment) -> Result<Tried> {
        ensure!(!crate::interrupt::requested(), "interrupted");
        let (network, bytes) = self
            .calibrated
            .pack_unrefined(&self.options(assignment.clone()))?;
        Ok(Tried {
            assignment,
            network,
            bytes: bytes.len() as u64,
        })
    }

    /// Simulated, on all calibration images.
    fn divergence(&self, file: &Tried) -> Result<Divergence> {
        let net = ptq::unpack(&file.network, self.device)?;
        let bar = Images::new("measuring", self.calibrated.drawn.len());
        Ok(self.reference.divergence(&net, &mut |done| bar.set(done))?)
    }

    fn time(&self, file: &Tried) -> Result<u64> {
        let time: Duration = self.analysis.image_time(&file.network)?;
        Ok(time.as_nanos() as u64)
    }
}
