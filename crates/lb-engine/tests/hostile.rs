//! Hostile packed files: every field and every number is changed, with a checksum that fits. Each
//! file is refused with an error, or its plan runs: no panic, no hang, finite logits, and memory in
//! proportion.

mod common;
#[path = "common/counting.rs"]
mod counting;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::build::{ActSpec, Builder, ConvSpec, Draw, WeightSpec, small};
use common::compare::compare;
use counting::MEMORY;
use lb_engine::plan::MAX_MEMORY;
use lb_engine::{Plan, Session, SessionOptions};
use lb_format::{FormatError, QuantizedNetwork, file};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Files whose plans take more than this are planned, but not run here.
const SESSION: u64 = 16 << 20;
const MACS: usize = 50_000_000;

/// What became of a file.
#[derive(Debug, PartialEq)]
enum Outcome {
    Refused(String),
    /// Sound, but too much work for a test.
    Large,
    Ran,
}

/// Reads, plans and runs a file.
///
/// # Panics
/// With `what`, if it panics, takes too long or too much memory, or gives a logit that is no number.
fn feed(bytes: &[u8], what: &dyn Fn() -> String) -> Outcome {
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| plan_and_run(bytes)));
    let outcome = outcome.unwrap_or_else(|_| panic!("panicked (see above): {}", what()));
    let outcome = outcome.unwrap_or_else(|problem| panic!("{problem}: {}", what()));
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}: {}", what());
    outcome
}

fn plan_and_run(bytes: &[u8]) -> Result<Outcome, String> {
    let (planned, usage) = counting::measure(|| {
        let network = file::from_bytes(bytes).map_err(|e| e.to_string())?;
        Plan::new(&network).map_err(|e| e.to_string())
    });
    if usage.peak > MEMORY {
        return Err(format!(
            "{} bytes to plan {} bytes",
            usage.peak,
            bytes.len()
        ));
    }
    let plan = match planned {
        Ok(plan) => Arc::new(plan),
        Err(e) => return Ok(Outcome::Refused(e)),
    };
    assert!(plan.memory() <= MAX_MEMORY);
    let macs: usize = plan.layers().iter().map(|l| l.macs).sum();
    if plan.memory() > SESSION || macs > MACS {
        return Ok(Outcome::Large);
    }
    let images = [0, 1, 128, 255]
        .map(|p| vec![p; plan.image_bytes()])
        .concat();
    let (promised, classes) = (plan.memory() as usize, plan.classes().len());
    let (wrong, usage) = counting::measure(|| {
        let mut session = Session::new(plan, SessionOptions::default()).unwrap();
        let output = session.run(&images, 4).unwrap();
        output.logits().iter().copied().find(|l| !l.is_finite())
    });
    // Alignment, the list of buffers, and the logits come on top.
    let most = promised + promised / 8 + 16 * classes + (64 << 10);
    if usage.peak > most {
        return Err(format!(
            "a session of {} bytes, said {promised}",
            usage.peak
        ));
    }
    match wrong {
        Some(logit) => Err(format!("a logit is {logit}")),
        None => Ok(Outcome::Ran),
    }
}

/// A file in parts: the container's header, the text of its `lb` entry, the tensors' bytes.
#[derive(Clone)]
struct Parts {
    outer: Value,
    inner: String,
    data: Vec<u8>,
}

impl Parts {
    fn new(network: &QuantizedNetwork) -> Self {
        let bytes = file::to_bytes(network).unwrap();
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut outer: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let inner = outer["__metadata__"]["lb"].take();
        Self {
            outer,
            inner: inner.as_str().unwrap().to_string(),
            data: bytes[8 + header..].to_vec(),
        }
    }

    fn inner(&self) -> Value {
        serde_json::from_str(&self.inner).unwrap()
    }

    /// The file, its checksum as it stands.
    fn join(&self) -> Vec<u8> {
        let mut outer = self.outer.clone();
        if let Some(metadata) = outer.get_mut("__metadata__").filter(|m| m.is_object()) {
            metadata["lb"] = self.inner.clone().into();
        }
        let header = outer.to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(&self.data);
        bytes
    }

