//! Which widths each place may take.

use std::collections::BTreeSet;

use lb_format::BitWidth;

use crate::ptq::{Assigned, Assignment, ImageRounding, Options};
use crate::sensitivity::{Place, PlaceKind, Sensitivity};

/// Widths to choose from, and the floors of [`Options`] beneath them: a place with a floor of 8 bits
/// takes 8 where another one takes 4.
#[derive(Clone, Debug)]
pub struct Candidates {
    /// For weights, narrowest first.
    pub weights: BTreeSet<BitWidth>,
    /// For activations.
    pub activations: BTreeSet<BitWidth>,
    /// Least bits of the first convolution, its image, the final linear and its input.
    pub edge_bits: Option<BitWidth>,
    /// Least bits of the residual stream.
    pub residual_bits: Option<BitWidth>,
}

impl Candidates {
    /// Every width that some place may take, narrowest first: those to measure.
    pub fn all(&self) -> Vec<BitWidth> {
        let floors = self.edge_bits.into_iter().chain(self.residual_bits);
        let all = self.weights.iter().chain(&self.activations).copied();
        let all: BTreeSet<BitWidth> = all.chain(floors).collect();
        all.into_iter().collect()
    }

    /// The widths that `place` may take.
    pub fn of(&self, place: &Place) -> BTreeSet<BitWidth> {
        let widths = match place.kind {
            PlaceKind::Weight => &self.weights,
            PlaceKind::Activation => &self.activations,
        };
        widths.iter().map(|&b| self.at(place, b)).collect()
    }

    /// `bits`, or the floor of `place` if that is higher.
    fn at(&self, place: &Place, bits: BitWidth) -> BitWidth {
        let path = place.path.as_str();
        let floor = match place.kind {
            _ if ["stem", "linear", "input", "pooled"].contains(&path) => self.edge_bits,
            PlaceKind::Activation if path == "stem_act" || path.ends_with(".act2") => {
                self.residual_bits
            }
            _ => None,
        };
        floor.map_or(bits, |f| f.max(bits))
    }

    /// `places` with what was measured at the widths that each may take.
    pub fn restrict(&self, places: &[Sensitivity]) -> Vec<Sensitivity> {
        let restrict = |s: &Sensitivity| {
            let allowed = self.of(&s.place);
            let mut s = s.clone();
            s.widths.retain(|w| allowed.contains(&w.bits));
            s
        };
        places.iter().map(restrict).collect()
    }

    /// The assignments that give all weights one width, and all activations one, but for the floors;
    /// narrowest first.
    pub fn uniform(&self, places: &[Sensitivity]) -> Vec<Assignment> {
        let pairs =
            (self.weights.iter()).flat_map(|&w| self.activations.iter().map(move |&a| (w, a)));
        let assignment = |(w, a)| {
            let mut assignment = Assignment::new();
            for Sensitivity { place, .. } in places {
                let (bits, to) = match place.kind {
                    PlaceKind::Weight => (w, &mut assignment.weights),
                    PlaceKind::Activation => (a, &mut assignment.activations),
                };
                let assigned = Assigned {
                    bits: self.at(place, bits),
                    values: place.values,
                };
                to.insert(place.path.clone(), assigned);
            }
            assignment
        };
        pairs.map(assignment).collect()
    }
}

/// The options under which one network a width is quantized to take places from: `options`, but the
/// same width everywhere, and nothing added to the image, as of methods that fit no layer to it.
pub fn uniform(options: &Options, bits: BitWidth) -> Options {
    Options {
        widths: crate::ptq::Widths {
            weights: bits,
            activations: bits,
        },
        edge_bits: None,
        residual_bits: None,
        image_rounding: ImageRounding::Nearest,
        assignment: Assignment::new(),
        ..options.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_lift_edges_and_stream() {
        let bits = |all: &[u8]| -> BTreeSet<BitWidth> {
            all.iter().map(|&b| BitWidth::new(b).unwrap()).collect()
        };
        let candidates = Candidates {
            weights: bits(&[2, 3]),
            activations: bits(&[4]),
            edge_bits: Some(BitWidth::EIGHT),
            residual_bits: BitWidth::new(6).ok(),
        };
        let place = |kind, path: &str| Place {
            kind,
            path: path.into(),
            values: 10,
        };
        let (w, a) = (PlaceKind::Weight, PlaceKind::Activation);
        assert_eq!(candidates.of(&place(w, "stem")), bits(&[8]));
        assert_eq!(candidates.of(&place(w, "blocks.0.conv1")), bits(&[2, 3]));
        assert_eq!(candidates.of(&place(a, "pooled")), bits(&[8]));
        assert_eq!(candidates.of(&place(a, "blocks.1.act2")), bits(&[6]));
        assert_eq!(candidates.of(&place(a, "blocks.1.act1")), bits(&[4]));
        let all: Vec<u8> = candidates.all().iter().map(|b| b.get()).collect();
        assert_eq!(all, [2, 3, 4, 6, 8]);

        let places = ["stem", "blocks.0.conv1"].map(|path| Sensitivity {
            place: place(w, path),
            widths: Vec::new(),
        });
        let means = candidates.uniform(&places).into_iter();
        let means: Vec<_> = means.map(|a| a.mean_bits().0).collect();
        assert_eq!(means, [5.0, 5.5]);
    }
}
