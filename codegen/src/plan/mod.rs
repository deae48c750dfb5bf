//! The plan: what each function of the generated layer does, op by op.
//!
//! A [`Program`] is one layer: its constants, its parameters and one [`Plan`] per phase. A plan is straight-line: every
//! op reads values that came before and defines new ones. [`program`] lowers a checked layer to the expanded form and
//! then runs the passes of [`passes`]; emitters print the result and decide nothing.

pub mod cost;
mod formulas;
pub mod interpret;
mod lower;
mod op;
pub mod passes;
mod print;
mod tensors;

use mla_spec::{AttnMask, Build, CacheKind, Form, NormKind, Phase, RopeLayout};

pub use op::Role;
pub use passes::{ProbeMode, program, program_with, trace};
pub use tensors::CheckpointTensor;

/// A whole layer, planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Name of the generated type.
    pub name: String,
    /// Sizes, in the order they are declared. Derived ones come after what they derive from.
    pub constants: Vec<Constant>,
    /// The modules that hold parameters, in the order of the struct's fields.
    pub modules: Vec<Module>,
    /// The rotary table; `None` where nothing is rotated.
    pub rotary: Option<RotaryTable>,
    /// `τ` and how it came about.
    pub softmax_scale: SoftmaxScale,
    /// Which keys a query may see.
    pub mask: AttnMask,
    /// What prefill and decode keep; `None` where neither is emitted.
    pub cache: Option<CachePlan>,
    /// One per phase, in the order of `build.phases`.
    pub plans: Vec<Plan>,
    /// The build section it was planned for.
    pub build: Build,
}

/// A named size. Every width in a plan is one, so that generated code never holds a bare number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constant {
    /// `SCREAMING_SNAKE_CASE`, as HF spells the config key where there is one.
    pub name: &'static str,
    /// Its value.
    pub value: u32,
    /// How it derives from other constants, as Rust (`QK_NOPE_HEAD_DIM + QK_ROPE_HEAD_DIM`); `None` where the spec states it.
    pub formula: Option<&'static str>,
    /// One line: what it measures, with its symbol.
    pub doc: &'static str,
    /// Whether users of the layer need it.
    pub public: bool,
}

/// A reference to a [`Constant`], with its value at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dim {
    /// The constant's name.
    pub name: &'static str,
    /// The constant's value.
    pub size: u32,
}

/// One field of the generated struct that holds parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Module {
    /// Megatron's slot name, which is also the field's.
    pub slot: &'static str,
    /// What it is.
    pub kind: ModuleKind,
    /// One line: its formula and its HF name.
    pub doc: String,
}

/// Kinds of modules that hold parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum ModuleKind {
    /// `y = W x (+ b)`.
    Linear(LinearParams),
    /// A norm.
    Norm(NormParams),
    /// A norm whose result only the linear sees (`LayerNormColumnParallelLinear`).
    NormLinear(NormParams, LinearParams),
}

/// Parameters of a linear.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearParams {
    /// Input width.
    pub input: Dim,
    /// Output width.
    pub output: Dim,
    /// HF modules whose rows are stacked to make the weight, with their row counts: one, or two where down projections are fused.
    pub sources: Vec<(&'static str, Dim)>,
    /// Whether each source has a bias.
    pub bias: bool,
}

/// Parameters of a norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormParams {
    /// Which norm.
    pub kind: NormKind,
    /// Width normalised over.
    pub width: Dim,
    /// Its epsilon.
    pub eps: f64,
    /// Name of the constant that holds the epsilon.
    pub eps_name: &'static str,
    /// HF module it is loaded from.
    pub source: &'static str,
}

/// Rope frequencies, ready to print.
#[derive(Debug, Clone, PartialEq)]
pub struct RotaryTable {
    /// Width of the rope part, `d_r`.
    pub width: Dim,
    /// `d_r / 2` frequencies in radians per position.
    pub inv_freq: Vec<f64>,
    /// What cos and sin are multiplied by.
    pub cos_sin_factor: f64,
    /// Pairs as the weights produce them.
    pub input: RopeLayout,
    /// Pairs as queries, keys and the cache hold them after rotation.
    pub output: RopeLayout,
    /// One line: where the frequencies come from.
    pub doc: String,
}

