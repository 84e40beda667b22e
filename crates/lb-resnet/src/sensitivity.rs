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
//! logits, and independent changes add. Few bits everywhere are worse than the sum says. So trials
//! can also start from a network that is quantized already ([`Analysis::around`]): what changing one
//! of its places gains or loses, with all others as they are.

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

/// What trials showed.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Of the network that trials start from: nothing for the float network.
    pub base: Divergence,
    /// Of every place.
    pub places: Vec<Sensitivity>,
}

/// Trials to run: every place of a network at every width.
pub struct Analysis {
    /// The folded network, in the quantized network's type: nothing is rounded.
    float: QuantNet,
    /// What trials start from, if that is not the float network.
    base: Option<QuantNet>,
    widths: Vec<(BitWidth, Parts)>,
    places: Vec<Spot>,
    /// Places and widths by number, place by place.
    trials: Vec<(usize, usize)>,
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
        let places: Vec<Spot> = places.collect();
        let all = (0..places.len()).flat_map(|p| (0..widths.len()).map(move |w| (p, w)));
        Self {
            trials: all.collect(),
            float,
            base: None,
            places,
            widths,
        }
    }

    /// Starts from `base` instead of the float network, which stays what logits are compared with.
    #[must_use]
    pub fn around(mut self, base: QuantNet) -> Self {
        self.base = Some(base);
        self
    }

    /// Leaves out the trials that `keep` refuses.
    #[must_use]
    pub fn only(mut self, keep: impl Fn(&Place, BitWidth) -> bool) -> Self {
        let (places, widths) = (&self.places, &self.widths);
        (self.trials).retain(|&(p, w)| keep(&places[p].place, widths[w].0));
        self
    }

    /// Number of trials.
    pub fn trials(&self) -> usize {
        self.trials.len()
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
    ) -> Result<Measured, ResnetError> {
        if set.is_empty() {
            return Err(ResnetError::Invalid(
                "an analysis needs at least one image".into(),
            ));
        }
        let start = self.start();
        let mut values: BTreeMap<String, u64> = BTreeMap::new();
        let (mut float, mut base) = (Vec::new(), Vec::new());
        let mut logits = vec![Vec::new(); self.trials()];
        let mut done = 0;
        for (from, n) in spans(set.len(), BATCH) {
            let mut x = images(set, from, n, normalization, device);
            float.extend(host(self.float.forward(x.clone()))?);
            let mut inputs = Vec::with_capacity(start.segments());
            for i in 0..start.segments() {
                inputs.push(x.clone());
                x = start.segment(i, x, &mut |seen, name, y| {
                    if seen == Seen::ActOutput {
                        values.insert(name.into(), (y.shape().num_elements() / n) as u64);
                    }
                    y
                });
            }
            base.extend(host(x.flatten(1, 3))?);
            for (&(p, w), logits) in self.trials.iter().zip(&mut logits) {
                let spot = &self.places[p];
                logits.extend(host(self.trial(
                    spot,
                    &self.widths[w].1,
                    &inputs[spot.segment],
                ))?);
                done += n;
                if !progress(done) {
                    return Err(ResnetError::Invalid("interrupted".into()));
                }
            }
        }
        let classes = float.len() / set.len();
        let mut places: Vec<Sensitivity> = (self.places.iter())
            .map(|spot| {
                let mut place = spot.place.clone();
                if place.kind == PlaceKind::Activation {
                    place.values = values.get(&place.path).copied().unwrap_or(0);
                }
                let widths = Vec::new();
                Sensitivity { place, widths }
            })
            .collect();
        for (&(p, w), logits) in self.trials.iter().zip(&logits) {
            places[p].widths.push(WidthLoss {
                bits: self.widths[w].0,
                divergence: Divergence::of(&float, logits, classes),
            });
        }
        Ok(Measured {
            base: Divergence::of(&float, &base, classes),
            places,
        })
    }

    fn start(&self) -> &QuantNet {
        self.base.as_ref().unwrap_or(&self.float)
    }

    /// Logits with one place from `parts`, from the part with that place on.
    fn trial(&self, spot: &Spot, parts: &Parts, x: &Tensor<4>) -> Tensor<2> {
        let mut swap = Swap {
            path: &spot.place.path,
            parts,
        };
        let start = self.start();
        let net = start.clone();
        let net = net.rewrite(&mut swap).unwrap_or_else(|e| match e {});
        let look = &mut |_, _: &str, x| x;
        let first = net.segment(spot.segment, x.clone(), look);
        let rest = spot.segment + 1..start.segments();
        rest.fold(first, |x, i| start.segment(i, x, look))
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
    use crate::candidates::uniform;
    use crate::checkpoint::normalization;
    use crate::divergence::Reference;
    use crate::model::Shortcut;
    use crate::ptq::{self, Options};
    use crate::test_data::{calibration_images, info, network};

    #[test]
    fn wide_places_lose_nothing_and_narrow_ones_more() {
        let device = Device::flex();
        for shortcut in [Shortcut::A, Shortcut::B] {
            let folded = ptq::fold(network("resnet8".parse().unwrap(), shortcut, &device));
            let set = calibration_images(40);
            let n = normalization(&info("resnet8", shortcut));
            let calibration = ptq::observe(&folded, &set, &n, &device, &mut |_| true).unwrap();
            let quantized = |bits: &str| {
                let options = Options::new(bits.parse().unwrap());
                let options = uniform(&options, options.widths.weights);
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
            assert_eq!((found.base.kl, found.base.flips), (0.0, 0));
            let found = found.places;
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
            let again = analysis.run(&set, &n, &device, &mut |_| true).unwrap();
            assert_eq!(again.places, found);
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

            // Around a network of 4 bits, putting a place at 4 bits changes nothing.
            let (four, base) = nets[1].clone();
            let whole = reference.divergence(&base, &mut |_| true).unwrap();
            let around = Analysis::new(&folded, nets.clone())
                .around(base)
                .only(|place, bits| bits == four || place.path == "blocks.1.conv1");
            assert_eq!(around.trials(), found.len() + 2);
            let around = around.run(&set, &n, &device, &mut |_| true).unwrap();
            assert!((around.base.kl - whole.kl).abs() < 1e-5, "{whole:?}");
            for s in &around.places {
                assert_eq!(s.kl(four), Some(around.base.kl), "{s:?}");
            }
            let body = |s: &&Sensitivity| s.place.path == "blocks.1.conv1";
            let body = around.places.iter().find(body).unwrap();
            assert_eq!(body.widths.len(), 3);
            assert!(body.widths[0].divergence.kl > body.widths[2].divergence.kl);
        }
    }
}
