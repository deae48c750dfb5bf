//! The modules that hold a layer's parameters.

use mla_spec::NormKind;

use super::Dim;

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
    /// `y = W x (+ b)`, W in blocks of codes with their scales.
    Fp8Linear(LinearParams),
    /// `y = W x (+ b)` in the accumulation type: weights, product and result.
    AccumLinear(LinearParams),
    /// A norm, of rows or of every head.
    Norm(NormParams),
    /// A norm whose result only the linear sees (`LayerNormColumnParallelLinear`).
    NormLinear(NormParams, LinearParams),
    /// One logit per head that softmax's denominator holds besides the keys.
    Sinks {
        /// How many heads.
        heads: Dim,
        /// The tensor's whole name.
        source: &'static str,
    },
    /// A learned scale by position: `a_h ln(pos + 1) + b_h`.
    LogPositionScale {
        /// How many heads.
        heads: Dim,
        /// HF module it is loaded from: its `scale` and `bias`.
        source: &'static str,
    },
    /// What pools an indexer's keys: a gate `[width, input]` of the layer's input, and a summand `[pool, width]` by place in the pool.
    KeyPools {
        /// The layer's input.
        input: Dim,
        /// Tokens per pool.
        pool: Dim,
        /// The keys' width.
        width: Dim,
        /// What the tensors' names start with: `_gate` and `_ape` follow.
        source: &'static str,
    },
}

/// Parameters of a linear.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearParams {
    /// Input width.
    pub input: Dim,
    /// Output width.
    pub output: Dim,
    /// The HF modules whose rows make the weight.
    pub rows: Rows,
    /// Whether each source has a bias.
    pub bias: bool,
}

/// Where the rows of a linear come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Rows {
    /// HF modules one below the other, with their row counts: one, or two where down projections are fused.
    Stacked(Vec<(&'static str, Dim)>),
    /// HF modules group by group: for every group some rows of the first, then of the second, and so on.
    Grouped {
        /// How many groups.
        groups: Dim,
        /// The modules, in a group's order.
        pieces: Vec<GroupPiece>,
    },
}

/// What a module adds to every group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupPiece {
    /// HF module.
    pub source: &'static str,
    /// How many heads it makes, all groups together.
    pub heads: Dim,
    /// All its rows.
    pub rows: Dim,
}

impl LinearParams {
    /// The HF modules that the weight is made of, with their row counts.
    pub fn sources(&self) -> Vec<(&'static str, Dim)> {
        match &self.rows {
            Rows::Stacked(sources) => sources.clone(),
            Rows::Grouped { pieces, .. } => pieces
                .iter()
                .map(|piece| (piece.source, piece.rows))
                .collect(),
        }
    }
}

/// Parameters of a norm.
#[derive(Debug, Clone, PartialEq)]
pub struct NormParams {
    /// Which norm.
    pub kind: NormKind,
    /// Width normalised over.
    pub width: Dim,
    /// Rows of the first matrix of a gated norm's gate; `None` for other norms.
    pub rank: Option<Dim>,
    /// Its epsilon.
    pub eps: f64,
    /// Name of the constant that holds the epsilon.
    pub eps_name: &'static str,
    /// HF module it is loaded from.
    pub source: &'static str,
}

impl Module {
    /// Its norm, inside or alone.
    pub fn norm(&self) -> Option<&NormParams> {
        match &self.kind {
            ModuleKind::Norm(norm) | ModuleKind::NormLinear(norm, _) => Some(norm),
            _ => None,
        }
    }

    /// Its linear, alone or behind a norm.
    pub fn linear(&self) -> Option<&LinearParams> {
        match &self.kind {
            ModuleKind::Linear(linear)
            | ModuleKind::Fp8Linear(linear)
            | ModuleKind::AccumLinear(linear)
            | ModuleKind::NormLinear(_, linear) => Some(linear),
            _ => None,
        }
    }
}
