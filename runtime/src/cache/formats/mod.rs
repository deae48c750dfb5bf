//! Byte formats (features 1.J). Each states its bytes; `latent ∥ rope` is an entry of `C` and `R` values.
//!
//! | type | feature | bytes of an entry, C = 512, R = 64 unless said |
//! |---|---|---|
//! | [`Fp8E4m3`], [`Fp8E5m2`] | J-02 | 576 |
//! | [`Fp8DsMla`] | J-03 | 656 |
//! | [`Fp8Model1`] | J-04 | 584 for C = 448 |
//! | [`Mxfp8`] | J-05 | 528 for C = 448 |
//! | [`IndexFp8`] | J-09 | 132 for a key of 128 |
//! | [`IndexMxfp4`] | J-09 | 68 for a key of 128 |
//!
//! Values are read as `f32`, those of an `f64` layer rounded to it first. Floats are little-endian. A NaN stays a NaN; the finite
//! values that share a scale with an infinity become NaN or as large as the format has them.

mod flat;
mod index;
mod scaled;

use std::fmt::Debug;

pub use flat::{Fp8E4m3, Fp8E5m2};
pub use index::{IndexFp8, IndexMxfp4};
pub use scaled::{Fp8DsMla, Fp8Model1, Mxfp8};

use crate::narrow::{E4m3, E8m0};

mod sealed {
    /// Keeps [`ScaleKind`](super::ScaleKind) to this crate's two types.
    pub trait Sealed {}
}

/// Which `f32`s a format's scales may be.
pub trait ScaleKind: sealed::Sealed + Debug + Copy + Default + Send + Sync + 'static {
    /// Whether scales are rounded up to powers of two (ue8m0).
    const POWER_OF_TWO: bool;
}

/// Scales are what makes the largest value the format's largest.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnyScale;
/// Scales are powers of two: what others multiply by them is exact.
#[derive(Debug, Clone, Copy, Default)]
pub struct PowerOfTwo;

impl sealed::Sealed for AnyScale {}
impl sealed::Sealed for PowerOfTwo {}
impl ScaleKind for AnyScale {
    const POWER_OF_TWO: bool = false;
}
impl ScaleKind for PowerOfTwo {
    const POWER_OF_TWO: bool = true;
}

/// The largest magnitude, NaNs left out.
fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, value| value.abs().max(most))
}

/// `2^ceil(log2(max(amax / 448, 10⁻⁴)))`, the scale of DeepSeek's writers (features J-03).
fn power_scale(values: &[f32]) -> E8m0 {
    E8m0::at_least((largest(values) / E4m3::MAX).max(1e-4))
}

/// `e4m3(value / scale)`, one after the other.
fn encode_e4m3(values: &[f32], scale: f32, codes: &mut [u8]) {
    for (code, &value) in codes.iter_mut().zip(values) {
        *code = E4m3::encode(value / scale).0;
    }
}

/// `e4m3 · scale`, one after the other.
fn decode_e4m3(codes: &[u8], scale: f32, values: &mut [f32]) {
    for (value, &code) in values.iter_mut().zip(codes) {
        *value = E4m3(code).decode() * scale;
    }
}

/// bf16, little-endian, rounded to nearest even.
fn encode_bf16(values: &[f32], bytes: &mut [u8]) {
    for (bytes, &value) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        *bytes = half::bf16::from_f32(value).to_le_bytes();
    }
}

fn decode_bf16(bytes: &[u8], values: &mut [f32]) {
    for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *value = half::bf16::from_le_bytes(*bytes).to_f32();
    }
}
