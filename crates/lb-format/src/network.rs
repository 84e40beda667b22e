//! Layers, activations and provenance of a quantized network.

use serde::{Deserialize, Serialize};

use crate::{BitWidth, Diffusion, FormatError, Graph, PackedTensor, QParams};

/// A quantized network: everything that is needed to run it, and how it came to be.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedNetwork {
    /// What the network computes.
    pub info: NetworkInfo,
    /// How it was quantized.
    pub recipe: Recipe,
    /// Convolutions and linears, in order of execution.
    pub layers: Vec<Layer>,
    /// Activation quantizers, in order of execution.
    pub activations: Vec<Activation>,
    /// How they are connected.
    pub graph: Graph,
}

/// What a network computes: its topology by name, its input and its classes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkInfo {
    /// Architecture name, e.g. `resnet20`.
    pub arch: String,
    /// Shortcut option, `a` or `b`.
    pub shortcut: String,
    /// Class names; their number is the number of outputs.
    pub classes: Vec<String>,
    /// Mean of each input channel, of pixels scaled to 0..1.
    pub mean: [f32; 3],
    /// Standard deviation of each input channel, of pixels scaled to 0..1.
    pub std: [f32; 3],
    /// What the float network was trained on, in words; empty if unknown.
    #[serde(default)]
    pub trained_on: String,
}

/// How a network was quantized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Calibration method, e.g. `mse`.
    pub method: String,
    /// Widths in words, e.g. `W4A4, edge layers W8A8`.
    pub widths: String,
    /// Calibration images, in words.
    pub calibrated_on: String,
    /// Number of calibration images.
    pub samples: usize,
    /// Seed that drew them.
    pub seed: u64,
    /// The program and version that wrote it.
    pub producer: String,
}

/// What a layer does with its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum LayerKind {
    /// A 2-D convolution over `[C_in, H, W]`, weight `[C_out, C_in, k_h, k_w]`.
    Conv {
        /// Step between output positions, the same along both axes.
        stride: usize,
        /// Zeros added on every side.
        padding: usize,
    },
    /// A matrix product, weight `[out, in]`.
    Linear,
}

/// A convolution or linear layer with its folded bias.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Path in the network, e.g. `blocks.3.conv1`.
    pub name: String,
    /// Geometry.
    pub kind: LayerKind,
    /// Weight.
    pub weight: Weight,
    /// Bias `[C_out]`, in real units.
    pub bias: Vec<f32>,
}

/// A layer's weight, axis 0 the output channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Weight {
    /// Integer codes.
    Codes {
        /// The codes.
        codes: PackedTensor,
        /// Their meaning, per tensor or per output channel.
        qparams: QParams,
    },
    /// Left in float. Only `--method lbtorch` does that.
    Float {
        /// Shape.
        shape: Vec<usize>,
        /// Values, row-major.
        values: Vec<f32>,
    },
}

impl Weight {
    /// Shape, axis 0 the output channel.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Codes { codes, .. } => codes.shape(),
            Self::Float { shape, .. } => shape,
        }
    }

    /// The real values that the weight stands for, row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        match self {
            Self::Float { values, .. } => values.clone(),
            Self::Codes { codes, qparams } => {
                let row: usize = codes.shape()[1..].iter().product();
                let mut values = Vec::new();
                for (i, code) in codes.unpack().into_iter().enumerate() {
                    values.push(qparams.dequantize(i / row, code));
                }
                values
            }
        }
    }

    /// How levels are spaced, in words: `uniform`, `apot` or `table`; of a float weight nothing.
    pub fn levels(&self) -> &'static str {
        match self {
            Self::Codes { qparams, .. } => {
                (qparams.levels.as_ref()).map_or("uniform", |l| l.name())
            }
            Self::Float { .. } => "",
        }
    }

    /// Width in words: `4` or `float`.
    pub fn width(&self) -> String {
        match self {
            Self::Codes { codes, .. } => codes.bits().to_string(),
            Self::Float { .. } => "float".into(),
        }
    }
}

/// An activation: an optional ReLU, then an optional quantizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Activation {
    /// Path in the network, e.g. `blocks.3.act1`.
    pub name: String,
    /// Whether negative values become zero first.
    pub relu: bool,
    /// Whether a pattern is added before rounding ([`dither`](mod@crate::dither)): only where the image is
    /// rounded to codes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dither: bool,
    /// How errors of rounding are passed on to values that come later ([`diffusion`](mod@crate::diffusion)): as
    /// with dither only where the image is rounded to codes, at most 8 bits of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diffusion: Option<Diffusion>,
    /// Per-tensor parameters; `None` passes the real values on.
    pub qparams: Option<QParams>,
}

impl Activation {
    /// A table starts at 0, which padding and ReLU put there; and an engine holds levels, which have no
    /// offset.
    fn validate_levels(&self, q: &QParams, what: &str) -> Result<(), FormatError> {
        let Some(levels) = &q.levels else {
            return Ok(());
        };
        let problem = if levels.level(0) != 0 {
            format!("the first is {}, and must be 0", levels.level(0))
        } else if q.channel(0).offset != 0.0 {
            format!("their offset is {}, and must be 0", q.channel(0).offset)
        } else if self.dither {
            "are not dithered".into()
        } else if self.diffusion.is_some() {
            "have no diffusion".into()
        } else {
            return Ok(());
        };
        Err(FormatError::invalid(format!("{what}, levels"), problem))
    }

