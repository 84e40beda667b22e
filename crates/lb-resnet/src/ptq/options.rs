//! What is quantized how: the choice at every place.

use std::fmt;

use lb_core::observe::RangeRule;
use lb_format::BitWidth;
use serde::{Deserialize, Serialize};

use super::{ActivationLevels, Assignment, ImageRounding, LevelSet, Method, Widths};
use crate::model::{ActRole, ActSite, ConvRole, ConvSite};

/// Everything that decides how a network is quantized.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Bits of all layers but the edges.
    pub widths: Widths,
    /// Least bits of the edges: image, first convolution, pooled features, final linear. `None`:
    /// as all other layers.
    pub edge_bits: Option<BitWidth>,
    /// Least bits of the residual stream. `None`: as all other activations.
    pub residual_bits: Option<BitWidth>,
    /// How ranges are chosen.
    pub method: Method,
    /// Whether biases make up for the mean shift of quantized weights.
    pub bias_correction: bool,
    /// How an image of few codes is rounded.
    #[serde(default, alias = "dither")]
    pub image_rounding: ImageRounding,
    /// How the levels of weights are spaced.
    #[serde(default, skip_serializing_if = "LevelSet::is_uniform")]
    pub levels: LevelSet,
    /// How the levels of activations are spaced.
    #[serde(default, skip_serializing_if = "ActivationLevels::is_uniform")]
    pub activation_levels: ActivationLevels,
    /// Widths of single places, which go before all of the above: mixed precision.
    #[serde(default, skip_serializing_if = "Assignment::is_empty")]
    pub assignment: Assignment,
}

impl Options {
    /// The project's defaults at `widths`: [`Method::default_for`] them, edges at 8 bits or more, and
    /// [`default_residual_bits`].
    pub fn new(widths: Widths) -> Self {
        let edge_bits = Some(BitWidth::EIGHT);
        Self {
            widths,
            edge_bits,
            residual_bits: default_residual_bits(widths.activations, edge_bits),
            method: Method::default_for(widths),
            bias_correction: false,
            image_rounding: ImageRounding::BEST,
            levels: LevelSet::Uniform,
            activation_levels: ActivationLevels::Uniform,
            assignment: Assignment::new(),
        }
    }

    /// Whether the method and the widths can have these levels.
    ///
    /// # Errors
    /// If not: says what is supported.
    pub fn check_levels(&self) -> Result<(), String> {
        self.check_activation_levels()?;
        let learns = self.method.distills() || self.method.refinement(0).reconstruct.is_some();
        match self.levels {
            LevelSet::Uniform => Ok(()),
            levels if learns || self.method == Method::Lbtorch => Err(format!(
                "--levels {levels} is not supported with --method {}: use minmax, mse, affine or another method without reconstruction",
                self.method
            )),
            levels => match levels.table(self.widths.weights) {
                Some(_) => Ok(()),
                None => Err(format!(
                    "--levels {levels} is for weights of 2 to 6 bits, not {}: one bit has two levels only, and wider ones have too many to be small integers",
                    self.widths.weights
                )),
            },
        }
    }

    fn check_activation_levels(&self) -> Result<(), String> {
        let (levels, bits) = (self.activation_levels, self.widths.activations);
        if levels.is_uniform() {
            Ok(())
        } else if self.method.activation_rule() != RangeRule::Mse {
            Err(format!(
                "--activation-levels {levels} have the least squared error, and --method {} chooses ranges otherwise: use mse, affine, gptq, brecq or brecq+kl",
                self.method
            ))
        } else if !(2..=6).contains(&bits.get()) {
            Err(format!(
                "--activation-levels {levels} is for activations of 2 to 6 bits, not {bits}: one bit has two levels only, and wider ones have too many to be small integers"
            ))
        } else if !self.assignment.is_empty() {
            Err(format!(
                "--activation-levels {levels} is not supported with mixed widths"
            ))
        } else {
            Ok(())
        }
    }

    /// Bits of a convolution's weight; `None`: left in float.
    pub(super) fn conv_bits(&self, site: &ConvSite) -> Option<BitWidth> {
        if let Some(bits) = self.assignment.weight(&site.name) {
            return Some(bits);
        }
        match (self.method, site.role) {
            (Method::Lbtorch, ConvRole::Shortcut) => None,
            (Method::Lbtorch, _) => Some(self.widths.weights),
            (_, ConvRole::Stem) => Some(at_least(self.edge_bits, self.widths.weights)),
            _ => Some(self.widths.weights),
        }
    }

    /// Bits of the final linear's weight; `None`: left in float.
    pub(super) fn linear_bits(&self) -> Option<BitWidth> {
        if let Some(bits) = self.assignment.weight("linear") {
            return Some(bits);
        }
        match self.method {
            Method::Lbtorch => None,
            _ => Some(at_least(self.edge_bits, self.widths.weights)),
        }
    }

