//! A folded network with its calibration, ready to be quantized to any number of widths.

use anyhow::{Context, Result};
use burn::tensor::Device;
use lb_data::ImageSet;
use lb_format::QuantizedNetwork;
use lb_format::network::Recipe;
use lb_resnet::model::{FoldedNet, QuantNet};
use lb_resnet::ptq::{self, Calibration, Options};

use crate::model_file::Model;
use crate::progress::Images;
use crate::subject::Packed;

/// A model, folded and observed.
pub struct Calibrated {
    /// What was calibrated.
    pub model: Model,
    /// It, folded.
    pub folded: FoldedNet,
    /// The calibration images.
    pub drawn: ImageSet,
    statistics: Calibration,
    seed: u64,
}

impl Calibrated {
    /// Folds `model` and observes it on `samples` images of `train`, drawn by `seed`.
    ///
    /// # Errors
    /// If it is interrupted, or there is no image.
    pub fn new(
        model: Model,
        train: &ImageSet,
        (samples, seed): (usize, u64),
        device: &Device,
    ) -> Result<Self> {
        let drawn = train.subset(&train.sample_indices(samples, seed));
        if drawn.len() < samples {
            eprintln!(
                "warning: only {} training images, all are used",
                drawn.len()
            );
        }
        let folded = ptq::fold(model.checkpoint.net.clone());
        let normalization = model.checkpoint.normalization();
        let bar = Images::new("observing", drawn.len());
        let mut watch = |done| bar.set(done);
        let statistics = ptq::observe(&folded, &drawn, &normalization, device, &mut watch)?;
        Ok(Self {
            model,
            folded,
            drawn,
            statistics,
            seed,
        })
    }

    /// The network quantized as `options` say.
    ///
    /// # Errors
    /// If a layer cannot be quantized.
    pub fn quantize(&self, options: &Options) -> Result<QuantNet> {
        ptq::quantize(&self.folded, &self.statistics, options)
            .with_context(|| format!("quantizing to {options}"))
    }

    /// The packed network and its bytes.
    ///
    /// # Errors
    /// If a layer cannot be quantized.
    pub fn pack(&self, options: &Options) -> Result<(QuantizedNetwork, Vec<u8>)> {
        let net = self.quantize(options)?;
        let recipe = Recipe {
            method: options.method.to_string(),
            widths: options.to_string(),
            calibrated_on: self.drawn.source().into(),
            samples: self.drawn.len(),
            seed: self.seed,
            producer: format!("lb {}", env!("CARGO_PKG_VERSION")),
        };
        let network = ptq::pack(&net, self.model.checkpoint.info.clone(), recipe)?;
        let bytes = lb_format::file::to_bytes(&network)?;
        Ok((network, bytes))
    }

    /// The packed network, named by its widths.
    ///
    /// # Errors
    /// As [`pack`](Self::pack).
    pub fn subject(&self, options: &Options) -> Result<Packed> {
        let (network, bytes) = self.pack(options)?;
        Ok(Packed {
            network: Box::new(network),
            name: options.widths.to_string(),
            bytes: bytes.len() as u64,
        })
    }
}
