//! The proved layer: sum types in which no invalid combination can be written down.
//!
//! Only [`check`](crate::check()) makes one, so nothing after it checks again. Symbols as in the literature:
//! `h` hidden size, `H` heads, `r_q` and `r_kv` the LoRA ranks, `d_n`, `d_r`, `d_v` the head dims.

use crate::build::Build;

/// A checked spec: what is computed, and how.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    /// What is computed.
    pub layer: Layer,
    /// How it is computed. Never changes the mathematics.
    pub build: Build,
}

/// One Multi-head Latent Attention layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// Name of the generated type: an upper-camel-case Rust identifier.
    pub name: String,
    /// Sizes that every form of the layer has.
    pub dims: Dims,
    /// How queries are made.
    pub query: Query,
    /// How the latent and the shared rope key are made.
    pub down: DownProjection,
    /// Norm of the key-value latent.
    pub kv_norm: Norm,
    /// Rotary embedding of the rope part.
    pub rope: Rope,
    /// Which keys a query may see.
    pub mask: AttnMask,
    /// Attention itself.
    pub core: Core,
    /// Whether `linear_proj` (HF `o_proj`) has a bias.
    pub output_bias: bool,
}

/// Sizes of a layer, all in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dims {
    /// `h`, width of the residual stream.
    pub hidden_size: u32,
    /// `H`.
    pub num_attention_heads: u32,
    /// `r_kv`, width of the key-value latent.
    pub kv_lora_rank: u32,
    /// `d_n`, the part of a head's query and key that is never rotated. At least 1.
    pub qk_nope_head_dim: u32,
    /// `d_r`, the part that rope rotates; the key's is shared by all heads. Even; 0 where there is none.
    pub qk_rope_head_dim: u32,
    /// `d_v`.
    pub v_head_dim: u32,
}

impl Dims {
    /// `d_n + d_r`, the length of a head's query.
    pub fn qk_head_dim(&self) -> u32 {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }
}

/// How queries are made from the hidden state.
#[derive(Debug, Clone, PartialEq)]
pub enum Query {
    /// `q = W_q x` (`linear_q_proj`, HF `q_proj`).
    Plain,
    /// `q = W_qb norm(W_qa x)` (`linear_q_down_proj`, `q_layernorm`, `linear_q_up_proj`).
    Lora {
        /// `r_q`.
        rank: u32,
        /// Norm of the query latent.
        norm: Norm,
    },
}

/// How the latents leave the hidden state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownProjection {
    /// `linear_kv_down_proj`, and `linear_q_down_proj` where queries are LoRA.
    Separate {
        /// Bias of `linear_q_down_proj` (HF `q_a_proj.bias`); false where queries are plain.
        q_bias: bool,
        /// Bias of `linear_kv_down_proj` (HF `kv_a_proj_with_mqa.bias`).
        kv_bias: bool,
    },
    /// `linear_qkv_down_proj`: one matrix with the rows of both, query latent first. Only with LoRA queries.
    Fused {
        /// Bias of both parts.
        bias: bool,
    },
}

/// A latent norm and where it is computed.
#[derive(Debug, Clone, PartialEq)]
pub enum Norm {
    /// None.
    Identity,
    /// Its own module (`q_layernorm`, `kv_layernorm`) before a plain up projection.
    Separate(NormParams),
    /// Inside the up projection (`LayerNormColumnParallelLinear`).
    FusedIntoLinear(NormParams),
}

impl Norm {
    /// The norm's parameters; `None` for [`Norm::Identity`].
    pub fn params(&self) -> Option<&NormParams> {
        match self {
            Norm::Identity => None,
            Norm::Separate(params) | Norm::FusedIntoLinear(params) => Some(params),
        }
    }
}

/// Kind and epsilon of a norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormParams {
    /// Which norm.
    pub kind: NormKind,
    /// Added to the mean square (RMSNorm) or the variance (LayerNorm) before the root. Positive.
    pub eps: f64,
}

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// `γ x / sqrt(mean(x²) + ε)`: a weight, no bias.
    RmsNorm,
    /// `γ (x - mean(x)) / sqrt(var(x) + ε) + β`: a weight and a bias.
    LayerNorm,
}

/// Rotary embedding of the last `d_r` elements of a query and of the shared key.
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
    /// The `d_r / 2` frequencies, in radians per position (D-04).
    pub fn inv_freq(&self, qk_rope_head_dim: u32) -> Vec<f64> {
        let dim = f64::from(qk_rope_head_dim);
        let plain =
            (0..qk_rope_head_dim / 2).map(|pair| self.theta.powf(-2.0 * f64::from(pair) / dim));
        match &self.scaling {
            RopeScaling::None => plain.collect(),
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
            RopeScaling::None | RopeScaling::Linear { .. } => 1.0,
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

/// Which keys a query may see (Megatron's `attn_mask_type`). Packed sequences are an input of every mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttnMask {
    /// `causal`: itself and what came before. Inputs may not be padded.
    Causal,
    /// `no_mask`: everything in its sequence. Inputs may not be padded.
    Full,
    /// `padding_causal`: as `causal`; inputs may be padded.
    PaddingCausal,
    /// `padding`: as `no_mask`; inputs may be padded.
    Padding,
}

impl AttnMask {
    /// Whether a query sees only itself and what came before.
    pub fn is_causal(self) -> bool {
        matches!(self, AttnMask::Causal | AttnMask::PaddingCausal)
    }

    /// Whether inputs may be padded.
    pub fn allows_padding(self) -> bool {
        matches!(self, AttnMask::Padding | AttnMask::PaddingCausal)
    }
}

/// Attention itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Core {
    /// Every visible key (`DotProductAttention`).
    Dense,
}

impl Layer {
    /// `τ`, what logits are multiplied by: `(d_n + d_r)^-1/2 · g(f, mscale_all_dim)²` (E-01).
    pub fn softmax_scale(&self) -> f64 {
        f64::from(self.dims.qk_head_dim()).powf(-0.5) * self.softmax_mscale().powi(2)
    }

    /// `g(f, mscale_all_dim)`: 1 unless rope is YaRN.
    pub fn softmax_mscale(&self) -> f64 {
        match &self.rope {
            Rope::Rotary(Rotary {
                scaling: RopeScaling::Yarn(yarn),
                ..
            }) => yarn_magnitude(yarn.factor, yarn.mscale_all_dim),
            _ => 1.0,
        }
    }

    /// `r_q`; `None` where queries are plain.
    pub fn q_lora_rank(&self) -> Option<u32> {
        match &self.query {
            Query::Plain => None,
            Query::Lora { rank, .. } => Some(*rank),
        }
    }
}
