//! Widths for every place within a budget: the assignment that loses least.
//!
//! ```text
//! minimise Σ loss(place, bits)    subject to Σ cost ≤ budget
//! ```
//!
//! with the [sensitivities](crate::sensitivity) as losses, and as cost one of
//!
//! - **bytes** of the packed file: of every weight at every width, measured by writing it
//!   ([`FileBytes`]). An activation's width costs no bytes;
//! - **time** of the integer engine, in nanoseconds an image, measured for every layer at every pair
//!   of widths: its weight's and that of the activation it reads. So an activation and the layers
//!   that read it are settled together;
//! - **activation bits**, `Σ values · bits`.
//!
//! Exact for this model ([`knapsack`](crate::knapsack)); the model is that losses and costs of
//! places add up. Whoever promises a budget measures the result ([`Tradeoff::points`] has what to try
//! next).

use std::collections::{BTreeMap, BTreeSet};

use lb_format::graph::Op;
use lb_format::{BitWidth, FormatError, QuantizedNetwork, file};

use crate::ResnetError;
use crate::knapsack::{Choice, Frontier};
use crate::ptq::{Assigned, Assignment};
use crate::sensitivity::{Place, PlaceKind, Sensitivity};

/// What every layer's weight takes in a packed file, at every width.
#[derive(Clone, Debug)]
pub struct FileBytes {
    /// Everything but what depends on the weights' widths.
    fixed: u64,
    layers: BTreeMap<(String, BitWidth), u64>,
}

impl FileBytes {
    /// Measures it by writing files in memory: those of `uniform`, networks in which every weight has
    /// that width, with one layer after the other from another of them.
    ///
    /// # Errors
    /// If a network is invalid, or they are not the same network.
    pub fn measure(uniform: &[(BitWidth, QuantizedNetwork)]) -> Result<Self, ResnetError> {
        let Some((_, base)) = uniform.first() else {
            return Err(ResnetError::Invalid("no width to choose from".into()));
        };
        let length = |n: &QuantizedNetwork| -> Result<u64, FormatError> {
            Ok(file::to_bytes(n)?.len() as u64)
        };
        let whole = length(base)?;
        let mut fixed = whole;
        let mut layers = BTreeMap::new();
        for (i, layer) in base.layers.iter().enumerate() {
            let mut lengths = Vec::with_capacity(uniform.len());
            for (bits, other) in uniform {
                let mut swapped = base.clone();
                swapped.layers[i] = other.layer(&layer.name)?.clone();
                lengths.push((*bits, length(&swapped)?));
            }
            let least = lengths.iter().map(|l| l.1).min().unwrap_or(0);
            // Relative to the base, whose own width is one of them.
            fixed -= whole - least;
            for (bits, length) in lengths {
                layers.insert((layer.name.clone(), bits), length - least);
            }
        }
        Ok(Self { fixed, layers })
    }

    /// Bytes of `layer`'s weight, scales and offsets at `bits`, above those at its smallest width;
    /// `None` if that was not measured.
    pub fn of(&self, layer: &str, bits: BitWidth) -> Option<u64> {
        self.layers.get(&(layer.to_string(), bits)).copied()
    }
}

/// What every layer takes in the integer engine.
#[derive(Clone, Debug, Default)]
pub struct LayerTimes {
    /// Nanoseconds an image of a layer, by its path, the width of the activation that it reads, and
    /// that of its weight.
    pub ns: BTreeMap<(String, BitWidth, BitWidth), u64>,
}

/// Every best assignment, from the cheapest to the one that loses least.
pub struct Tradeoff {
    groups: Vec<Vec<Settled>>,
    frontier: Frontier,
    fixed: u64,
    values: BTreeMap<(PlaceKind, String), u64>,
}

/// Widths for the places of a group.
#[derive(Clone)]
struct Settled {
    choice: Choice,
    widths: Vec<(PlaceKind, String, BitWidth)>,
}

impl Tradeoff {
    /// By bytes of the packed file. `places` has what was measured, at the widths that each may take.
    ///
    /// # Errors
    /// If a width of a weight was not measured in bytes.
    pub fn by_size(places: &[Sensitivity], bytes: &FileBytes) -> Result<Self, ResnetError> {
        let cost = |place: &Place, bits| match place.kind {
            PlaceKind::Activation => Ok(0),
            PlaceKind::Weight => (bytes.of(&place.path, bits))
                .ok_or_else(|| not_measured(&place.path, "bytes", bits)),
        };
        Self::one_by_one(places, cost, bytes.fixed)
    }

