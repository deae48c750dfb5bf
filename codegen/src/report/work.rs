//! What each op computes and moves.
//!
//! FLOPs are the multiplications and additions of matrix products and dot products; what is done element by element (norms, rotations,
//! gates, softmax itself) counts none. Bytes are what an op can't avoid: it reads its weights, its inputs and the cache entries that
//! any query attends to once each, and writes its result once. Borrowed parts and other views of a value move nothing.

use std::collections::BTreeMap;

use super::bytes;
use super::pairs::{Met, met};
use crate::plan::cost::Lengths;
use crate::plan::{
    Adjoint, CacheContent, CachePlan, Dim, IndexCachePlan, Module, ModuleKind, Op, Plan, Program,
    Ty, ValueId,
};

/// Floating-point operations and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Multiplications and additions.
    pub flops: u128,
    /// Bytes read and written.
    pub bytes: u128,
}

impl Work {
    /// FLOPs per byte; 0 where nothing moves.
    pub fn intensity(self) -> f64 {
        if self.bytes == 0 {
            return 0.0;
        }
        self.flops as f64 / self.bytes as f64
    }
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.flops += other.flops;
        self.bytes += other.bytes;
    }
}

/// What an op is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Queries, latents, keys and values out of the hidden state.
    Projections,
    /// Keys and values out of latents, or queries into latents and attended latents out of them.
    Up,
    /// The indexer: its projections, its scores, its cache.
    Indexer,
    /// Attention itself.
    Attention,
    /// Cache writes.
    Cache,
    /// Gate and output projection.
    Output,
}

impl Group {
    /// All of them, in the order in which data passes them.
    pub const ALL: [Self; 6] = [
        Self::Projections,
        Self::Up,
        Self::Indexer,
        Self::Attention,
        Self::Cache,
        Self::Output,
    ];

    /// Its name in a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Projections => "projections",
            Self::Up => "expansion, absorption",
            Self::Indexer => "indexer",
            Self::Attention => "attention",
            Self::Cache => "cache writes",
            Self::Output => "gate, output",
        }
    }
}

/// A plan at given lengths.
pub(super) struct Counter<'a> {
    program: &'a Program,
    plan: &'a Plan,
    lengths: Lengths,
    /// Rows of values that are not the call's tokens: a context's.
    others: BTreeMap<ValueId, u128>,
}

impl<'a> Counter<'a> {
    /// Counts one request of a phase.
    pub(super) fn new(program: &'a Program, plan: &'a Plan, lengths: Lengths) -> Self {
        let mut others = BTreeMap::new();
        for op in plan.ops() {
            let of_context = matches!(op, Op::Context { .. })
                || op
                    .reads()
                    .first()
                    .is_some_and(|first| others.contains_key(first));
            let is_heir = !matches!(op, Op::AttendGroups { .. });
            if of_context && is_heir {
                let rows = u128::from(lengths.met);
                others.extend(op.defines().into_iter().map(|out| (out, rows)));
            }
        }
        Self {
            program,
            plan,
            lengths,
            others,
        }
    }