/// `τ` and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct SoftmaxScale {
    /// The number.
    pub value: f64,
    /// One line: its derivation.
    pub doc: String,
}

/// What prefill and decode keep of past tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct CachePlan {
    /// Latent or naive.
    pub kind: CacheKind,
    /// Element type of the default cache.
    pub dtype: mla_spec::CacheDType,
    /// Tokens per page; `None` for a contiguous cache.
    pub page_size: Option<u32>,
    /// Order of the cached rope key's elements; `None` where it was never rotated.
    pub rope_layout: Option<RopeLayout>,
    /// Elements kept per token.
    pub elements_per_token: u64,
}

/// One function of the generated layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Which one.
    pub phase: Phase,
    /// How attention is written.
    pub form: Form,
    /// Why it is written so, as one line: forced, or the two costs compared.
    pub form_reason: String,
    /// The values, indexed by [`ValueId`].
    pub values: Vec<Value>,
    /// The steps, each a group of ops under one comment.
    pub steps: Vec<Step>,
    /// What the function returns.
    pub output: ValueId,
}

/// Ops that belong together under one line of mathematics.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The formula, as the comment above the ops.
    pub formula: String,
    /// The ops.
    pub ops: Vec<Op>,
}

/// Index of a [`Value`] in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub usize);

/// A value of a plan. Defined once; generated code may reuse a name by shadowing where `name` repeats.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Name of the variable in generated code, in the field's terms (`q_compressed`, `kv_compressed`, `k_rope`).
    pub name: &'static str,
    /// Its type.
    pub ty: Ty,
}

/// Type of a value: shape and layout. The first axis is always the call's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ty {
    /// `[tokens, width]`, owned.
    Rows(Dim),
    /// `[tokens, width]`, borrowed columns of another value.
    Columns(Dim),
    /// `[tokens, heads, dim]`, owned.
    Heads(Dim, Dim),
    /// `[tokens, heads, dim]`, a borrowed part of every head.
    HeadPart(Dim, Dim),
    /// cos and sin, `[tokens, width / 2]` each.
    Angles(Dim),
    /// The shared rope key, `[tokens, width]`; `None` where it is not rotated.
    RopeKey(Dim, Option<RopeLayout>),
    /// Output `[tokens, heads, dim]` with its log-sum-exp and largest logit.
    Attended(Dim, Dim),
    /// Which queries see which keys.
    Segments,
}

