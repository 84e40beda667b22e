//! Engine against simulation, image by image, activation by activation, code by code.
//!
//! Both compute the same real numbers; the simulation in `f32`, with a rounding error in every
//! sum, the engine in integers. Where such a number lies next to a rounding tie, the two may fall
//! on different sides. So the first activation of an image at which codes differ must show ties
//! and nothing else; behind it the two see different inputs, and differences are only counted.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use lb_data::ImageSet;
use lb_engine::{Plan, Session, SessionOptions};
use lb_format::{Activation, Affine, CodeRange, QuantizedNetwork};
use lb_resnet::batch::{images, spans};
use lb_resnet::checkpoint::normalization;
use lb_resnet::eval::top1;
use lb_resnet::model::Seen;
use lb_resnet::ptq;

/// Images that are compared at once: every activation of each is kept.
const BATCH: usize = 16;

/// What comparing one activation showed.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub activation: String,
    /// Codes compared.
    pub codes: u64,
    /// Codes that differ.
    pub differing: u64,
    /// Largest difference.
    pub largest: u32,
    /// Images whose first difference is here.
    pub first: u64,
    /// Of these, the largest distance from a tie, in codes.
    pub from_tie: f32,
    relu: bool,
    affine: Affine,
    range: CodeRange,
}

/// What comparing a network showed.
#[derive(Clone, Debug)]
pub struct Agreement {
    /// Every activation that makes codes, in order of execution.
    pub places: Vec<Place>,
    /// Images.
    pub images: u64,
    /// Images of which both say the same class.
    pub same_class: u64,
    /// Images that the simulation and the engine get right.
    pub right: [u64; 2],
    /// Kernels of the engine.
    pub kernels: Vec<&'static str>,
}

/// Runs `packed` both ways on all of `set`.
pub fn compare(packed: &QuantizedNetwork, set: &ImageSet) -> Agreement {
    let device = Device::flex();
    let net = ptq::unpack(packed, &device).unwrap();
    let plan = Arc::new(Plan::new(packed).unwrap());
    let mut session = Session::new(plan.clone(), SessionOptions::default()).unwrap();
    let steps = steps(&plan, packed);
    let mut found = Agreement {
        places: packed.activations.iter().filter_map(Place::new).collect(),
        images: set.len() as u64,
        same_class: 0,
        right: [0; 2],
        kernels: plan.kernels(),
    };
    for (from, n) in spans(set.len(), BATCH) {
        // Of every place, the activation's input and output for the whole batch.
        let mut simulated = vec![[Vec::new(), Vec::new()]; found.places.len()];
        let x = images(set, from, n, &normalization(&packed.info), &device);
        let logits = net.forward_traced(x, &mut |seen, name, y| {
            let place = found.places.iter().position(|p| p.activation == name);
            let Some(place) = place else { return };
            let side = match seen {
                Seen::Layer => return,
                Seen::ActInput => 0,
                Seen::ActOutput => 1,
            };
            simulated[place][side] = y.clone().try_into_vec_as::<f32>().unwrap();
        });
        let classes = packed.info.classes.len();
        let mut seen_logits = Vec::with_capacity(n * classes);
        // Whether an earlier place of the image differed.
        let mut differed = vec![false; n];
        let pixels = &set.pixels()[from * set.image_bytes()..][..n * set.image_bytes()];
        session
            .trace(pixels, n, &mut |step, image, codes| {
                if step + 1 == steps.len() {
                    seen_logits.extend_from_slice(codes);
                }
                if let Some(place) = steps[step] {
                    let part = |side: usize| &simulated[place][side][image * codes.len()..];
                    let same = found.places[place].add(part(0), part(1), codes, differed[image]);
                    differed[image] |= !same;
                }
            })
            .unwrap();
        if from == 0 {
            let output = session.run(pixels, n).unwrap();
            assert_eq!(output.logits(), seen_logits, "a trace shows what runs");
        }
        let engine = Tensor::<1>::from_data(seen_logits.as_slice(), &device);
        let both = [logits, engine.reshape([n, classes])].map(|l| top1(l).unwrap());
        for (i, (&s, &e)) in both[0].iter().zip(&both[1]).enumerate() {
            let truth = usize::from(set.label(from + i));
            found.same_class += u64::from(s == e);
            found.right[0] += u64::from(s == truth);
            found.right[1] += u64::from(e == truth);
        }
    }
    found
}

