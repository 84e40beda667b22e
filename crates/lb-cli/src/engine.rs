//! Packed networks on the integer engine.

use anyhow::{Result, anyhow, ensure};
use lb_data::ImageSet;
use lb_engine::{EngineError, Plan};
use lb_format::QuantizedNetwork;

use crate::subject::Packed;

/// Whether a packed network runs in integers, and what to do where it cannot.
pub enum Planned {
    /// It does.
    Integer(Box<Plan>),
    /// It does not, for this reason: something in it is left in float.
    Unsupported(String),
}

/// Plans `packed` for this machine and `LB_KERNEL`.
///
/// # Errors
/// If `LB_KERNEL` names no kernel of this machine, or the network's numbers do not fit integers.
pub fn plan(packed: &Packed) -> Result<Planned> {
    plan_network(&packed.network, &packed.name)
}

/// Plans `network`, which people know as `name`, for this machine and `LB_KERNEL`.
///
/// # Errors
/// As [`plan`].
pub fn plan_network(network: &QuantizedNetwork, name: &str) -> Result<Planned> {
    match Plan::new(network) {
        Ok(plan) => Ok(Planned::Integer(Box::new(plan))),
        Err(e @ EngineError::Unsupported { .. }) => Ok(Planned::Unsupported(e.to_string())),
        Err(e @ EngineError::NoKernel { .. }) => Err(anyhow!("LB_KERNEL: {e}")),
        Err(e) => Err(anyhow!("{name}: {e}")),
    }
}

/// Refuses images of another size than `plan` takes.
///
/// # Errors
/// If they are.
pub fn check_size(name: &str, plan: &Plan, set: &ImageSet) -> Result<()> {
    let (input, height, width) = (plan.input(), set.height(), set.width());
    ensure!(
        (input.height, input.width) == (height, width),
        "{name}: takes images of {input}, {} has 3×{height}×{width}",
        set.source()
    );
    Ok(())
}

/// The machine's threads.
pub fn all_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