    /// By `Σ values · bits` of the activations among `places`.
    ///
    /// # Errors
    /// If an activation has no width to choose from.
    pub fn by_activation_bits(places: &[Sensitivity]) -> Result<Self, ResnetError> {
        let activations: Vec<Sensitivity> = (places.iter())
            .filter(|s| s.place.kind == PlaceKind::Activation)
            .cloned()
            .collect();
        let cost = |place: &Place, bits: BitWidth| Ok(place.values * u64::from(bits.get()));
        Self::one_by_one(&activations, cost, 0)
    }

    fn one_by_one(
        places: &[Sensitivity],
        cost: impl Fn(&Place, BitWidth) -> Result<u64, ResnetError>,
        fixed: u64,
    ) -> Result<Self, ResnetError> {
        let mut groups = Vec::with_capacity(places.len());
        for s in places {
            let mut group = Vec::with_capacity(s.widths.len());
            for w in &s.widths {
                group.push(Settled {
                    choice: Choice {
                        cost: cost(&s.place, w.bits)?,
                        loss: w.divergence.kl,
                    },
                    widths: vec![(s.place.kind, s.place.path.clone(), w.bits)],
                });
            }
            groups.push(group);
        }
        Self::new(places, groups, fixed)
    }

    /// By time of the integer engine; `network` says which layer reads which activation.
    ///
    /// # Errors
    /// If a pair of widths was not measured, or a layer reads what is no place.
    pub fn by_time(
        places: &[Sensitivity],
        times: &LayerTimes,
        network: &QuantizedNetwork,
    ) -> Result<Self, ResnetError> {
        let reads = activations_read(network);
        let of = |kind: PlaceKind| places.iter().filter(move |s| s.place.kind == kind);
        let known: BTreeSet<&str> = (of(PlaceKind::Activation))
            .map(|s| s.place.path.as_str())
            .collect();
        let mut readers: BTreeMap<&str, Vec<&Sensitivity>> = BTreeMap::new();
        for weight in of(PlaceKind::Weight) {
            let layer = weight.place.path.as_str();
            let from = reads.get(layer).map(String::as_str);
            let from = from.filter(|a| known.contains(a)).ok_or_else(|| {
                ResnetError::Invalid(format!("`{layer}` reads no activation that was analyzed"))
            })?;
            readers.entry(from).or_default().push(weight);
        }
        let mut groups = Vec::new();
        for a in of(PlaceKind::Activation) {
            let path = a.place.path.as_str();
            let mut group = Vec::new();
            for at in &a.widths {
                // The layers that read it, one after the other, at every width.
                let mut settled = vec![Settled {
                    choice: Choice {
                        cost: 0,
                        loss: at.divergence.kl,
                    },
                    widths: vec![(PlaceKind::Activation, path.into(), at.bits)],
                }];
                for weight in readers.get(path).into_iter().flatten() {
                    settled = with_weight(&settled, weight, at.bits, times)?;
                }
                group.extend(settled);
            }
            groups.push(group);
        }
        Self::new(places, groups, 0)
    }

    fn new(
        places: &[Sensitivity],
        groups: Vec<Vec<Settled>>,
        fixed: u64,
    ) -> Result<Self, ResnetError> {
        if let Some(s) = places.iter().find(|s| s.widths.is_empty()) {
            let problem = format!("`{}` has no width to choose from", s.place.path);
            return Err(ResnetError::Invalid(problem));
        }
        let choices: Vec<Vec<Choice>> = (groups.iter())
            .map(|g| g.iter().map(|s| s.choice).collect())
            .collect();
        let values = places.iter().map(|s| {
            let place = s.place.clone();
            ((place.kind, place.path), place.values)
        });
        Ok(Self {
            values: values.collect(),
            frontier: Frontier::new(&choices),
            groups,
            fixed,
        })
    }

