//! Number types: what tensors store, and what arithmetic accumulates in.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

use half::{bf16, f16};

mod sealed {
    /// Keeps [`Scalar`](super::Scalar) to this crate's types: kernels are compiled for exactly these.
    pub trait Sealed {}
}

/// A number that a buffer can hold: `f32`, `f64`, `bf16` or `f16`.
pub trait Scalar:
    sealed::Sealed + bytemuck::Pod + Default + PartialOrd + Debug + Send + Sync + 'static
{
    /// Name in messages and file formats, e.g. `bf16`.
    const NAME: &'static str;
    /// The nearest value, ties to even.
    fn from_f32(value: f32) -> Self;
    /// The nearest value, ties to even.
    fn from_f64(value: f64) -> Self;
    /// The value, rounded where `Self` is wider.
    fn to_f32(self) -> f32;
    /// The value.
    fn to_f64(self) -> f64;
}

/// What a layer computes with: every operation's result is rounded to it.
pub trait Element: Scalar {
    /// What sums, softmax and log-sum-exp are held in: `f32`, or `f64` for `f64`.
    type Accum: Real;
}

/// An accumulator: `f32` or `f64`.
pub trait Real:
    Element<Accum = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// -∞.
    const NEG_INFINITY: Self;
    /// Converts from any stored number.
    fn load<S: Scalar>(value: S) -> Self;
    /// Rounds to any stored number.
    fn store<S: Scalar>(self) -> S;
    /// `e^self` to an ulp or two for `self <= 0`; 0 at -∞. Branch-free, so that loops over it vectorise.
    /// `FMA` says whether fused multiply-add is an instruction where it runs.
    fn exp_nonpositive<const FMA: bool>(self) -> Self;
    /// `self * a + b`, fused where `FMA` says that it is an instruction.
    fn madd<const FMA: bool>(self, a: Self, b: Self) -> Self;
    /// `e^self`.
    fn exp(self) -> Self;
    /// Natural logarithm.
    fn ln(self) -> Self;
    /// Hyperbolic tangent to a few ulps. Branch-free, as [`Real::exp_nonpositive`].
    fn tanh<const FMA: bool>(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The larger one; the other one where one is NaN.
    fn max(self, other: Self) -> Self;
    /// Whether this is a NaN.
    fn is_nan(self) -> bool;
}

macro_rules! scalar {
    ($type:ty, $name:literal, $from32:expr, $from64:expr, $to32:expr, $to64:expr) => {
        impl sealed::Sealed for $type {}
        impl Scalar for $type {
            const NAME: &'static str = $name;
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                $from32(value)
            }
            #[inline(always)]
            fn from_f64(value: f64) -> Self {
                $from64(value)
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to32(self)
            }
            #[inline(always)]
            fn to_f64(self) -> f64 {
                $to64(self)
            }
        }
    };
}

scalar!(f32, "f32", |v| v, |v| v as f32, |v| v, f64::from);
scalar!(f64, "f64", f64::from, |v| v, |v| v as f32, |v| v);
scalar!(
    bf16,
    "bf16",
    bf16::from_f32,
    bf16::from_f64,
    widen_bf16,
    |v| f64::from(widen_bf16(v))
);
scalar!(
    f16,
    "f16",
    f16::from_f32,
    f16::from_f64,
    f16::to_f32,
    f16::to_f64
);

