//! Powers of two in one byte.

/// A scale `2^(code - 127)` (`float8_e8m0fnu`, in vLLM ue8m0): 2⁻¹²⁷ ... 2¹²⁷, and NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct E8m0(pub u8);

impl E8m0 {
    /// The smallest power of two that is not below `value`, `2^ceil(log2(value))`, found in its bits; 2⁻¹²⁷ for 0, 2¹²⁷ for
    /// anything larger, NaN for NaN. The sign is ignored: a scale has none.
    #[inline(always)]
    pub fn at_least(value: f32) -> Self {
        if value.is_nan() {
            return Self(255);
        }
        let bits = value.abs().to_bits();
        let (exponent, mantissa) = (bits >> 23, bits & 0x7F_FFFF);
        // Below 2⁻¹²⁶ numbers are steps of 2⁻¹⁴⁹: half of the range fits 2⁻¹²⁷
        let up = if exponent == 0 {
            mantissa > 0x40_0000
        } else {
            mantissa != 0
        };
        Self((exponent + u32::from(up)).min(254) as u8)
    }

    /// The value.
    #[inline(always)]
    pub fn decode(self) -> f32 {
        match self.0 {
            0 => f32::from_bits(0x40_0000),
            255 => f32::NAN,
            code => f32::from_bits(u32::from(code) << 23),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code() {
        for code in 0..=254_u8 {
            let value = E8m0(code).decode();
            assert_eq!(f64::from(value), 2f64.powi(i32::from(code) - 127));
            assert_eq!(E8m0::at_least(value).0, code);
            assert_eq!(E8m0::at_least(value.next_up()).0, (code + 1).min(254));
            assert_eq!(E8m0::at_least(value.next_down()).0, code);
        }
        assert!(E8m0(255).decode().is_nan());
        assert_eq!(E8m0::at_least(f32::NAN).0, 255);
        assert_eq!(E8m0::at_least(f32::INFINITY).0, 254);
        assert_eq!(E8m0::at_least(0.0).0, 0);
    }
}