/// One op. Fields named `out` define a value, all other [`ValueId`]s read one; `slot` and `part` say which module is used.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "fields are the mathematics' symbols, which each op's line explains"
)]
pub enum Op {
    /// The layer's input, `[tokens, h]`.
    Hidden { out: ValueId },
    /// Segments of the mask argument (`forward`).
    MaskSegments { out: ValueId },
    /// Segments of the batch's new tokens among themselves (`prefill`, `decode`).
    BatchSegments { out: ValueId },
    /// Refuses a batch that the cache cannot hold.
    CheckBatch,
    /// cos and sin at the call's positions.
    Angles { out: ValueId },
    /// A linear module, or the linear inside a norm-linear where `part` says so.
    Linear {
        x: ValueId,
        slot: &'static str,
        part: LinearPart,
        out: ValueId,
    },
    /// A norm module, or the norm inside a norm-linear.
    Norm {
        x: ValueId,
        slot: &'static str,
        part: NormPart,
        out: ValueId,
    },
    /// Borrowed columns.
    Columns {
        x: ValueId,
        offset: Offset,
        width: Dim,
        out: ValueId,
    },
    /// Rows seen as heads; consumes `x`.
    IntoHeads {
        x: ValueId,
        heads: Dim,
        dim: Dim,
        out: ValueId,
    },
    /// A borrowed part of every head.
    HeadPart {
        x: ValueId,
        offset: Offset,
        width: Dim,
        out: ValueId,
    },
    /// Rotates the last `d_r` of every head; consumes `x`.
    RotateHeads {
        x: ValueId,
        angles: ValueId,
        out: ValueId,
    },
    /// Rotates the shared key.
    RotateKey {
        x: ValueId,
        angles: ValueId,
        out: ValueId,
    },
    /// A rope part that is never rotated (NoPE), or a missing one where `d_r = 0` (`x` is then the hidden state, for its row count).
    UnrotatedKey {
        x: ValueId,
        absent: bool,
        out: ValueId,
    },
    /// Expanded attention over the call's own tokens.
    AttendExpanded {
        q: ValueId,
        kv: ValueId,
        k_rope: ValueId,
        segments: ValueId,
        out: ValueId,
    },
    /// Absorbed attention over the call's own tokens.
    AttendAbsorbed {
        q_latent: ValueId,
        q_rope: ValueId,
        latent: ValueId,
        k_rope: ValueId,
        segments: ValueId,
        out: ValueId,
    },
    /// Attention over what a latent cache held before the call: gathered and expanded `chunk` tokens at a time by `slot`, merged
    /// into `into` by log-sum-exp; `out` is the merged value.
    MergeContext {
        q: ValueId,
        slot: &'static str,
        part: LinearPart,
        chunk: Dim,
        into: ValueId,
        out: ValueId,
    },
    /// Appends the call's tokens to a latent cache.
    WriteLatent { latent: ValueId, k_rope: ValueId },
    /// Appends the call's tokens to a naive cache.
    WriteNaive { kv: ValueId, k_rope: ValueId },
    /// Absorbed attention over a latent cache, the call's tokens included.
    AttendLatentCache {
        q_latent: ValueId,
        q_rope: ValueId,
        out: ValueId,
    },
    /// Attention over a naive cache, the call's tokens included.
    AttendNaiveCache { q: ValueId, out: ValueId },
    /// `q̃_h = W_UK,hᵀ q_n,h`, with the up projection in `slot`.
    AbsorbQueries {
        q_nope: ValueId,
        slot: &'static str,
        part: LinearPart,
        out: ValueId,
    },
    /// `o_h = W_UV,h z_h`, with the up projection in `slot`; consumes the attended latent.
    AbsorbValues {
        z: ValueId,
        slot: &'static str,
        part: LinearPart,
        out: ValueId,
    },
    /// The output of an attention, without its log-sum-exp; consumes `x`.
    AttendedOut { x: ValueId, out: ValueId },
    /// Heads seen as rows; consumes `x`.
    IntoRows {
        x: ValueId,
        width: Dim,
        out: ValueId,
    },
    /// Reports a value to a probe. Ordinary emission drops these.
    Probe {
        name: &'static str,
        value: ValueId,
        aspect: Aspect,
    },
}

/// Which linear of a module an op uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearPart {
    /// The module itself.
    Whole,
    /// The linear inside a norm-linear.
    Inner,
}

/// Which norm of a module an op uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPart {
    /// The module itself.
    Whole,
    /// The norm inside a norm-linear.
    Inner,
}

/// Where columns or a part of a head begin: a sum of named sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offset(pub Vec<Dim>);

/// What of a value a probe reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// The value.
    Value,
    /// An attention's log-sum-exp.
    Lse,
    /// An attention's largest logit.
    MaxLogit,
}

impl Offset {
    /// The offset in elements.
    pub fn elements(&self) -> u32 {
        self.0.iter().map(|dim| dim.size).sum()
    }
}

/// The latent projections of a layer.
pub(crate) fn mla(layer: &mla_spec::Layer) -> &mla_spec::Latent {
    match &layer.projections {
        mla_spec::Projections::Latent(latent) => latent,
        _ => unreachable!("check makes no other module yet"),
    }
}
