//! Indexers: `LightningIndexer`, which picks keys, and `SharedIndexer`, which takes what an earlier layer picked.

mod choice;
mod loss;
mod rotation;
mod slots;

use super::codes;
use super::foreign::Place;
use super::latent::sizes::{LARGEST, Rank, WIDEST};
use super::modules::{self, Module};
use super::scaling;
use super::sparse::Surroundings;
use super::text::quoted;
use super::value::{Stated, Table};
use super::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Submodule;
use crate::layer::{Forced, Indexer, IndexerQuery, LightningIndexer};
use crate::span::{Span, Spanned};
use choice::{forced, pool, refuse_pool_size, refuse_undefined_pool};
use slots::Parts;

const QUERIES: Words<'static, bool> = Words {
    choices: &[("q_latent", true), ("hidden", false)],
    aliases: &[
        ("latent", "q_latent"),
        ("q_lora", "q_latent"),
        ("q_resid", "q_latent"),
        ("hidden_states", "hidden"),
    ],
    others: None,
};

/// The indexer in a sparse core's slot.
pub(super) fn check(
    submodule: &Submodule,
    around: &Surroundings<'_>,
    out: &mut Diagnostics,
) -> Option<Indexer> {
    let allowed = [Module::LightningIndexer, Module::SharedIndexer];
    match modules::in_slot(submodule, &allowed, |_| None, out)? {
        Module::SharedIndexer => shared(submodule, out),
        _ => lightning(submodule, around, out).map(Indexer::Lightning),
    }
}

/// Keys of an indexer that picks, which one that takes over has no use for.
const OF_A_PICKER: [&str; 11] = [
    "num_heads",
    "head_dim",
    "rope_layout",
    "split_order",
    "query_input",
    "relu",
    "hadamard",
    "query_scaling",
    "forced",
    "share_topk",
    "loss",
];

fn shared(submodule: &Submodule, out: &mut Diagnostics) -> Option<Indexer> {
    let spec = &submodule.spec;
    let mut table = Table::params(spec, Place::Indexer);
    let topk = topk(&mut table, out);
    let pool = table.stated("pool", |field| pool(&field, out));
    for key in OF_A_PICKER {
        if let Some(field) = table.take(key) {
            refuse_of_a_picker(field.name(), field.key.span, spec.module.span, out);
        }
    }
    table.finish(out);
    for slot in &spec.submodules {
        refuse_of_a_picker(&slot.slot.value, slot.slot.span, spec.module.span, out);
    }
    let topk = topk?;
    if let Some((pool, key)) = pool.given() {
        refuse_pool_size(*pool, key, topk, out);
    }
    let tail = match pool.optional()? {
        Some(pool) if pool.always_select_tail => pool.size - 1,
        _ => 0,
    };
    Some(Indexer::Shared {
        topk: topk.value,
        tail,
    })
}

fn refuse_of_a_picker(name: &str, span: Span, module: Span, out: &mut Diagnostics) {
    let name = quoted(name);
    let message = format!("`SharedIndexer` picks nothing itself, so it has no `{name}`");
    let of_a_picker = Diagnostic::error(
        codes::SHARED_INDEXER_HAS_NONE,
        message,
        span,
        "belongs to the layer that picks",
    );
    out.push(
        of_a_picker
            .and(module, "takes what an earlier layer picked")
            .help(format!(
                "remove `{name}`, or write `module: LightningIndexer`"
            )),
    );
}