/// bf16 is the upper half of an f32; unlike `half`'s conversion this keeps signalling NaNs and has no branch.
#[inline(always)]
fn widen_bf16(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

impl Element for f32 {
    type Accum = f32;
}
impl Element for f64 {
    type Accum = f64;
}
impl Element for bf16 {
    type Accum = f32;
}

impl Real for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;

    #[inline(always)]
    fn load<S: Scalar>(value: S) -> Self {
        value.to_f32()
    }
    #[inline(always)]
    fn store<S: Scalar>(self) -> S {
        S::from_f32(self)
    }

    /// Cody-Waite reduction to `|r| <= ln 2 / 2`, then the Taylor polynomial of degree 7, whose remainder there is below 2^-27.
    #[inline(always)]
    fn exp_nonpositive<const FMA: bool>(self) -> Self {
        const LN2_HIGH: f32 = 0.693_359_4; // 10 significant bits: `k * LN2_HIGH` is exact
        const LN2_LOW: f32 = -2.121_944_4e-4;
        // Adding and subtracting 1.5·2^23 rounds to the nearest integer, which then stands in the low bits
        const ROUND: f32 = 12_582_912.0;
        let shifted = self.madd::<FMA>(std::f32::consts::LOG2_E, ROUND);
        let k = shifted - ROUND;
        let r = k.madd::<FMA>(-LN2_HIGH, self);
        let r = k.madd::<FMA>(-LN2_LOW, r);
        let mut p: f32 = 1.0 / 5040.0;
        for c in [
            1.0 / 720.0,
            1.0 / 120.0,
            1.0 / 24.0,
            1.0 / 6.0,
            0.5,
            1.0,
            1.0,
        ] {
            p = p.madd::<FMA>(r, c);
        }
        let power = f32::from_bits(
            shifted
                .to_bits()
                .wrapping_sub(ROUND.to_bits())
                .wrapping_add(127)
                << 23,
        );
        // Below the smallest normal number the power's exponent field would wrap; NaN has to stay NaN
        let value = p * power;
        if self < -87.0 { 0.0 } else { value }
    }
    #[inline(always)]
    fn madd<const FMA: bool>(self, a: Self, b: Self) -> Self {
        if FMA {
            self.mul_add(a, b)
        } else {
            self * a + b
        }
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f32::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f32::ln(self)
    }
    /// `(1 - e^-2|x|) / (1 + e^-2|x|)`; below 0.35, where that cancels, the Taylor polynomial of degree 11, whose remainder there is below
    /// 2^-26 of the value.
    #[inline(always)]
    fn tanh<const FMA: bool>(self) -> Self {
        let x = f32::abs(self);
        let t = (-2.0 * x).exp_nonpositive::<FMA>();
        let far = (1.0 - t) / (1.0 + t);
        let square = x * x;
        let mut p: f32 = -1382.0 / 155_925.0;
        for c in [62.0 / 2835.0, -17.0 / 315.0, 2.0 / 15.0, -1.0 / 3.0, 1.0] {
            p = p.madd::<FMA>(square, c);
        }
        let value = if x < 0.35 { p * x } else { far };
        f32::copysign(value, self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        f32::max(self, other)
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }
}

impl Real for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;

    #[inline(always)]
    fn load<S: Scalar>(value: S) -> Self {
        value.to_f64()
    }
    #[inline(always)]
    fn store<S: Scalar>(self) -> S {
        S::from_f64(self)
    }
    /// The system's `exp`: `f64` layers are for tests, where accuracy counts more than speed.
    #[inline(always)]
    fn exp_nonpositive<const FMA: bool>(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn madd<const FMA: bool>(self, a: Self, b: Self) -> Self {
        if FMA {
            self.mul_add(a, b)
        } else {
            self * a + b
        }
    }
    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> Self {
        f64::ln(self)
    }
    #[inline(always)]
    fn tanh<const FMA: bool>(self) -> Self {
        f64::tanh(self)
    }
    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        f64::max(self, other)
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_exponential_is_within_two_ulps() {
        let mut worst = 0.0_f64;
        for i in 0..200_000 {
            let x = -(i as f32) * 86.5 / 200_000.0;
            let wanted = f64::from(x).exp();
            for found in [x.exp_nonpositive::<true>(), x.exp_nonpositive::<false>()] {
                worst = worst.max((f64::from(found) / wanted - 1.0).abs());
            }
        }
        assert!(
            worst < 2.0 * f64::from(f32::EPSILON),
            "relative error {worst}"
        );
    }

    #[test]
    fn the_fast_exponential_keeps_its_corners() {
        assert_eq!(0.0_f32.exp_nonpositive::<true>(), 1.0);
        assert_eq!(f32::NEG_INFINITY.exp_nonpositive::<true>(), 0.0);
        assert_eq!((-88.0_f32).exp_nonpositive::<false>(), 0.0);
        assert_eq!(f32::MIN.exp_nonpositive::<false>(), 0.0);
        assert!(f32::NAN.exp_nonpositive::<true>().is_nan());
    }

    #[test]
    fn the_fast_tangent_is_within_four_ulps() {
        let mut worst = 0.0_f64;
        for i in 1..200_000 {
            let x = (i as f32 - 100_000.0) * 1e-4;
            let wanted = f64::from(x).tanh();
            for found in [Real::tanh::<true>(x), Real::tanh::<false>(x)] {
                if wanted != 0.0 {
                    worst = worst.max((f64::from(found) / wanted - 1.0).abs());
                }
            }
        }
        assert!(
            worst < 4.0 * f64::from(f32::EPSILON),
            "relative error {worst}"
        );
        for (x, wanted) in [(0.0_f32, 0.0), (f32::MAX, 1.0), (f32::NEG_INFINITY, -1.0)] {
            assert_eq!(Real::tanh::<true>(x), wanted);
        }
        assert!(Real::tanh::<false>(f32::NAN).is_nan());
    }

    #[test]
    fn bf16_widens_bit_by_bit_and_rounds_to_even() {
        for bits in 0..=u16::MAX {
            let value = bf16::from_bits(bits);
            assert_eq!(Scalar::to_f32(value).to_bits() >> 16, u32::from(bits));
        }
        assert_eq!(
            <bf16 as Scalar>::from_f32(1.0 + 1.0 / 256.0),
            bf16::from_f32(1.0)
        );
        assert_eq!(
            <bf16 as Scalar>::from_f32(1.0 + 3.0 / 256.0),
            bf16::from_f32(1.0 + 1.0 / 64.0)
        );
    }
}
