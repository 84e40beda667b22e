//! Engine against simulation, image by image, activation by activation, code by code.
//!
//! Both compute the same real numbers: the simulation in `f32`, with a rounding error in every
//! sum, the engine in integers. Where such a number lies next to a rounding tie, the two may fall
//! on different sides; from there on they see different inputs, and the difference spreads. So
//! there are two comparisons:
//!
//! - place by place: the simulation is given the engine's codes at every activation. What differs
//!   then is this place's doing, and must be ties and nothing else;
//! - from pixels to classes: each goes its own way, and differences are counted.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use lb_data::ImageSet;
use lb_engine::{Plan, Session, SessionOptions};
use lb_format::{Activation, Affine, CodeRange, Levels, QuantizedNetwork};
use lb_resnet::batch::{images, spans};
use lb_resnet::checkpoint::normalization;
use lb_resnet::eval::top1;
use lb_resnet::model::{QuantNet, Seen};
use lb_resnet::ptq;

/// Images that are compared at once: every activation of each is kept.
const BATCH: usize = 16;

/// What comparing one activation showed.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its name.
    pub activation: String,
    /// Place by place.
    pub alone: Count,
    /// Of the codes that differ there, the largest distance from a tie, in codes.
    pub from_tie: f32,
    /// From pixels to classes.
    pub free: Count,
    relu: bool,
    affine: Affine,
    range: CodeRange,
    /// The codes that there are, unless all of them.
    levels: Option<Levels>,
}

/// Codes that were compared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// All.
    pub codes: u64,
    /// Those that differ.
    pub differing: u64,
    /// Largest difference.
    pub largest: u32,
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

