//! What the pass over rows in front of attention over a latent cache reads and makes, and the kernel that does it.

use mla_spec::{Fp8, IndexStore, ScaleFormat, Store};

use super::kernels::width;
use super::{KernelUnit, Op, Plan, Program, Step, ValueId};

/// The values of a fused step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prologue {
    /// The normed latent of the queries; `None` where the step has no part in it.
    pub(crate) queries: Option<ValueId>,
    /// The latent that is cached.
    pub(crate) latent: ValueId,
    /// The rotated key that is cached.
    pub(crate) k_rope: ValueId,
    /// The indexer's key that is cached; `None` where the step caches none.
    pub(crate) key: Option<ValueId>,
}

impl Prologue {
    /// What a fused step is about; `None` for other steps.
    pub(crate) fn of(step: &Step) -> Option<Self> {
        let find = |wanted: &dyn Fn(&Op) -> Option<ValueId>| step.ops.iter().find_map(wanted);
        let (latent, k_rope) = step.ops.iter().find_map(|op| match op {
            Op::WriteLatent { latent, k_rope } if step.fused => Some((*latent, *k_rope)),
            _ => None,
        })?;
        Some(Self {
            queries: find(&|op| match op {
                Op::Norm { out, .. } if is_of_queries(op) => Some(*out),
                _ => None,
            }),
            latent,
            k_rope,
            key: find(&|op| match op {
                Op::WriteIndex { k, .. } => Some(*k),
                _ => None,
            }),
        })
    }
}

/// Whether an op is the norm of the queries' latent, alone or in front of the up projection.
pub(super) fn is_of_queries(op: &Op) -> bool {
    matches!(
        op,
        Op::Norm {
            slot: "q_layernorm" | "linear_q_up_proj",
            ..
        }
    )
}

/// The kernel of a plan's prologue, for what the layer caches.
pub(super) fn unit(program: &Program, plan: &Plan) -> Option<KernelUnit> {
    let prologue = plan.steps.iter().find_map(Prologue::of)?;
    let cache = program.cache.as_ref()?;
    let width = |id: ValueId| width(&plan.values[id.0].ty) as usize;
    let key_store = match (prologue.key, cache.index) {
        (Some(_), Some(index)) => number_of_keys(index.store),
        _ => 0,
    };
    Some(KernelUnit {
        unit: "prologue",
        dims: vec![
            prologue.queries.map_or(0, width),
            width(prologue.latent),
            width(prologue.k_rope),
            number(cache.store),
            prologue.key.map_or(0, width),
            key_store,
        ],
    })
}

/// `StoreKind` of `stores.cuh`.
const fn number(store: Store) -> usize {
    match store {
        Store::Plain(_) => 0,
        Store::Fp8(Fp8::E4m3) => 1,
        Store::Fp8(Fp8::E5m2) => 2,
        Store::Fp8DsMla(ScaleFormat::F32) => 3,
        Store::Fp8DsMla(ScaleFormat::PowerOfTwo) => 4,
        Store::Model1 => 5,
        Store::Mxfp8 => 6,
    }
}

/// The same of an indexer's keys.
const fn number_of_keys(store: IndexStore) -> usize {
    match store {
        IndexStore::Plain(_) => 0,
        IndexStore::Fp8(ScaleFormat::F32) => 7,
        IndexStore::Fp8(ScaleFormat::PowerOfTwo) => 8,
        IndexStore::Mxfp4 => 9,
    }
}
