//! The loops in assembly, so that no compiler can shorten them. Each has twelve accumulators, which
//! is more than latencies need.

use std::arch::asm;

use super::Peak;
use crate::kernel::amx::{ROW, TILE, config};
use crate::kernel::epilogue::Line;
use crate::kernel::isa::{Amx, Avx2, Avx512Popcnt, Avx512Vnni, AvxVnni};

/// Rounds of a loop.
const ROUNDS: usize = 1000;
/// Accumulators of a loop over vectors.
const ACCUMULATORS: usize = 12;

pub fn peaks() -> Vec<Peak> {
    let mut peaks = Vec::new();
    // `macs` of the instructions that one accumulator gets in a round.
    let vectors = |name, kernels, bits, macs: usize, body| Peak {
        name,
        kernels,
        bits,
        macs: macs * ACCUMULATORS * ROUNDS,
        body,
    };
    if Amx::detect().is_some() {
        peaks.push(Peak {
            name: "tdpbusd",
            kernels: &["amx"],
            bits: 1..=8,
            macs: 4 * 16 * TILE * ROUNDS,
            body: tiles,
        });
    }
    if Avx512Vnni::detect().is_some() {
        let kernels = &["avx512vnni", "winograd"];
        peaks.push(vectors("vpdpbusd zmm", kernels, 1..=8, 64, dot_512));
    }
    if Avx512Popcnt::detect().is_some() {
        let kernels = &["bitserial"];
        peaks.push(vectors("vpopcntd, 1 bit", kernels, 1..=1, 512, count_1));
        peaks.push(vectors("vpopcntd, 2 bits", kernels, 2..=2, 512, count_2));
    }
    if AvxVnni::detect().is_some() {
        peaks.push(vectors("vpdpbusd ymm", &["avxvnni"], 1..=8, 32, dot_256));
    }
    if Avx2::detect().is_some() {
        let kernels = &["bitserial-avx2"];
        peaks.push(vectors("vpshufb, 1 bit", kernels, 1..=1, 128, look_up));
        // The same for each binary digit of a weight.
        peaks.push(vectors("vpshufb, 2 bits", kernels, 2..=2, 64, look_up));
        let kernels = &["avx2"];
        peaks.push(vectors("vpmaddubsw", kernels, 1..=6, 32, pairs));
        // Or `vpmaddwd` alone: what the weights are decides.
        peaks.push(vectors("vpmaddubsw vpmaddwd", kernels, 7..=8, 32, narrow));
        let kernels = &["winograd-avx2"];
        peaks.push(vectors("vpmaddwd", kernels, 1..=8, 16, words));
    }
    peaks
}

/// A function that gives each of the accumulators 0 to 11 these instructions again and again, with
/// inputs in registers 12 and 13. `\i` is the accumulator; 14 and 15 are free.
macro_rules! spin {
    ($name:ident, $($instruction:literal),+) => {
        /// # Safety
        /// The CPU has the instructions.
        unsafe fn $name() {
            // SAFETY: the caller's; they change vector registers, which the ABI's list covers, and
            // nothing else.
            unsafe {
                asm!(
                    "vpcmpeqd ymm12, ymm12, ymm12",
                    "vpcmpeqd ymm13, ymm13, ymm13",
                    "2:",
                    ".irp i,0,1,2,3,4,5,6,7,8,9,10,11",
                    $($instruction,)+
                    ".endr",
                    "dec rcx",
                    "jnz 2b",
                    "vzeroupper",
                    inout("rcx") ROUNDS => _,
                    clobber_abi("sysv64"),
                    options(nomem, nostack),
                );
            }
        }
    };
}

spin!(dot_512, "vpdpbusd zmm\\i, zmm12, zmm13");

// Of the CPUs with AVX-VNNI, not all have the other encoding.
spin!(dot_256, "{{vex}} vpdpbusd ymm\\i, ymm12, ymm13");

spin!(
    count_1,
    "vpandd zmm14, zmm12, zmm13",
    "vpopcntd zmm14, zmm14",
    "vpaddd zmm\\i, zmm\\i, zmm14"
);

spin!(
    count_2,
    "vpandd zmm14, zmm12, zmm13",
    "vpopcntd zmm15, zmm14",
    "vpaddd zmm\\i, zmm\\i, zmm15",
    "vpternlogd zmm14, zmm12, zmm13, 0xc5",
    "vpopcntd zmm15, zmm14",
    "vpternlogd zmm14, zmm12, zmm13, 0xc5",
    "vpopcntd zmm14, zmm14",
    "vpaddd zmm14, zmm14, zmm15",
    "vpdpbusd zmm\\i, zmm14, zmm13"
);

spin!(
    look_up,
    "vpshufb ymm14, ymm12, ymm13",
    "vpaddb ymm\\i, ymm\\i, ymm14"
);

spin!(
    pairs,
    "vpmaddubsw ymm14, ymm12, ymm13",
    "vpaddw ymm\\i, ymm\\i, ymm14"
);

spin!(
    narrow,
    "vpmaddubsw ymm14, ymm12, ymm13",
    "vpmaddwd ymm14, ymm14, ymm12",
    "vpaddd ymm\\i, ymm\\i, ymm14"
);

spin!(
    words,
    "vpmaddwd ymm14, ymm12, ymm13",
    "vpaddd ymm\\i, ymm\\i, ymm14"
);

/// Four accumulators, as the kernel has.
///
/// # Safety
/// The CPU has AMX.
unsafe fn tiles() {
    let config = config(16, ROW, 4, 6);
    let tile = Line([0x55u8; TILE]);
    // SAFETY: the caller's; a valid configuration, and a tile to load. The compiler uses no tiles.
    unsafe {
        asm!(
            "ldtilecfg [{config}]",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "tileloadd tmm4, [{tile} + {row}]",
            "tileloadd tmm5, [{tile} + {row}]",
            "tileloadd tmm6, [{tile} + {row}]",
            "tileloadd tmm7, [{tile} + {row}]",
            "2:",
            "tdpbusd tmm0, tmm4, tmm6",
            "tdpbusd tmm2, tmm5, tmm6",
            "tdpbusd tmm1, tmm4, tmm7",
            "tdpbusd tmm3, tmm5, tmm7",
            "dec {n}",
            "jnz 2b",
            "tilerelease",
            config = in(reg) config.0.as_ptr(),
            tile = in(reg) tile.0.as_ptr(),
            row = in(reg) ROW,
            n = inout(reg) ROUNDS => _,
            options(nostack, readonly),
        );
    }
}
