//! Random tensors that depend on nothing but a seed, a name and an index.
//!
//! Counter based, so that any element can be made alone and in parallel; every value is exactly a bfloat16, so that a run in
//! bfloat16 starts from the same numbers as one in f32. What a GPU makes of a recipe ([`Tensor::generated`](crate::Tensor::generated))
//! has the same bits.
//!
//! ```text
//! key  = fnv1a64(name) ^ splitmix64(seed)
//! u_i  = (splitmix64(key + i * 0x9E3779B97F4A7C15) >> 40) * 2^-23 - 1        in [-1, 1)
//! v_i  = bf16(f32(base + amp * u_i))                                         f64, then rounded twice, to nearest even
//! ```

use half::bf16;
use rayon::prelude::*;

/// The golden ratio times 2^64, splitmix64's increment.
const GOLDEN_GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Standard deviation of a linear layer's outputs for inputs of deviation 1.
const LINEAR_GAIN: f64 = 1.5;

/// Amplitude of norm weights around 1 and of biases around 0.
const VECTOR_AMPLITUDE: f64 = 0.3;

/// How a tensor's values are drawn: uniform in `base ± amplitude`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// Shared by all tensors of a layer.
    pub seed: u64,
    /// Centre of the range.
    pub base: f64,
    /// Half the range's width.
    pub amplitude: f64,
}

impl Recipe {
    /// The recipe of a layer's tensor, by its kind.
    ///
    /// A matrix `[out, in]` is drawn from ±1.5·√(3/in): a uniform value in ±a has variance a²/3, so each output has 1.5
    /// times its input's deviation whatever the width. Norm weights are 1 ± 0.3, biases 0 ± 0.3.
    pub fn for_tensor(name: &str, shape: &[usize], seed: u64) -> Self {
        match shape {
            [_, fan_in, ..] => Self {
                seed,
                base: 0.0,
                amplitude: LINEAR_GAIN * (3.0 / (*fan_in).max(1) as f64).sqrt(),
            },
            _ if name.ends_with("bias") => Self {
                seed,
                base: 0.0,
                amplitude: VECTOR_AMPLITUDE,
            },
            _ => Self {
                seed,
                base: 1.0,
                amplitude: VECTOR_AMPLITUDE,
            },
        }
    }

    /// Inputs of a layer: uniform with deviation 1.
    pub fn for_hidden_states(seed: u64) -> Self {
        Self {
            seed,
            base: 0.0,
            amplitude: 3f64.sqrt(),
        }
    }

    /// The first `elements` values of the tensor called `name`, its prefix included.
    pub fn values(&self, name: &str, elements: usize) -> Vec<f32> {
        let key = self.key(name);
        (0..elements as u64)
            .into_par_iter()
            .map(|i| self.value(key, i).to_f32())
            .collect()
    }

    /// The same as little-endian bfloat16.
    pub(crate) fn bf16_bytes(&self, name: &str, elements: usize) -> Vec<u8> {
        let key = self.key(name);
        let mut bytes = vec![0; elements.saturating_mul(2)];
        bytes
            .par_chunks_exact_mut(2)
            .enumerate()
            .for_each(|(i, pair)| {
                pair.copy_from_slice(&self.value(key, i as u64).to_le_bytes());
            });
        bytes
    }

    /// What the values of the tensor called `name` are drawn by.
    pub(crate) fn key(&self, name: &str) -> u64 {
        fnv1a64(name) ^ splitmix64(self.seed)
    }

    fn value(&self, key: u64, index: u64) -> bf16 {
        let bits = splitmix64(key.wrapping_add(index.wrapping_mul(GOLDEN_GAMMA)));
        let unit = (bits >> 40) as f64 / f64::from(1 << 23) - 1.0;
        bf16::from_f32((self.base + self.amplitude * unit) as f32)
    }
}

/// Number of elements of `shape`; `None` where it overflows, or where their bytes would.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    let elements = shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
    (elements <= isize::MAX as usize / size_of::<f64>()).then_some(elements)
}

/// Steele, Lea and Flood's finaliser over a counter ("Fast splittable pseudorandom number generators", 2014).
pub(crate) fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(GOLDEN_GAMMA);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Fowler, Noll and Vo's hash, 64 bits, variant 1a.
fn fnv1a64(text: &str) -> u64 {
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}
