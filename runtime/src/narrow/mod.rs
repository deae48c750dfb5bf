//! Number formats of 8 and 4 bits, and powers of two that scale them.
//!
//! None of them is a [`Scalar`](crate::Scalar): a code means nothing without the scale beside it. Encoding rounds to nearest,
//! ties to even, and **saturates**: what is larger than the largest finite value, infinities included, becomes that value.
//! That is what inference engines' kernels do (`satfinite`); PyTorch's plain cast makes such values NaN (e4m3) or infinite
//! (e5m2), and agrees with this after a clamp. Everywhere else the two agree to the bit, signs of NaN and zero included.

mod minifloat;
mod power;

pub use minifloat::{E2m1, E4m3, E5m2};
pub use power::E8m0;
