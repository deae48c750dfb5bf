//! Indexers: `LightningIndexer`, which picks keys, and `SharedIndexer`, which takes what an earlier layer picked.

use super::codes;
use super::foreign::Place;
use super::latent::sizes::{LARGEST, Rank, WIDEST};
use super::modules::{self, Module};
use super::norms::{self, Said};
use super::rope::LAYOUTS;
use super::scaling;
use super::slots::{Known, Slots};
use super::sparse::Surroundings;
use super::text::quoted;
use super::value::{Field, Stated, Table};
use super::words::Words;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::Submodule;
use crate::layer::{
    Forced, Indexer, IndexerQuery, IndexerRope, LightningIndexer, NormParams, Pool, Rope,
    SplitOrder,
};
use crate::span::{Span, Spanned};

#[rustfmt::skip] // a table
const SLOTS: Known = Known {
    module: "LightningIndexer",
    slots: &["linear_wq_b", "linear_wk", "linear_weights_proj", "k_norm", "q_input_norm"],
    foreign: &[
        ("wq_b", Some("linear_wq_b"), "here it is called `linear_wq_b`"),
        ("wk", Some("linear_wk"), "here it is called `linear_wk`"),
        ("weights_proj", Some("linear_weights_proj"), "here it is called `linear_weights_proj`"),
        ("k_layernorm", Some("k_norm"), "here it is called `k_norm`"),
        ("softmax_scaling", None, "write `query_scaling: { type: log_position }` among the indexer's parameters"),
        ("index_kpool_compress_gate", None, "write `pool` among the indexer's parameters"),
        ("index_kpool_compress_ape", None, "write `pool` among the indexer's parameters"),
    ],
};

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

