//! The ops.

use mla_spec::GateGranularity;

use super::adjoint::Adjoint;
use super::{Dim, ValueId};

/// One op. Fields named `out` define a value, all other [`ValueId`]s read one; `slot` and `part` say which module is used.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    missing_docs,
    reason = "fields are the mathematics' symbols, which each op's line explains"
)]
pub enum Op {
    // What a function is given
    /// The layer's input, `[tokens, h]`.
    Hidden { out: ValueId },
    /// The other sequence's rows.
    Context { out: ValueId },
    /// Segments of the mask argument (`forward`); with a context, of both masks.
    MaskSegments {
        context: Option<ValueId>,
        out: ValueId,
    },
    /// Segments of the batch's new tokens among themselves; in a part, of its requests' picked ones.
    BatchSegments { out: ValueId },
    /// Refuses a batch that the cache cannot hold.
    CheckBatch,
    /// cos and sin at the call's positions.
    Angles { out: ValueId },
    /// Another layer's latents and rotated keys.
    TakeKv { from: Handed, out: ValueId },
    /// The latents of [`Op::TakeKv`].
    TakenLatent { x: ValueId, out: ValueId },
    /// The rotated keys of [`Op::TakeKv`].
    TakenKey { x: ValueId, out: ValueId },
    /// Hands latents and rotated keys out (`forward`).
    GiveKv { latent: ValueId, k_rope: ValueId },
    /// Another layer's selection.
    TakeSelection { out: ValueId },
    /// Hands a selection out; `out` is the same one, for this layer.
    GiveSelection { x: ValueId, out: ValueId },

    // A batch in two forms
    /// Which form each request takes, by [`Program::mha_from`](super::Program::mha_from) (`mixed`).
    Forms { out: ValueId },
    /// The rows of the requests of the step's part; consumes `x`.
    Pick { x: ValueId, out: ValueId },
    /// What both parts made, a row for each of the call's tokens; consumes both.
    Join {
        forms: ValueId,
        expanded: ValueId,
        absorbed: ValueId,
        out: ValueId,
    },

