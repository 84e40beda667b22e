//! Which place of a network suffers how much at which width.
//!
//! One place at a time, a weight or an activation, is quantized to one width, and everything else
//! stays float. The loss is how far the logits move, on images without labels: [`Divergence`].
//!
//! A network runs part by part ([`ResNet::segment`]), and what comes before the part with the place
//! is float, the same for all trials; so those values are computed once and every trial starts there.
//!
//! What this does not see: how places hurt each other. Losses of single places are taken to add up,
//! which holds while they are small: to second order, KL is a quadratic form of the change of the
//! logits, and independent changes add. Few bits everywhere are worse than the sum says.

use std::collections::BTreeMap;
use std::convert::Infallible;

use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::{Device, Tensor};
use lb_data::{ImageSet, Normalization};
use lb_format::BitWidth;
use lb_nn::{FloatAct, QuantAct, QuantConv2d, QuantLinear};
use serde::{Deserialize, Serialize};

use crate::ResnetError;
use crate::batch::{images, spans};
use crate::divergence::{Divergence, host};
use crate::model::{ActSite, ConvSite, FoldedNet, QuantNet, Rewrite, Seen};

#[cfg(doc)]
use crate::model::ResNet;

/// Images a batch: every part's float input is kept for one batch.
const BATCH: usize = 64;

/// What is quantized at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaceKind {
    /// The weight of a convolution or linear layer.
    Weight,
    /// What a layer is given.
    Activation,
}

/// A place that is quantized.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// What stands there.
    pub kind: PlaceKind,
    /// Path: of a weight its layer's.
    pub path: String,
    /// Numbers that are quantized there: of an activation, those of one image.
    pub values: u64,
}

/// What one width does to a place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WidthLoss {
    /// Bits a value.
    pub bits: BitWidth,
    /// Of the logits from the float network's.
    #[serde(flatten)]
    pub divergence: Divergence,
}

/// What widths do to a place, while all others are float.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensitivity {
    /// The place.
    #[serde(flatten)]
    pub place: Place,
    /// Loss at every width, in the order that was asked for.
    pub widths: Vec<WidthLoss>,
}

impl Sensitivity {
    /// The loss at `bits`, nats an image; `None` if that width was not measured.
    pub fn kl(&self, bits: BitWidth) -> Option<f64> {
        let found = self.widths.iter().find(|w| w.bits == bits);
        found.map(|w| w.divergence.kl)
    }
}

/// Trials to run: every place of a network at every width.
pub struct Analysis {
    /// The folded network, in the quantized network's type: nothing is rounded.
    float: QuantNet,
    widths: Vec<(BitWidth, Parts)>,
    places: Vec<Spot>,
}

struct Spot {
    place: Place,
    /// The part of the network that it is in.
    segment: usize,
}

impl Analysis {
    /// Trials on `net` at the widths of `uniform`: networks in which every place has that width, from
    /// [`ptq::quantize`](crate::ptq::quantize). A place that is not rounded there is none (the input
    /// of a block, which has the codes of the stream; what `lbtorch` leaves in float).
    pub fn new(net: &FoldedNet, uniform: Vec<(BitWidth, QuantNet)>) -> Self {
        let mut spots = Spots::default();
        let float = net
            .clone()
            .rewrite(&mut spots)
            .unwrap_or_else(|e| match e {});
        let head = net.segments() - 1;
        let widths: Vec<_> = (uniform.into_iter())
            .map(|(bits, net)| {
                let mut parts = Parts::default();
                net.rewrite(&mut parts).unwrap_or_else(|e| match e {});
                (bits, parts)
            })
            .collect();
        let mut places = spots.0;
        places.retain(|p| widths.iter().all(|(_, parts)| parts.rounds(p)));
        let places = places.into_iter().map(|place| Spot {
            segment: segment_of(&place.path, head),
            place,
        });
        Self {
            float,
            places: places.collect(),
            widths,
        }
    }

    /// Number of trials.
    pub fn trials(&self) -> usize {
        self.places.len() * self.widths.len()
    }