/// Runs `packed` both ways on all of `set`, and place by place on the first `alone` images.
pub fn compare(packed: &QuantizedNetwork, set: &ImageSet, alone: usize) -> Agreement {
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
    let classes = packed.info.classes.len();
    for (from, n) in spans(set.len(), BATCH) {
        let pixels = &set.pixels()[from * set.image_bytes()..][..n * set.image_bytes()];
        // Of every place, the engine's codes of the whole batch, from the smallest one on.
        let mut codes = vec![Vec::new(); found.places.len()];
        let mut logits = Vec::with_capacity(n * classes);
        session
            .trace(pixels, n, &mut |step, _, values| {
                if let Some(place) = steps[step] {
                    codes[place].extend_from_slice(values);
                }
                if step + 1 == steps.len() {
                    logits.extend_from_slice(values);
                }
            })
            .unwrap();
        if from == 0 {
            let output = session.run(pixels, n).unwrap();
            assert_eq!(output.logits(), logits, "a trace shows what runs");
        }
        let x = images(set, from, n, &normalization(&packed.info), &device);
        if from < alone {
            found.place_by_place(&net, x.clone(), &codes);
        }
        let engine = Tensor::<1>::from_data(logits.as_slice(), &device).reshape([n, classes]);
        let simulated = found.free(&net, x, &codes);
        let [simulated, engine] = [simulated, engine].map(|l| top1(l).unwrap());
        for (i, (&s, &e)) in simulated.iter().zip(&engine).enumerate() {
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
    let acts: Vec<&Activation> = packed.activations.iter().filter(makes_codes).collect();
    let has_levels = |place: usize| acts[place].qparams.as_ref().unwrap().levels.is_some();
    let mut steps: Vec<Option<usize>> = Vec::new();
    let mut next = 0;
    for l in plan.layers() {
        let name = match l.name.as_str() {
            "image" => "input".to_string(),
            "average pool" => "pooled".to_string(),
            "stem" => "stem_act".to_string(),
            "requantize" => match steps.last().copied().flatten() {
                // Whole steps, of which this makes levels.
                Some(place) if has_levels(place) && !acts[place].name.ends_with(".input") => {
                    *steps.last_mut().unwrap() = None;
                    steps.push(Some(place));
                    continue;
                }
                // Block inputs of another width, in order.
                _ => acts[next].name.clone(),
            },
            name => name.replace(".conv", ".act"),
        };
        let place = acts.iter().position(|a| a.name == name);
        if let Some(place) = place {
            assert_eq!(place, next, "{name}: activations come in order");
            next += 1;
        }
        steps.push(place);
    }
    assert_eq!(next, acts.len(), "every activation is an operation's");
    steps
}

impl Agreement {
    /// Runs the simulation on the engine's codes.
    fn place_by_place(&mut self, net: &QuantNet, x: Tensor<4>, codes: &[Vec<f32>]) {
        let mut given = Vec::new();
        net.forward_traced(x, &mut |seen, name, y| {
            let Some(place) = self.position(seen, name) else {
                return y;
            };
            let (p, codes) = (&mut self.places[place], &codes[place]);
            if seen == Seen::ActInput {
                given = host(&y);
                return y;
            }
            p.add_alone(&given, &host(&y), codes);
            let real = codes
                .iter()
                .map(|&c| p.affine.dequantize(c as i32 + p.range.lo));
            let data = TensorData::new(real.collect(), y.dims());
            Tensor::from_data(data, &y.device())
        });
    }

    /// Runs the simulation its own way; its logits.
    fn free(&mut self, net: &QuantNet, x: Tensor<4>, codes: &[Vec<f32>]) -> Tensor<2> {
        net.forward_traced(x, &mut |seen, name, y| {
            if let (Seen::ActOutput, Some(place)) = (seen, self.position(seen, name)) {
                self.places[place].add_free(&host(&y), &codes[place]);
            }
            y
        })
    }

    /// Index of the place, if `name` is one.
    fn position(&self, seen: Seen, name: &str) -> Option<usize> {
        let is_act = seen != Seen::Layer;
        let mut names = self.places.iter().map(|p| &p.activation);
        names.position(|n| n == name).filter(|_| is_act)
    }

    /// Codes that differ over codes compared, from pixels to classes.
    pub fn fraction(&self) -> f64 {
        let sum = |f: fn(&Place) -> u64| self.places.iter().map(f).sum::<u64>();
        sum(|p| p.free.differing) as f64 / sum(|p| p.free.codes) as f64
    }

    /// Fails if a place differs, but at a tie.
    pub fn assert_ties(&self, what: &str) {
        for p in &self.places {
            assert!(p.alone.codes > 0, "{what}: {p:?}");
            assert!(p.alone.largest <= 1, "{what}: {p:?}");
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
        for p in self.places.iter().filter(|p| p.free.differing > 0) {
            println!(
                "  {:16} {:8} of {:9} codes differ, by at most {:3}; alone {:5} of {:9}, {:.1e} from a tie",
                p.activation,
                p.free.differing,
                p.free.codes,
                p.free.largest,
                p.alone.differing,
                p.alone.codes,
                p.from_tie
            );
        }
    }
}

impl Place {
    fn new(a: &Activation) -> Option<Self> {
        let q = a.qparams.as_ref()?;
        let held = q.held();
        Some(Self {
            activation: a.name.clone(),
            alone: Count::default(),
            from_tie: 0.0,
            free: Count::default(),
            relu: a.relu,
            affine: held.channel(0),
            range: held.range(),
            levels: q.levels.clone(),
        })
    }

    /// Codes between the simulation's, which stands for `real`, and the engine's.
    fn apart(&self, real: f32, code: f32) -> u32 {
        let simulated = self.affine.quantize(real, self.range) - self.range.lo;
        match &self.levels {
            None => simulated.abs_diff(code as i32),
            Some(levels) => {
                let at = |level: i32| levels.as_slice().binary_search(&level);
                let at = |level: i32| at(level).expect("both are on the levels");
                at(simulated).abs_diff(at(code as i32)) as u32
            }
        }
    }

    fn add_alone(&mut self, given: &[f32], made: &[f32], codes: &[f32]) {
        for ((&given, &made), &code) in given.iter().zip(made).zip(codes) {
            let apart = self.apart(made, code);
            self.alone.add(apart);
            if apart > 0 {
                let given = if self.relu { given.max(0.0) } else { given };
                let steps = given / self.affine.scale;
                self.from_tie = self.from_tie.max((steps - steps.floor() - 0.5).abs());
            }
        }
    }

    fn add_free(&mut self, made: &[f32], codes: &[f32]) {
        for (&made, &code) in made.iter().zip(codes) {
            self.free.add(self.apart(made, code));
        }
    }

    /// The largest distance from a tie, in codes, that `f32` sums explain: rounding errors grow
    /// with the values, which reach `steps` codes.
    pub fn tolerance(&self) -> f32 {
        1e-3_f32.max(self.range.steps() as f32 * 1e-6)
    }
}

impl Count {
    fn add(&mut self, apart: u32) {
        self.codes += 1;
        self.differing += u64::from(apart > 0);
        self.largest = self.largest.max(apart);
    }
}

fn host(y: &Tensor<4>) -> Vec<f32> {
    y.clone().try_into_vec_as().unwrap()
}
