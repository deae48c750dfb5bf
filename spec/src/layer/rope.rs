//! Rotary embeddings: which elements are turned, at which frequencies, and what cos and sin are multiplied by.

/// Rotary embedding of a part of every head: of the last `d_r` elements of a latent layer's query and of its shared key, of the first
/// `rotary_dim` elements of a grouped layer's queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub enum Rope {
    /// Nothing is rotated (NoPE). Where `d_r > 0` the rope part still counts in the dot product.
    None,
    /// Plain or scaled rotary embedding. Only with `d_r > 0`.
    Rotary(Rotary),
}

/// A rotary embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Base of the frequencies.
    pub theta: f64,
    /// Which elements make a pair in the checkpoint's weights.
    pub layout: RopeLayout,
    /// How frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Which elements of a rope part are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// Pairs `(2i, 2i + 1)`.
    Interleaved,
    /// Pairs `(i, i + d_r / 2)`.
    Half,
}

/// How rope frequencies are stretched.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// `type: plain`.
    None,
    /// `type: linear`: every frequency divided by `factor`.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// `type: yarn`.
    Yarn(Yarn),
    /// `type: llama3`.
    Llama3(Llama3),
    /// `type: longrope`.
    LongRope(LongRope),
    /// `type: dynamic`: the base grows with the longest position of a call.
    Dynamic {
        /// At least 1.
        factor: f64,
        /// Length up to which the base stays as it is.
        max_position_embeddings: u32,
    },
}

/// Llama 3's stretching: long wavelengths divided by `factor`, short ones kept, a blend between.
#[derive(Debug, Clone, PartialEq)]
pub struct Llama3 {
    /// At least 1.
    pub factor: f64,
    /// `L_0 / low_freq_factor` is the wavelength above which a frequency is divided.
    pub low_freq_factor: f64,
    /// `L_0 / high_freq_factor` is the wavelength below which a frequency is kept. Above `low_freq_factor`.
    pub high_freq_factor: f64,
    /// `L_0`.
    pub original_max_position_embeddings: u32,
}

/// LongRoPE: every frequency divided by a factor of its own, from one of two lists (arXiv:2402.13753).
#[derive(Debug, Clone, PartialEq)]
pub struct LongRope {
    /// One divisor per pair, for short contexts.
    pub short_factor: Vec<f64>,
    /// One divisor per pair, for long contexts.
    pub long_factor: Vec<f64>,
    /// `L_0`: the longest short context.
    pub original_max_position_embeddings: u32,
    /// What cos and sin are multiplied by.
    pub attention_factor: f64,
    /// Which list is used.
    pub select: LongRopeSelect,
}

/// Which of LongRoPE's lists is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LongRopeSelect {
    /// The long one for calls whose longest position reaches `L_0`, else the short one.
    ByLength,
    /// Always the short one.
    Short,
    /// Always the long one.
    Long,
}

/// YaRN (features D-04 to D-06): low frequencies divided by `factor`, high ones kept, a ramp between.
#[derive(Debug, Clone, PartialEq)]
pub struct Yarn {
    /// `f`, at least 1.
    pub factor: f64,
    /// `L_0`, the context length of the original training.
    pub original_max_position_embeddings: u32,
    /// Rotations over `L_0` above which a frequency is kept. At least `beta_slow`.
    pub beta_fast: f64,
    /// Rotations over `L_0` below which a frequency is divided.
    pub beta_slow: f64,
    /// Whether the ramp's bounds are rounded outwards to whole pairs.
    pub truncate: bool,
    /// What cos and sin are multiplied by.
    pub magnitude: YarnMagnitude,
    /// Exponent of the softmax correction: `τ` is multiplied by `g(f, mscale_all_dim)²`; 0 leaves it alone.
    pub mscale_all_dim: f64,
}

/// What YaRN multiplies cos and sin by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum YarnMagnitude {
    /// `g(f, mscale) / g(f, mscale_all_dim)`.
    Ratio {
        /// The numerator's `mscale`.
        mscale: f64,
    },
    /// `attention_factor`, as it stands.
    Constant(f64),
}

/// `g(f, m) = 0.1 m ln f + 1` for `f > 1`, else 1 (YaRN's magnitude, arXiv:2309.00071 as DeepSeek generalises it).
pub fn yarn_magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 {
        1.0
    } else {
        0.1 * mscale * factor.ln() + 1.0
    }
}

impl Rotary {
    /// The `d_r / 2` frequencies, in radians per position (D-04). Where they depend on a call's length, those of short calls.
    pub fn inv_freq(&self, qk_rope_head_dim: u32) -> Vec<f64> {
        let dim = f64::from(qk_rope_head_dim);
        let plain =
            (0..qk_rope_head_dim / 2).map(|pair| self.theta.powf(-2.0 * f64::from(pair) / dim));
        match &self.scaling {
            RopeScaling::None | RopeScaling::Dynamic { .. } => plain.collect(),
            RopeScaling::Llama3(llama) => {
                plain.map(|frequency| llama.stretched(frequency)).collect()
            }
            RopeScaling::LongRope(long) => {
                let divisors = match long.select {
                    LongRopeSelect::Long => &long.long_factor,
                    LongRopeSelect::ByLength | LongRopeSelect::Short => &long.short_factor,
                };
                plain
                    .zip(divisors)
                    .map(|(frequency, divisor)| frequency / divisor)
                    .collect()
            }
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeScaling::Yarn(yarn) => {
                let (low, high) = yarn.ramp_bounds(self.theta, dim);
                plain
                    .enumerate()
                    .map(|(pair, kept)| {
                        let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        (kept / yarn.factor) * ramp + kept * (1.0 - ramp)
                    })
                    .collect()
            }
        }
    }

    /// What cos and sin are multiplied by (D-06).
    pub fn cos_sin_factor(&self) -> f64 {
        match &self.scaling {
            RopeScaling::None
            | RopeScaling::Linear { .. }
            | RopeScaling::Llama3(_)
            | RopeScaling::Dynamic { .. } => 1.0,
            RopeScaling::LongRope(long) => long.attention_factor,
            RopeScaling::Yarn(yarn) => match yarn.magnitude {
                YarnMagnitude::Ratio { mscale } => {
                    yarn_magnitude(yarn.factor, mscale)
                        / yarn_magnitude(yarn.factor, yarn.mscale_all_dim)
                }
                YarnMagnitude::Constant(factor) => factor,
            },
        }
    }
}

impl Yarn {
    /// First and last pair of the ramp: where a frequency makes `beta_fast` and `beta_slow` rotations over `L_0`.
    fn ramp_bounds(&self, theta: f64, dim: f64) -> (f64, f64) {
        let pair_of = |rotations: f64| {
            let context = f64::from(self.original_max_position_embeddings);
            dim * (context / (rotations * std::f64::consts::TAU)).ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (pair_of(self.beta_fast), pair_of(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0)); // one-sided, as transformers bounds them
        if low == high {
            high += 0.001; // the reference's guard against a division by zero
        }
        (low, high)
    }
}

impl Llama3 {
    fn stretched(&self, frequency: f64) -> f64 {
        let wavelength = std::f64::consts::TAU / frequency;
        let context = f64::from(self.original_max_position_embeddings);
        if wavelength < context / self.high_freq_factor {
            return frequency;
        }
        if wavelength > context / self.low_freq_factor {
            return frequency / self.factor;
        }
        let blend = (context / wavelength - self.low_freq_factor)
            / (self.high_freq_factor - self.low_freq_factor);
        (1.0 - blend) * frequency / self.factor + blend * frequency
    }
}
