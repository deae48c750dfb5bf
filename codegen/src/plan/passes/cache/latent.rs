//! Layers with latents: their own cache, or another layer's.

use mla_spec::{CacheKind, Checked, KvSource, Latent};

use super::super::expansion::Expansion;
use super::{CONTEXT_CHUNK, Site, find, single};
use crate::plan::{Dim, LinearPart, Op, Plan, ValueId, formulas};

pub(super) fn run(checked: &Checked, latent: &Latent, plan: &mut Plan) {
    let attends = |op: &Op| matches!(op, Op::AttendExpanded { .. } | Op::AttendAbsorbed { .. });
    let Some((site, op)) = find(plan, attends) else {
        return;
    };
    if plan.form.is_none() {
        return super::mixed::run(checked, latent, plan, site, &op);
    }
    match (&op, checked.build.cache.kind) {
        (Op::AttendAbsorbed { .. }, CacheKind::Latent) => latents(latent, plan, site, &op),
        (Op::AttendExpanded { .. }, CacheKind::Latent) => context(checked, latent, plan, site, &op),
        (Op::AttendExpanded { .. }, CacheKind::Naive) => naive(checked, latent, plan, site, &op),
        _ => {}
    }
}

/// Whether the layer writes the latents that it attends to.
pub(super) fn is_own(latent: &Latent) -> bool {
    latent.kv_source != KvSource::Other
}

/// Absorbed attention reads the cache.
fn latents(layer: &Latent, plan: &mut Plan, site: Site, op: &Op) {
    let Op::AttendAbsorbed {
        q_latent,
        q_rope,
        latent,
        k_rope,
        selection,
        out,
        ..
    } = *op
    else {
        return;
    };
    plan.steps[site.step].ops[site.op] = Op::AttendLatentCache {
        q_latent,
        q_rope,
        selection,
        out,
    };
    if is_own(layer) {
        let write = Op::WriteLatent { latent, k_rope };
        plan.steps
            .insert(site.step, single(formulas::latent_write(layer), write));
    }
}

/// Expanded attention gains the context of a latent cache. What expanded the new tokens alone is read by nobody any more.
fn context(checked: &Checked, layer: &Latent, plan: &mut Plan, site: Site, op: &Op) {
    let Some(canonical) = Canonical::of(plan, op) else {
        return;
    };
    let (formula, attend) = canonical.over_context(checked, layer, canonical.attended);
    let attending = &mut plan.steps[site.step];
    attending.ops[site.op] = attend;
    attending.formula = formula;
    if is_own(layer) {
        let Canonical { latent, k_rope, .. } = canonical;
        let write = Op::WriteLatent { latent, k_rope };
        plan.steps
            .insert(site.step + 1, single(formulas::latent_write(layer), write));
    }
}

/// What lowering wrote: attention in the expanded form over the call's own tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Canonical {
    pub(super) q: ValueId,
    pub(super) latent: ValueId,
    pub(super) k_rope: ValueId,
    pub(super) slot: &'static str,
    pub(super) part: LinearPart,
    heads: Dim,
    dim: Dim,
    pub(super) attended: ValueId,
}

impl Canonical {
    pub(super) fn of(plan: &Plan, op: &Op) -> Option<Self> {
        let Op::AttendExpanded {
            q,
            kv,
            k_rope,
            out: attended,
            ..
        } = *op
        else {
            return None;
        };
        let Expansion {
            latent,
            slot,
            part,
            heads,
            dim,
        } = Expansion::of(plan, kv)?;
        Some(Self {
            q,
            latent,
            k_rope,
            slot,
            part,
            heads,
            dim,
            attended,
        })
    }

    /// The same over a latent cache, too, and its formula.
    pub(super) fn over_context(
        &self,
        checked: &Checked,
        latent: &Latent,
        out: ValueId,
    ) -> (String, Op) {
        let chunk = Dim {
            name: CONTEXT_CHUNK,
            size: checked.build.context_chunk,
        };
        let attend = Op::AttendContext {
            q: self.q,
            latent: self.latent,
            k_rope: self.k_rope,
            slot: self.slot,
            part: self.part,
            heads: self.heads,
            dim: self.dim,
            chunk,
            out,
        };
        let formula = formulas::context(&checked.layer, latent, chunk.size);
        (formula, attend)
    }
}

/// Expanded attention reads a naive cache.
fn naive(checked: &Checked, layer: &Latent, plan: &mut Plan, site: Site, op: &Op) {
    let Op::AttendExpanded {
        q,
        kv,
        k_rope,
        selection,
        out,
        ..
    } = *op
    else {
        return;
    };
    let expanding = &mut plan.steps[site.step];
    expanding.ops[site.op] = Op::WriteNaive { kv, k_rope };
    expanding.formula = formulas::naive_write(layer);
    let attend = Op::AttendNaiveCache { q, selection, out };
    plan.steps.insert(
        site.step + 1,
        single(formulas::naive_cache(&checked.layer, layer), attend),
    );
}