    /// Predicted cost, with what does not depend on widths, and predicted loss in nats an image; by
    /// rising cost and falling loss.
    pub fn points(&self) -> impl ExactSizeIterator<Item = Choice> + '_ {
        self.frontier.points().iter().map(|p| Choice {
            cost: p.cost + self.fixed,
            loss: p.loss,
        })
    }

    /// The point with the least loss among those whose predicted cost is at most `cost`.
    pub fn within(&self, cost: u64) -> Option<usize> {
        self.frontier.within(cost.checked_sub(self.fixed)?)
    }

    /// The widths that a point stands for.
    ///
    /// # Panics
    /// If there is no such point.
    pub fn assignment(&self, point: usize) -> Assignment {
        let mut assignment = Assignment::new();
        for (group, i) in self.groups.iter().zip(self.frontier.choices(point)) {
            for (kind, path, bits) in &group[i].widths {
                let values = self.values[&(*kind, path.clone())];
                let assigned = Assigned {
                    bits: *bits,
                    values,
                };
                let places = match kind {
                    PlaceKind::Weight => &mut assignment.weights,
                    PlaceKind::Activation => &mut assignment.activations,
                };
                places.insert(path.clone(), assigned);
            }
        }
        assignment
    }

    /// Predicted cost and loss of some assignment; `None` if it gives a place no width, or one that
    /// was not measured.
    pub fn predict(&self, assignment: &Assignment) -> Option<Choice> {
        let has = |(kind, path, bits): &(PlaceKind, String, BitWidth)| {
            let found = match kind {
                PlaceKind::Weight => assignment.weight(path),
                PlaceKind::Activation => assignment.activation(path),
            };
            found == Some(*bits)
        };
        let mut sum = Choice {
            cost: self.fixed,
            loss: 0.0,
        };
        for group in &self.groups {
            let settled = group.iter().find(|s| s.widths.iter().all(has))?;
            sum.cost += settled.choice.cost;
            sum.loss += settled.choice.loss;
        }
        Some(sum)
    }
}

/// `settled`, with every width of `weight`, which reads `activation` bits.
fn with_weight(
    settled: &[Settled],
    weight: &Sensitivity,
    activation: BitWidth,
    times: &LayerTimes,
) -> Result<Vec<Settled>, ResnetError> {
    let layer = &weight.place.path;
    let mut all = Vec::with_capacity(settled.len() * weight.widths.len());
    for w in &weight.widths {
        let key = (layer.clone(), activation, w.bits);
        let ns = times.ns.get(&key);
        let &ns = ns.ok_or_else(|| not_measured(layer, "time", w.bits))?;
        for s in settled {
            let mut s = s.clone();
            s.choice.cost += ns;
            s.choice.loss += w.divergence.kl;
            s.widths.push((PlaceKind::Weight, layer.clone(), w.bits));
            all.push(s);
        }
    }
    Ok(all)
}

fn not_measured(layer: &str, what: &str, bits: BitWidth) -> ResnetError {
    ResnetError::Invalid(format!(
        "`{layer}` at {bits} bits: its {what} was not measured"
    ))
}