    /// The file with a checksum that fits, so that whatever else is wrong with it is reached.
    fn seal(&mut self) -> Vec<u8> {
        let bytes = self.join();
        let Err(FormatError::Checksum { expected, found }) = file::from_bytes(&bytes) else {
            return bytes;
        };
        let (old, new) = (
            format!("\"crc32\":{expected}"),
            format!("\"crc32\":{found}"),
        );
        assert_eq!(self.inner.matches(&old).count(), 1, "{}", self.inner);
        self.inner = self.inner.replace(&old, &new);
        self.join()
    }
}

#[test]
fn the_file_in_parts_is_the_file() {
    let mut parts = Parts::new(&small(1));
    let network = file::from_bytes(&parts.seal()).unwrap();
    assert_eq!(network, small(1));
    // Another checksum is put right.
    parts.data[0] ^= 1;
    assert!(matches!(
        file::from_bytes(&parts.join()),
        Err(FormatError::Checksum { .. })
    ));
    assert!(file::from_bytes(&parts.seal()).is_ok());
}

/// Paths of every value in `json`, as JSON pointers, the root first.
fn paths(json: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_string());
    match json {
        Value::Object(map) => {
            for (key, value) in map {
                paths(value, &format!("{at}/{key}"), found);
            }
        }
        Value::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                paths(value, &format!("{at}/{i}"), found);
            }
        }
        _ => {}
    }
}

/// Stands for text that [`Value`] cannot hold.
const RAW: &str = "\"@raw@\"";

/// `json` as text, changed at `path` in every way there is.
fn changes(json: &Value, path: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut put = |new: Value, raw: &str| {
        let mut changed = json.clone();
        *changed.pointer_mut(path).unwrap() = new;
        found.push(changed.to_string().replace(RAW, raw));
    };
    for new in [
        json!(0),
        json!(-1),
        json!(1),
        json!(2),
        json!(3),
        json!(16),
        json!(17),
        json!(256),
        json!(65_536),
        json!(1u64 << 24),
        json!(i32::MAX),
        json!(i64::from(i32::MAX) + 1),
        json!(1u64 << 32),
        json!(u64::MAX / 2),
        json!(u64::MAX),
        json!(0.5),
        json!(-1e30),
        json!(1e-45),
        json!(1e-38),
        json!(1e-20),
        json!(1e20),
        json!(3e38),
        json!(1e300),
        json!(null),
        json!(true),
        json!(false),
        json!("1"),
        json!("NaN"),
        json!(""),
        json!("layer0"),
        json!("x".repeat(100_000)),
        json!([]),
        json!([0, 0]),
        json!({}),
    ] {
        put(new, "");
    }
    for raw in [
        "NaN",
        "Infinity",
        "1e999",
        "-0",
        "9".repeat(400).as_str(),
        "[[[[[[[[1]]]]]]]]",
    ] {
        put(json!("@raw@"), raw);
    }
    let here = json.pointer(path).unwrap().clone();
    match &here {
        // A list loses its ends, or has an element twice.
        Value::Array(list) if !list.is_empty() => {
            put(list[1..].into(), "");
            put(list[..list.len() - 1].into(), "");
            put([&list[..], &list[..1]].concat().into(), "");
            put([&list[list.len() - 1..], &list[..]].concat().into(), "");
            put(list.iter().rev().cloned().collect(), "");
        }
        Value::Number(n) => {
            let n = n.as_f64().unwrap();
            for new in [n + 1.0, n - 1.0, 2.0 * n, -n, n * 1e10, n * 1e-10] {
                match new.fract() == 0.0 && new.abs() < 1e15 {
                    true => put(json!(new as i64), ""),
                    false => put(json!(new), ""),
                }
            }
        }
        _ => {}
    }
    let (parent, key) = match path.rsplit_once('/') {
        Some(split) => split,
        None => return found,
    };
    if json.pointer(parent).unwrap().is_object() {
        // A field is missing, unknown, or there twice, the same or another.
        let mut changed = json.clone();
        let map = changed
            .pointer_mut(parent)
            .unwrap()
            .as_object_mut()
            .unwrap();
        let value = map.remove(key).unwrap();
        found.push(changed.to_string());
        let mut renamed = changed.clone();
        renamed.pointer_mut(parent).unwrap()[format!("{key}_")] = value.clone();
        found.push(renamed.to_string());
        for second in [&value, &json!(0), &json!(null)] {
            let mut changed = json.clone();
            *changed.pointer_mut(path).unwrap() = json!("@raw@");
            let twice = format!("{value},{}:{second}", json!(key));
            found.push(changed.to_string().replace(RAW, &twice));
        }
    }
    found
}