/// Of every operation of the plan, which of the activations that make codes it ends in.
fn steps(plan: &Plan, packed: &QuantizedNetwork) -> Vec<Option<usize>> {
    let makes_codes = |a: &&Activation| a.qparams.is_some();
    let names: Vec<&str> = (packed.activations.iter().filter(makes_codes))
        .map(|a| a.name.as_str())
        .collect();
    let mut next = 0;
    let mut requantized = 0;
    let layers = plan.layers();
    let steps = layers.iter().map(|l| {
        let name = match l.name.as_str() {
            "image" => "input".to_string(),
            "average pool" => "pooled".to_string(),
            "stem" => "stem_act".to_string(),
            // Block inputs of another width, in order.
            "requantize" => {
                let inputs = names.iter().filter(|n| n.ends_with(".input"));
                requantized += 1;
                inputs.skip(requantized - 1).next().unwrap().to_string()
            }
            name => name.replace(".conv", ".act"),
        };
        let place = names.iter().position(|n| *n == name)?;
        assert_eq!(place, next, "{name}: activations come in order");
        next += 1;
        Some(place)
    });
    let steps: Vec<_> = steps.collect();
    assert_eq!(next, names.len(), "every activation is an operation's");
    steps
}

impl Place {
    fn new(a: &Activation) -> Option<Self> {
        let q = a.qparams.as_ref()?;
        Some(Self {
            activation: a.name.clone(),
            codes: 0,
            differing: 0,
            largest: 0,
            first: 0,
            from_tie: 0.0,
            relu: a.relu,
            affine: q.channel(0),
            range: q.range(),
        })
    }

    /// Compares one image; `true` if all codes are the same.
    fn add(&mut self, given: &[f32], made: &[f32], engine: &[f32], differed: bool) -> bool {
        let before = self.differing;
        for ((&given, &made), &code) in given.iter().zip(made).zip(engine) {
            let simulated = self.affine.quantize(made, self.range) - self.range.lo;
            let apart = simulated.abs_diff(code as i32);
            if apart == 0 {
                continue;
            }
            self.differing += 1;
            self.largest = self.largest.max(apart);
            if !differed {
                let given = if self.relu { given.max(0.0) } else { given };
                let steps = given / self.affine.scale;
                self.from_tie = self.from_tie.max((steps - steps.floor() - 0.5).abs());
                assert_eq!(apart, 1, "{}: {given}", self.activation);
            }
        }
        self.codes += engine.len() as u64;
        let same = self.differing == before;
        self.first += u64::from(!same && !differed);
        same
    }

    /// The largest distance from a tie, in codes, that `f32` sums explain: rounding errors grow
    /// with the values, which reach `steps` codes.
    pub fn tolerance(&self) -> f32 {
        1e-3_f32.max(self.range.steps() as f32 * 1e-6)
    }
}

impl Agreement {
    /// Codes that differ over codes compared.
    pub fn fraction(&self) -> f64 {
        let sum = |f: fn(&Place) -> u64| self.places.iter().map(f).sum::<u64>();
        sum(|p| p.differing) as f64 / sum(|p| p.codes) as f64
    }

    /// Fails unless every image's first differences are ties.
    pub fn assert_ties(&self, what: &str) {
        for p in &self.places {
            assert!(p.from_tie <= p.tolerance(), "{what}: {p:?}");
        }
    }

    /// Prints a line, and one for every activation that differs.
    pub fn print(&self, what: &str) {
        println!(
            "{what}: same class {}/{}, right {} simulated, {} integer, {:.1e} of all codes differ ({})",
            self.same_class,
            self.images,
            self.right[0],
            self.right[1],
            self.fraction(),
            self.kernels.join(", "),
        );
        for p in self.places.iter().filter(|p| p.differing > 0) {
            println!(
                "  {:16} {:9} of {:10} codes differ, by at most {:3}; first in {:5} images, {:.1e} from a tie",
                p.activation, p.differing, p.codes, p.largest, p.first, p.from_tie
            );
        }
    }
}
