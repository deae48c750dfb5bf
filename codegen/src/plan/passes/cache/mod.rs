//! `cache`: prefill, decode and mixed meet what is cached, and cache what is new.
//!
//! - Latent cache, MHA: attention over the context and the new tokens, whose latents are expanded together; then the new
//!   latents are written, so that the context is only what was there before.
//! - Latent cache, MQA: the new latents are written, then queries meet everything in the cache.
//! - Latent cache, each request in its own form (`mixed`): the new latents are written, then the requests of either form do what is said above,
//!   of the others' rows none.
//! - Another layer's latent cache: as these, but nothing is written.
//! - Naive cache, cache of groups: the new keys and values are written, then queries meet everything in the cache.
//! - An indexer's keys are written before it scores everything in the cache.

mod groups;
mod latent;
mod mixed;

use mla_spec::{Checked, Indexer, Projections};

use crate::plan::{Constant, Op, Plan, Program, Step, formulas};

pub(super) fn run(checked: &Checked, program: &mut Program) {
    for plan in program
        .plans
        .iter_mut()
        .filter(|plan| plan.phase.is_cached())
    {
        select(checked, plan);
        match &checked.layer.projections {
            Projections::Latent(projections) => latent::run(checked, projections, plan),
            Projections::Grouped(_) => groups::run(checked, plan),
            // What a cross attention caches is another sequence: lowering has written it so
            Projections::Cross(_) => {}
        }
    }
    if program
        .plans
        .iter()
        .flat_map(Plan::ops)
        .any(|op| matches!(op, Op::AttendContext { .. }))
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

/// An indexer scores what is cached, its own keys included.
fn select(checked: &Checked, plan: &mut Plan) {
    let Some(Indexer::Lightning(indexer)) = checked.layer.indexer() else {
        return;
    };
    let Some((
        site,
        Op::Select {
            q,
            k,
            gates,
            weights,
            out,
            ..
        },
    )) = find(plan, |op| matches!(op, Op::Select { .. }))
    else {
        return;
    };
    plan.steps[site.step].ops[site.op] = Op::SelectCached { q, weights, out };
    let write = single(formulas::index_write(indexer), Op::WriteIndex { k, gates });
    plan.steps.insert(site.step, write);
}

/// Where an op stands.
#[derive(Debug, Clone, Copy)]
struct Site {
    step: usize,
    /// Index in its step.
    op: usize,
}

/// The first op that is one of `wanted`.
fn find(plan: &Plan, wanted: impl Fn(&Op) -> bool) -> Option<(Site, Op)> {
    plan.steps.iter().enumerate().find_map(|(step, ops)| {
        let op = ops.ops.iter().position(&wanted)?;
        Some((Site { step, op }, ops.ops[op].clone()))
    })
}

fn single(formula: String, op: Op) -> Step {
    Step::new(formula, vec![op])
}
