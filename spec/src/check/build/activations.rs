//! `recompute` and `offload`: what `train` computes again, and what it keeps in the host's memory.

use super::phases::Phases;
use crate::build::{Activation, Phase};
use crate::check::About;
use crate::check::codes;
use crate::check::value::Table;
use crate::check::words::{Others, Words};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{DownProjection, KvSource, Latent, Layer, Projections};
use crate::span::{Span, Spanned};

/// A word, and what it stands for.
type Group = &'static [Activation];

#[rustfmt::skip] // a table
const GROUPS: Words<'static, Group> = Words {
    choices: &[
        ("input_layernorm", &[Activation::InputLayernorm]),
        ("q_down_proj", &[Activation::QDown]),
        ("kv_down_proj", &[Activation::KvDown]),
        ("layernorm", &[Activation::Layernorm]),
        ("q_up_proj", &[Activation::QUp]),
        ("kv_up_proj", &[Activation::KvUp]),
        ("mla_up_proj", &[Activation::QUp, Activation::KvUp]),
        ("qkv_proj", &[Activation::Qkv]),
        ("core_attn", &[Activation::CoreAttn]),
    ],
    aliases: &[
        ("linear_q_down_proj", "q_down_proj"),
        ("linear_qkv_down_proj", "q_down_proj"),
        ("query_wa_proj", "q_down_proj"),
        ("linear_kv_down_proj", "kv_down_proj"),
        ("kv_wa_proj", "kv_down_proj"),
        ("mla_q", "layernorm"),
        ("mla_kv", "layernorm"),
        ("q_layernorm", "layernorm"),
        ("kv_layernorm", "layernorm"),
        ("k_layernorm", "layernorm"),
        ("k_rope_layernorm", "layernorm"),
        ("linear_q_proj", "q_up_proj"),
        ("linear_q_up_proj", "q_up_proj"),
        ("linear_q_gate_proj", "q_up_proj"),
        ("linear_kv_up_proj", "kv_up_proj"),
        ("linear_qkv", "qkv_proj"),
        ("linear_q", "qkv_proj"),
        ("linear_kv", "qkv_proj"),
        ("kv_proj", "qkv_proj"),
        ("core_attention", "core_attn"),
        ("attention_out", "core_attn"),
        ("context", "core_attn"),
    ],
    others: Some(&Others {
        code: codes::NEVER_KEPT,
        verdict: "is no part whose values the backward pass reads",
        label: "not one of the parts",
        words: &[
            ("out_proj", OUTPUT),
            (
                "attn_proj",
                "write `core_attn`: the backward pass reads what the output projection is given",
            ),
            ("linear_proj", OUTPUT),
            ("hidden_states", INPUT),
            ("decoder_layer_input", INPUT),
            ("mlp", BESIDE),
            ("moe", BESIDE),
            ("moe_act", BESIDE),
            ("shared_experts", BESIDE),
            (
                "indexer_cutoff_threshold",
                "remove it: which keys were picked is always kept, and is small",
            ),
            (
                "query_proj",
                "write `q_up_proj` beside latents, `qkv_proj` without",
            ),
            (
                "key_proj",
                "write `kv_up_proj` beside latents, `qkv_proj` without",
            ),
            (
                "value_proj",
                "write `kv_up_proj` beside latents, `qkv_proj` without",
            ),
            (
                "qkv_linear",
                "write `input_layernorm`, what these projections are given",
            ),
            ("attn_norm", INPUT),
        ],
    }),
};

const OUTPUT: &str = "remove it: the backward pass needs no output of the output projection";
const INPUT: &str = "remove it: the caller keeps the layer's input and lends it twice";
const BESIDE: &str = "remove it: it is no part of attention";

/// What the two keys say; lists without what was refused.
pub(super) struct Kept {
    pub(super) recompute: Vec<Activation>,
    pub(super) offload: Vec<Activation>,
}

/// Reads both keys.
pub(super) fn read(
    table: &mut Table<'_>,
    phases: &Phases,
    about: &About,
    layer: Option<&Layer>,
    out: &mut Diagnostics,
) -> Kept {
    let mut list = |key| list(key, table, phases, about, layer, out);
    let (recompute, offload) = (list("recompute"), list("offload"));
    for both in &offload {
        if let Some(first) = find(&recompute, both.value) {
            let part = both.value.word();
            let message = format!("`{part}` is computed again and kept");
            let label = "kept in the host's memory";
            let twice =
                Diagnostic::error(codes::RECOMPUTED_AND_OFFLOADED, message, both.span, label);
            out.push(
                twice
                    .and(first.span, "not kept, but computed again")
                    .help(format!("leave `{part}` in one of the lists")),
            );
        }
    }
    Kept {
        recompute: ascending(recompute),
        offload: ascending(offload),
    }
}