const SPLITS: Words<'static, SplitOrder> = Words {
    choices: &[
        ("rope_first", SplitOrder::RopeFirst),
        ("nope_first", SplitOrder::NopeFirst),
    ],
    aliases: &[("rope_last", "nope_first")],
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
const OF_A_PICKER: [&str; 10] = [
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
    let rope = rope(&mut table, head_dim, around, out);
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

/// `rope_layout` and `split_order`, which are there exactly where the layer rotates.
fn rope(
    table: &mut Table<'_>,
    head_dim: Option<Spanned<u32>>,
    around: &Surroundings<'_>,
    out: &mut Diagnostics,
) -> Option<Option<IndexerRope>> {
    let (layout, split) = (table.take("rope_layout"), table.take("split_order"));
    let misspelt = table.is_misspelt("rope_layout") || table.is_misspelt("split_order");
    match around.rope {
        None => None,
        Some((Rope::None, because)) => {
            for field in layout.iter().chain(&split) {
                let key = field.name();
                let message =
                    format!("`{key}` describes a rotated indexer, and this layer rotates nothing");
                let without = Diagnostic::error(
                    codes::INDEXER_ROPE_WITHOUT_ROPE,
                    message,
                    field.key.span,
                    "nothing is rotated",
                );
                out.push(
                    without
                        .and(because, "the layer's rope, which its indexer shares")
                        .help(format!("remove `{key}`")),
                );
            }
            (layout.is_none() && split.is_none()).then_some(None)
        }
        Some((Rope::Rotary(_), because)) => {
            refuse_short_head(head_dim, around.rotated, out);
            if (layout.is_none() || split.is_none()) && !misspelt {
                refuse_missing_rope(
                    layout.is_none(),
                    split.is_none(),
                    table.anchor(),
                    because,
                    out,
                );
            }
            let layout = layout.and_then(|field| field.word(&LAYOUTS, out));
            let split = split.and_then(|field| field.word(&SPLITS, out));
            Some(Some(IndexerRope {
                layout: layout?.value,
                split: split?.value,
            }))
        }
    }
}

fn refuse_missing_rope(
    layout: bool,
    split: bool,
    anchor: Span,
    because: Span,
    out: &mut Diagnostics,
) {
    let (names, help) = match (layout, split) {
        (true, true) => (
            "`rope_layout` and `split_order`",
            "add `rope_layout: interleaved` or `half`, and `split_order: rope_first` or `nope_first`",
        ),
        (true, false) => (
            "`rope_layout`",
            "add `rope_layout: interleaved` or `rope_layout: half`",
        ),
        _ => (
            "`split_order`",
            "add `split_order: rope_first` or `split_order: nope_first`",
        ),
    };
    let message = format!("the indexer of a rotated layer lacks {names}");
    let missing = Diagnostic::error(
        codes::INDEXER_ROPE_MISSING,
        message,
        anchor,
        "which of its elements are rotated, in which pairs?",
    );
    out.push(
        missing
            .and(because, "the layer's rope, which its indexer shares")
            .note("an indexer's layout may differ from its layer's, and a wrong one picks other keys without any error")
            .help(help),
    );
}

/// The rotated part must fit into an indexer's head (4.5, 1).
fn refuse_short_head(
    head_dim: Option<Spanned<u32>>,
    rotated: Option<Spanned<u32>>,
    out: &mut Diagnostics,
) {
    let (Some(head), Some(rotated)) = (head_dim, rotated) else {
        return;
    };
    if head.value >= rotated.value {
        return;
    }
    let message = format!(
        "an indexer's head of {} elements can't hold the {} that are rotated",
        head.value, rotated.value
    );
    let short = Diagnostic::error(
        codes::INDEXER_HEAD_TOO_SHORT,
        message,
        head.span,
        "shorter than the rotated part",
    );
    out.push(
        short
            .and(rotated.span, "how much is rotated")
            .help(format!("give a `head_dim` of at least {}", rotated.value)),
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

/// `forced: { initial, local }`, which must leave something to pick.
fn forced(field: &Field<'_>, topk: Option<Spanned<u32>>, out: &mut Diagnostics) -> Option<Forced> {
    let mut table = Table::map(
        field.name(),
        None,
        field.value,
        field.key.span,
        Place::Indexer,
        out,
    )?;
    let mut count = |key| table.require(key)?.integer(0, LARGEST, out);
    let (initial, local) = (count("initial"), count("local"));
    table.finish(out);
    let (initial, local) = (initial?, local?);
    let sum = initial.value + local.value;
    let complaint = match topk {
        _ if sum == 0 => Some((
            "`forced` forces nothing".to_owned(),
            "remove `forced`".to_owned(),
        )),
        Some(topk) if sum >= topk.value => Some((
            format!(
                "`forced` takes {sum} of `topk`'s {} places and leaves none to pick",
                topk.value
            ),
            "force fewer tokens, or raise `topk`: forced tokens count towards it".to_owned(),
        )),
        _ => None,
    };
    if let Some((message, help)) = complaint {
        let fills = Diagnostic::error(
            codes::FORCED_FILLS_TOPK,
            message,
            local.span,
            "`initial` and `local` together",
        );
        let fills = match topk.filter(|_| sum > 0) {
            Some(topk) => fills.and(topk.span, "all places"),
            None => fills,
        };
        out.push(fills.help(help));
    }
    Some(Forced {
        initial: initial.value,
        local: local.value,
    })
}

/// `pool: { size, always_select_tail }`.
fn pool(field: &Field<'_>, out: &mut Diagnostics) -> Option<Pool> {
    let mut table = Table::map(
        field.name(),
        Some("size"),
        field.value,
        field.key.span,
        Place::Indexer,
        out,
    )?;
    let size = table
        .require("size")
        .and_then(|field| field.integer(2, LARGEST, out));
    let tail = table
        .require("always_select_tail")
        .and_then(|field| field.boolean(out));
    table.finish(out);
    Some(Pool {
        size: size?.value,
        always_select_tail: tail?,
    })
}

fn refuse_pool_size(pool: Pool, key: Span, topk: Spanned<u32>, out: &mut Diagnostics) {
    if topk.value.is_multiple_of(pool.size) {
        return;
    }
    let message = format!(
        "`topk` of {} is no whole number of pools of {}",
        topk.value, pool.size
    );
    let size = Diagnostic::error(codes::POOL_SIZE, message, key, "whole pools are picked");
    out.push(size.and(topk.span, "how many tokens").help(format!(
        "give a `topk` that {} divides, such as {}",
        pool.size,
        (topk.value / pool.size).max(1) * pool.size
    )));
}

/// What nobody has defined for pooled keys (S-17).
fn refuse_undefined_pool(
    pool: &Stated<Pool>,
    forced: &Stated<Forced>,
    hadamard: &Stated<bool>,
    around: &Surroundings<'_>,
    out: &mut Diagnostics,
) {
    let Some((_, pool)) = pool.given() else {
        return;
    };
    let rotated = match around.rope {
        Some((Rope::Rotary(_), span)) => Some(span),
        _ => None,
    };
    let hadamard = hadamard
        .given()
        .filter(|(hadamard, _)| **hadamard)
        .map(|(_, span)| span);
    let reasons = [
        (
            rotated,
            "a pooled key is an average over positions, so it can't be rotated to one",
            "the layer's rope",
            "remove `pool`, or write `rope: { type: none }`",
        ),
        (
            forced.given().map(|(_, span)| span),
            "forced tokens are picked one by one, and pools as a whole",
            "forces tokens",
            "keep `pool` or `forced`",
        ),
        (
            hadamard,
            "keys are pooled element by element, which is another sum after a Hadamard matrix",
            "mixes the elements",
            "remove `hadamard`: exact scores are the same without it",
        ),
    ];
    for (span, message, label, help) in reasons {
        if let Some(span) = span {
            let undefined =
                Diagnostic::error(codes::POOL_UNDEFINED, message, pool, "pools its keys");
            out.push(undefined.and(span, label).help(help));
        }
    }
}

/// What the slots say; a part is absent where it was refused.
struct Parts {
    k_norm: Option<NormParams>,
    q_input_norm: Option<Option<NormParams>>,
    full_precision_weights: Option<bool>,
}

impl Parts {
    fn read(
        submodule: &Submodule,
        from_latent: Option<Spanned<bool>>,
        out: &mut Diagnostics,
    ) -> Self {
        let mut slots = Slots::read(&submodule.spec, &SLOTS, out);
        for name in ["linear_wq_b", "linear_wk"] {
            if let Some(slot) = slots.require(name) {
                projection(slot, false, out);
            }
        }
        let full_precision_weights = slots
            .require("linear_weights_proj")
            .and_then(|slot| projection(slot, true, out));
        let k_norm = slots.require("k_norm").and_then(|slot| norm(slot, out));
        let input_norm = slots.get("q_input_norm");
        if let (Some(slot), Some(input)) = (input_norm, from_latent.filter(|input| input.value)) {
            refuse_input_norm(slot, input.span, out);
        }
        let q_input_norm = match input_norm {
            Some(slot) => norm(slot, out).map(Some),
            None => Some(None),
        };
        slots.finish(out);
        Self {
            k_norm,
            q_input_norm,
            full_precision_weights,
        }
    }
}

/// A projection of the indexer, which has no bias; whether it is computed in f32, where it may say so.
fn projection(slot: &Submodule, may_say: bool, out: &mut Diagnostics) -> Option<bool> {
    modules::in_slot(slot, &[Module::Linear], |_| None, out)?;
    let mut table = Table::params(&slot.spec, Place::Leaf);
    modules::refuse_bias(&mut table, &slot.slot.value, out);
    let full_precision = if may_say {
        modules::full_precision(&mut table, out)
    } else {
        Some(false)
    };
    table.finish(out);
    full_precision
}

fn norm(slot: &Submodule, out: &mut Diagnostics) -> Option<NormParams> {
    match norms::among(slot, &[Module::LayerNorm, Module::RmsNorm], out)? {
        Said::Norm(params) => params,
        Said::Nothing => None,
    }
}

fn refuse_input_norm(slot: &Submodule, input: Span, out: &mut Diagnostics) {
    let message = "`q_input_norm` norms the hidden state, and the indexer's queries come from the query latent";
    let of_latent = Diagnostic::error(
        codes::Q_INPUT_NORM_OF_LATENT,
        message,
        slot.slot.span,
        "nothing to norm",
    );
    out.push(
        of_latent
            .and(input, "already normed")
            .help("remove `q_input_norm`, or write `query_input: hidden`"),
    );
}
