//! `SelfAttention` and `CrossAttention`: Megatron's second family (features 1.R).

use super::norm::NormParams;

/// Grouped-query attention: `H / G` query heads share a key head and a value head.
#[derive(Debug, Clone, PartialEq)]
pub struct Grouped {
    /// `h`, width of the residual stream.
    pub hidden_size: u32,
    /// `H`.
    pub num_attention_heads: u32,
    /// `G`, divides `H`. `H` is multi-head, 1 multi-query attention.
    pub num_query_groups: u32,
    /// `d`, the length of a head's query, key and value.
    pub kv_channels: u32,
    /// How many elements of a head, the first ones, rope rotates. Even, at most `d`; 0 without rope.
    pub rotary_dim: u32,
    /// How they are made.
    pub qkv: QkvProjection,
    /// Norms of every head's query and key.
    pub norms: HeadNorms,
}

/// How queries, keys and values are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QkvProjection {
    /// `linear_qkv`: per group its queries, (their gates,) its key, its value.
    Fused {
        /// Whether it has a bias.
        bias: bool,
    },
    /// `linear_q`, and `linear_kv` with each group's key and value.
    Separate {
        /// Bias of `linear_q`.
        q_bias: bool,
        /// Bias of `linear_kv`.
        kv_bias: bool,
    },
}

/// Norms over each head's query and key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeadNorms {
    /// `q_layernorm` and `k_layernorm`, before rope; weights of length `d`, shared by the heads.
    Learned {
        /// Of queries.
        q: Option<NormParams>,
        /// Of keys.
        k: Option<NormParams>,
    },
    /// `qk_l2_norm`: `x / sqrt(mean(x²) + ε)`, after rope, without weights (C-04).
    L2 {
        /// `ε`.
        eps: f64,
    },
}

/// Attention from one sequence to another; every head has keys and values of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Cross {
    /// `h`, width of the residual stream.
    pub hidden_size: u32,
    /// Width of the other sequence.
    pub context_hidden_size: u32,
    /// `H`.
    pub num_attention_heads: u32,
    /// `d`, the length of a head's query, key and value.
    pub kv_channels: u32,
    /// Bias of `linear_q`.
    pub q_bias: bool,
    /// Bias of `linear_kv`.
    pub kv_bias: bool,
}
