//! An activation that gathers statistics of what passes through it.

use std::sync::{Arc, Mutex};

use burn::module::Module;
use burn::tensor::Tensor;
use lb_core::observe::Statistics;

use crate::{Nonlinearity, layer::Act};

/// Applies the nonlinearity and, where it has an observer, observes the result.
///
/// Clones share the statistics, so a topology may be cloned while it observes.
#[derive(Module, Debug)]
pub struct ObservedAct {
    /// What it computes.
    #[module(skip)]
    pub nonlinearity: Nonlinearity,
    #[module(skip)]
    statistics: Option<Arc<Mutex<Statistics>>>,
}

impl ObservedAct {
    /// An activation that observes if `observe`.
    pub fn new(nonlinearity: Nonlinearity, observe: bool) -> Self {
        Self {
            nonlinearity,
            statistics: observe.then(Arc::default),
        }
    }

    /// What was observed so far; `None` if this place does not observe.
    pub fn statistics(&self) -> Option<Statistics> {
        let shared = self.statistics.as_ref()?;
        Some(shared.lock().expect("an observer panicked").clone())
    }
}

impl Act for ObservedAct {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.nonlinearity.apply(x);
        if let Some(shared) = &self.statistics {
            shared
                .lock()
                .expect("an observer panicked")
                .observe(x.clone());
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn observes_after_the_nonlinearity() {
        let act = ObservedAct::new(Nonlinearity::Relu, true);
        let x = Tensor::<4>::from_data([[[[-3.0f32, 2.0]]]], &Device::flex());
        act.clone().forward(x);
        let s = act.statistics().unwrap();
        assert_eq!((s.min(), s.max()), (0.0, 2.0));
        assert!(
            ObservedAct::new(Nonlinearity::Relu, false)
                .statistics()
                .is_none()
        );
    }
}
