//! What this CPU can do at most: loops of nothing but the instructions that a kernel multiplies
//! and adds with, on registers, without a load. Benchmarks print kernels beside them.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::RangeInclusive;

/// A loop, and the kernels that cannot be faster than it.
pub struct Peak {
    /// Its instructions.
    pub name: &'static str,
    /// Names of the kernels whose inner loop has these instructions.
    pub kernels: &'static [&'static str],
    /// At these bits of weights and inputs, the larger.
    pub bits: RangeInclusive<u8>,
    /// Multiply-accumulates of one [`run`](Self::run), some microseconds of work.
    pub macs: usize,
    /// Wants the CPU to have the instructions.
    body: unsafe fn(),
}

impl Peak {
    /// Whether a kernel cannot be faster. `winograd` and `winograd-avx2` can, as they multiply less
    /// than is counted.
    pub fn bounds(&self, kernel: &str, bits: u8) -> bool {
        self.kernels.contains(&kernel) && self.bits.contains(&bits)
    }

    /// Runs the loop.
    pub fn run(&self) {
        // SAFETY: only `peaks` makes these, where a token proves the instructions.
        unsafe { (self.body)() }
    }
}

/// The loops that this CPU can run. There are none for ARM yet.
pub fn peaks() -> Vec<Peak> {
    #[cfg(target_arch = "x86_64")]
    return x86::peaks();
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::available;

    #[test]
    fn every_peak_runs_and_no_kernel_has_two() {
        let peaks = peaks();
        for peak in &peaks {
            peak.run();
        }
        for kernel in available() {
            for bits in 1..=8 {
                let bounds = |p: &&Peak| p.bounds(kernel.name(), bits);
                assert!(peaks.iter().filter(bounds).count() <= 1);
            }
        }
    }
}
