//! Small floating-point formats: sign, exponent, mantissa.

/// A format's numbers.
struct Layout {
    /// Mantissa bits.
    mantissa: u32,
    /// Exponent bias.
    bias: i32,
    /// Code of the largest finite value, sign bit clear.
    largest: u8,
    /// The sign's bit.
    sign: u8,
    /// Code of NaN, sign bit clear.
    nan: u8,
}

impl Layout {
    /// The code of the nearest value, ties to even; the largest finite value for anything larger.
    #[inline(always)]
    fn encode(&self, value: f32) -> u8 {
        let sign = if value.is_sign_negative() {
            self.sign
        } else {
            0
        };
        sign | if value.is_nan() {
            self.nan
        } else {
            self.magnitude(value.abs())
        }
    }

    /// The code of a value that is not negative.
    #[inline(always)]
    fn magnitude(&self, value: f32) -> u8 {
        let dropped = 23 - self.mantissa;
        let smallest_normal = f32::from_bits(((128 - self.bias) as u32) << 23);
        if value < smallest_normal {
            // Codes below the first normal one count steps of the smallest value
            let step = f32::from_bits(((128 - self.bias - self.mantissa as i32) as u32) << 23);
            return (value / step).round_ties_even() as u8;
        }
        let bits = value.to_bits();
        let half_below_even = (1 << (dropped - 1)) - 1 + ((bits >> dropped) & 1);
        let rounded = bits.saturating_add(half_below_even) >> dropped;
        let code = rounded - (((127 - self.bias) as u32) << self.mantissa);
        code.min(u32::from(self.largest)) as u8
    }

    /// The value of a code that is no NaN and no infinity.
    const fn finite(&self, code: u8) -> f32 {
        let magnitude = (code & (self.sign - 1)) as u32;
        let (exponent, mantissa) = (
            (magnitude >> self.mantissa) as i32,
            magnitude & ((1 << self.mantissa) - 1),
        );
        let (power, significand) = if exponent == 0 {
            (1 - self.bias, mantissa)
        } else {
            (exponent - self.bias, mantissa | (1 << self.mantissa))
        };
        let step = f32::from_bits(((127 + power - self.mantissa as i32) as u32) << 23);
        let value = significand as f32 * step;
        if code & self.sign == 0 { value } else { -value }
    }
}

/// 8 bits, 4 of exponent and 3 of mantissa, without infinities (`float8_e4m3fn`): ±448, steps of 2⁻⁹ around 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct E4m3(pub u8);

impl E4m3 {
    /// The largest value.
    pub const MAX: f32 = 448.0;
    const LAYOUT: Layout = Layout {
        mantissa: 3,
        bias: 7,
        largest: 0x7E,
        sign: 0x80,
        nan: 0x7F,
    };

    /// The nearest code; ±[`MAX`](Self::MAX) beyond it.
    #[inline(always)]
    pub fn encode(value: f32) -> Self {
        Self(Self::LAYOUT.encode(value))
    }

    /// The value.
    #[inline(always)]
    pub fn decode(self) -> f32 {
        VALUES_OF_E4M3[self.0 as usize]
    }
}

/// 8 bits, 5 of exponent and 2 of mantissa, with infinities (`float8_e5m2`): ±57344, steps of 2⁻¹⁶ around 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct E5m2(pub u8);

impl E5m2 {
    /// The largest finite value.
    pub const MAX: f32 = 57344.0;
    const LAYOUT: Layout = Layout {
        mantissa: 2,
        bias: 15,
        largest: 0x7B,
        sign: 0x80,
        nan: 0x7F,
    };

    /// The nearest code; ±[`MAX`](Self::MAX) beyond it, never an infinity.
    #[inline(always)]
    pub fn encode(value: f32) -> Self {
        Self(Self::LAYOUT.encode(value))
    }

    /// The value.
    #[inline(always)]
    pub fn decode(self) -> f32 {
        VALUES_OF_E5M2[self.0 as usize]
    }
}

/// 4 bits, 2 of exponent and 1 of mantissa (`float4_e2m1fn`): 0, ½, 1, 1½, 2, 3, 4, 6 and their negatives. Stands in the low
/// bits of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct E2m1(pub u8);

impl E2m1 {
    /// The largest value.
    pub const MAX: f32 = 6.0;
    const LAYOUT: Layout = Layout {
        mantissa: 1,
        bias: 1,
        largest: 7,
        sign: 8,
        nan: 7,
    };

    /// The nearest code; ±[`MAX`](Self::MAX) beyond it, and for NaN, which the format lacks.
    #[inline(always)]
    pub fn encode(value: f32) -> Self {
        Self(Self::LAYOUT.encode(value))
    }

