//! Random numbers to measure with: what is multiplied says how much power it takes, and with it how fast it is.

use half::bf16;

use super::super::driver::NumberType;
use crate::narrow::E4m3;

/// Values of the random block that memory and matrices are filled with, again and again.
pub(super) const RANDOM: usize = 1 << 21;

/// A sequence of random words, by SplitMix64.
fn random() -> impl Iterator<Item = u64> {
    let mut state = 1_u64;
    std::iter::from_fn(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(mixed ^ (mixed >> 31))
    })
}

/// Random words, as many as [`RANDOM`].
pub(super) fn random_words() -> Vec<u32> {
    random().map(|x| x as u32).take(RANDOM).collect()
}

/// The bytes of about normally distributed numbers: what a product's energy depends on, and with it its speed.
pub(super) fn random_factors(number: NumberType) -> Vec<u8> {
    // Twelve uniform numbers add up to a variance of 1; four are normal enough, once they are stretched
    let normal = random().map(|x| {
        let sum: u64 = (0..4).map(|part| (x >> (16 * part)) & 0xffff).sum();
        (sum as f32 / 65_535.0 - 2.0) * 3_f32.sqrt()
    });
    match number {
        NumberType::E4m3 => normal.take(RANDOM).map(|x| E4m3::encode(x).0).collect(),
        _ => normal
            .take(RANDOM)
            .flat_map(|x| bf16::from_f32(x).to_le_bytes())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_are_about_normal() {
        let bytes = random_factors(NumberType::Bf16);
        assert_eq!(bytes.len(), 2 * RANDOM);
        let values = bytes
            .chunks_exact(2)
            .map(|pair| f64::from(bf16::from_le_bytes([pair[0], pair[1]])));
        let (sum, squares) =
            values.fold((0.0, 0.0), |(sum, squares), x| (sum + x, squares + x * x));
        let count = RANDOM as f64;
        assert!((sum / count).abs() < 1e-2, "{sum}");
        assert!((squares / count - 1.0).abs() < 1e-2, "{squares}");
        assert_eq!(random_factors(NumberType::E4m3).len(), RANDOM);
    }
}
