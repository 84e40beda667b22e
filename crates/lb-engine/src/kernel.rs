//! Kernels: ways to run a [`Conv`], all with the same bits.
//!
//! A kernel is one file and one line in [`available`]. It says what it can run and at what cost,
//! and prepares the weights once, in whatever order suits it. `unsafe` lives here and nowhere else in this crate;
//! whoever holds an instruction-set token ([`isa`]) knows that the CPU has it.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "x86_64")]
mod bitserial;
pub mod diffuse;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod direct;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod epilogue;
pub mod isa;
#[cfg(target_arch = "x86_64")]
mod lanes;
pub mod lookup;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod pack;
pub mod peak;
pub mod scalar;
pub mod steps;
#[cfg(target_arch = "x86_64")]
mod tiles;
#[cfg(target_arch = "x86_64")]
mod wide;
pub mod window_sum;
#[cfg(target_arch = "x86_64")]
mod winograd;
#[cfg(target_arch = "x86_64")]
mod ymm;

use crate::EngineError;
use crate::conv::{Conv, Io, Values};
use crate::plane::{Plane, TAIL};
use window_sum::WindowSum;

/// A way to run convolutions.
pub trait Kernel: Sync + Send {
    /// Its name, as `LB_KERNEL` says it.
    fn name(&self) -> &'static str;

    /// Modelled cost of one image in units that only compare kernels of one machine (about
    /// nanoseconds); `None` if it cannot run `conv`.
    fn cost(&self, conv: &Conv) -> Option<f64>;

    /// How the sums of windows are computed beside this kernel.
    fn window_sum(&self, conv: &Conv) -> WindowSum {
        WindowSum::new(conv, None)
    }

    /// Prepares `conv`: weights packed in this kernel's order.
    ///
    /// # Panics
    /// If [`cost`](Self::cost) is `None`.
    fn prepare(&self, conv: Conv) -> Box<dyn Run>;
}

/// A prepared convolution.
pub trait Run: Send + Sync {
    /// What it runs.
    fn conv(&self) -> &Conv;

    /// Bytes of scratch memory it wants.
    fn scratch(&self) -> usize {
        0
    }

    /// Runs it for one image. Checks every buffer's length.
    ///
    /// # Panics
    /// If a buffer is shorter than its layout, or of another kind.
    fn run(&self, io: Io);

    /// Whether `images` images are better run together, by [`run_together`](Self::run_together).
    fn likes_together(&self, images: usize) -> bool {
        let _ = images;
        false
    }

    /// Runs it for `images` images, whose values lie one layout apart, and whose sums
    /// [`sums_apart`] apart.
    ///
    /// # Panics
    /// If a buffer is too short or of another kind, or the kernel does not like it.
    fn run_together(&self, io: Io, images: usize) {
        let _ = (io, images);
        unreachable!("only kernels that like it are asked");
    }
}

/// The kernels of this machine, best first, ending in `scalar`, which runs everything.
pub fn available() -> Vec<Box<dyn Kernel>> {
    let mut kernels: Vec<Box<dyn Kernel>> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(token) = isa::Amx::detect() {
            kernels.push(Box::new(amx::Amx(token)));
            kernels.push(Box::new(amx::wide::WideAmx(token)));
        }
        if let Some(token) = isa::Avx512Vnni::detect() {
            kernels.push(Box::new(winograd::Winograd(token)));
            kernels.push(Box::new(avx512vnni::Avx512Vnni(token)));
            kernels.push(Box::new(wide::WideAvx512(token)));
        }
        if let Some(token) = isa::Avx512Popcnt::detect() {
            kernels.push(Box::new(bitserial::BitSerial(token)));
        }
        if let Some(token) = isa::AvxVnni::detect() {
            kernels.push(Box::new(avxvnni::AvxVnni(token)));
        }
        if let Some(token) = isa::Avx2::detect() {
            kernels.push(Box::new(bitserial::Tables(token)));
            kernels.push(Box::new(winograd::WinogradAvx2(token)));
            kernels.push(Box::new(avx2::Avx2(token)));
            kernels.push(Box::new(wide::WideAvx2(token)));
        }
    }
    #[cfg(target_arch = "aarch64")]
    if let Some(token) = isa::NeonDot::detect() {
        kernels.push(Box::new(neon::Neon(token)));
    }
    kernels.push(Box::new(scalar::Scalar));
    kernels
}

