//! The mathematics of each step, as one line in the literature's symbols.
//!
//! `x` input, `c` latents, `ĉ` normed latents, `q̃` absorbed queries, `p` probabilities, `z` attended latents, `τ` the softmax scale;
//! `n`, `r` mark the parts of a head without and with position, `h` the head; `s` the constants that latents are multiplied by.

mod grouped;
mod indexer;
mod latent;

use mla_spec::{Core, GateGranularity, Layer, NormKind, Projections, QueryScaling, Sink};

pub(super) use grouped::{
    cross_keys, cross_queries, flash, grouped, groups_write, prepared, q_and_kv, qkv,
};
pub(super) use indexer::{index_keys, index_queries, index_write, selection, shared_selection};
pub(super) use latent::{
    absorbed, context, expanded, latent, latent_write, naive_cache, naive_write, queries, taken_kv,
};

/// `W · x`, or `W · x + b`.
pub(super) fn product(matrix: &str, x: &str, bias: bool) -> String {
    format!("{matrix} · {x}{}", if bias { " + b" } else { "" })
}

/// The norm's name in formulas.
pub(super) fn norm_name(kind: NormKind) -> &'static str {
    match kind {
        NormKind::RmsNorm => "RMSNorm",
        NormKind::LayerNorm => "LayerNorm",
        NormKind::GatedRmsNorm { .. } => "GatedRMSNorm",
    }
}

/// The norm of the layer's input.
pub(super) fn input_norm(kind: NormKind) -> String {
    format!("Input: x = {}(x)", norm_name(kind))
}

/// What queries are multiplied by, behind how they are made.
fn scaled_by_position(layer: &Layer) -> String {
    match layer.query_scaling {
        QueryScaling::None => String::new(),
        QueryScaling::Llama4 { .. } => ", times 1 + β ln(1 + ⌊(pos + offset) / L_0⌋)".to_owned(),
        QueryScaling::LogPosition => ", times a_h ln(pos + 1) + b_h".to_owned(),
    }
}

/// Probabilities of logits.
fn softmax(layer: &Layer, logits: &str) -> String {
    let mut inner = format!("τ · ({logits})");
    if let Some(cap) = layer.logits.soft_cap {
        inner = format!("{cap} tanh({inner} / {cap})");
    }
    if layer.logits.bias {
        inner.push_str(" + b");
    }
    let over = match layer.core {
        Core::Dense => "",
        Core::Sparse(_) => " over the selected keys",
    };
    format!("softmax({inner}){over}")
}

/// The output's gate.
pub(super) fn gate(granularity: GateGranularity, bias: bool) -> String {
    let per = match granularity {
        GateGranularity::PerHead => "head",
        GateGranularity::PerElement => "element",
    };
    format!(
        "Output gate, one per {per}: g = {}",
        product("W_G", "x", bias)
    )
}

/// The last projection.
pub(super) fn output(layer: &Layer) -> String {
    let heads = match layer.gate.map(|gate| gate.granularity) {
        None => "[o_1; …; o_H]",
        Some(GateGranularity::PerHead) => "[σ(g_1) o_1; …; σ(g_H) o_H]",
        Some(GateGranularity::PerElement) => "(σ(g) ⊙ [o_1; …; o_H])",
    };
    format!(
        "Output: {}y = {}",
        sink(layer, "o_h"),
        product("W_O", heads, layer.output_bias)
    )
}

/// The last projection after attention over latents.
pub(super) fn absorbed_output(layer: &Layer) -> String {
    let output = output(layer);
    let z = sink(layer, "z_h");
    let without = sink(layer, "o_h");
    let last = output
        .trim_start_matches("Output: ")
        .trim_start_matches(without.as_str());
    format!("Output: {z}o_h = W_UV,h · z_h;  {last}")
}

/// The last projection after attention in parts, which have seen to sinks.
pub(super) fn joined_output(layer: &Layer) -> String {
    output(layer).replacen(&sink(layer, "o_h"), "", 1)
}

/// What a part in the expanded form ends with: nothing, where no sink takes its share.
pub(super) fn expanded_part(layer: &Layer) -> String {
    sink(layer, "o_h").trim_end_matches(";  ").to_owned()
}

/// What a part in the absorbed form ends with.
pub(super) fn absorbed_part(layer: &Layer) -> String {
    format!("{}o_h = W_UV,h · z_h", sink(layer, "z_h"))
}

/// What the two parts are told apart by.
pub(super) fn forms() -> String {
    "Each request's form: MHA from `MHA_FROM` new tokens on, MQA with fewer".to_owned()
}

/// What one more term in softmax's denominator does to what was attended, `l` the log-sum-exp of the keys.
fn sink(layer: &Layer, attended: &str) -> String {
    match layer.logits.sink {
        Sink::None => String::new(),
        Sink::OffByOne => format!("{attended} ← σ(l) {attended};  "),
        Sink::Learned => format!("{attended} ← σ(l - s_h) {attended};  "),
    }
}

/// Whether a layer's heads have keys and values of their own, rather than groups of them.
fn has_groups(layer: &Layer) -> bool {
    match &layer.projections {
        Projections::Grouped(grouped) => grouped.num_query_groups < grouped.num_attention_heads,
        Projections::Latent(_) | Projections::Cross(_) => false,
    }
}
