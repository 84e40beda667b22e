//! Widths of single places: mixed precision.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use lb_format::BitWidth;
use serde::{Deserialize, Serialize};

use crate::ResnetError;
use crate::model::FoldedNet;

/// Widths place by place, which go before those of [`Options`](super::Options).
///
/// A place that is not named takes the width that the options give it; an empty assignment changes
/// nothing. Whoever makes one for a whole network names every place but the blocks' inputs, which
/// then pass on the codes of the residual stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Weights by their layer's path, e.g. `blocks.3.conv1`.
    pub weights: BTreeMap<String, Assigned>,
    /// Activations by path, e.g. `blocks.3.act1`.
    pub activations: BTreeMap<String, Assigned>,
}

/// The width of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Bits a value.
    pub bits: BitWidth,
    /// Values that have it: of a weight all, of an activation those of one image. Averages count
    /// by them.
    pub values: u64,
}

impl Assignment {
    /// An assignment that names no place.
    pub const fn new() -> Self {
        Self {
            weights: BTreeMap::new(),
            activations: BTreeMap::new(),
        }
    }

    /// Whether it names no place.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty() && self.activations.is_empty()
    }

    /// Bits of the weight of `layer`, if they are assigned.
    pub fn weight(&self, layer: &str) -> Option<BitWidth> {
        self.weights.get(layer).map(|a| a.bits)
    }

    /// Bits of the activation `site`, if they are assigned.
    pub fn activation(&self, site: &str) -> Option<BitWidth> {
        self.activations.get(site).map(|a| a.bits)
    }

    /// Mean bits of a weight and of an activation value, over the places that are named:
    /// `Σ values · bits / Σ values`; 0 where none is.
    pub fn mean_bits(&self) -> (f64, f64) {
        (mean(&self.weights), mean(&self.activations))
    }

    /// Refuses names that are no place of `net`: a slip of the pen would otherwise be a place that
    /// silently keeps another width.
    ///
    /// # Errors
    /// Names the first such name.
    pub fn check(&self, net: &FoldedNet) -> Result<(), ResnetError> {
        let mut layers: BTreeSet<String> = net.convolutions().into_iter().map(|c| c.0).collect();
        layers.insert("linear".into());
        let mut sites: BTreeSet<String> = ["input", "stem_act", "pooled"].map(Into::into).into();
        for i in 0..net.blocks.len() {
            sites.extend(["input", "act1", "act2"].map(|part| format!("blocks.{i}.{part}")));
        }
        // The pooling averages real values, so nothing is rounded before it.
        sites.remove(&format!("blocks.{}.act2", net.blocks.len() - 1));
        for (named, known, what) in [
            (&self.weights, &layers, "layer"),
            (&self.activations, &sites, "activation that is quantized"),
        ] {
            if let Some(name) = named.keys().find(|name| !known.contains(*name)) {
                return Err(ResnetError::Invalid(format!(
                    "the assignment of widths names `{name}`, which is no {what} of this network; `lb inspect` prints their paths"
                )));
            }
        }
        Ok(())
    }
}

fn mean(places: &BTreeMap<String, Assigned>) -> f64 {
    let (mut bits, mut values) = (0.0, 0.0);
    for a in places.values() {
        bits += f64::from(a.bits.get()) * a.values as f64;
        values += a.values as f64;
    }
    if values > 0.0 { bits / values } else { 0.0 }
}

/// `mixed W2.7A3.9 (weights 2 to 8 bits, activations 3 to 8)`; what is not assigned is left out.
impl fmt::Display for Assignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("mixed ")?;
        let kinds = [("W", &self.weights), ("A", &self.activations)];
        for (letter, places) in kinds.iter().filter(|(_, places)| !places.is_empty()) {
            write!(f, "{letter}{:.1}", mean(places))?;
        }
        let range = |places: &BTreeMap<String, Assigned>| {
            let bits = || places.values().map(|a| a.bits);
            match (bits().min()?, bits().max()?) {
                (least, most) if least == most => Some(format!("{least}")),
                (least, most) => Some(format!("{least} to {most}")),
            }
        };
        match (range(&self.weights), range(&self.activations)) {
            (Some(w), Some(a)) => write!(f, " (weights {w} bits, activations {a})"),
            (Some(w), None) => write!(f, " (weights {w} bits)"),
            (None, Some(a)) => write!(f, " (activations {a} bits)"),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: &[(&str, u8, u64)]) -> BTreeMap<String, Assigned> {
        let place = |&(name, bits, values): &(&str, u8, u64)| {
            let bits = BitWidth::new(bits).unwrap();
            (name.to_string(), Assigned { bits, values })
        };
        all.iter().map(place).collect()
    }

    #[test]
    fn averages_count_values() {
        let a = Assignment {
            weights: places(&[("stem", 8, 100), ("blocks.0.conv1", 2, 300)]),
            activations: places(&[("input", 4, 7)]),
        };
        assert_eq!(a.mean_bits(), (3.5, 4.0));
        assert_eq!(
            a.to_string(),
            "mixed W3.5A4.0 (weights 2 to 8 bits, activations 4)"
        );
        assert_eq!(a.weight("stem"), Some(BitWidth::EIGHT));
        assert_eq!((a.weight("linear"), a.activation("pooled")), (None, None));
        assert!(Assignment::new().is_empty() && !a.is_empty());
    }
}
