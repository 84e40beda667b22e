//! The long part of quantization with its progress, and the state that it resumes from.

use std::sync::Arc;

use anyhow::Result;
use burn::tensor::Device;
use lb_data::{ImageSet, Normalization};
use lb_resnet::ResnetError;
use lb_resnet::model::{FoldedNet, QuantNet};
use lb_resnet::ptq::{
    self, DistillConfig, DistillProgress, Distillation, Options, RefineMonitor, RefineProgress,
    UnitReport,
};

use crate::interrupt;
use crate::progress::Steps;

/// Steps of end-to-end tuning on the calibration images.
const STEPS: usize = 300;

/// Everything that refinement reads.
pub struct Refining<'a> {
    pub folded: &'a FoldedNet,
    pub drawn: &'a ImageSet,
    pub normalization: Normalization,
    pub seed: u64,
    pub device: &'a Device,
}

impl Refining<'_> {
    /// `net` as `options` ask for it: corrected, reconstructed, tuned; and what each unit gained.
    ///
    /// # Errors
    /// If it is interrupted.
    pub fn run(&self, net: QuantNet, options: &Options) -> Result<(QuantNet, Vec<UnitReport>)> {
        let refinement = options.method.refinement(self.seed);
        if !refinement.correct && refinement.reconstruct.is_none() {
            return Ok((net, Vec::new()));
        }
        let mut bar = Bar::new(&format!("{} {}", options.method, options.widths));
        let net = ptq::refine(
            net,
            self.folded,
            self.drawn,
            &self.normalization,
            &refinement,
            Vec::new(),
            self.device,
            &mut bar,
        )?;
        let reports = bar.reports;
        if !options.method.distills() {
            return Ok((net, reports));
        }
        let config = DistillConfig::new(STEPS, self.seed);
        let images = Arc::new(self.drawn.clone());
        let mut tuning = Distillation::new(
            &net,
            self.folded,
            images,
            self.normalization,
            &config,
            self.device,
        )?;
        let bar = Steps::new(&format!("tuning {}", options.widths), STEPS);
        let finished =
            tuning.run(&mut |p: &DistillProgress| bar.set(p.step, &format!("KL {:.4}", p.loss)))?;
        anyhow::ensure!(finished, "interrupted");
        Ok((tuning.finish()?, reports))
    }
}

/// Shows the unit that is worked on.
struct Bar {
    bar: Steps,
    started: bool,
    reports: Vec<UnitReport>,
}

impl Bar {
    fn new(what: &str) -> Self {
        Self {
            bar: Steps::new(what, 1),
            started: false,
            reports: Vec::new(),
        }
    }
}

impl RefineMonitor for Bar {
    fn progress(&mut self, p: &RefineProgress) -> bool {
        let each = p.iterations.max(1);
        if !self.started {
            self.bar.total(p.units * each);
            self.started = true;
        }
        let note = format!("unit {} of {}", p.unit + 1, p.units);
        self.bar.set(p.unit * each + p.iteration, &note) && !interrupt::requested()
    }

    fn unit(&mut self, _: &QuantNet, reports: &[UnitReport]) -> Result<(), ResnetError> {
        self.reports = reports.to_vec();
        Ok(())
    }
}
