//! A folded network with its calibration, ready to be quantized to any number of widths.

use std::path::Path;

use anyhow::{Context, Result};
use burn::tensor::Device;
use lb_data::ImageSet;
use lb_format::QuantizedNetwork;
use lb_format::network::Recipe;
use lb_resnet::model::{FoldedNet, QuantNet};
use lb_resnet::ptq::{self, Calibration, Options, UnitReport};

use crate::model_file::{self, Model};
use crate::progress::Images;
use crate::refining::{Effort, Refining};
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
    device: Device,
    /// How much refinement does.
    pub effort: Effort,
}

impl Calibrated {
    /// Folds `model` and observes it on `samples` images of `train`, drawn by `seed`.
    ///
    /// # Errors
    /// If it is interrupted, there is no image, or they are of other classes.
    pub fn new(
        model: Model,
        train: &ImageSet,
        (samples, seed): (usize, u64),
        device: &Device,
    ) -> Result<Self> {
        model_file::check_classes(&model, train)?;
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
            device: device.clone(),
            effort: Effort::default(),
        })
    }

    /// The network with ranges, rounded, as `options` say, before any refinement.
    ///
    /// # Errors
    /// If a layer cannot be quantized.
    pub fn quantize(&self, options: &Options) -> Result<QuantNet> {
        ptq::quantize(&self.folded, &self.statistics, options)
            .with_context(|| format!("quantizing to {options}"))
    }

    /// The network as `options` say, corrected, reconstructed and tuned where they ask for it, and
    /// what that did to each unit. Reconstruction saves its state at `partial` after each unit, and
    /// goes on with what it finds there.
    ///
    /// # Errors
    /// If a layer cannot be quantized, or it is interrupted.
    pub fn refine(
        &self,
        options: &Options,
        partial: Option<&Path>,
    ) -> Result<(QuantNet, Vec<UnitReport>)> {
        let net = self.quantize(options)?;
        let refining = Refining {
            folded: &self.folded,
            info: &self.model.checkpoint.info,
            drawn: &self.drawn,
            normalization: self.model.checkpoint.normalization(),
            seed: self.seed,
            effort: self.effort,
            device: &self.device,
        };
        refining.run(net, options, partial)
    }

    /// The packed network and its bytes.
    ///
    /// # Errors
    /// As [`refine`](Self::refine).
    pub fn pack(&self, options: &Options) -> Result<(QuantizedNetwork, Vec<u8>)> {
        self.pack_net(&self.refine(options, None)?.0, options)
    }

    /// As [`pack`](Self::pack), without refinement.
    ///
    /// # Errors
    /// If a layer cannot be quantized.
    pub fn pack_unrefined(&self, options: &Options) -> Result<(QuantizedNetwork, Vec<u8>)> {
        self.pack_net(&self.quantize(options)?, options)
    }

    /// The packed form of `net`, which `options` have made.
    ///
    /// # Errors
    /// If the network cannot be read from its device.
    pub fn pack_net(
        &self,
        net: &QuantNet,
        options: &Options,
    ) -> Result<(QuantizedNetwork, Vec<u8>)> {
        let recipe = Recipe {
            method: format!("{}{}", options.method, self.effort.suffix(options.method)),
            widths: options.to_string(),
            calibrated_on: self.drawn.source().into(),
            samples: self.drawn.len(),
            seed: self.seed,
            producer: format!("lb {}", env!("CARGO_PKG_VERSION")),
        };
        let network = ptq::pack(net, self.model.checkpoint.info.clone(), recipe)?;
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
