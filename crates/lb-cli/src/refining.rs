//! The long part of quantization with its progress, and the state that it resumes from.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use burn::tensor::Device;
use lb_data::{ImageSet, Normalization};
use lb_format::NetworkInfo;
use lb_nn::learned::Rounding;
use lb_resnet::ResnetError;
use lb_resnet::model::{FoldedNet, QuantNet};
use lb_resnet::ptq::{
    self, DistillConfig, DistillProgress, Distillation, Method, Options, Partial,
    ReconstructConfig, RefineMonitor, RefineProgress, Refinement, UnitReport,
};

use crate::progress::Steps;

/// How much is done, where that is not the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effort {
    /// Iterations of reconstruction a unit.
    pub iterations: Option<usize>,
    /// How it rounds.
    pub rounding: Option<Rounding>,
    /// Steps of end-to-end tuning.
    pub steps: Option<usize>,
    /// Bytes that a unit's inputs and targets may take.
    pub cache: Option<u64>,
}

impl Effort {
    /// What of it is not the default and matters to `method`, as in `-adaround-i100-s50`.
    pub fn suffix(self, method: Method) -> String {
        let mut suffix = String::new();
        if method.refinement(0).reconstruct.is_some() {
            let rounding = self.rounding.filter(|r| *r != Rounding::default());
            suffix += &rounding.map_or(String::new(), |r| format!("-{r}"));
            suffix += &self.iterations.map_or(String::new(), |n| format!("-i{n}"));
        }
        if method.distills() {
            suffix += &self.steps.map_or(String::new(), |n| format!("-s{n}"));
        }
        suffix
    }

    fn refinement(self, options: &Options, seed: u64) -> Refinement {
        let mut refinement = options.method.refinement(seed);
        if let Some(config) = &mut refinement.reconstruct {
            if let Some(rounding) = self.rounding {
                *config = ReconstructConfig::new(rounding, seed);
            }
            config.iterations = self.iterations.unwrap_or(config.iterations);
        }
        refinement
    }
}

/// Everything that refinement reads.
pub struct Refining<'a> {
    pub folded: &'a FoldedNet,
    pub info: &'a NetworkInfo,
    pub drawn: &'a ImageSet,
    pub normalization: Normalization,
    pub seed: u64,
    pub effort: Effort,
    pub device: &'a Device,
}

impl Refining<'_> {
    /// `net` as `options` ask for it: corrected, reconstructed, tuned; and what each unit gained.
    /// Reconstruction leaves its state in `partial` after each unit, and goes on with it.
    ///
    /// # Errors
    /// If it is interrupted.
    pub fn run(
        &self,
        net: QuantNet,
        options: &Options,
        partial: Option<&Path>,
    ) -> Result<(QuantNet, Vec<UnitReport>)> {
        let refinement = self.effort.refinement(options, self.seed);
        if !refinement.correct && refinement.reconstruct.is_none() {
            return Ok((net, Vec::new()));
        }
        let images = self.images_that_fit()?;
        let partial = match partial.filter(|_| refinement.reconstruct.is_some()) {
            None => None,
            Some(path) => {
                let pixels = images.pixels();
                let path = path.to_owned();
                Some(Partial::new(
                    path,
                    &net,
                    self.info,
                    options,
                    &refinement,
                    pixels,
                )?)
            }
        };
        let found = partial
            .as_ref()
            .map(|p| p.load(self.device))
            .transpose()?
            .flatten();
        let (net, done) = found.unwrap_or((net, Vec::new()));
        if let (Some(p), false) = (&partial, done.is_empty()) {
            eprintln!(
                "going on after unit {} of {}",
                done.len(),
                p.path().display()
            );
        }
        let mut watch = Watch {
            bar: Steps::new(&format!("{} {}", options.method, options.widths), 1),
            partial: partial.as_ref(),
            reports: done.clone(),
        };
        let net = ptq::refine(
            net,
            self.folded,
            &images,
            &self.normalization,
            &refinement,
            done,
            self.device,
            &mut watch,
        )?;
        let reports = std::mem::take(&mut watch.reports);
        drop(watch);
        let net = match options.method.distills() {
            true => self.tune(&net, options)?,
            false => net,
        };
        if let Some(p) = partial {
            p.remove();
        }
        Ok((net, reports))
    }

    /// The first calibration images, as many as the cache takes.
    fn images_that_fit(&self) -> Result<ImageSet> {
        let set = self.drawn;
        let each = ptq::cached_bytes(self.folded, set, &self.normalization, self.device);
        let fit = match self.effort.cache {
            None => set.len(),
            Some(bytes) => set
                .len()
                .min((bytes / each).try_into().unwrap_or(usize::MAX)),
        };
        anyhow::ensure!(
            fit >= ptq::LEAST_IMAGES,
            "--cache takes {fit} images of {each} bytes each, fewer than the {} that refinement needs: allow at least {} bytes",
            ptq::LEAST_IMAGES,
            ptq::LEAST_IMAGES as u64 * each
        );
        if fit < set.len() {
            eprintln!(
                "layers are refined on {fit} of {} calibration images, as many as --cache takes at {each} bytes an image",
                set.len()
            );
        }
        Ok(set.subset(&(0..fit).collect::<Vec<_>>()))
    }

    /// End-to-end tuning on the calibration images.
    fn tune(&self, net: &QuantNet, options: &Options) -> Result<QuantNet> {
        let mut config = DistillConfig::on_calibration_images(self.drawn.len(), self.seed);
        config.steps = self.effort.steps.unwrap_or(config.steps);
        let mut tuning = Distillation::new(
            net,
            self.folded,
            Arc::new(self.drawn.clone()),
            self.normalization,
            &config,
            self.device,
        )?;
        let bar = Steps::new(&format!("tuning {}", options.widths), config.steps);
        let mut show = |p: &DistillProgress| bar.set(p.step, &format!("loss {:.4}", p.loss));
        anyhow::ensure!(tuning.run(&mut show)?, "interrupted");
        Ok(tuning.finish()?)
    }
}

/// Shows the unit that is worked on, and saves finished ones.
struct Watch<'a> {
    bar: Steps,
    partial: Option<&'a Partial>,
    reports: Vec<UnitReport>,
}

impl RefineMonitor for Watch<'_> {
    fn progress(&mut self, p: &RefineProgress) -> bool {
        let each = p.iterations.max(1);
        self.bar.total(p.units * each);
        let note = format!("unit {} of {}", p.unit + 1, p.units);
        self.bar.set(p.unit * each + p.iteration, &note)
    }

    fn unit(&mut self, net: &QuantNet, reports: &[UnitReport]) -> Result<(), ResnetError> {
        self.reports = reports.to_vec();
        match self.partial {
            Some(partial) => partial.save(net, reports),
            None => Ok(()),
        }
    }
}
