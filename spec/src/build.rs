//! The `build:` section: how a layer is computed. Nothing in here changes the mathematics.

use crate::layer::RopeLayout;

/// How a layer is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Build {
    /// Which functions are emitted, in this order, each once.
    pub phases: Vec<Phase>,
    /// Element type of arithmetic and of weights in memory.
    pub dtype: DType,
    /// What prefill and decode keep.
    pub cache: CacheSpec,
    /// Whether the form of each phase is computed or forced.
    pub form: FormChoice,
    /// Lengths that the computed choice is made at.
    pub expect: Expect,
    /// Cached tokens expanded at a time where prefill or decode expands the latent cache.
    pub context_chunk: u32,
    /// What the layer is built for.
    pub targets: Vec<Target>,
}

impl Default for Build {
    /// What an absent `build:` section means; importers write it out.
    fn default() -> Self {
        Self {
            phases: vec![Phase::Forward, Phase::Prefill, Phase::Decode],
            dtype: DType::F32,
            cache: CacheSpec::default(),
            form: FormChoice::Auto,
            expect: Expect::default(),
            context_chunk: 1024,
            targets: vec![Target::Cpu],
        }
    }
}

/// A function of the generated layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Whole sequences, no cache.
    Forward,
    /// A ragged batch, planned for many new tokens per request.
    Prefill,
    /// A ragged batch, planned for few new tokens per request.
    Decode,
}

/// Element type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// bfloat16, accumulated in f32.
    Bf16,
    /// IEEE binary64, for proofs.
    F64,
}

/// What prefill and decode keep of past tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheSpec {
    /// `latent_*` or `naive_*`.
    pub kind: CacheKind,
    /// Element type of the stored values, the suffix of `format`.
    pub dtype: CacheDType,
    /// Tokens per page; `None` for a contiguous cache, one run of tokens per request.
    pub page_size: Option<u32>,
    /// Order of the cached rope key's elements; `None` keeps the layer's own.
    pub rope_layout: Option<RopeLayout>,
}

impl Default for CacheSpec {
    fn default() -> Self {
        Self {
            kind: CacheKind::Latent,
            dtype: CacheDType::F32,
            page_size: None,
            rope_layout: None,
        }
    }
}

/// Which values are cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheKind {
    /// Normed latent and rotated shared key: `r_kv + d_r` elements per token (H-02).
    Latent,
    /// Every head's key and value: `H (d_n + d_r + d_v)` elements per token (H-01).
    Naive,
}

/// Element type of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheDType {
    /// IEEE binary32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE binary16.
    F16,
    /// IEEE binary64, for proofs.
    F64,
}

/// How attention is written (features 0.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// Expanded: keys and values are made per head from the latent.
    Mha,
    /// Absorbed: queries meet the latent itself, one key-value head for all.
    Mqa,
}

/// Whether the form of a phase is computed or forced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FormChoice {
    /// The cheaper one at [`Expect`]'s lengths.
    Auto,
    /// This one in every phase.
    Forced(Form),
}

/// Lengths at which the cheaper form is chosen, in tokens per request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Expect {
    /// New tokens of a prefill (and of a forward).
    pub prefill_tokens: u32,
    /// Tokens already cached at a prefill.
    pub prefill_context: u32,
    /// New tokens of a decode step.
    pub decode_tokens: u32,
    /// Tokens already cached at a decode step.
    pub decode_context: u32,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            prefill_tokens: 2048,
            prefill_context: 0,
            decode_tokens: 1,
            decode_context: 4096,
        }
    }
}

/// What a layer is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Target {
    /// Any CPU that Rust compiles for.
    Cpu,
}