    /// The value of the low four bits.
    #[inline(always)]
    pub fn decode(self) -> f32 {
        VALUES_OF_E2M1[(self.0 & 15) as usize]
    }
}

static VALUES_OF_E4M3: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = if code & 0x7F == 0x7F {
            f32::NAN
        } else {
            E4m3::LAYOUT.finite(code as u8)
        };
        code += 1;
    }
    values
};

static VALUES_OF_E5M2: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = match code & 0x7F {
            0x7C if code < 0x80 => f32::INFINITY,
            0x7C => f32::NEG_INFINITY,
            0x7D..=0x7F => f32::NAN,
            _ => E5m2::LAYOUT.finite(code as u8),
        };
        code += 1;
    }
    values
};

static VALUES_OF_E2M1: [f32; 16] = {
    let mut values = [0.0; 16];
    let mut code = 0;
    while code < 16 {
        values[code] = E2m1::LAYOUT.finite(code as u8);
        code += 1;
    }
    values
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Values with their neighbours in `f32`, for every finite code and every midpoint between two codes of one sign.
    fn around(values: &[f32]) -> Vec<f32> {
        let mut sorted: Vec<f32> = values.iter().copied().filter(|v| *v >= 0.0).collect();
        sorted.sort_by(f32::total_cmp);
        sorted
            .windows(2)
            .flat_map(|pair| [pair[0], (pair[0] + pair[1]) / 2.0, pair[1]])
            .flat_map(|v| [v.next_down(), v, v.next_up()])
            .flat_map(|v| [v, -v])
            .collect()
    }

    /// The nearest of `codes` by exhaustive search, ties to the even code, the largest beyond it.
    fn nearest(value: f32, codes: impl Iterator<Item = (u8, f32)>) -> u8 {
        codes
            .filter(|(_, v)| v.is_finite() && v.is_sign_negative() == value.is_sign_negative())
            .min_by(|(a, x), (b, y)| {
                let (x, y) = (
                    (f64::from(*x) - f64::from(value)).abs(),
                    (f64::from(*y) - f64::from(value)).abs(),
                );
                x.total_cmp(&y).then((a & 1).cmp(&(b & 1)))
            })
            .unwrap()
            .0
    }

    fn check(codes: u16, decode: fn(u8) -> f32, encode: fn(f32) -> u8, max: f32) {
        let all = || (0..codes).map(|code| (code as u8, decode(code as u8)));
        for (code, value) in all().filter(|(_, value)| value.is_finite()) {
            assert_eq!(encode(value), code, "{value} of code {code:#x}");
        }
        let values: Vec<f32> = all().map(|(_, v)| v).filter(|v| v.is_finite()).collect();
        for value in around(&values) {
            assert_eq!(encode(value), nearest(value, all()), "{value:e}");
        }
        for value in [max * 1.03, max * 1.5, f32::MAX, f32::INFINITY] {
            assert_eq!(decode(encode(value)), max, "{value:e}");
            assert_eq!(decode(encode(-value)), -max, "{value:e}");
        }
        for value in [f32::MIN_POSITIVE, f32::from_bits(1)] {
            assert_eq!((encode(value), decode(encode(-value))), (0, -0.0));
        }
    }

    #[test]
    fn every_code_and_every_tie_of_e4m3() {
        check(256, |c| E4m3(c).decode(), |v| E4m3::encode(v).0, E4m3::MAX);
        assert!(E4m3(0x7F).decode().is_nan() && E4m3(0xFF).decode().is_nan());
        assert_eq!(
            (E4m3::encode(f32::NAN).0, E4m3::encode(-f32::NAN).0),
            (0x7F, 0xFF)
        );
        assert_eq!(E4m3(1).decode(), 2f32.powi(-9));
    }

    #[test]
    fn every_code_and_every_tie_of_e5m2() {
        check(256, |c| E5m2(c).decode(), |v| E5m2::encode(v).0, E5m2::MAX);
        assert_eq!(
            (E5m2(0x7C).decode(), E5m2(0xFC).decode()),
            (f32::INFINITY, f32::NEG_INFINITY)
        );
        assert!(
            (0x7D..=0x7F).all(|c| E5m2(c).decode().is_nan() && E5m2(c | 0x80).decode().is_nan())
        );
        assert_eq!(E5m2::encode(f32::NAN).0, 0x7F);
        assert_eq!(E5m2(1).decode(), 2f32.powi(-16));
    }

    #[test]
    fn every_code_and_every_tie_of_e2m1() {
        check(16, |c| E2m1(c).decode(), |v| E2m1::encode(v).0, E2m1::MAX);
        let values: Vec<f32> = (0..8).map(|c| E2m1(c).decode()).collect();
        assert_eq!(values, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(E2m1(0xF3).decode(), 1.5);
    }
}
