//! Instruction-set tokens: a value of such a type proves that this CPU has the instructions, so
//! functions compiled for them may be called.

/// Makes a token of the features it names.
macro_rules! token {
    ($(#[$doc:meta])* $name:ident, $arch:literal, $detect:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name(());

        impl $name {
            /// The token, if this CPU has the instructions.
            pub fn detect() -> Option<Self> {
                #[cfg(target_arch = $arch)]
                {
                    ($detect)().then_some(Self(()))
                }
                #[cfg(not(target_arch = $arch))]
                None
            }
        }
    };
}

token!(
    /// AVX2 and FMA.
    Avx2,
    "x86_64",
    || std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
);

token!(
    /// AVX2, FMA and the 256-bit AVX-VNNI (`vpdpbusd` without AVX-512).
    AvxVnni,
    "x86_64",
    || Avx2::detect().is_some() && std::arch::is_x86_feature_detected!("avxvnni")
);

token!(
    /// AVX-512 F, BW, VL, DQ and VNNI.
    Avx512Vnni,
    "x86_64",
    || std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512vnni")
);

token!(
    /// [`Avx512Vnni`] and `vpopcntq`.
    Avx512Popcnt,
    "x86_64",
    || Avx512Vnni::detect().is_some()
        && std::arch::is_x86_feature_detected!("avx512vpopcntdq")
);

token!(
    /// AVX-512 F, BW and VBMI, which permutes bytes.
    Avx512Vbmi,
    "x86_64",
    || std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vbmi")
);

token!(
    /// [`Avx512Vnni`] and AMX's 8-bit tiles, which Linux grants on request.
    Amx,
    "x86_64",
    || Avx512Vnni::detect().is_some() && amx::granted()
);

token!(
    /// [`Amx`] and its tiles of bfloat16, with AVX-512's conversion to it; no kernel here uses them:
    /// training does.
    AmxBf16,
    "x86_64",
    || Amx::detect().is_some() && amx::in_bf16() && std::arch::is_x86_feature_detected!("avx512bf16")
);

token!(
    /// NEON with the dot product (`sdot`, `udot`).
    NeonDot,
    "aarch64",
    || std::arch::is_aarch64_feature_detected!("dotprod")
);

impl Avx512Popcnt {
    /// `vpopcntq` is detected only together with AVX-512 VNNI.
    pub fn avx512(self) -> Avx512Vnni {
        Avx512Vnni(())
    }
}

impl Amx {
    /// AMX is detected only together with AVX-512 VNNI.
    pub fn avx512(self) -> Avx512Vnni {
        Avx512Vnni(())
    }
}

#[cfg(target_arch = "x86_64")]
mod amx {
    //! `is_x86_feature_detected!` does not know AMX yet, and the state of its tiles must be asked
    //! of the kernel (Linux, Documentation/arch/x86/xstate.rst).

    use std::arch::asm;
    use std::arch::x86_64::{__cpuid_count, _xgetbv};

    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XFEATURE_XTILEDATA: usize = 18;
    const SYS_ARCH_PRCTL: usize = 158;

    pub fn granted() -> bool {
        // Leaf 7: EDX bit 24 is AMX-TILE, bit 25 AMX-INT8.
        let in_cpu = __cpuid_count(7, 0).edx >> 24 & 3 == 3;
        in_cpu && std::arch::is_x86_feature_detected!("xsave") && in_os()
    }

    pub fn in_bf16() -> bool {
        // Leaf 7: EDX bit 22 is AMX-BF16.
        __cpuid_count(7, 0).edx >> 22 & 1 == 1
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    fn in_os() -> bool {
        // SAFETY: `xsave` was detected. The system call only asks for a permission of this process
        // and touches no memory of it.
        unsafe {
            // XCR0 bits 17 and 18: the OS saves tile configuration and data.
            if xcr0() >> 17 & 3 != 3 {
                return false;
            }
            let mut result: isize;
            asm!(
                "syscall",
                inlateout("rax") SYS_ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _, lateout("r11") _,
                options(nostack),
            );
            result == 0
        }
    }

    #[cfg(not(all(target_os = "linux", not(miri))))]
    fn in_os() -> bool {
        false
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[target_feature(enable = "xsave")]
    fn xcr0() -> u64 {
        // SAFETY: reading XCR0 has no effect.
        unsafe { _xgetbv(0) }
    }
}
