//! Devices by name.

use anyhow::{Result, bail, ensure};
use burn::tensor::Device;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::tensor::DeviceType;
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
            Self::Wgpu => self.found().map(|_| Device::wgpu(Default::default())),
            #[cfg(feature = "cuda")]
            Self::Cuda => self.found().map(|_| Device::cuda(0usize)),
            #[allow(unreachable_patterns)]
            missing => {
                let name = missing.name();
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
        if matches!(self, Self::Flex | Self::Ndarray) {
            return Ok(vec![first; numbers.len()]);
        }
        let all = self.found()?;
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

    /// All devices of a GPU backend; at least one. Without, Burn would panic at the first tensor.
    fn found(self) -> Result<Vec<Device>> {
        let devices: Vec<Device> = match self {
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Device::enumerate(DeviceType::Wgpu).into_iter().collect(),
            #[cfg(feature = "cuda")]
            Self::Cuda => Device::enumerate(DeviceType::Cuda).into_iter().collect(),
            _ => vec![self.device()?],
        };
        let driver = match self {
            Self::Cuda => "NVIDIA's driver and CUDA toolkit (libcuda, libnvrtc)",
            _ => "its driver (or Mesa's software Vulkan, `mesa-vulkan-drivers`)",
        };
        ensure!(
            !devices.is_empty(),
            "--backend {}: no GPU was found; install {driver}, or use --backend flex",
            self.name()
        );
        Ok(devices)
    }

    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |v| v.get_name().to_string())
    }
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
