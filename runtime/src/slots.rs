//! Names of the submodules that a described layer can have, as types for the fields of a struct under `#[derive(MlaLayer)]`.
//!
//! They are empty: the derive reads their names, and the layer that it writes holds the real modules. The meaning of each is
//! Megatron-Core's.
//!
//! ```text
//! #[derive(MlaLayer)]
//! struct MyAttention {
//!     linear_q_proj: slots::ColumnParallelLinear,
//!     ...
//! }
//! ```

macro_rules! slots {
    ($($(#[$doc:meta])+ $name:ident),+ $(,)?) => {
        $($(#[$doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name;)+
    };
}

slots! {
    /// `y = x Wᵀ + b`, never split: the down projections.
    Linear,
    /// `y = x Wᵀ + b`, split by output columns, which are heads: query and up projections.
    ColumnParallelLinear,
    /// `y = x Wᵀ + b`, split by input columns, which are heads: the output projection.
    RowParallelLinear,
    /// A norm, then a [`ColumnParallelLinear`], as one module: the fused form of a latent's norm and its up projection.
    LayerNormColumnParallelLinear,
    /// Nothing: a norm slot whose norm is absent, or fused into the up projection.
    IdentityOp,
    /// `γ · x / √(mean(x²) + ε)`.
    RMSNorm,
    /// `γ · (x − mean(x)) / √(var(x) + ε) + β`.
    LayerNorm,
    /// Softmax attention over every visible key.
    DotProductAttention,
}
