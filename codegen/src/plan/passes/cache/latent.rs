//! Layers with latents: their own cache, or another layer's.

use mla_spec::{CacheKind, Checked, KvSource, Latent};

use super::{CONTEXT_CHUNK, Site, find, rename_reads, single};
use crate::plan::{Dim, Op, Plan, formulas};

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
        (Op::AttendExpanded { .. }, CacheKind::Latent) => merge(checked, latent, plan, site, &op),
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

/// Expanded attention gains the context of a latent cache.
fn merge(checked: &Checked, layer: &Latent, plan: &mut Plan, site: Site, op: &Op) {
    let Op::AttendExpanded {
        q,
        kv,
        k_rope,
        out: attended,
        ..
    } = *op
    else {
        return;
    };
    let Some(&Op::IntoHeads { x: rows, .. }) = plan.definition(kv) else {
        return;
    };
    let Some(&Op::Linear {
        x: latent,
        slot,
        part,
        ..
    }) = plan.definition(rows)
    else {
        return;
    };
    let chunk = Dim {
        name: CONTEXT_CHUNK,
        size: checked.build.context_chunk,
    };
    let merged = plan.define("attended", plan.values[attended.0].ty.clone());
    rename_reads(&mut plan.steps[site.step + 1..], attended, merged);
    let merge = Op::MergeContext {
        q,
        slot,
        part,
        chunk,
        into: attended,
        out: merged,
    };
    plan.steps
        .insert(site.step + 1, single(formulas::context(chunk.size), merge));
    if is_own(layer) {
        let write = Op::WriteLatent { latent, k_rope };
        plan.steps
            .insert(site.step + 2, single(formulas::latent_write(layer), write));
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