/// How many keys are picked at most.
fn topk(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<Spanned<u32>> {
    table.require("topk")?.integer(1, LARGEST, out)
}

fn lightning(
    submodule: &Submodule,
    around: &Surroundings<'_>,
    out: &mut Diagnostics,
) -> Option<LightningIndexer> {
    let spec = &submodule.spec;
    let mut table = Table::params(spec, Place::Indexer);
    let num_heads = table
        .require("num_heads")
        .and_then(|field| field.integer(1, LARGEST, out));
    let head_dim = table
        .require("head_dim")
        .and_then(|field| field.integer(1, LARGEST, out));
    if let (Some(heads), Some(dim)) = (num_heads, head_dim) {
        refuse_width(heads, dim, out);
    }
    let topk = topk(&mut table, out);
    let rope = rotation::rope(&mut table, head_dim, around, out);
    let from_latent = table
        .require("query_input")
        .and_then(|field| field.word(&QUERIES, out));
    if let Some(input) = from_latent.filter(|input| input.value) {
        refuse_without_latent(input.span, around, out);
    }
    let relu = table.require("relu").and_then(|field| field.boolean(out));
    let hadamard = table.stated("hadamard", |field| field.boolean(out));
    refuse_hadamard(&hadamard, head_dim, out);
    let log_position_scaling = scaling::of_an_indexer(&mut table, out);
    let forced = table.stated("forced", |field| forced(&field, topk, out));
    let pool = table.stated("pool", |field| pool(&field, out));
    if let (Some((pool, key)), Some(topk)) = (pool.given(), topk) {
        refuse_pool_size(*pool, key, topk, out);
    }
    refuse_undefined_pool(&pool, &forced, &hadamard, around, out);
    let share_topk = table.stated("share_topk", |field| field.boolean(out));
    let loss = table.stated("loss", |field| loss::loss(&field, out));
    loss::refuse_beside(&loss, &pool, &share_topk, out);
    table.finish(out);
    let slots = Parts::read(submodule, from_latent, out);
    Some(LightningIndexer {
        num_heads: num_heads?.value,
        head_dim: head_dim?.value,
        topk: topk?.value,
        query: match from_latent?.value {
            true => IndexerQuery::Latent,
            false => IndexerQuery::Hidden {
                norm: slots.q_input_norm?,
            },
        },
        rope: rope?,
        k_norm: slots.k_norm?,
        hadamard: hadamard.or(false)?,
        relu: relu?,
        log_position_scaling: log_position_scaling?,
        full_precision_weights: slots.full_precision_weights?,
        forced: forced.or(Forced::default())?,
        pool: pool.optional()?,
        shared: share_topk.or(false)?,
        loss: loss.optional()?,
    })
}

fn refuse_width(heads: Spanned<u32>, dim: Spanned<u32>, out: &mut Diagnostics) {
    let width = u64::from(heads.value) * u64::from(dim.value);
    if width <= WIDEST {
        return;
    }
    let message = format!(
        "{} heads of `head_dim` make {width} elements per token",
        heads.value
    );
    let label = format!("all heads may have {WIDEST} at most");
    let large = Diagnostic::error(codes::LAYER_TOO_LARGE, message, heads.span, label);
    out.push(
        large
            .and(dim.span, "`head_dim`")
            .help("is a total given where a size per head is wanted?"),
    );
}

/// Queries from the query latent need one, normed by itself (L-03).
fn refuse_without_latent(input: Span, around: &Surroundings<'_>, out: &mut Diagnostics) {
    let (message, other, label, help) = match (around.rank, around.normed_in_projection) {
        (Rank::Absent, _) => (
            "the indexer's queries come from the query latent, and plain queries have none",
            around.module,
            "has no `q_lora_rank`",
            "write `query_input: hidden`, or give `q_lora_rank` and the low-rank slots",
        ),
        (_, Some(norm)) => (
            "the indexer reads the normed query latent, and its norm is inside a projection",
            norm,
            "norms the latent for itself alone",
            "write the norm in `q_layernorm`, and `linear_q_up_proj: ColumnParallelLinear`",
        ),
        _ => return,
    };
    let without = Diagnostic::error(
        codes::INDEXER_WITHOUT_LATENT,
        message,
        input,
        "no normed latent to read",
    );
    out.push(without.and(other, label).help(help));
}

fn refuse_hadamard(hadamard: &Stated<bool>, head_dim: Option<Spanned<u32>>, out: &mut Diagnostics) {
    let (Some((true, key)), Some(dim)) = (hadamard.given(), head_dim) else {
        return;
    };
    if dim.value.is_power_of_two() {
        return;
    }
    let message = format!(
        "a Hadamard matrix has a power of two of rows, and `head_dim` is {}",
        dim.value
    );
    let size = Diagnostic::error(
        codes::HADAMARD_SIZE,
        message,
        dim.span,
        "not a power of two",
    );
    out.push(
        size.and(key, "asks for the matrix")
            .help("remove `hadamard`: exact scores are the same without it"),
    );
}