/// The activation whose codes each layer of `network` reads: the nearest one before it that rounds.
pub fn activations_read(network: &QuantizedNetwork) -> BTreeMap<String, String> {
    let nodes = &network.graph.nodes;
    let rounds = |name: &str| {
        let found = network.activation(name);
        found.is_ok_and(|a| a.qparams.is_some())
    };
    let mut reads = BTreeMap::new();
    for node in nodes {
        let (Op::Conv { layer } | Op::Linear { layer }) = &node.op else {
            continue;
        };
        let mut from = node.inputs.first();
        while let Some(&i) = from {
            if let Op::Activation { name } = &nodes[i].op
                && rounds(name)
            {
                reads.insert(layer.clone(), name.clone());
                break;
            }
            from = nodes[i].inputs.first();
        }
    }
    reads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::normalization;
    use crate::divergence::Divergence;
    use crate::model::Shortcut;
    use crate::ptq::{self, Options};
    use crate::sensitivity::WidthLoss;
    use crate::test_data::{calibration_images, info, network};
    use burn::tensor::Device;

    fn bits(b: u8) -> BitWidth {
        BitWidth::new(b).unwrap()
    }

    /// resnet8 at widths of everything, and made-up losses: fewer bits lose more, and no two places
    /// the same.
    struct Case {
        uniform: Vec<(BitWidth, QuantizedNetwork)>,
        places: Vec<Sensitivity>,
        pack: Box<dyn Fn(&Options) -> QuantizedNetwork>,
    }

    fn case(shortcut: Shortcut, widths: &[u8]) -> Case {
        let device = Device::flex();
        let folded = ptq::fold(network("resnet8".parse().unwrap(), shortcut, &device));
        let set = calibration_images(16);
        let info = info("resnet8", shortcut);
        let n = normalization(&info);
        let calibration = ptq::observe(&folded, &set, &n, &device, &mut |_| true).unwrap();
        let pack = move |options: &Options| {
            let net = ptq::quantize(&folded, &calibration, options).unwrap();
            ptq::pack(&net, info.clone(), Default::default()).unwrap()
        };
        let uniform: Vec<_> = (widths.iter())
            .map(|&b| {
                let options = Options::new(b.to_string().parse().unwrap());
                (
                    bits(b),
                    pack(&crate::candidates::uniform(&options, bits(b))),
                )
            })
            .collect();
        let first = &uniform[0].1;
        let weights = (first.layers.iter()).map(|l| {
            (
                PlaceKind::Weight,
                &l.name,
                l.weight.shape().iter().product(),
            )
        });
        let activations = (first.activations.iter())
            .filter(|a| a.qparams.is_some())
            .map(|a| (PlaceKind::Activation, &a.name, 1000));
        let places = (weights.chain(activations).enumerate()).map(|(i, (kind, path, values))| {
            let loss = |&b: &u8| WidthLoss {
                bits: bits(b),
                divergence: Divergence {
                    kl: (1.0 + (i * 7 % 5) as f64) * 4f64.powi(-i32::from(b)),
                    flips: 0,
                    images: 1,
                },
            };
            Sensitivity {
                place: Place {
                    kind,
                    path: path.clone(),
                    values: values as u64,
                },
                widths: widths.iter().map(loss).collect(),
            }
        });
        Case {
            places: places.collect(),
            uniform,
            pack: Box::new(pack),
        }
    }

    #[test]
    fn predicted_bytes_are_those_of_the_file() {
        let case = case(Shortcut::B, &[2, 3, 8]);
        let bytes = FileBytes::measure(&case.uniform).unwrap();
        let tradeoff = Tradeoff::by_size(&case.places, &bytes).unwrap();
        let points: Vec<_> = tradeoff.points().collect();
        assert!(points.len() > 20);
        for i in [0, points.len() / 3, points.len() / 2, points.len() - 1] {
            let assignment = tradeoff.assignment(i);
            assert_eq!(tradeoff.predict(&assignment), Some(points[i]));
            // Bytes cost nothing for activations.
            assert!(assignment.activations.values().all(|a| a.bits == bits(8)));
            let options = Options {
                residual_bits: None,
                assignment,
                ..Options::new("2".parse().unwrap())
            };
            let found = file::to_bytes(&(case.pack)(&options)).unwrap().len() as u64;
            // Numbers in the header have more or fewer digits.
            let apart = found.abs_diff(points[i].cost);
            assert!(apart <= 200, "{found}, predicted {}", points[i].cost);
            assert_eq!(tradeoff.within(points[i].cost), Some(i));
        }
        assert_eq!(tradeoff.within(points[0].cost - 1), None);
        assert_eq!(tradeoff.within(0), None);
        let least = tradeoff.assignment(0);
        assert!(least.weights.values().all(|a| a.bits == bits(2)));
    }

    #[test]
    fn activations_share_their_bits_by_what_they_lose() {
        let case = case(Shortcut::A, &[2, 4]);
        let tradeoff = Tradeoff::by_activation_bits(&case.places).unwrap();
        // Eight activations of a thousand values each, three bits on average.
        let point = tradeoff.within(8 * 1000 * 3).unwrap();
        let assignment = tradeoff.assignment(point);
        assert!(assignment.weights.is_empty());
        assert_eq!(assignment.mean_bits().1, 3.0);
    }

    #[test]
    fn times_are_of_pairs_and_shortcuts_share_their_activation() {
        for shortcut in [Shortcut::A, Shortcut::B] {
            let case = case(shortcut, &[2, 8]);
            let network = &case.uniform[0].1;
            let reads = activations_read(network);
            assert_eq!(reads.len(), network.layers.len());
            assert_eq!(reads["stem"], "input");
            assert_eq!(reads["blocks.0.conv1"], "stem_act");
            assert_eq!(reads["blocks.1.conv1"], "blocks.0.act2");
            assert_eq!(reads["blocks.1.conv2"], "blocks.1.act1");
            assert_eq!(reads["linear"], "pooled");
            let mut times = LayerTimes::default();
            for layer in reads.keys() {
                for (a, w) in [(2, 2), (2, 8), (8, 2), (8, 8)] {
                    // Only both at 2 bits are faster.
                    let ns = if (a, w) == (2, 2) { 60 } else { 100 };
                    times.ns.insert((layer.clone(), bits(a), bits(w)), ns);
                }
            }
            let tradeoff = Tradeoff::by_time(&case.places, &times, network).unwrap();
            let all = 100 * reads.len() as u64;
            let point = tradeoff.within(all - 1).unwrap();
            let assignment = tradeoff.assignment(point);
            // One layer and its input are narrow, all others wide.
            let narrow = |places: &BTreeMap<String, Assigned>| {
                places.values().filter(|a| a.bits == bits(2)).count()
            };
            assert_eq!(narrow(&assignment.weights), 1);
            assert_eq!(narrow(&assignment.activations), 1);
            assert_eq!(
                tradeoff.points().next().unwrap().cost,
                60 * reads.len() as u64
            );
            assert!(Tradeoff::by_time(&case.places, &LayerTimes::default(), network).is_err());
        }
    }
}