/// Counts outcomes.
#[derive(Debug, Default)]
struct Tally {
    refused: usize,
    large: usize,
    ran: usize,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Refused(e) => {
                assert!(!e.is_empty() && !e.starts_with("damaged"), "{e}");
                self.refused += 1;
            }
            Outcome::Large => self.large += 1,
            Outcome::Ran => self.ran += 1,
        }
    }
}

fn say(line: &str) {
    use std::io::Write;
    // Past the test harness, which keeps what passing tests print.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[test]
fn every_field_of_the_description() {
    let parts = Parts::new(&small(1));
    let json = parts.inner();
    let mut all = Vec::new();
    paths(&json, "", &mut all);
    let mut tally = Tally::default();
    for path in &all {
        for inner in changes(&json, path) {
            let mut changed = Parts {
                inner,
                ..parts.clone()
            };
            let bytes = changed.seal();
            tally.add(&feed(&bytes, &|| format!("{path}: {}", changed.inner)));
        }
    }
    say(&format!(
        "{} fields of the description: {tally:?}",
        all.len()
    ));
    assert!(tally.refused > 3000 && tally.ran > 300, "{tally:?}");
}

#[test]
fn every_field_of_the_container() {
    let parts = Parts::new(&small(1));
    let mut all = Vec::new();
    paths(&parts.outer, "", &mut all);
    let mut tally = Tally::default();
    for path in &all {
        for outer in changes(&parts.outer, path) {
            // Only what is JSON can be sealed; the rest is fed as it is.
            let bytes = match serde_json::from_str(&outer) {
                Ok(outer) => Parts {
                    outer,
                    ..parts.clone()
                }
                .seal(),
                Err(_) => {
                    let mut bytes = (outer.len() as u64).to_le_bytes().to_vec();
                    bytes.extend(outer.as_bytes());
                    bytes.extend(&parts.data);
                    bytes
                }
            };
            tally.add(&feed(&bytes, &|| format!("{path}: {outer}")));
        }
    }
    say(&format!("{} fields of the container: {tally:?}", all.len()));
    assert!(tally.refused > 1000, "{tally:?}");
}

/// Feeds a sound file with other numbers; what runs must also be right.
fn feed_numbers(mut parts: Parts, tally: &mut Tally, what: &dyn Fn() -> String) {
    let bytes = parts.seal();
    let outcome = feed(&bytes, what);
    if outcome == Outcome::Ran {
        let network = file::from_bytes(&bytes).unwrap();
        let plan = Arc::new(Plan::new(&network).unwrap());
        let image = Draw(1).bytes(plan.image_bytes());
        catch_unwind(AssertUnwindSafe(|| compare(&network, &plan, &image)))
            .unwrap_or_else(|_| panic!("wrong (see above): {}", what()));
    }
    tally.add(&outcome);
}

#[test]
fn every_tensor() {
    let parts = Parts::new(&small(1));
    let floats: [f32; 20] = [
        0.0,
        -0.0,
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        1e-45,
        -1e-45,
        f32::MIN_POSITIVE,
        f32::MAX,
        f32::MIN,
        1e30,
        -1e30,
        1e20,
        1e-20,
        1e-30,
        -1.0,
        1.0,
        1e10,
        -1e10,
        1e-10,
    ];
    let integers = [
        i32::MIN,
        i32::MAX,
        -1,
        0,
        1,
        15,
        16,
        255,
        65_535,
        65_536,
        -32_768,
        -32_769,
    ];
    let mut tally = Tally::default();
    for (name, tensor) in parts.outer.as_object().unwrap() {
        if name == "__metadata__" {
            continue;
        }
        let offset = |i: usize| tensor["data_offsets"][i].as_u64().unwrap() as usize;
        let (from, to) = (offset(0), offset(1));
        let words: Vec<[u8; 4]> = match tensor["dtype"].as_str().unwrap() {
            "F32" => floats.map(f32::to_le_bytes).to_vec(),
            "I32" => integers.map(i32::to_le_bytes).to_vec(),
            _ => [0u32, u32::MAX, 0x5555_5555, 0x8080_8080, 0x0102_0408]
                .map(u32::to_le_bytes)
                .to_vec(),
        };
        for word in words {
            // The first, the last, or all.
            let places = [
                from..to.min(from + 4),
                from.max(to.saturating_sub(4))..to,
                from..to,
            ];
            for place in places {
                let mut changed = parts.clone();
                let bytes = changed.data[place.clone()].iter_mut();
                bytes.zip(word.iter().cycle()).for_each(|(b, &w)| *b = w);
                feed_numbers(changed, &mut tally, &|| {
                    format!("{name}, bytes {place:?} are {word:?}")
                });
            }
        }
    }
    say(&format!("tensors: {tally:?}"));
    assert!(tally.refused > 200 && tally.ran > 200, "{tally:?}");
}

#[test]
fn every_number_of_an_activation() {
    let parts = Parts::new(&small(1));
    let json = parts.inner();
    let mut tally = Tally::default();
    let scales = [
        1e-37, 1e-30, 1e-20, 1e-10, 1e-3, 1.0, 1e3, 1e10, 1e20, 1e30, 5e34, 3e38,
    ];
    for i in 0..json["activations"].as_array().unwrap().len() {
        let field = |name: &str| format!("/activations/{i}/qparams/affine/0/{name}");
        let numbers = (scales.iter().map(|s| ("scale", json!(s))))
            .chain([1, 7, 15, 255, 65_535, -1].map(|z| ("zero_point", json!(z))));
        for (name, number) in numbers {
            let mut json = json.clone();
            *json.pointer_mut(&field(name)).unwrap() = number.clone();
            let changed = Parts {
                inner: json.to_string(),
                ..parts.clone()
            };
            feed_numbers(changed, &mut tally, &|| {
                format!("{} = {number}", field(name))
            });
        }
    }
    say(&format!("activations: {tally:?}"));
    assert!(tally.refused > 5 && tally.ran > 50, "{tally:?}");
}

/// As many nodes, layers and activations as a file may have: names are looked up often, and that
/// must not take long.
#[test]
fn the_most_nodes_are_planned_in_seconds() {
    let mut b = Builder::new(1, 1, 1);
    let mut x = b.input(ActSpec::plain(8));
    for _ in 0..4990 {
        x = b.conv(x, ConvSpec::same(3, 1, 1, WeightSpec::plain(8)));
        x = b.activation(x, true, Some(ActSpec::plain(8)));
    }
    b.head(x, ActSpec::plain(8), 2, WeightSpec::plain(8));
    let bytes = file::to_bytes(&b.finish()).unwrap();
    assert_eq!(feed(&bytes, &|| "most nodes".into()), Outcome::Ran);
}

/// Random edits, of `LB_FUZZ_CASES` files: bytes anywhere, and digits and tensor bytes under a
/// checksum that fits.
#[test]
fn random_edits() {
    let cases: u64 = std::env::var("LB_FUZZ_CASES").map_or(400, |n| n.parse().unwrap());
    let parts = Parts::new(&small(1));
    let whole = parts.join();
    let mut tally = Tally::default();
    for case in 0..cases {
        let mut draw = Draw(case);
        let mut below = |n: usize| (draw.next() % n as u64) as usize;
        let bytes = if case % 4 == 0 {
            let mut bytes = whole.clone();
            for _ in 0..1 + below(8) {
                let at = below(bytes.len());
                bytes[at] = below(256) as u8;
            }
            bytes.truncate(match below(4) {
                0 => below(bytes.len()),
                _ => usize::MAX,
            });
            bytes
        } else {
            let mut changed = parts.clone();
            let mut inner = changed.inner.into_bytes();
            let start = inner.windows(6).position(|w| w == b"\"info\"").unwrap();
            for _ in 0..below(3) {
                // Another digit, brace or letter, behind the checksum.
                let at = start + below(inner.len() - start);
                inner[at] = match inner[at].is_ascii_digit() {
                    true => b"0123456789.-e"[below(13)],
                    false if below(4) == 0 => b"{}[],:\"ax0"[below(10)],
                    false => inner[at],
                };
            }
            changed.inner = String::from_utf8_lossy(&inner).into_owned();
            for _ in 0..below(6) {
                let at = below(changed.data.len());
                changed.data[at] = below(256) as u8;
            }
            changed.seal()
        };
        match feed(&bytes, &|| format!("case {case}")) {
            Outcome::Refused(e) if e.starts_with("damaged") => tally.refused += 1,
            outcome => tally.add(&outcome),
        }
    }
    say(&format!("{cases} random edits: {tally:?}"));
    assert!(cases < 100 || tally.ran * 20 > cases as usize, "{tally:?}");
}
