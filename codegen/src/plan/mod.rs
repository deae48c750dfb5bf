//! The plan: what each function of the generated layer does, op by op.
//!
//! A [`Program`] is one layer: its constants, its parameters and one [`Plan`] per phase. A plan is straight-line: every
//! op reads values that came before and defines new ones. [`program`] lowers a checked layer to the expanded form and
//! then runs the passes of [`passes`]; emitters print the result and decide nothing.

pub mod absorbed;
mod adjoint;
mod clip;
pub mod cost;
pub mod few_rows;
pub mod flash;
mod formulas;
pub mod interpret;
mod kernels;
pub mod logits;
mod lower;
pub mod machine;
mod module;
mod op;
pub mod passes;
pub(crate) mod print;
mod prologue;
mod table;
mod tensors;
mod train;
pub mod tuned;
mod visit;

use std::borrow::Cow;

use mla_spec::{AttnMask, Build, Form, Phase, RopeLayout};

pub use adjoint::{Adjoint, Over, Piece, Teacher};
pub use clip::{ClipPlan, ClippedRows, ClippedWeight, Share};
pub use kernels::{KernelUnit, kernels, operation_kernels};
pub use module::{GroupPiece, LinearParams, Module, ModuleKind, NormParams, Rows};
pub use op::{
    Aspect, GroupPart, Handed, LinearPart, NormPart, Offset, Op, PositionScale, Turn, Turned,
};
pub use passes::{ProbeMode, program, program_with, stages, trace};
pub(crate) use prologue::Prologue;
pub use table::{
    ByLength, CacheContent, CachePlan, IndexCachePlan, IndexerPlan, MhaFrom, PoolPlan, RotaryTable,
    SoftmaxPlan, SoftmaxScale,
};
pub use tensors::{CheckpointTensor, tensors_of};
pub use train::{Gradient, Kept, Training, WeightPart};
pub use visit::Role;

/// A whole layer, planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Name of the generated type.
    pub name: String,
    /// Which module of the language it is.
    pub family: Family,
    /// Sizes, in the order they are declared. Derived ones come after what they derive from.
    pub constants: Vec<Constant>,
    /// Numbers that ops multiply by or add, besides the softmax scale and the norms' epsilons.
    pub numbers: Vec<Number>,
    /// The modules that hold parameters, in the order of the struct's fields.
    pub modules: Vec<Module>,
    /// The rotary table; `None` where nothing is rotated.
    pub rotary: Option<RotaryTable>,
    /// `τ` and how it came about.
    pub softmax_scale: SoftmaxScale,
    /// What else stands between logits and probabilities.
    pub softmax: SoftmaxPlan,
    /// Which keys a query may see.
    pub mask: AttnMask,
    /// How keys are picked; `None` where this layer picks none.
    pub indexer: Option<IndexerPlan>,
    /// What bounds the logits in training; `None` where nothing does.
    pub qk_clip: Option<ClipPlan>,
    /// What a selection holds at most per query; `None` where attention is dense.
    pub selected: Option<Dim>,
    /// What prefill and decode keep; `None` where neither is emitted or they keep nothing of their own.
    pub cache: Option<CachePlan>,
    /// What prefill and decode read of another layer's; `None` where neither is emitted or they read nothing.
    pub source: Option<CachePlan>,
    /// From where on `mixed` attends to a request in the expanded form; `None` where there is no such phase.
    pub mha_from: Option<MhaFrom>,
    /// One per phase, in the order of `build.phases`; training apart.
    pub plans: Vec<Plan>,
    /// Forward and backward; `None` where the layer is not trained.
    pub training: Option<Training>,
    /// The build section it was planned for.
    pub build: Build,
}

/// The module of the language that a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `MLASelfAttention`.
    Latent,
    /// `SelfAttention`.
    Grouped,
    /// `CrossAttention`.
    Cross,
}

/// A named size. Every width in a plan is one, so that generated code never holds a bare number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constant {
    /// `SCREAMING_SNAKE_CASE`, as HF spells the config key where there is one.
    pub name: &'static str,
    /// Its value.
    pub value: u32,
    /// How it derives from other constants, as Rust (`QK_NOPE_HEAD_DIM + QK_ROPE_HEAD_DIM`); `None` where the spec states it.
    pub formula: Option<Cow<'static, str>>,
    /// One line: what it measures, with its symbol.
    pub doc: &'static str,
    /// Whether users of the layer need it.
    pub public: bool,
}