    /// Bits of an activation; `None`: real values pass.
    pub(super) fn act_bits(&self, site: &ActSite) -> Option<BitWidth> {
        if let Some(bits) = self.assignment.activation(&site.name) {
            return Some(bits);
        }
        let bits = self.widths.activations;
        let stream = at_least(self.residual_bits, bits);
        match (self.method, site.role) {
            (_, ActRole::BeforePool) => None,
            (Method::Lbtorch, ActRole::Stream | ActRole::Pooled) => None,
            (Method::Lbtorch, _) => Some(bits),
            (_, ActRole::Image | ActRole::Pooled) => Some(at_least(self.edge_bits, bits)),
            (_, ActRole::Stream) => Some(stream),
            (_, ActRole::BlockInput) => (stream != bits).then_some(bits),
            (_, ActRole::Inner) => Some(bits),
        }
    }

    /// How an activation of this role and these bits is rounded.
    pub(super) fn rounding(&self, role: ActRole, bits: BitWidth) -> ImageRounding {
        let fits = self.method.refinement(0).compensate;
        match fits && role == ActRole::Image {
            true => self.image_rounding.of(bits),
            false => ImageRounding::Nearest,
        }
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Widths {
            weights,
            activations,
        } = self.widths;
        if !self.assignment.is_empty() {
            return self.assignment.fmt(f);
        }
        write!(f, "{}", self.widths)?;
        if !self.levels.is_uniform() {
            write!(f, " {}", self.levels)?;
        }
        if self.method == Method::Lbtorch {
            return f.write_str(", shortcuts, residual stream and linear in float");
        }
        let edge = (
            at_least(self.edge_bits, weights),
            at_least(self.edge_bits, activations),
        );
        match edge == (weights, activations) {
            true => f.write_str(", edge layers the same")?,
            false => write!(f, ", edge layers W{}A{}", edge.0, edge.1)?,
        }
        f.write_str(self.rounding(ActRole::Image, edge.1).remark())?;
        match at_least(self.residual_bits, activations) {
            stream if stream == activations => {}
            stream => write!(f, ", residual stream A{stream}")?,
        }
        match self.activation_levels {
            ActivationLevels::Uniform => Ok(()),
            levels => write!(f, ", activation levels {levels}"),
        }
    }
}

/// Least bits of the residual stream unless told otherwise: 8 beside activations of 1 to 3 bits, else
/// `None`; and `None` where edge layers are as all others, too.
///
/// The stream carries the sum of all blocks, and what it rounds away no later block sees. The
/// literature keeps it real-valued at any width (at one bit: Bi-Real Net, Liu et al. 2018, arXiv
/// 1808.00278).
pub fn default_residual_bits(
    activations: BitWidth,
    edge_bits: Option<BitWidth>,
) -> Option<BitWidth> {
    (edge_bits.is_some() && activations.get() < 4).then_some(BitWidth::EIGHT)
}

