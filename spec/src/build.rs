//! The `build:` section: how a layer is computed. Nothing in here changes the mathematics.

mod activation;
mod fold;
mod weights;

pub use activation::Activation;
pub use fold::Fold;
pub use weights::WeightStore;

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
    /// Cached tokens expanded at a time where a phase expands the latent cache.
    pub context_chunk: u32,
    /// Whether a grouped layer's decode rotates, caches and attends in one op.
    pub flash_decode: bool,
    /// What `train` does not keep of its forward pass but computes again; ascending, each once.
    pub recompute: Vec<Activation>,
    /// What `train` keeps in the host's memory until its backward pass; ascending, each once, none of them in `recompute`. On a
    /// CPU the host's memory is the device's.
    pub offload: Vec<Activation>,
    /// Weights that are combined when they are loaded; ascending, each once.
    pub fold: Vec<Fold>,
    /// How the weights of projections lie in memory.
    pub weights: WeightStore,
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
            context_chunk: 32768,
            flash_decode: false,
            recompute: Vec::new(),
            offload: Vec::new(),
            fold: Vec::new(),
            weights: WeightStore::Numbers,
            targets: vec![Target::Cpu],
        }
    }
}

impl Build {
    /// The same layer's training alone: each of its weights changes by itself, and by less than a code can say.
    pub fn for_training(&self) -> Self {
        Self {
            phases: vec![Phase::Train],
            fold: Vec::new(),
            weights: WeightStore::Numbers,
            ..self.clone()
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
    /// Whole sequences, forward and backward.
    Train,
    /// A ragged batch, in which each request is attended to in the form that is the cheaper for it.
    Mixed,
}

impl Phase {
    /// Whether it reads and writes a cache.
    pub fn is_cached(self) -> bool {
        matches!(self, Phase::Prefill | Phase::Decode | Phase::Mixed)
    }
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
    /// How values are stored, the rest of `format`.
    pub store: Store,
    /// How an indexer's keys are stored (`index_format`).
    pub index: IndexStore,
    /// Whether an indexer's queries are rounded as its keys are stored (`index_queries`).
    pub rounds_index_queries: bool,
    /// Tokens per page; `None` for a contiguous cache, one run of tokens per request.
    pub page_size: Option<u32>,
    /// Order of the cached rope key's elements; `None` keeps the layer's own.
    pub rope_layout: Option<RopeLayout>,
}

impl Default for CacheSpec {
    fn default() -> Self {
        Self {
            kind: CacheKind::Latent,
            store: Store::Plain(CacheDType::F32),
            index: IndexStore::Plain(CacheDType::F32),
            rounds_index_queries: false,
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

/// How a cache stores values (features 1.J). Quantised stores are for latents alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Store {
    /// As numbers of this type (J-01).
    Plain(CacheDType),
    /// One byte per element, one scale for the whole cache, the rope key included (J-02).
    Fp8(Fp8),
    /// `fp8_ds_mla`: e4m3 latents with a scale per 128 of them, bf16 rope key (J-03).
    Fp8DsMla(ScaleFormat),
    /// `fp8_model1`: e4m3 latents with a power-of-two scale per 64 of them behind each block's data, bf16 rope key (J-04).
    Model1,
    /// `mxfp8`: e4m3 latents and rope key with a power-of-two scale per 32 of them (J-05).
    Mxfp8,
}

/// How an indexer's keys are stored (J-09).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IndexStore {
    /// As numbers of this type.
    Plain(CacheDType),
    /// e4m3 with one scale per key, behind each block's data.
    Fp8(ScaleFormat),
    /// e2m1 with a power-of-two scale per 32 elements, behind each block's data.
    Mxfp4,
}

/// An 8-bit float.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fp8 {
    /// 4 bits of exponent, 3 of mantissa, no infinities; largest 448.
    E4m3,
    /// 5 bits of exponent, 2 of mantissa; largest 57344.
    E5m2,
}

/// What a quantised block's scale may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ScaleFormat {
    /// Any f32.
    F32,
    /// An f32 that is a power of two (`ue8m0`), rounded up.
    PowerOfTwo,
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
    /// New tokens of a prefill (and of a forward or a training step).
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
    /// NVIDIA A100.
    Sm80,
    /// NVIDIA A10, RTX 30.
    Sm86,
    /// NVIDIA L4, L40, RTX 40.
    Sm89,
    /// NVIDIA H100, H200, with Hopper's own instructions.
    Sm90a,
    /// NVIDIA B200.
    Sm100,
    /// NVIDIA RTX 50.
    Sm120,
}

impl Target {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Cpu,
        Self::Sm80,
        Self::Sm86,
        Self::Sm89,
        Self::Sm90a,
        Self::Sm100,
        Self::Sm120,
    ];

    /// The word for it in a spec.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Sm80 => "sm_80",
            Self::Sm86 => "sm_86",
            Self::Sm89 => "sm_89",
            Self::Sm90a => "sm_90a",
            Self::Sm100 => "sm_100",
            Self::Sm120 => "sm_120",
        }
    }

    /// Whether it runs CUDA kernels.
    pub const fn is_gpu(self) -> bool {
        !matches!(self, Self::Cpu)
    }
}
