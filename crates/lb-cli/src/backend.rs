//! Devices by name.

use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::ValueEnum;

/// A Burn backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// Burn's CPU backend.
    Flex,
    /// Burn's older CPU backend, on `ndarray`; deprecated by Burn, too slow to train on.
    Ndarray,
    /// GPUs, through Vulkan, Metal or DirectX 12.
    Wgpu,
    /// NVIDIA GPUs; needs a build with `--features cuda`.
    Cuda,
}

impl Backend {
    /// Its first device.
    ///
    /// # Errors
    /// If the backend is not in this build, or the machine has no device for it.
    pub fn device(self) -> Result<Device> {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "ndarray")]
            #[allow(deprecated, reason = "kept because our users name it")]
            Self::Ndarray => Ok(Device::ndarray()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => wgpu(),
            #[cfg(feature = "cuda")]
            Self::Cuda => Ok(Device::cuda(0usize)),
            #[allow(unreachable_patterns)]
            missing => {
                let name = missing
                    .to_possible_value()
                    .map(|v| v.get_name().to_string());
                let name = name.unwrap_or_default();
                bail!("this `lb` was built without {name}: build it with --features {name}")
            }
        }
    }

    /// Its devices of these numbers, or the first if there are none.
    ///
    /// # Errors
    /// As [`device`](Self::device), or if there is no device of a number.
    pub fn devices(self, numbers: &[usize]) -> Result<Vec<Device>> {
        let first = self.device()?;
        if numbers.is_empty() {
            return Ok(vec![first]);
        }
        let all: Vec<Device> = match self {
            Self::Flex | Self::Ndarray => return Ok(vec![first; numbers.len()]),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Device::enumerate(burn::tensor::DeviceType::Wgpu)
                .into_iter()
                .collect(),
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::enumerate(burn::tensor::DeviceType::Cuda)
                .into_iter()
                .collect(),
            #[allow(unreachable_patterns)]
            _ => vec![first],
        };
        let pick = |&n: &usize| match all.get(n) {
            Some(device) => Ok(device.clone()),
            None => bail!(
                "--devices {n}: this machine's devices are {}",
                (all.iter().enumerate().map(|(i, d)| format!("{i} ({d:?})")))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        numbers.iter().map(pick).collect()
    }
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Result<Device> {
    let found = Device::enumerate(burn::tensor::DeviceType::Wgpu);
    if found.is_empty() {
        bail!(
            "--backend wgpu: no GPU adapter was found; install its driver (or Mesa's software Vulkan, `mesa-vulkan-drivers`), or use --backend flex"
        );
    }
    Ok(Device::wgpu(Default::default()))
}

/// What computes, in words: the backend's device, and the CPU.
pub fn describe(device: &Device) -> String {
    format!("{device:?} on {}", cpu())
}

/// The CPU's name and its number of threads.
pub fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
        .map_or(std::env::consts::ARCH, |(_, name)| name.trim());
    format!("{name}, {} threads", crate::engine::all_threads())
}