fn at_least(floor: Option<BitWidth>, bits: BitWidth) -> BitWidth {
    floor.map_or(bits, |f| f.max(bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_never_narrower_than_the_rest() {
        let mut o = Options::new("16".parse().unwrap());
        assert_eq!(o.to_string(), "W16A16, edge layers the same");
        o.widths = "2".parse().unwrap();
        o.residual_bits = Some(BitWidth::EIGHT);
        assert_eq!(o.to_string(), "W2A2, edge layers W8A8, residual stream A8");
        let input = ActSite {
            name: "blocks.0.input".into(),
            role: ActRole::BlockInput,
        };
        assert_eq!(o.act_bits(&input).unwrap().get(), 2);
        o.residual_bits = None;
        assert_eq!(o.act_bits(&input), None);
    }

    #[test]
    fn images_of_few_codes_are_diffused_or_dithered() {
        use ImageRounding::{Diffusion, Dither, Nearest};
        let mut o = Options::new("4".parse().unwrap());
        assert_eq!(o.to_string(), "W4A4, edge layers W8A8");
        o.edge_bits = None;
        assert_eq!(o.to_string(), "W4A4, edge layers the same, image diffused");
        let of = |image_rounding, bits: u8, role| {
            let o = Options {
                image_rounding,
                ..o.clone()
            };
            o.rounding(role, BitWidth::new(bits).unwrap())
        };
        let image = |rounding, bits| of(rounding, bits, ActRole::Image);
        let widths = [1, 4, 5, 6, 7, 16];
        let expected = [Dither, Dither, Nearest, Nearest, Nearest, Nearest];
        assert_eq!(widths.map(|b| image(Dither, b)), expected);
        let expected = [Diffusion, Diffusion, Diffusion, Nearest, Nearest, Nearest];
        assert_eq!(widths.map(|b| image(Diffusion, b)), expected);
        assert_eq!(image(Nearest, 2), Nearest);
        assert_eq!(of(Diffusion, 2, ActRole::Inner), Nearest);
        for method in Method::ALL {
            let fits = [Method::Gptq, Method::Brecq, Method::BrecqKl].contains(&method);
            let o = Options {
                method,
                ..o.clone()
            };
            let rounding = o.rounding(ActRole::Image, BitWidth::new(2).unwrap());
            assert_eq!(rounding == Diffusion, fits, "{method}");
        }
    }

    #[test]
    fn older_files_say_whether_there_is_dither_or_nothing() {
        let o = Options::new("4".parse().unwrap());
        let mut json = serde_json::to_value(&o).unwrap();
        assert_eq!(json["image_rounding"], "diffusion");
        let read = |json: &serde_json::Value| -> ImageRounding {
            let o: Options = serde_json::from_value(json.clone()).unwrap();
            o.image_rounding
        };
        assert_eq!(read(&json), ImageRounding::Diffusion);
        let fields = json.as_object_mut().unwrap();
        fields.remove("image_rounding");
        assert_eq!(read(&json), ImageRounding::Nearest);
        json["dither"] = true.into();
        assert_eq!(read(&json), ImageRounding::Dither);
        json["dither"] = false.into();
        assert_eq!(read(&json), ImageRounding::Nearest);
    }

    #[test]
    fn few_bits_leave_the_stream_eight_unless_everything_is_to_be_the_same() {
        let default = |bits: u8, edges| {
            let bits = BitWidth::new(bits).unwrap();
            default_residual_bits(bits, edges).map(BitWidth::get)
        };
        for bits in [1, 2, 3] {
            assert_eq!(default(bits, Some(BitWidth::EIGHT)), Some(8));
            assert_eq!(default(bits, None), None);
        }
        assert_eq!(default(4, Some(BitWidth::EIGHT)), None);
        let o = Options::new("w4a3".parse().unwrap());
        assert_eq!(o.to_string(), "W4A3, edge layers W8A8, residual stream A8");
    }

    #[test]
    fn levels_are_named_and_refused_where_they_cannot_be() {
        let mut o = Options::new("w3a4".parse().unwrap());
        let plain = serde_json::to_string(&o).unwrap();
        assert!(!plain.contains("levels"), "{plain}");
        o.levels = LevelSet::Apot;
        assert_eq!(o.to_string(), "W3A4 apot, edge layers W8A8");
        let json = serde_json::to_string(&o).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&json).unwrap(), o);
        for method in Method::ALL {
            let o = Options {
                method,
                ..o.clone()
            };
            let refused = [Method::Brecq, Method::BrecqKl, Method::Lbtorch].contains(&method);
            match o.check_levels() {
                Ok(()) => assert!(!refused, "{method}"),
                Err(e) => assert!(refused && e.contains(method.name()), "{method}: {e}"),
            }
        }
        for bits in ["1", "7", "8", "16"] {
            o.widths = bits.parse().unwrap();
            let e = o.check_levels().unwrap_err();
            assert!(
                e.contains("2 to 6") && e.contains(&format!("not {bits}")),
                "{e}"
            );
        }
        o.levels = LevelSet::Uniform;
        o.check_levels().unwrap();
    }

    #[test]
    fn levels_of_activations_are_named_and_refused_beside_other_ranges() {
        let mut o = Options::new("4".parse().unwrap());
        assert!(!serde_json::to_string(&o).unwrap().contains("levels"));
        o.activation_levels = ActivationLevels::Fitted;
        let words = "W4A4, edge layers W8A8, activation levels fitted";
        assert_eq!(o.to_string(), words);
        let json = serde_json::to_string(&o).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&json).unwrap(), o);
        for method in Method::ALL {
            let o = Options {
                method,
                ..o.clone()
            };
            let refused = method.activation_rule() != RangeRule::Mse;
            match o.check_levels() {
                Ok(()) => assert!(!refused, "{method}"),
                Err(e) => assert!(refused && e.contains(method.name()), "{method}: {e}"),
            }
        }
        for bits in ["1", "w4a1", "w2a8", "16"] {
            o.widths = bits.parse().unwrap();
            let e = o.check_levels().unwrap_err();
            assert!(e.contains("2 to 6 bits"), "{bits}: {e}");
        }
    }

    #[test]
    fn an_assigned_width_goes_before_all_others() {
        let mut o = Options::new("2".parse().unwrap());
        let assigned = |bits| crate::ptq::Assigned {
            bits: BitWidth::new(bits).unwrap(),
            values: 1,
        };
        o.assignment.weights.insert("stem".into(), assigned(3));
        o.assignment.weights.insert("linear".into(), assigned(5));
        o.assignment.activations.insert("input".into(), assigned(6));
        let conv = |name: &str, role| ConvSite {
            name: name.into(),
            role,
            input: String::new(),
        };
        let bits = |b: Option<BitWidth>| b.unwrap().get();
        assert_eq!(bits(o.conv_bits(&conv("stem", ConvRole::Stem))), 3);
        assert_eq!(
            bits(o.conv_bits(&conv("blocks.0.conv1", ConvRole::Body))),
            2
        );
        assert_eq!(bits(o.linear_bits()), 5);
        let image = ActSite {
            name: "input".into(),
            role: ActRole::Image,
        };
        assert_eq!(bits(o.act_bits(&image)), 6);
        assert!(o.to_string().starts_with("mixed W4.0A6.0"), "{o}");
        let json = serde_json::to_string(&o).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&json).unwrap(), o);
    }
}
