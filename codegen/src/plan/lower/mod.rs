//! Lowering: a checked layer in its canonical form, before any decision.
//!
//! Every phase is written as MHA over the call's own tokens, with norms apart from linears and every probe in place. The
//! passes turn that into what is emitted.

mod common;
mod cross;
mod grouped;
mod indexer;
mod latent;
mod module;
mod scale;
mod writer;

use mla_spec::{Checked, Indexer, Projections};

pub(super) use common::derived;
pub(super) use latent::Sizes;

use super::{CachePlan, Constant, Family, Module, Number, Plan, Program, RotaryTable, SoftmaxPlan};
use common::Common;

/// The layer's parts, and each phase in canonical form.
pub(super) fn lower(checked: &Checked) -> Program {
    match &checked.layer.projections {
        Projections::Latent(latent) => latent::lower(checked, latent),
        Projections::Grouped(grouped) => grouped::lower(checked, grouped),
        Projections::Cross(cross) => cross::lower(checked, cross),
    }
}

/// What a family knows of its program.
struct Frame {
    family: Family,
    constants: Vec<Constant>,
    numbers: Vec<Number>,
    modules: Vec<Module>,
    rotary: Option<RotaryTable>,
    plans: Vec<Plan>,
    /// What the layer's own cache holds, if it has one.
    cache: Option<CachePlan>,
    /// What the cache holds that it reads of another layer, if it does.
    source: Option<CachePlan>,
}

/// A whole program: a family's parts, and what every program has.
fn frame(checked: &Checked, parts: Frame) -> Program {
    let Checked { layer, build } = checked;
    let cached = common::is_cached(checked);
    let constants = [
        parts.constants,
        common::constants(layer),
        indexer::constants(layer),
    ];
    Program {
        name: layer.name.clone(),
        family: parts.family,
        constants: constants.concat(),
        numbers: [
            parts.numbers,
            common::numbers(layer),
            indexer::numbers(layer),
        ]
        .concat(),
        modules: parts.modules,
        softmax_scale: scale::softmax_scale(layer),
        softmax: SoftmaxPlan {
            soft_cap: layer.logits.soft_cap,
            bias: layer.logits.bias,
            dropout: layer.logits.dropout,
        },
        mask: layer.mask,
        indexer: match layer.indexer() {
            Some(Indexer::Lightning(indexer)) => Some(indexer::plan(indexer)),
            Some(Indexer::Shared { .. }) | None => None,
        },
        qk_clip: super::clip::plan(layer).filter(|_| common::is_trained(checked)),
        selected: layer.indexer().map(indexer::selected),
        cache: parts.cache.filter(|_| cached),
        source: parts.source.filter(|_| cached),
        mha_from: None,
        plans: parts.plans,
        training: None,
        rotary: parts.rotary,
        build: build.clone(),
    }
}
