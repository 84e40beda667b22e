//! Exponential moving average of a network's weights.

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::Tensor;

use crate::model::FloatNet;

/// Moves `average` towards `net`, parameters and running statistics alike:
///
/// ```text
/// a ← d · a + (1 − d) · w,   d = min(decay, (1 + step) / (10 + step))
/// ```
///
/// so that the first steps do not drag the random initial weights along. Both must stem from one
/// network, as parameters are matched by id.
pub(super) fn update(average: FloatNet, net: &FloatNet, decay: f64, step: usize) -> FloatNet {
    let decay = decay.min((1 + step) as f64 / (10 + step) as f64);
    let mut current = Collect(HashMap::new());
    net.valid().visit(&mut current);
    average.map(&mut Blend {
        current: current.0,
        decay,
    })
}

struct Collect(HashMap<ParamId, Tensor<1>>);

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.insert(param.id, param.val().reshape([-1]));
    }
}

struct Blend {
    current: HashMap<ParamId, Tensor<1>>,
    decay: f64,
}

impl ModuleMapper for Blend {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(current) = self.current.remove(&param.id) else {
            return param;
        };
        let decay = self.decay;
        param.map(|a| {
            // Running statistics lie on the device that moved them last.
            let current = current.reshape(a.shape()).to_device(&a.device());
            a.mul_scalar(decay) + current.mul_scalar(1.0 - decay)
        })
    }
}