/// A named number.
#[derive(Debug, Clone, PartialEq)]
pub struct Number {
    /// `SCREAMING_SNAKE_CASE`.
    pub name: &'static str,
    /// Its value.
    pub value: Numeral,
    /// One line: what it is and where it comes from.
    pub doc: String,
}

/// The value of a [`Number`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Numeral {
    /// Any number.
    Real(f64),
    /// A position or a count of them.
    Position(u32),
}

impl Program {
    /// Groups that share a key and a value head: the heads themselves where the layer has no groups.
    pub fn groups(&self) -> Dim {
        let of = |name| {
            self.constants
                .iter()
                .find(|constant| constant.name == name)
                .map(|constant| Dim {
                    name: constant.name,
                    size: constant.value,
                })
        };
        of("NUM_QUERY_GROUPS")
            .or_else(|| of("NUM_ATTENTION_HEADS"))
            .unwrap_or(Dim { name: "1", size: 1 })
    }
}

/// A reference to a [`Constant`], with its value at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dim {
    /// The constant's name.
    pub name: &'static str,
    /// The constant's value.
    pub size: u32,
}

/// One function of the generated layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Which one.
    pub phase: Phase,
    /// How attention is written; `None` where each request has its own form (`mixed`).
    pub form: Option<Form>,
    /// Why it is written so, as one line: forced, or the two costs compared.
    pub form_reason: String,
    /// What the function takes besides what every function of its phase takes, in this order.
    pub arguments: Vec<Argument>,
    /// The values, indexed by [`ValueId`].
    pub values: Vec<Value>,
    /// The steps, each a group of ops under one comment.
    pub steps: Vec<Step>,
    /// What the function returns: of a forward function the layer's output first.
    pub outputs: Vec<ValueId>,
}

/// An argument that only some layers' functions take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Argument {
    /// The other sequence's rows.
    Context,
    /// The other sequence's mask (`forward`).
    ContextMask,
    /// Where this layer's latents and rotated keys go, for others to attend to (`forward`).
    GivesKv,
    /// Another layer's latents and rotated keys (`forward`).
    TakesKv,
    /// Another layer's cache (`prefill`, `decode`).
    Source,
    /// Where this layer's selection goes.
    GivesSelection,
    /// Another layer's selection.
    TakesSelection,
    /// What is added to scaled logits.
    Bias,
    /// Whether and how probabilities are dropped (`forward`).
    Dropout,
}

/// Ops that belong together under one line of mathematics.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The formula, as the comment above the ops.
    pub formula: String,
    /// The ops.
    pub ops: Vec<Op>,
    /// The form of the requests that it is for, and that there have to be some of; `None`: it is for the whole call.
    pub part: Option<Form>,
    /// Whether a device does all its ops in one pass: each computes what it says, and what they make passes from one to the next on the way.
    pub fused: bool,
}

impl Step {
    /// A step for the whole call.
    pub(crate) fn new(formula: impl Into<String>, ops: Vec<Op>) -> Self {
        Self {
            formula: formula.into(),
            ops,
            part: None,
            fused: false,
        }
    }
}

/// Index of a [`Value`] in its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub usize);

/// A value of a plan. Defined once; generated code may reuse a name by shadowing where `name` repeats.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// Name of the variable in generated code, in the field's terms (`q_compressed`, `kv_compressed`, `k_rope`).
    pub name: Cow<'static, str>,
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
    /// `[tokens, heads]` in the accumulation type.
    PerHead(Dim),
    /// cos and sin, `[tokens, width / 2]` each.
    Angles(Dim),
    /// The shared rope key, `[tokens, width]`; `None` where it is not rotated.
    RopeKey(Dim, Option<RopeLayout>),
    /// Latents `[tokens, latent]` and rope keys `[tokens, rope]` of another layer.
    SharedKv(Dim, Dim),
    /// Output `[tokens, heads, dim]` with its log-sum-exp and largest logit.
    Attended(Dim, Dim),
    /// Which queries see which keys.
    Segments,
    /// Which requests are attended to in which form.
    Forms,
    /// Which keys each query attends to, at most so many.
    Selection(Dim),
    /// A bias of the logits.
    Bias,
    /// One number on the host.
    Number,
}