    /// What an op does, by what it is for.
    pub(super) fn work(&self, op: &Op) -> Vec<(Group, Work)> {
        let group = self.group(op);
        let moved = self.moved(op);
        match op {
            Op::Linear { slot, .. } | Op::PoolGates { slot, .. } => {
                vec![(group, self.linear(slot, op))]
            }
            Op::AttendExpanded { selection, .. } => {
                let met = self.met(self.own(), selection.is_some());
                vec![(group, self.expanded(met, moved))]
            }
            Op::AttendAbsorbed { selection, .. } => {
                let met = self.met(self.own(), selection.is_some());
                vec![(group, self.absorbed(met, moved))]
            }
            Op::AttendLatentCache { selection, .. } => {
                let met = self.met(0..self.lengths.met, selection.is_some());
                let read = met.keys * self.cached_bytes();
                vec![(group, self.absorbed(met, moved + read))]
            }
            Op::AttendNaiveCache { selection, .. } => {
                let met = self.met(0..self.lengths.met, selection.is_some());
                let read = met.keys * self.cached_bytes();
                vec![(group, self.expanded(met, moved + read))]
            }
            Op::AttendGroups { .. } => {
                let met = self.met(self.own(), false);
                vec![(group, self.grouped(met, moved))]
            }
            Op::AttendGroupCache { .. } | Op::FlashDecode { .. } => {
                let met = self.met(0..self.lengths.met, false);
                let read = met.keys * self.cached_bytes();
                vec![(group, self.grouped(met, moved + read))]
            }
            Op::AttendContext {
                slot, heads, dim, ..
            } => {
                let expanded = self.size_of(&Ty::Heads(*heads, *dim), self.lengths.met);
                self.over_context(slot, moved, expanded)
            }
            Op::AbsorbQueries { slot, .. } => {
                let flops = 2 * self.heads() * self.size("QK_NOPE_HEAD_DIM") * self.latent();
                vec![(group, self.absorbing(flops, slot, moved))]
            }
            Op::Adjoint(adjoint) => self.backward(op, adjoint),
            Op::AbsorbValues { slot, .. } => {
                let flops = 2 * self.heads() * self.size("V_HEAD_DIM") * self.latent();
                vec![(group, self.absorbing(flops, slot, moved))]
            }
            Op::Select { .. } | Op::SelectCached { .. } => {
                vec![(group, self.scores(op, moved))]
            }
            Op::WriteLatent { .. } | Op::WriteNaive { .. } | Op::WriteGroups { .. } => {
                let written = u128::from(self.lengths.new) * self.cached_bytes();
                let bytes = moved + written;
                vec![(group, Work { flops: 0, bytes })]
            }
            Op::WriteIndex { .. } => {
                let bytes = moved + u128::from(self.lengths.new) * self.index_bytes();
                vec![(group, Work { flops: 0, bytes })]
            }
            _ => vec![(
                group,
                Work {
                    flops: 0,
                    bytes: moved,
                },
            )],
        }
    }

    fn group(&self, op: &Op) -> Group {
        let result = (op.defines().first()).map_or("", |out| &*self.plan.values[out.0].name);
        match op {
            Op::Select { .. }
            | Op::SelectCached { .. }
            | Op::WriteIndex { .. }
            | Op::TakeSelection { .. }
            | Op::GiveSelection { .. } => Group::Indexer,
            Op::Linear { slot, .. } if self.group_of(slot) != Group::Projections => {
                self.group_of(slot)
            }
            Op::AbsorbQueries { .. } | Op::AbsorbValues { .. } => Group::Up,
            Op::AttendExpanded { .. }
            | Op::AttendAbsorbed { .. }
            | Op::AttendGroups { .. }
            | Op::AttendContext { .. }
            | Op::AttendLatentCache { .. }
            | Op::AttendNaiveCache { .. }
            | Op::AttendGroupCache { .. }
            | Op::FlashDecode { .. }
            | Op::Sink { .. } => Group::Attention,
            Op::WriteLatent { .. } | Op::WriteNaive { .. } | Op::WriteGroups { .. } => Group::Cache,
            Op::Gate { .. }
            | Op::Join { .. }
            | Op::AttendedOut { .. }
            | Op::AttendedParts { .. } => Group::Output,
            _ if result.starts_with("index_") => Group::Indexer,
            _ => Group::Projections,
        }
    }

    /// What a linear is for.
    pub(super) fn group_of(&self, slot: &str) -> Group {
        match slot {
            "linear_kv_up_proj" => Group::Up,
            "linear_proj" | "linear_gate_proj" => Group::Output,
            slot if slot.starts_with("indexer_") => Group::Indexer,
            _ => Group::Projections,
        }
    }

    /// Elements of a module's matrix.
    pub(super) fn area(&self, slot: &str) -> u128 {
        self.module(slot).map_or(0, area)
    }

    /// FLOPs of queries or values through their part of the up projection.
    pub(super) fn absorption(&self, width: &str, rows: ValueId) -> u128 {
        2 * self.heads() * self.size(width) * self.latent() * self.rows(rows)
    }

    /// FLOPs of so many products per pair of a query and a key, of all heads.
    pub(super) fn pairs(&self, width: u128, selected: bool) -> u128 {
        2 * width * self.heads() * self.met(self.own(), selected).pairs
    }

    /// Bytes of an op's inputs and its result; 0 for one that only looks at a value in another way.
    pub(super) fn moved(&self, op: &Op) -> u128 {
        if is_view(op) {
            return 0;
        }
        let values = op.reads().into_iter().chain(op.defines());
        values.map(|value| self.bytes(value)).sum()
    }