fn list(
    key: &'static str,
    table: &mut Table<'_>,
    phases: &Phases,
    about: &About,
    layer: Option<&Layer>,
    out: &mut Diagnostics,
) -> Vec<Spanned<Activation>> {
    let Some(field) = table.take(key) else {
        return Vec::new();
    };
    phases.refuse_unless(&[Phase::Train], &field, out);
    let mut found: Vec<Spanned<Activation>> = Vec::new();
    for group in field.words(&GROUPS, out) {
        if let Some(layer) = layer {
            refuse_lacking(key, group, about, layer, out);
        }
        for activation in group.value {
            match find(&found, *activation) {
                Some(first) => out.push(listed_twice(key, *activation, group.span, first.span)),
                None => found.push(Spanned::new(*activation, group.span)),
            }
        }
    }
    found
}

fn find(list: &[Spanned<Activation>], wanted: Activation) -> Option<&Spanned<Activation>> {
    list.iter().find(|activation| activation.value == wanted)
}

fn ascending(list: Vec<Spanned<Activation>>) -> Vec<Activation> {
    let mut list: Vec<Activation> = list.iter().map(|activation| activation.value).collect();
    list.sort();
    list
}

/// `mla_up_proj` beside one of its halves.
fn listed_twice(key: &str, activation: Activation, again: Span, first: Span) -> Diagnostic {
    let part = activation.word();
    let message =
        format!("`{key}` lists `{part}` twice: `mla_up_proj` is `q_up_proj` and `kv_up_proj`");
    Diagnostic::error(codes::WRITTEN_TWICE, message, again, "listed again here")
        .and(first, "first listed here")
        .help("remove one of them")
}

/// Refuses a part that the layer hasn't got.
fn refuse_lacking(
    key: &str,
    group: Spanned<Group>,
    about: &About,
    layer: &Layer,
    out: &mut Diagnostics,
) {
    let lacking = group.value.iter().find(|part| !part.is_made_by(layer));
    let (Some(lacking), Some((_, module))) = (lacking, about.attention) else {
        return;
    };
    let word = GROUPS.name_of(group.value);
    let (why, seen, help) = reason(*lacking, layer);
    let message = format!("`{key}` names `{word}`, and {why}");
    let span = group.span;
    let label = "not made here";
    let lacks = Diagnostic::error(codes::ACTIVATION_OF_ANOTHER_LAYER, message, span, label);
    out.push(lacks.and(module, seen).help(help));
}

/// Why a layer lacks a part, what of it shows that, and what to do.
fn reason(lacking: Activation, layer: &Layer) -> (&'static str, &'static str, &'static str) {
    match (lacking, &layer.projections) {
        (Activation::InputLayernorm, Projections::Cross(_)) => {
            ("the caller norms its input", "norms nothing", "remove it")
        }
        (Activation::InputLayernorm, _) => (
            "the caller norms its input",
            "has no `input_layernorm`",
            "remove it, or fill the slot `input_layernorm`",
        ),
        (Activation::Layernorm, _) => (
            "neither latents nor heads are normed",
            "has no such norm",
            "remove it; `input_layernorm` names the norm of the input",
        ),
        (Activation::KvDown, Projections::Latent(latent)) => without_kv_down(latent),
        (_, Projections::Latent(_)) if lacking == Activation::Qkv => (
            "latent attention has no such projection",
            "makes queries, keys and values from latents",
            "write `mla_up_proj`, or `q_up_proj` or `kv_up_proj` for one of them",
        ),
        (_, Projections::Latent(_)) => (
            "plain queries have no latent",
            "has no `q_lora_rank`",
            "remove it; `q_up_proj` names the queries",
        ),
        (_, Projections::Grouped(_) | Projections::Cross(_)) => (
            "there are no latents",
            "attention without latents",
            "write `qkv_proj`, which names queries, keys and values",
        ),
    }
}

fn without_kv_down(latent: &Latent) -> (&'static str, &'static str, &'static str) {
    match (latent.kv_source, &latent.down) {
        (KvSource::Own { .. }, DownProjection::Fused { .. }) => (
            "one projection makes both latents",
            "has a `linear_qkv_down_proj`",
            "write `q_down_proj`, which names all that the fused projection makes",
        ),
        (_, DownProjection::Separate { .. } | DownProjection::Fused { .. }) => (
            "its latents are another layer's",
            "makes no latents of its own",
            "remove it: that layer keeps its latents",
        ),
    }
}
