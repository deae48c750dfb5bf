//! What stands between logits and probabilities: scale, soft cap, bias, dropout.

use crate::backend::{Accum, Backend};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count, finite, product};
use crate::segments::Segments;

/// How logits become probabilities: `p = dropout(softmax(cap · tanh(τ · q·k / cap) + bias))`, each part where it is given.
#[derive(Debug)]
pub struct Softmax<'a, B: Backend> {
    scale: f64,
    soft_cap: Option<f64>,
    bias: Option<&'a AttentionBias<B>>,
    dropout: Option<Dropout>,
}

impl<B: Backend> Clone for Softmax<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Softmax<'_, B> {}

impl<B: Backend> From<f64> for Softmax<'_, B> {
    /// A scale and nothing else.
    fn from(scale: f64) -> Self {
        Self::scaled(scale)
    }
}

impl<'a, B: Backend> Softmax<'a, B> {
    /// Logits are multiplied by `scale`, τ.
    #[must_use]
    pub const fn scaled(scale: f64) -> Self {
        Self {
            scale,
            soft_cap: None,
            bias: None,
            dropout: None,
        }
    }

    /// Scaled logits `s` become `cap · tanh(s / cap)`: none is beyond ±`cap` (features F-08).
    #[must_use]
    pub const fn soft_cap(mut self, cap: f64) -> Self {
        self.soft_cap = Some(cap);
        self
    }

    /// Scaled and capped logits get a bias added (features F-09).
    #[must_use]
    pub const fn bias(mut self, bias: &'a AttentionBias<B>) -> Self {
        self.bias = Some(bias);
        self
    }

    /// Probabilities are dropped, where there is a dropout.
    #[must_use]
    pub const fn dropout(mut self, dropout: Option<Dropout>) -> Self {
        self.dropout = dropout;
        self
    }

    /// The scale, τ.
    pub const fn scale(&self) -> f64 {
        self.scale
    }

    /// The soft cap.
    pub const fn cap(&self) -> Option<f64> {
        self.soft_cap
    }

    /// The bias.
    pub const fn added(&self) -> Option<&'a AttentionBias<B>> {
        self.bias
    }

    /// The dropout.
    pub const fn dropped(&self) -> Option<Dropout> {
        self.dropout
    }

    /// Refuses constants that no logits survive, and a bias that is not one for `heads` heads and these segments.
    pub(crate) fn checked(self, heads: usize, segments: &Segments) -> Result<Self> {
        finite("the softmax scale", self.scale)?;
        if let Some(cap) = self.soft_cap.filter(|cap| !(cap.is_finite() && *cap > 0.0)) {
            return Err(Error::BadConstant(format!(
                "the soft cap of the logits is {cap}, wanted a finite number above 0"
            )));
        }
        if let Some(Dropout { probability, .. }) = self.dropout
            && !(0.0..1.0).contains(&probability)
        {
            return Err(Error::BadConstant(format!(
                "attention is dropped with probability {probability}, wanted at least 0 and less than 1"
            )));
        }
        if let Some(bias) = self.bias {
            bias.check(heads, segments)?;
        }
        Ok(self)
    }
}

/// What is added to scaled logits, `[H or 1, queries, keys]`, rows and columns counted in a sequence; all sequences get the same.
#[derive(Debug)]
pub struct AttentionBias<B: Backend> {
    pub(crate) values: B::Buffer<Accum<B>>,
    pub(crate) heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
}

impl<B: Backend> AttentionBias<B> {
    /// The bias of these values, `[heads, queries, keys]` row-major; `heads` is 1 where all heads get the same.
    ///
    /// # Errors
    /// When there are more or fewer values.
    pub fn from_f64(
        device: &B::Device,
        values: &[f64],
        [heads, queries, keys]: [usize; 3],
    ) -> Result<Self> {
        expect_count(
            "values of an attention bias",
            values.len(),
            product("an attention bias", &[heads, queries, keys])?,
        )?;
        let values = values.iter().map(|&value| Scalar::from_f64(value));
        Ok(Self {
            values: B::upload(device, values.collect())?,
            heads,
            queries,
            keys,
        })
    }

    /// Zeros of this shape: where a gradient begins.
    ///
    /// # Errors
    /// When the device has no room.
    pub fn zeros_like(&self, device: &B::Device) -> Result<Self> {
        Ok(Self {
            values: B::zeros(device, self.heads * self.queries * self.keys)?,
            ..*self
        })
    }

    /// Heads, queries, keys.
    pub fn shape(&self) -> [usize; 3] {
        [self.heads, self.queries, self.keys]
    }

    /// The values on the device.
    pub fn values(&self) -> &B::Buffer<Accum<B>> {
        &self.values
    }

    fn check(&self, heads: usize, segments: &Segments) -> Result<()> {
        let needed = segments.list().iter().fold([0, 0], |[q, k], segment| {
            [
                q.max(segment.first_query + segment.queries.len()),
                k.max(segment.first_key + segment.keys.len()),
            ]
        });
        let fits = self.heads == 1 || self.heads == heads;
        if !fits || needed[0] > self.queries || needed[1] > self.keys {
            return Err(Error::shape(
                "the attention bias",
                &self.shape(),
                &[heads, needed[0], needed[1]],
            ));
        }
        Ok(())
    }
}

/// Drops probabilities: each becomes 0 with a probability, and else is divided by what that leaves.
///
/// Which ones depends on nothing but the seed, the sequence, the head, and the two tokens' indices in the sequence: not on how the
/// work is cut, nor on the form, nor on the number of threads. The log-sum-exp is that of all probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// The chance that a probability becomes 0: at least 0, less than 1.
    pub probability: f64,
    /// Another seed drops others.
    pub seed: u64,
}

/// 2^64 divided by the golden ratio, the increment of SplitMix64 (Steele, Lea, Flood 2014).
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dropout {
    /// What the probability of (`query`, `key`) is multiplied by: 0 or `1 / (1 - probability)`.
    pub fn multiplier(&self, sequence: usize, head: usize, query: usize, key: usize) -> f64 {
        self.of(self.stream(sequence, head, query), key)
    }

    /// The random numbers of one query and head.
    pub(crate) fn stream(&self, sequence: usize, head: usize, query: usize) -> u64 {
        [head, query]
            .iter()
            .fold(self.of_sequence(sequence), |all, &one| extended(all, one))
    }

    /// What the random numbers of all queries and heads of a sequence begin with.
    pub(crate) fn of_sequence(&self, sequence: usize) -> u64 {
        extended(mixed(self.seed), sequence)
    }

    /// What the probability of `key` is multiplied by in a stream.
    #[inline(always)]
    pub(crate) fn of(&self, stream: u64, key: usize) -> f64 {
        let bits = mixed(stream.wrapping_add((key as u64 + 1).wrapping_mul(GOLDEN)));
        // 53 bits are what an f64 in 0 .. 1 holds
        let uniform = (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64);
        if uniform < self.probability {
            0.0
        } else {
            1.0 / (1.0 - self.probability)
        }
    }
}

/// The stream of a part of what `stream` is of.
fn extended(stream: u64, part: usize) -> u64 {
    mixed(stream.wrapping_add(GOLDEN) ^ mixed(part as u64))
}

/// The finaliser of SplitMix64.
#[inline(always)]
fn mixed(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
