//! What lowering makes keys and values of: latents, by an up projection.

use crate::plan::{Dim, LinearPart, Op, Plan, ValueId};

/// The up projection behind keys and values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expansion {
    pub(super) latent: ValueId,
    pub(super) slot: &'static str,
    pub(super) part: LinearPart,
    /// Of what it gives, heads and the width of each.
    pub(super) heads: Dim,
    pub(super) dim: Dim,
}

impl Expansion {
    /// That of `kv`, where it is one.
    pub(super) fn of(plan: &Plan, kv: ValueId) -> Option<Self> {
        let Op::IntoHeads {
            x: rows,
            heads,
            dim,
            ..
        } = *plan.definition(kv)?
        else {
            return None;
        };
        let Op::Linear {
            x: latent,
            slot,
            part,
            ..
        } = *plan.definition(rows)?
        else {
            return None;
        };
        Some(Self {
            latent,
            slot,
            part,
            heads,
            dim,
        })
    }
}
