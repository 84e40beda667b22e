//! The long part of quantization with its progress, and the state that it resumes from.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use burn::tensor::Device;
use lb_data::{ImageSet, Normalization};
use lb_format::NetworkInfo;
use lb_resnet::ResnetError;
use lb_resnet::model::{FoldedNet, QuantNet};
use lb_resnet::ptq::{
    self, DistillConfig, DistillProgress, Distillation, Options, Partial, RefineMonitor,
    RefineProgress, UnitReport,
};

use crate::progress::Steps;

/// Everything that refinement reads.
pub struct Refining<'a> {
    pub folded: &'a FoldedNet,
    pub info: &'a NetworkInfo,
    pub drawn: &'a ImageSet,
    pub normalization: Normalization,
    pub seed: u64,
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
        let refinement = options.method.refinement(self.seed);
        if !refinement.correct && refinement.reconstruct.is_none() {
            return Ok((net, Vec::new()));
        }
        let partial = match partial.filter(|_| refinement.reconstruct.is_some()) {
            None => None,
            Some(path) => {
                let pixels = self.drawn.pixels();
                let path = path.to_owned();
                Some(Partial::new(
                    path, &net, self.info, options, pixels, self.seed,
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
            self.drawn,
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

    /// End-to-end tuning on the calibration images.
    fn tune(&self, net: &QuantNet, options: &Options) -> Result<QuantNet> {
        let config = DistillConfig::on_calibration_images(self.drawn.len(), self.seed);
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
