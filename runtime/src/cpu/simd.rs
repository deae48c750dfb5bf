//! Compiling a loop for the widest vectors of the machine it runs on.

/// A loop that the compiler can vectorise. `run` has to be `#[inline(always)]`, so that it is compiled inside each dispatch arm.
pub(super) trait Vectorised {
    /// What the loop gives back.
    type Output;
    /// The loop; `FMA` says whether fused multiply-add is an instruction here.
    fn run<const FMA: bool>(self) -> Self::Output;
}

/// Runs the loop compiled for AVX-512, for AVX2 with FMA, or for the baseline.
#[inline]
pub(super) fn dispatch<V: Vectorised>(v: V) -> V::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512vl")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("fma")
        {
            // SAFETY: the features that the function is compiled for were just detected.
            return unsafe { avx512(v) };
        }
        if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma")
        {
            // SAFETY: the features that the function is compiled for were just detected.
            return unsafe { avx2(v) };
        }
    }
    v.run::<{ cfg!(target_arch = "aarch64") }>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
fn avx512<V: Vectorised>(v: V) -> V::Output {
    v.run::<true>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<V: Vectorised>(v: V) -> V::Output {
    v.run::<true>()
}