    /// Runs them on `set`. `progress` is told how many images went through trials, of
    /// [`trials`](Self::trials) `· set.len()`, and may stop it by returning `false`.
    ///
    /// # Errors
    /// If `set` is empty, the device fails, a logit is not finite, or `progress` stopped it.
    pub fn run(
        &self,
        set: &ImageSet,
        normalization: &Normalization,
        device: &Device,
        progress: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<Sensitivity>, ResnetError> {
        if set.is_empty() {
            return Err(ResnetError::Invalid(
                "an analysis needs at least one image".into(),
            ));
        }
        let mut values: BTreeMap<String, u64> = BTreeMap::new();
        let mut float = Vec::new();
        let mut logits = vec![Vec::new(); self.trials()];
        let mut done = 0;
        for (from, n) in spans(set.len(), BATCH) {
            let mut x = images(set, from, n, normalization, device);
            let mut inputs = Vec::with_capacity(self.float.segments());
            for i in 0..self.float.segments() {
                inputs.push(x.clone());
                x = self.float.segment(i, x, &mut |seen, name, y| {
                    if seen == Seen::ActOutput {
                        values.insert(name.into(), (y.shape().num_elements() / n) as u64);
                    }
                    y
                });
            }
            float.extend(host(x.flatten(1, 3))?);
            for (i, logits) in logits.iter_mut().enumerate() {
                let spot = &self.places[i / self.widths.len()];
                let (_, parts) = &self.widths[i % self.widths.len()];
                logits.extend(host(self.trial(spot, parts, &inputs[spot.segment]))?);
                done += n;
                if !progress(done) {
                    return Err(ResnetError::Invalid("interrupted".into()));
                }
            }
        }
        let classes = float.len() / set.len();
        let of_trial = |i: usize| Divergence::of(&float, &logits[i], classes);
        let sensitivity = |(i, spot): (usize, &Spot)| {
            let mut place = spot.place.clone();
            if place.kind == PlaceKind::Activation {
                place.values = values.get(&place.path).copied().unwrap_or(0);
            }
            let first = i * self.widths.len();
            let widths = self.widths.iter().enumerate();
            Sensitivity {
                place,
                widths: widths
                    .map(|(w, &(bits, _))| WidthLoss {
                        bits,
                        divergence: of_trial(first + w),
                    })
                    .collect(),
            }
        };
        Ok(self.places.iter().enumerate().map(sensitivity).collect())
    }

    /// Logits with one place from `parts`, from the part with that place on.
    fn trial(&self, spot: &Spot, parts: &Parts, x: &Tensor<4>) -> Tensor<2> {
        let mut swap = Swap {
            path: &spot.place.path,
            parts,
        };
        let net = self.float.clone();
        let net = net.rewrite(&mut swap).unwrap_or_else(|e| match e {});
        let look = &mut |_, _: &str, x| x;
        let first = net.segment(spot.segment, x.clone(), look);
        let rest = spot.segment + 1..self.float.segments();
        rest.fold(first, |x, i| self.float.segment(i, x, look))
            .flatten(1, 3)
    }
}

/// The part of the network that `path` is in.
fn segment_of(path: &str, head: usize) -> usize {
    let block = path
        .strip_prefix("blocks.")
        .and_then(|p| p.split('.').next());
    match (path, block.and_then(|b| b.parse::<usize>().ok())) {
        (_, Some(block)) => block + 1,
        ("pooled" | "linear", None) => head,
        _ => 0,
    }
}

/// Lists the places, and turns the folded network into a quantized one that rounds nothing.
#[derive(Default)]
struct Spots(Vec<Place>);

impl Spots {
    fn add(&mut self, kind: PlaceKind, path: &str, values: usize) {
        self.0.push(Place {
            kind,
            path: path.into(),
            values: values as u64,
        });
    }
}

impl Rewrite<Conv2d, FloatAct, Linear> for Spots {
    type Conv = QuantConv2d;
    type Act = QuantAct;
    type Linear = QuantLinear;
    type Error = Infallible;

    fn conv(&mut self, site: &ConvSite, conv: Conv2d) -> Result<QuantConv2d, Infallible> {
        let values = conv.weight.val().shape().num_elements();
        self.add(PlaceKind::Weight, &site.name, values);
        Ok(QuantConv2d::quantize(conv, None))
    }

    fn act(&mut self, site: &ActSite, act: FloatAct) -> Result<QuantAct, Infallible> {
        // Its values are counted when an image runs through.
        self.add(PlaceKind::Activation, &site.name, 0);
        Ok(QuantAct::new(act.nonlinearity, None))
    }

    fn linear(&mut self, linear: Linear) -> Result<QuantLinear, Infallible> {
        let values = linear.weight.val().shape().num_elements();
        self.add(PlaceKind::Weight, "linear", values);
        Ok(QuantLinear::quantize(linear, None))
    }
}

/// The parts of a quantized network by path.
#[derive(Default)]
struct Parts {
    convs: BTreeMap<String, QuantConv2d>,
    acts: BTreeMap<String, QuantAct>,
    linear: Option<QuantLinear>,
}

impl Parts {
    /// Whether the place is rounded to codes.
    fn rounds(&self, place: &Place) -> bool {
        let path = place.path.as_str();
        match place.kind {
            PlaceKind::Activation => self.acts.get(path).is_some_and(|a| a.qparams.is_some()),
            PlaceKind::Weight => match (path, &self.linear) {
                ("linear", Some(linear)) => linear.qparams().is_some(),
                _ => self.convs.get(path).is_some_and(|c| c.qparams().is_some()),
            },
        }
    }
}

impl Rewrite<QuantConv2d, QuantAct, QuantLinear> for Parts {
    type Conv = QuantConv2d;
    type Act = QuantAct;
    type Linear = QuantLinear;
    type Error = Infallible;

