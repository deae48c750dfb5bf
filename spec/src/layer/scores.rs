//! What happens to queries, logits, probabilities and outputs besides softmax itself.

/// What queries are multiplied by, by position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QueryScaling {
    /// Nothing.
    None,
    /// `type: llama4`: the whole query times `1 + β ln(1 + floor((pos + offset) / L_0))`, after rope (E-02).
    Llama4 {
        /// `β`.
        beta: f64,
        /// `L_0`.
        original_max_position_embeddings: u32,
        /// Added to the position: 0 in Mistral 4, 1 in Llama 4.
        position_offset: u32,
    },
    /// `type: log_position`: each head's query times `a_h ln(pos + 1) + b_h`, both learned (HF `softmax_scaling`, S-14).
    LogPosition,
}

/// What happens to logits and probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logits {
    /// `softmax_scale`, where the spec states it; else it follows from the head dim and YaRN.
    pub scale: Option<f64>,
    /// `cap · tanh(s / cap)` on scaled logits, before the mask (F-08). Positive.
    pub soft_cap: Option<f64>,
    /// What softmax's denominator holds besides the keys (F-07).
    pub sink: Sink,
    /// Whether an input is added to scaled logits (`core_attention_bias: post_scale_bias`, F-09).
    pub bias: bool,
    /// Probability of dropping an attention probability in training (F-10). 0 to below 1.
    pub dropout: f64,
}

impl Logits {
    /// Plain softmax.
    pub const PLAIN: Self = Self {
        scale: None,
        soft_cap: None,
        sink: Sink::None,
        bias: false,
        dropout: 0.0,
    };
}

/// What softmax's denominator holds besides the keys (Megatron's `softmax_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sink {
    /// `vanilla`: nothing.
    None,
    /// `off-by-one`: 1, the exponential of a logit of 0.
    OffByOne,
    /// `learnable`: the exponential of one logit per head (HF `sinks`).
    Learned,
}

/// A sigmoid gate on attention's output (B-09, S-13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Gate {
    /// One gate per head or per element.
    pub granularity: GateGranularity,
    /// What makes it.
    pub source: GateSource,
}

/// How fine a gate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateGranularity {
    /// `[H]`.
    PerHead,
    /// `[H · d_v]`.
    PerElement,
}

/// What makes a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GateSource {
    /// `linear_gate_proj` of the layer's input (HF `g_proj`).
    Linear {
        /// Whether it has a bias.
        bias: bool,
        /// Whether it is computed in f32 (f64 in proofs) whatever `build.dtype` says.
        full_precision: bool,
    },
    /// The query's up projection (`linear_q_gate_proj`). Per element.
    Query,
    /// `linear_qkv`, whose rows hold each query head's gate behind the group's queries. Per element.
    Qkv,
}