    fn bytes(&self, value: ValueId) -> u128 {
        let ty = &self.plan.values[value.0].ty;
        bytes::value(ty, self.rows(value), self.program.build.dtype)
    }

    /// Bytes of so many rows of a type.
    fn size_of(&self, ty: &Ty, rows: u64) -> u128 {
        bytes::value(ty, rows.into(), self.program.build.dtype)
    }

    /// Whether a value has a row for each of a context's tokens, not of the call's.
    pub(super) fn is_of_context(&self, value: ValueId) -> bool {
        self.others.contains_key(&value)
    }

    pub(super) fn rows(&self, value: ValueId) -> u128 {
        let own = u128::from(self.lengths.new);
        self.others.get(&value).copied().unwrap_or(own)
    }

    fn linear(&self, slot: &str, op: &Op) -> Work {
        let rows = op.reads().first().map_or(0, |x| self.rows(*x));
        let multiplications = self.module(slot).map_or(0, area);
        Work {
            flops: 2 * multiplications * rows,
            bytes: self.moved(op) + self.weight_bytes(slot),
        }
    }

    fn expanded(&self, met: Met, bytes: u128) -> Work {
        let pair = self.size("QK_HEAD_DIM") + self.size("V_HEAD_DIM");
        Work {
            flops: 2 * pair * self.heads() * met.pairs,
            bytes,
        }
    }

    fn absorbed(&self, met: Met, bytes: u128) -> Work {
        let pair = 2 * self.latent() + self.size("QK_ROPE_HEAD_DIM");
        Work {
            flops: 2 * pair * self.heads() * met.pairs,
            bytes,
        }
    }

    fn grouped(&self, met: Met, bytes: u128) -> Work {
        let pair = 2 * self.size("HEAD_DIM");
        Work {
            flops: 2 * pair * self.heads() * met.pairs,
            bytes,
        }
    }

    /// Cached and new latents, expanded and met: so many bytes of keys and values are written and read again.
    fn over_context(&self, slot: &str, moved: u128, expanded: u128) -> Vec<(Group, Work)> {
        let cached = self.lengths.met - self.lengths.new;
        let met = self.met(0..self.lengths.met, false);
        let up = self.module(slot).map_or(0, area);
        let expansion = Work {
            flops: 2 * up * u128::from(self.lengths.met),
            bytes: u128::from(cached) * self.cached_bytes() + self.weight_bytes(slot) + expanded,
        };
        vec![
            (Group::Up, expansion),
            (Group::Attention, self.expanded(met, moved + expanded)),
        ]
    }

    fn absorbing(&self, flops_per_token: u128, slot: &str, moved: u128) -> Work {
        // Queries and values each read their own part of the up projection
        let width = self.size("QK_NOPE_HEAD_DIM") + self.size("V_HEAD_DIM");
        let part = flops_per_token / (2 * self.heads() * self.latent()).max(1);
        Work {
            flops: flops_per_token * u128::from(self.lengths.new),
            bytes: moved + self.weight_bytes(slot) * part / width.max(1),
        }
    }

    /// `h_i` dot products of length `d_i` per query and key (or pool), and their weighted sum.
    fn scores(&self, op: &Op, moved: u128) -> Work {
        let Some(indexer) = &self.program.indexer else {
            return Work::default();
        };
        let is_cached = matches!(op, Op::SelectCached { .. });
        let keys = if is_cached {
            0..self.lengths.met
        } else {
            self.own()
        };
        let met = self.met(keys, false);
        let pool = indexer.pool.map_or(1, |pool| u128::from(pool.size.size));
        let pair = u128::from(indexer.heads.size) * (u128::from(indexer.head_dim.size) + 1);
        let read = if is_cached {
            met.keys / pool * self.index_key_bytes()
        } else {
            0
        };
        Work {
            flops: 2 * pair * (met.pairs / pool),
            bytes: moved + read,
        }
    }

    fn met(&self, keys: std::ops::Range<u64>, selected: bool) -> Met {
        let most = self
            .program
            .selected
            .filter(|_| selected)
            .map(|most| u64::from(most.size));
        let mut lengths = self.lengths;
        if self.is_cross() {
            lengths.met = lengths.met.max(lengths.new);
        }
        met(self.program.mask, lengths, keys, most)
    }