    fn conv(&mut self, site: &ConvSite, conv: QuantConv2d) -> Result<QuantConv2d, Infallible> {
        self.convs.insert(site.name.clone(), conv.clone());
        Ok(conv)
    }

    fn act(&mut self, site: &ActSite, act: QuantAct) -> Result<QuantAct, Infallible> {
        self.acts.insert(site.name.clone(), act.clone());
        Ok(act)
    }

    fn linear(&mut self, linear: QuantLinear) -> Result<QuantLinear, Infallible> {
        self.linear = Some(linear.clone());
        Ok(linear)
    }
}

/// Replaces the part at one path. No layer has an activation's path.
struct Swap<'a> {
    path: &'a str,
    parts: &'a Parts,
}

impl Rewrite<QuantConv2d, QuantAct, QuantLinear> for Swap<'_> {
    type Conv = QuantConv2d;
    type Act = QuantAct;
    type Linear = QuantLinear;
    type Error = Infallible;

    fn conv(&mut self, site: &ConvSite, conv: QuantConv2d) -> Result<QuantConv2d, Infallible> {
        let other = self.parts.convs.get(self.path);
        Ok(other
            .filter(|_| site.name == self.path)
            .map_or(conv, Clone::clone))
    }

    fn act(&mut self, site: &ActSite, act: QuantAct) -> Result<QuantAct, Infallible> {
        let other = self.parts.acts.get(self.path);
        Ok(other
            .filter(|_| site.name == self.path)
            .map_or(act, Clone::clone))
    }

    fn linear(&mut self, linear: QuantLinear) -> Result<QuantLinear, Infallible> {
        let other = self.parts.linear.as_ref();
        Ok(other
            .filter(|_| self.path == "linear")
            .map_or(linear, Clone::clone))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::normalization;
    use crate::divergence::Reference;
    use crate::model::Shortcut;
    use crate::ptq::{self, Options};
    use crate::test_data::{calibration_images, info, network};

    fn uniform(bits: &str) -> Options {
        Options {
            edge_bits: None,
            ..Options::new(bits.parse().unwrap())
        }
    }

    #[test]
    fn wide_places_lose_nothing_and_narrow_ones_more() {
        let device = Device::flex();
        for shortcut in [Shortcut::A, Shortcut::B] {
            let folded = ptq::fold(network("resnet8".parse().unwrap(), shortcut, &device));
            let set = calibration_images(40);
            let n = normalization(&info("resnet8", shortcut));
            let calibration = ptq::observe(&folded, &set, &n, &device, &mut |_| true).unwrap();
            let quantized = |bits: &str| {
                let options = uniform(bits);
                let net = ptq::quantize(&folded, &calibration, &options).unwrap();
                (options.widths.weights, net)
            };
            let nets: Vec<_> = ["1", "4", "16"].map(quantized).to_vec();
            let analysis = Analysis::new(&folded, nets.clone());
            let mut last = 0;
            let found = analysis
                .run(&set, &n, &device, &mut |done| {
                    last = done;
                    true
                })
                .unwrap();
            assert_eq!(last, analysis.trials() * set.len());
            // The stem and two convolutions in each of three blocks, shortcuts, and the linear;
            // the image, the stem, two activations a block but the last one, and the pooled values.
            let shortcuts = if shortcut == Shortcut::B { 2 } else { 0 };
            assert_eq!(found.len(), 8 + shortcuts + 8);
            for s in &found {
                let kl = |i: usize| s.widths[i].divergence.kl;
                assert!(kl(2) < 1e-5, "{s:?}");
                assert!(kl(0) > kl(1) && kl(1) > kl(2), "{s:?}");
                assert!(s.place.values > 0, "{s:?}");
            }
            let of = |path: &str| found.iter().find(|s| s.place.path == path).unwrap();
            assert_eq!(of("stem").place.values, 432);
            assert_eq!(of("stem_act").place.values, 16 * 32 * 32);
            assert_eq!(of("pooled").place.values, 64);
            assert_eq!(
                analysis.run(&set, &n, &device, &mut |_| true).unwrap(),
                found
            );
            assert!(analysis.run(&set, &n, &device, &mut |_| false).is_err());

            // The shortcut through the float prefix is what the whole network gives.
            let mut parts = Parts::default();
            nets[0].1.clone().rewrite(&mut parts).unwrap();
            let reference = Reference::new(&folded, &set, &n, &device, &mut |_| true).unwrap();
            for path in ["input", "blocks.1.conv2", "blocks.2.act1", "linear"] {
                let mut swap = Swap {
                    path,
                    parts: &parts,
                };
                let net = analysis.float.clone().rewrite(&mut swap).unwrap();
                let whole = reference.divergence(&net, &mut |_| true).unwrap();
                let found = of(path).widths[0].divergence;
                assert!((whole.kl - found.kl).abs() < 1e-5, "{path}: {whole:?}");
            }
        }
    }
}
