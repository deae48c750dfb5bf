//! Which probabilities are dropped (features F-10).
//!
//! The random number of a probability depends on the seed, the sequence's number in the call, the head, and the indices of query and
//! key in their sequence, and on nothing else. With `m` the finaliser of SplitMix64 and `γ` its increment: `s_0 = m(seed)`, then for
//! each of sequence, head and query `s_i = m((s_(i-1) + γ) ⊕ m(x_i))`; the bits are `m(s_3 + (key + 1) γ)`, and the number in
//! `0 .. 1` is their upper 53.

/// The increment of SplitMix64: 2^64 over the golden ratio.
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;

/// A dropout with its seed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Dropout {
    pub(super) probability: f64,
    pub(super) seed: u64,
}

impl Dropout {
    /// What a probability is multiplied by: 0 where it is dropped, else `1 / (1 - p)`.
    pub(super) fn multiplier(&self, sequence: usize, head: usize, query: usize, key: usize) -> f64 {
        let mut state = finalised(self.seed);
        for number in [sequence, head, query] {
            state = finalised(state.wrapping_add(INCREMENT) ^ finalised(number as u64));
        }
        let steps = (key as u64).wrapping_add(1);
        let bits = finalised(state.wrapping_add(steps.wrapping_mul(INCREMENT)));
        let uniform = (bits >> 11) as f64 / (1_u64 << 53) as f64;
        if uniform < self.probability {
            0.0
        } else {
            1.0 / (1.0 - self.probability)
        }
    }
}

fn finalised(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
