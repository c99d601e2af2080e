//! Which instructions this machine has.

use std::sync::OnceLock;

/// A set of instructions that kernels are written for. Each gives the same integers; floats differ in
/// the last bits only where a machine has no fused multiply-add.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust, for every machine.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL and VNNI.
    Avx512,
}

impl Level {
    /// The best that this machine has; asked once.
    pub fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self::here().pop().unwrap_or(Self::Portable))
    }

    /// All that this machine has, the best last.
    pub fn here() -> Vec<Self> {
        let mut here = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            if avx2 {
                here.push(Self::Avx2);
            }
            if avx2 && has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512vnni") {
                here.push(Self::Avx512);
            }
        }
        here
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
        }
    }
}