    /// The call's own tokens, or all of a context.
    fn own(&self) -> std::ops::Range<u64> {
        if self.is_cross() {
            return 0..self.lengths.met;
        }
        self.lengths.met - self.lengths.new..self.lengths.met
    }

    fn is_cross(&self) -> bool {
        !self.others.is_empty()
    }

    /// Bytes per token of the keys and values that attention reads.
    fn cached_bytes(&self) -> u128 {
        let plan = self.program.source.as_ref().or(self.program.cache.as_ref());
        let Some(plan) = plan.filter(|plan| plan.content != CacheContent::Index) else {
            return 0;
        };
        let plan = CachePlan {
            index: None,
            ..plan.clone()
        };
        self.stored(&plan)
    }

    /// Bytes per token of an indexer's keys, and of what pools them.
    fn index_bytes(&self) -> u128 {
        self.stored_of_index(|index| index)
    }

    /// Bytes of one key that an indexer scores.
    fn index_key_bytes(&self) -> u128 {
        self.stored_of_index(|index| IndexCachePlan {
            pool: None,
            ..index
        })
    }

    fn stored_of_index(&self, index: fn(IndexCachePlan) -> IndexCachePlan) -> u128 {
        let plan = self.program.cache.as_ref().map(|plan| CachePlan {
            content: CacheContent::Index,
            index: plan.index.map(index),
            ..plan.clone()
        });
        plan.map_or(0, |plan| self.stored(&plan))
    }

    fn stored(&self, plan: &CachePlan) -> u128 {
        bytes::stored(plan)
            .iter()
            .map(|part| u128::from(part.bytes))
            .sum()
    }

    fn module(&self, slot: &str) -> Option<&Module> {
        self.program
            .modules
            .iter()
            .find(|module| module.slot == slot)
    }

    fn weight_bytes(&self, slot: &str) -> u128 {
        let dtype = self.program.build.dtype;
        self.module(slot).map_or(0, |module| match &module.kind {
            ModuleKind::AccumLinear(_) => area(module) * bytes::accumulated(dtype),
            ModuleKind::Fp8Linear(linear) => bytes::blocks(linear),
            _ => area(module) * bytes::element(dtype),
        })
    }

    fn heads(&self) -> u128 {
        self.size("NUM_ATTENTION_HEADS")
    }

    fn latent(&self) -> u128 {
        self.size("KV_LORA_RANK")
    }

    pub(super) fn size(&self, name: &str) -> u128 {
        let constants = self.program.constants.iter();
        let mut values = constants.filter(|constant| constant.name == name);
        values
            .next()
            .map_or(0, |constant| u128::from(constant.value))
    }
}

/// Whether an op only looks at a value in another way, or hands it in or out.
pub(super) fn is_view(op: &Op) -> bool {
    matches!(
        op,
        Op::Hidden { .. }
            | Op::Context { .. }
            | Op::Columns { .. }
            | Op::HeadPart { .. }
            | Op::IntoHeads { .. }
            | Op::IntoRows { .. }
            | Op::UnrotatedKey { .. }
            | Op::TakeKv { .. }
            | Op::TakenLatent { .. }
            | Op::TakenKey { .. }
            | Op::GiveKv { .. }
            | Op::TakeSelection { .. }
            | Op::GiveSelection { .. }
            | Op::AsRows { .. }
            | Op::Forms { .. }
            | Op::Learn { .. }
            | Op::Adjoint(
                Adjoint::OutputGradient { .. }
                    | Adjoint::GivenKvGradient { .. }
                    | Adjoint::Saved { .. }
                    | Adjoint::Deferred { .. }
                    | Adjoint::Drop { .. }
            )
            | Op::Probe { .. }
    )
}

/// Elements of the matrix in a module.
fn area(module: &Module) -> u128 {
    let product = |input: Dim, output: Dim| u128::from(input.size) * u128::from(output.size);
    match (&module.kind, module.linear()) {
        (ModuleKind::KeyPools { input, width, .. }, _) => product(*input, *width),
        (_, Some(linear)) => product(linear.input, linear.output),
        _ => 0,
    }
}