    // Rows and heads
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
    /// A norm module on every head; its weights are shared by the heads.
    HeadNorm {
        x: ValueId,
        slot: &'static str,
        out: ValueId,
    },
    /// `x / sqrt(mean(x²) + ε)` of every head, `ε` the number `eps`.
    L2Norm {
        x: ValueId,
        eps: &'static str,
        out: ValueId,
    },
    /// Rows or heads times the number `by`; consumes `x`.
    Scale {
        x: ValueId,
        by: &'static str,
        out: ValueId,
    },
    /// Queries times a factor by position; consumes `x`.
    ScaleByPosition {
        x: ValueId,
        scale: PositionScale,
        out: ValueId,
    },
    /// Rows or heads times the normalised Hadamard matrix; consumes `x`.
    Hadamard { x: ValueId, out: ValueId },
    /// `[left; right]`.
    Concat {
        left: ValueId,
        right: ValueId,
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
    /// A part of every head, copied.
    CutHeads { x: ValueId, out: ValueId },
    /// The query heads, gates, key heads or value heads of rows that stand group by group.
    GroupPart {
        x: ValueId,
        part: GroupPart,
        out: ValueId,
    },
    /// Rows of one value per head, in the accumulation type.
    IntoPerHead { x: ValueId, out: ValueId },
    /// Rotates a part of every head; consumes `x`.
    RotateHeads {
        x: ValueId,
        angles: ValueId,
        turn: Turn,
        out: ValueId,
    },
    /// Rotates the shared key.
    RotateKey {
        x: ValueId,
        angles: ValueId,
        out: ValueId,
    },
    /// Rotates a part of an indexer's keys; consumes `x`.
    RotateRows {
        x: ValueId,
        angles: ValueId,
        turn: Turn,
        out: ValueId,
    },
    /// A rope part that is never rotated (NoPE), or a missing one where `d_r = 0` (`x` is then the hidden state, for its row count).
    UnrotatedKey {
        x: ValueId,
        absent: bool,
        out: ValueId,
    },
    /// `x · σ(gate)`, a gate per head or per element; consumes `x`.
    Gate {
        x: ValueId,
        gate: ValueId,
        granularity: GateGranularity,
        out: ValueId,
    },

    // Selection
    /// The gates that pool an indexer's keys.
    PoolGates {
        x: ValueId,
        slot: &'static str,
        out: ValueId,
    },
    /// The keys of the call's own tokens that an indexer picks; with `gates` where keys are pooled.
    Select {
        q: ValueId,
        k: ValueId,
        gates: Option<ValueId>,
        weights: ValueId,
        segments: ValueId,
        out: ValueId,
    },
    /// Appends the call's indexer keys, and their gates where they are pooled, to the cache.
    WriteIndex { k: ValueId, gates: Option<ValueId> },
    /// The cached keys that an indexer picks, the call's own included.
    SelectCached {
        q: ValueId,
        weights: ValueId,
        out: ValueId,
    },

    // Attention: over all visible keys, or over those of a selection. The result's type says whether it is rounded (`Ty::Heads`), or comes with
    // its log-sum-exp (`Ty::Attended`)
    /// Expanded attention over the call's own tokens.
    AttendExpanded {
        q: ValueId,
        kv: ValueId,
        k_rope: ValueId,
        segments: ValueId,
        selection: Option<ValueId>,
        out: ValueId,
    },
    /// Absorbed attention over the call's own tokens.
    AttendAbsorbed {
        q_latent: ValueId,
        q_rope: ValueId,
        latent: ValueId,
        k_rope: ValueId,
        segments: ValueId,
        selection: Option<ValueId>,
        out: ValueId,
    },
    /// Attention of query heads over fewer or as many key and value heads, of the call's own tokens or of a context's.
    AttendGroups {
        q: ValueId,
        k: ValueId,
        v: ValueId,
        segments: ValueId,
        out: ValueId,
    },
    /// Expanded attention over what a latent cache held before the call, and over the call's own tokens. Latents become heads of keys and
    /// values by `slot`: `chunk` cached tokens at a time, and behind the last one of each request its own. Chunks are merged by log-sum-exp.
    AttendContext {
        q: ValueId,
        latent: ValueId,
        k_rope: ValueId,
        slot: &'static str,
        part: LinearPart,
        heads: Dim,
        dim: Dim,
        chunk: Dim,
        out: ValueId,
    },
    /// Appends the call's tokens to a latent cache.
    WriteLatent { latent: ValueId, k_rope: ValueId },
    /// Appends the call's tokens to a naive cache.
    WriteNaive { kv: ValueId, k_rope: ValueId },
    /// Appends the call's tokens to a cache of groups.
    WriteGroups { k: ValueId, v: ValueId },
    /// Absorbed attention over a latent cache, the call's tokens included.
    AttendLatentCache {
        q_latent: ValueId,
        q_rope: ValueId,
        selection: Option<ValueId>,
        out: ValueId,
    },
    /// Attention over a naive cache, the call's tokens included.
    AttendNaiveCache {
        q: ValueId,
        selection: Option<ValueId>,
        out: ValueId,
    },
    /// Attention over a cache of groups, the call's tokens included; of a context, all of it.
    AttendGroupCache { q: ValueId, out: ValueId },
    /// Rotates queries and keys, appends keys and values to a cache of groups, and attends to it.
    FlashDecode {
        q: ValueId,
        k: ValueId,
        v: ValueId,
        out: ValueId,
    },
    /// `q̃_h = W_UK,hᵀ q_n,h`, with the up projection in `slot`.
    AbsorbQueries {
        q_nope: ValueId,
        slot: &'static str,
        part: LinearPart,
        out: ValueId,
    },
    /// `o_h = W_UV,h z_h`: attended latents, rounded, as values, with the up projection in `slot`.
    AbsorbValues {
        z: ValueId,
        slot: &'static str,
        part: LinearPart,
        out: ValueId,
    },
    /// One more term in softmax's denominator: `e^s_h` with the logits in `slot`, or 1 without one; consumes `x`. The log-sum-exp
    /// counts it too.
    Sink {
        x: ValueId,
        slot: Option<&'static str>,
        out: ValueId,
    },
    /// The output of an attention, rounded, without its log-sum-exp; consumes `x`.
    AttendedOut { x: ValueId, out: ValueId },
    /// What training keeps of an attention: the output, its log-sum-exp and its largest logit; consumes `x`.
    AttendedParts {
        x: ValueId,
        out: ValueId,
        lse: ValueId,
        max_logit: ValueId,
    },
    /// Heads seen as rows, borrowed.
    AsRows {
        x: ValueId,
        width: Dim,
        out: ValueId,
    },
    /// A copy of what is read again after an op has changed it.
    Copy { x: ValueId, out: ValueId },
    /// Queries, keys and head weights of an indexer that learns from the layer's attention; computes nothing itself.
    Learn {
        q: ValueId,
        k: ValueId,
        weights: ValueId,
    },
    /// An op of a backward pass.
    Adjoint(Adjoint),
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

/// Where another layer's latents come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// From the layer itself (`forward`).
    Over,
    /// From its cache: those of the batch's new tokens, which it has written before.
    Cached,
}

/// What queries are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PositionScale {
    /// `1 + β ln(1 + ⌊(pos + offset) / L_0⌋)`, `β` the number `beta`.
    Llama4 {
        /// Name of `β`.
        beta: &'static str,
        /// `L_0`.
        original_max_position_embeddings: Dim,
        /// Added to the position.
        position_offset: Dim,
    },
    /// `a_h ln(pos + 1) + b_h`, learned.
    Learned {
        /// The module.
        slot: &'static str,
    },
}

/// What rows hold group by group: a group's queries, (their gates,) its key, its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupPart {
    /// Query heads.
    Query,
    /// Their gates, as rows.
    Gate,
    /// Key heads.
    Key,
    /// Value heads.
    Value,
}

/// How a rotation is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Which elements are rotated.
    pub part: Turned,
    /// Whether it is the indexer's, whose pairs are its own.
    pub indexer: bool,
}

/// Which elements of a vector are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// The first `d_r`.
    First,
    /// The last `d_r`.
    Last,
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
    /// All scores that a selection was picked by.
    Scores,
}

impl Offset {
    /// The offset in elements.
    pub fn elements(&self) -> u32 {
        self.0.iter().map(|dim| dim.size).sum()
    }
}

impl Turn {
    /// The layer's own: the last elements.
    pub const LAST: Self = Self {
        part: Turned::Last,
        indexer: false,
    };
    /// The layer's own: the first elements.
    pub const FIRST: Self = Self {
        part: Turned::First,
        indexer: false,
    };
}
