//! The second step: statistics of every activation, and which errors of the image are felt, over calibration images without labels.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::tensor::Device;
use lb_core::diffusion::Felt;
use lb_core::observe::Statistics;
use lb_data::{ImageSet, Normalization};
use lb_nn::{FloatAct, ObservedAct};

use super::feel::gradients;
use crate::ResnetError;
use crate::batch::{images, spans};
use crate::model::{ActRole, ActSite, ConvSite, FoldedNet, Rewrite};

/// Images a batch. The moving average depends on it, so it is fixed.
const BATCH: usize = 64;

/// Statistics of every activation by path.
#[derive(Clone, Debug)]
pub struct Calibration {
    statistics: BTreeMap<String, Arc<Statistics>>,
    /// Which errors of the image are felt.
    pub(super) felt: Felt,
    /// Number of images.
    pub samples: usize,
}

impl Calibration {
    /// Statistics of the activation called `site`.
    pub(super) fn of(&self, site: &str) -> Result<&Statistics, ResnetError> {
        self.statistics
            .get(site)
            .map(Arc::as_ref)
            .ok_or_else(|| ResnetError::Invalid(format!("`{site}` was not observed")))
    }
}

/// Runs `set` (the calibration images, as they are) through `net` and gathers statistics.
/// `progress` is told the images done and may stop by returning `false`.
///
/// # Errors
/// If `set` is empty, the device fails, or `progress` stopped it.
pub fn observe(
    net: &FoldedNet,
    set: &ImageSet,
    normalization: &Normalization,
    device: &Device,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Calibration, ResnetError> {
    if set.is_empty() {
        return Err(ResnetError::Invalid(
            "calibration needs at least one image".into(),
        ));
    }
    let observed = net
        .clone()
        .rewrite(&mut Attach)
        .unwrap_or_else(|e| match e {});
    let mut felt = Felt::default();
    for (from, n) in spans(set.len(), BATCH) {
        let x = images(set, from, n, normalization, device);
        observed.forward(x.clone());
        felt.add(&gradients(net, x, from)?, (set.height(), set.width()));
        if !progress(from + n) {
            return Err(ResnetError::Invalid("interrupted".into()));
        }
    }
    let mut collect = Collect::default();
    observed
        .rewrite(&mut collect)
        .unwrap_or_else(|e| match e {});
    Ok(Calibration {
        statistics: collect.statistics,
        felt,
        samples: set.len(),
    })
}

/// Puts observers where a quantizer may come to stand.
struct Attach;

impl Rewrite<Conv2d, FloatAct, Linear> for Attach {
    type Conv = Conv2d;
    type Act = ObservedAct;
    type Linear = Linear;
    type Error = Infallible;

    fn conv(&mut self, _: &ConvSite, conv: Conv2d) -> Result<Conv2d, Infallible> {
        Ok(conv)
    }

    fn act(&mut self, site: &ActSite, act: FloatAct) -> Result<ObservedAct, Infallible> {
        // A block's input is the stream itself, which is observed already.
        let observe = !matches!(site.role, ActRole::BlockInput | ActRole::BeforePool);
        Ok(ObservedAct::new(act.nonlinearity, observe))
    }

    fn linear(&mut self, linear: Linear) -> Result<Linear, Infallible> {
        Ok(linear)
    }
}

/// Takes the statistics out again.
#[derive(Default)]
struct Collect {
    statistics: BTreeMap<String, Arc<Statistics>>,
    stream: Arc<Statistics>,
}

impl Rewrite<Conv2d, ObservedAct, Linear> for Collect {
    type Conv = Conv2d;
    type Act = ObservedAct;
    type Linear = Linear;
    type Error = Infallible;

    fn conv(&mut self, _: &ConvSite, conv: Conv2d) -> Result<Conv2d, Infallible> {
        Ok(conv)
    }

    fn act(&mut self, site: &ActSite, act: ObservedAct) -> Result<ObservedAct, Infallible> {
        let statistics = act.statistics().map(Arc::new);
        match (site.role, statistics) {
            (ActRole::BlockInput, _) => {
                self.statistics
                    .insert(site.name.clone(), self.stream.clone());
            }
            (role, Some(statistics)) => {
                if role == ActRole::Stream {
                    self.stream = statistics.clone();
                }
                self.statistics.insert(site.name.clone(), statistics);
            }
            (_, None) => {}
        }
        Ok(act)
    }

    fn linear(&mut self, linear: Linear) -> Result<Linear, Infallible> {
        Ok(linear)
    }
}
