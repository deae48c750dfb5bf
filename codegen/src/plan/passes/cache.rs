//! `cache`: prefill and decode meet what is cached, and cache what is new.
//!
//! - Latent cache, MHA: attention among the new tokens, merged with attention over the expanded context; then the new
//!   latents are written, so that the context is only what was there before.
//! - Latent cache, MQA: the new latents are written, then queries meet everything in the cache.
//! - Naive cache: the new keys and values are written, then queries meet everything in the cache.

use mla_spec::{CacheKind, Checked, Phase};

use crate::plan::{Constant, Dim, LinearPart, Op, Plan, Program, Step, ValueId, formulas};

pub(super) fn run(checked: &Checked, program: &mut Program) {
    for plan in program
        .plans
        .iter_mut()
        .filter(|plan| plan.phase != Phase::Forward)
    {
        if let Some(site) = find(plan, checked) {
            insert(plan, site, checked);
        }
    }
    if program
        .plans
        .iter()
        .flat_map(Plan::ops)
        .any(|op| matches!(op, Op::MergeContext { .. }))
    {
        program.constants.push(Constant {
            name: CONTEXT_CHUNK,
            value: checked.build.context_chunk,
            formula: None,
            doc: "Cached tokens that are expanded at a time.",
            public: false,
        });
    }
}

const CONTEXT_CHUNK: &str = "CONTEXT_CHUNK";

/// Where a plan attends, and what has to change there.
struct Site {
    step: usize,
    /// Index of the attention in its step.
    op: usize,
    change: Change,
}

enum Change {
    /// Expanded attention gains the context of a latent cache.
    Merge {
        q: ValueId,
        slot: &'static str,
        part: LinearPart,
        latent: ValueId,
        k_rope: ValueId,
        attended: ValueId,
    },
    /// Absorbed attention reads a latent cache.
    Latents {
        q_latent: ValueId,
        q_rope: ValueId,
        latent: ValueId,
        k_rope: ValueId,
        attended: ValueId,
    },
    /// Expanded attention reads a naive cache.
    Naive {
        q: ValueId,
        kv: ValueId,
        k_rope: ValueId,
        attended: ValueId,
    },
}

fn find(plan: &Plan, checked: &Checked) -> Option<Site> {
    plan.steps.iter().enumerate().find_map(|(step, ops)| {
        ops.ops.iter().enumerate().find_map(|(index, op)| {
            let change = change(plan, op, checked.build.cache.kind)?;
            Some(Site {
                step,
                op: index,
                change,
            })
        })
    })
}

fn change(plan: &Plan, op: &Op, cache: CacheKind) -> Option<Change> {
    match (op.clone(), cache) {
        (
            Op::AttendAbsorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                out,
                ..
            },
            CacheKind::Latent,
        ) => Some(Change::Latents {
            q_latent,
            q_rope,
            latent,
            k_rope,
            attended: out,
        }),
        (
            Op::AttendExpanded {
                q, kv, k_rope, out, ..
            },
            CacheKind::Naive,
        ) => Some(Change::Naive {
            q,
            kv,
            k_rope,
            attended: out,
        }),
        (
            Op::AttendExpanded {
                q, kv, k_rope, out, ..
            },
            CacheKind::Latent,
        ) => {
            let Op::IntoHeads { x: rows, .. } = *plan.definition(kv)? else {
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
            Some(Change::Merge {
                q,
                slot,
                part,
                latent,
                k_rope,
                attended: out,
            })
        }
        _ => None,
    }
}

fn insert(plan: &mut Plan, Site { step, op, change }: Site, checked: &Checked) {
    let layer = &checked.layer;
    match change {
        Change::Merge {
            q,
            slot,
            part,
            latent,
            k_rope,
            attended,
        } => {
            let chunk = Dim {
                name: CONTEXT_CHUNK,
                size: checked.build.context_chunk,
            };
            let merged = plan.define("attended", plan.values[attended.0].ty.clone());
            rename_reads(&mut plan.steps[step + 1..], attended, merged);
            let merge = Op::MergeContext {
                q,
                slot,
                part,
                chunk,
                into: attended,
                out: merged,
            };
            let write = Op::WriteLatent { latent, k_rope };
            plan.steps
                .insert(step + 1, single(formulas::context(chunk.size), merge));
            plan.steps
                .insert(step + 2, single(formulas::latent_write(layer), write));
        }
        Change::Latents {
            q_latent,
            q_rope,
            latent,
            k_rope,
            attended,
        } => {
            plan.steps[step].ops[op] = Op::AttendLatentCache {
                q_latent,
                q_rope,
                out: attended,
            };
            let write = Op::WriteLatent { latent, k_rope };
            plan.steps
                .insert(step, single(formulas::latent_write(layer), write));
        }
        Change::Naive {
            q,
            kv,
            k_rope,
            attended,
        } => {
            let expanding = &mut plan.steps[step];
            expanding.ops[op] = Op::WriteNaive { kv, k_rope };
            expanding.formula = formulas::naive_write(layer);
            let attend = Op::AttendNaiveCache { q, out: attended };
            plan.steps
                .insert(step + 1, single(formulas::naive_cache(layer), attend));
        }
    }
}

fn single(formula: String, op: Op) -> Step {
    Step {
        formula,
        ops: vec![op],
    }
}

fn rename_reads(steps: &mut [Step], from: ValueId, to: ValueId) {
    for op in steps.iter_mut().flat_map(|step| &mut step.ops) {
        op.visit_values(|role, value| {
            if role == crate::plan::Role::Reads && *value == from {
                *value = to;
            }
        });
    }
}
