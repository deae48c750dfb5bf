//! Norms and where they are computed.

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
    /// `n · sigmoid(W_2 silu(W_1 n))` with `n = RMSNorm(x)`: a low-rank gate behind the norm (B-12). Never inside a linear.
    GatedRmsNorm {
        /// Rows of `W_1`.
        rank: u32,
    },
}