    /// Diffusion counts in steps of up to 8 bits, without an offset.
    fn validate_diffusion(&self, q: &QParams, what: &str) -> Result<(), FormatError> {
        let Some(diffusion) = &self.diffusion else {
            return Ok(());
        };
        diffusion.validate()?;
        let problem = if self.dither {
            "with dither".into()
        } else if q.bits > BitWidth::EIGHT {
            format!("with {} bits, and 8 are the most", q.bits)
        } else if q.channel(0).offset != 0.0 {
            format!("with an offset of {}, which must be 0", q.channel(0).offset)
        } else {
            return Ok(());
        };
        Err(FormatError::invalid(format!("{what}, diffusion"), problem))
    }
}

impl QuantizedNetwork {
    /// Checks every value that a consumer relies on.
    ///
    /// # Errors
    /// Names the first value that is wrong.
    pub fn validate(&self) -> Result<(), FormatError> {
        self.info.validate()?;
        let parts = self.layers.len() + self.activations.len();
        if parts > crate::graph::MAX_NODES {
            let problem = format!("{parts}, at most {}", crate::graph::MAX_NODES);
            return Err(FormatError::invalid("layers and activations", problem));
        }
        let mut names = std::collections::HashSet::new();
        for layer in &self.layers {
            layer.validate()?;
            if !names.insert(&layer.name) {
                return Err(FormatError::invalid(
                    "layers",
                    format!("`{}` stands twice", layer.name),
                ));
            }
        }
        for act in &self.activations {
            let what = format!("activation `{}`", act.name);
            if let Some(q) = &act.qparams {
                if q.affine.len() != 1 {
                    return Err(FormatError::invalid(what, "must have one scale"));
                }
                q.validate(&what, 1)?;
                act.validate_levels(q, &what)?;
                act.validate_diffusion(q, &what)?;
            }
            if !names.insert(&act.name) {
                return Err(FormatError::invalid(what, "the name stands twice"));
            }
        }
        self.graph.edges(self)?;
        Ok(())
    }

    /// The layer called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn layer(&self, name: &str) -> Result<&Layer, FormatError> {
        self.layers
            .iter()
            .find(|l| l.name == name)
            .ok_or_else(|| FormatError::invalid("layers", format!("`{name}` is missing")))
    }

    /// The activation called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn activation(&self, name: &str) -> Result<&Activation, FormatError> {
        self.activations
            .iter()
            .find(|a| a.name == name)
            .ok_or_else(|| FormatError::invalid("activations", format!("`{name}` is missing")))
    }
}

impl NetworkInfo {
    /// The real value that the network sees for the byte `pixel` in channel `c`:
    /// `(pixel / 255 − mean) / std`, in `f32`.
    ///
    /// # Panics
    /// If `c` is not 0, 1 or 2.
    pub fn real_pixel(&self, c: usize, pixel: u8) -> f32 {
        (f32::from(pixel) / 255.0 - self.mean[c]) / self.std[c]
    }

    /// Most classes that a network may have.
    pub const MAX_CLASSES: usize = 1000;

    /// Checks the normalisation and the classes.
    ///
    /// # Errors
    /// Names the first value that is wrong.
    pub fn validate(&self) -> Result<(), FormatError> {
        if self.mean.iter().any(|m| !m.is_finite()) {
            return Err(FormatError::invalid(
                "mean",
                format!("{:?} is not finite", self.mean),
            ));
        }
        if self.std.iter().any(|s| !(s.is_normal() && *s > 0.0)) {
            return Err(FormatError::invalid(
                "std",
                format!("{:?} is not positive", self.std),
            ));
        }
        if !(2..=Self::MAX_CLASSES).contains(&self.classes.len()) {
            return Err(FormatError::invalid(
                "classes",
                format!(
                    "{}, expected 2 to {}",
                    self.classes.len(),
                    Self::MAX_CLASSES
                ),
            ));
        }
        Ok(())
    }
}

impl Layer {
    fn validate(&self) -> Result<(), FormatError> {
        let what = format!("layer `{}`", self.name);
        if self.name.is_empty() || self.name.len() > 200 {
            return Err(FormatError::invalid(what, "names have 1 to 200 bytes"));
        }
        let shape = self.weight.shape();
        let axes = match self.kind {
            LayerKind::Conv { stride, padding } => {
                if !(1..=16).contains(&stride) || padding > 16 {
                    return Err(FormatError::invalid(
                        what,
                        format!("stride {stride} or padding {padding} is out of range"),
                    ));
                }
                4
            }
            LayerKind::Linear => 2,
        };
        if shape.len() != axes || shape.contains(&0) {
            return Err(FormatError::invalid(
                what,
                format!("shape {shape:?}, expected {axes} axes"),
            ));
        }
        if self.bias.len() != shape[0] || self.bias.iter().any(|b| !b.is_finite()) {
            return Err(FormatError::invalid(
                format!("{what}, bias"),
                format!("expected {} finite values", shape[0]),
            ));
        }
        match &self.weight {
            Weight::Codes { codes, qparams } => {
                if (codes.bits(), codes.signed()) != (qparams.bits, qparams.signed) {
                    return Err(FormatError::invalid(
                        what,
                        "codes and scales differ in width",
                    ));
                }
                qparams.validate(&what, shape[0])?;
                // Codes fit their width, but a table may be shorter than that.
                if qparams.levels.is_some()
                    && let Some(k) =
                        (codes.unpack().into_iter()).find(|&k| !qparams.range().contains(k))
                {
                    let problem = format!("code {k} has none, the last is {}", qparams.range().hi);
                    return Err(FormatError::invalid(format!("{what}, levels"), problem));
                }
                Ok(())
            }
            Weight::Float { shape, values } => {
                let n = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
                if n != Some(values.len()) || values.iter().any(|v| !v.is_finite()) {
                    return Err(FormatError::invalid(
                        format!("{what}, weight"),
                        format!("expected finite values of shape {shape:?}"),
                    ));
                }
                Ok(())
            }
        }
    }
}