/// The kernels called `names` (comma-separated) and `scalar` behind them; without names, all
/// [`available`] ones. A name also stands for those that end in it: `avx2` for `avx2`,
/// `winograd-avx2` and all others that need no more than AVX2.
///
/// # Errors
/// If one is not available.
pub fn named(names: Option<&str>) -> Result<Vec<Box<dyn Kernel>>, EngineError> {
    let mut all = available();
    let Some(names) = names else { return Ok(all) };
    let asked: Vec<&str> = names.split(',').map(str::trim).collect();
    let known: Vec<&'static str> = all.iter().map(|k| k.name()).collect();
    let is = |kernel: &str, asked: &str| {
        let prefix = kernel.strip_suffix(asked);
        prefix.is_some_and(|p| p.is_empty() || p.ends_with('-'))
    };
    if let Some(unknown) = asked.iter().find(|a| !known.contains(a)) {
        return Err(EngineError::NoKernel {
            asked: (*unknown).into(),
            available: known,
        });
    }
    let last = scalar::Scalar.name();
    all.retain(|k| k.name() == last || asked.iter().any(|a| is(k.name(), a)));
    Ok(all)
}

/// Values from the sums of one image to those of the next.
pub fn sums_apart(conv: &Conv) -> usize {
    conv.output.height * conv.output.width + window_sum::SLACK
}

/// Checks that `io` has what `conv` describes, so that a kernel may index without looking.
///
/// # Panics
/// If it does not.
pub fn check(conv: &Conv, io: &Io, scratch: usize) {
    check_together(conv, io, scratch, 1);
}

/// [`check`] for `images` images.
///
/// # Panics
/// If a buffer is too short or of another kind.
pub fn check_together(conv: &Conv, io: &Io, scratch: usize, images: usize) {
    // Planes fit the layer and one another: `Conv::new` saw to that.
    let long = |len: usize, plane: &Plane| {
        let all = plane.len().checked_mul(images);
        all.and_then(|n| n.checked_add(TAIL))
            .is_some_and(|n| len >= n)
    };
    assert_eq!(io.input.kind(), conv.input_kind, "kind of the input");
    assert!(long(io.input.len(), &conv.input), "input too short");
    let output = io.output.as_ref();
    assert_eq!(output.kind(), conv.output_kind, "kind of the output");
    assert!(long(output.len(), &conv.output), "output too short");
    let residual = io.residual.as_ref().map(Values::kind);
    assert_eq!(residual, conv.residual.map(|r| r.1), "kind of the residual");
    if let (Some(values), Some((plane, _))) = (&io.residual, conv.residual) {
        assert!(long(values.len(), &plane), "residual too short");
    }
    if conv.requant.sum.is_some() {
        let all = sums_apart(conv).checked_mul(images);
        assert!(all.is_some_and(|n| io.sums.len() >= n), "sums too short");
    }
    assert!(io.scratch.len() >= scratch, "scratch too short");
}

/// Refuses what `kernel` does not run: its packing and its loops rely on that.
///
/// # Panics
/// If [`Kernel::cost`] is `None`.
pub fn must_take(kernel: &dyn Kernel, conv: &Conv) {
    let name = kernel.name();
    assert!(
        kernel.cost(conv).is_some(),
        "{name} does not take this convolution"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_its_family_and_nothing_else() {
        let names = |asked: &str| -> Vec<&str> {
            let kernels = named(Some(asked)).unwrap();
            kernels.iter().map(|k| k.name()).collect()
        };
        assert_eq!(names("scalar"), ["scalar"]);
        if isa::Avx2::detect().is_some() {
            let family = [
                "bitserial-avx2",
                "winograd-avx2",
                "avx2",
                "wide-avx2",
                "scalar",
            ];
            assert_eq!(names("avx2"), family);
            assert_eq!(names(" winograd-avx2 "), ["winograd-avx2", "scalar"]);
        }
        for unknown in ["", "vx2", "avx"] {
            let e = named(Some(unknown)).err().expect("no such kernel");
            assert!(e.to_string().contains("scalar"), "{e}");
        }
    }
}
