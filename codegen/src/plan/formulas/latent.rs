//! Steps of latent layers.

use mla_spec::{
    DownProjection, KvSource, Latent, Layer, Norm, Query, QueryScaleSite, QueryUp, Rope,
};

use super::{norm_name, product, scaled_by_position, softmax};

/// How queries are made, starting at the latent where one matrix makes all latents.
pub(in crate::plan) fn queries(layer: &Layer, latent: &Latent) -> String {
    let q = made(latent);
    let turned = match &layer.rope {
        Rope::None => String::new(),
        Rope::Rotary(_) => format!(
            ", rope on the last {} of each head's {}",
            latent.dims.qk_rope_head_dim,
            latent.dims.qk_head_dim()
        ),
    };
    format!("Queries: {q}{turned}{}", scaled_by_position(layer))
}

/// Queries before rope.
fn made(latent: &Latent) -> String {
    let (norm, scale, up) = match &latent.query {
        Query::Plain => return "q = W_Q · x".to_owned(),
        Query::Lora {
            norm, scale, up, ..
        } => (norm, scale.map(|(_, site)| site), *up),
    };
    let (raw, is_product) = match &latent.down {
        DownProjection::Fused { .. } => ("c_q".to_owned(), false),
        DownProjection::Separate { q_bias, .. } => (product("W_DQ", "x", *q_bias), true),
    };
    if up == QueryUp::QueryAndGate {
        let down = if is_product {
            format!("c_q = {raw};  ")
        } else {
            String::new()
        };
        let (q, normed) = (scaled(scale, "[q; g]_h = W_UQG,h"), normed(norm, "c_q"));
        let normed = scaled_latent(scale, &normed);
        return format!("{down}{q} · [{normed}; c_q]");
    }
    let inner = match norm {
        Norm::Identity if is_product => format!("({raw})"),
        norm => normed(norm, &raw),
    };
    let inner = scaled_latent(scale, &inner);
    format!("{} · {inner}", scaled(scale, "q = W_UQ"))
}

/// A query's matrix, times the latent's scale where that applies to queries.
fn scaled(site: Option<QueryScaleSite>, matrix: &str) -> String {
    match (site, matrix.split_once(" = ")) {
        (Some(QueryScaleSite::Query), Some((q, matrix))) => format!("{q} = s_q · {matrix}"),
        _ => matrix.to_owned(),
    }
}

/// A query latent, times its scale where that applies to it.
fn scaled_latent(site: Option<QueryScaleSite>, latent: &str) -> String {
    match site {
        Some(QueryScaleSite::Latent) => format!("s_q {latent}"),
        _ => latent.to_owned(),
    }
}

/// How the latent and the shared rope key are made.
pub(in crate::plan) fn latent(layer: &Layer, latent: &Latent) -> String {
    let has_key = latent.dims.qk_rope_head_dim > 0;
    let what = if has_key {
        "Latent and shared rope key"
    } else {
        "Latent"
    };
    let mut parts = Vec::new();
    if let DownProjection::Separate { kv_bias, .. } = latent.down {
        let made = if has_key { "[c; k_r]" } else { "c" };
        parts.push(format!("{made} = {}", product("W_DKV", "x", kv_bias)));
    }
    if is_changed(latent) {
        let scale = if latent.kv_scale.is_some() {
            "s · "
        } else {
            ""
        };
        parts.push(format!("ĉ = {scale}{}", normed(&latent.kv_norm, "c")));
    }
    let rope = match (latent.k_rope_norm, &layer.rope) {
        (None, Rope::Rotary(_)) => Some("rope on k_r".to_owned()),
        (Some(norm), Rope::Rotary(_)) => Some(format!("rope on {}(k_r)", norm_name(norm.kind))),
        (Some(norm), Rope::None) => Some(format!("k_r = {}(k_r)", norm_name(norm.kind))),
        (None, Rope::None) => None,
    };
    parts.extend(rope);
    if parts.is_empty() {
        return format!("{what}, as they are");
    }
    format!("{what}: {}", parts.join(";  "))
}

/// Another layer's latents.
pub(in crate::plan) fn taken_kv() -> String {
    "Latents and rotated keys of another layer".to_owned()
}

/// Attention with keys and values per head.
pub(in crate::plan) fn expanded(layer: &Layer, latent: &Latent) -> String {
    format!(
        "Expanded form: [k_n; v]_h = W_UKV,h · {};  p = {};  o_h = Σ p · v_h",
        symbol(latent),
        softmax(layer, &logits(latent, "q_n·k_n"))
    )
}

/// Attention over a naive cache.
pub(in crate::plan) fn naive_cache(layer: &Layer, latent: &Latent) -> String {
    format!(
        "Expanded form, over what the cache holds: p = {};  o_h = Σ p · v_h",
        softmax(layer, &logits(latent, "q_n·k_n"))
    )
}

/// What goes into a naive cache.
pub(in crate::plan) fn naive_write(latent: &Latent) -> String {
    format!(
        "The cache keeps every head's key and value: [k_n; v]_h = W_UKV,h · {}",
        symbol(latent)
    )
}

/// Attention over latents.
pub(in crate::plan) fn absorbed(layer: &Layer, latent: &Latent) -> String {
    let c = symbol(latent);
    format!(
        "Absorbed form: q̃_h = W_UK,hᵀ · q_n;  p = {};  z_h = Σ p · {c}",
        softmax(layer, &logits(latent, &format!("q̃·{c}")))
    )
}

/// What goes into a latent cache.
pub(in crate::plan) fn latent_write(latent: &Latent) -> String {
    let c = symbol(latent);
    match latent.dims.qk_rope_head_dim {
        0 => format!("The cache keeps {c}"),
        _ => format!("The cache keeps {c} and k_r"),
    }
}

/// The same over latents that are already cached, too.
pub(in crate::plan) fn context(layer: &Layer, latent: &Latent, chunk: u32) -> String {
    format!(
        "{};  over what the cache already holds, {chunk} tokens at a time, and the new tokens",
        expanded(layer, latent)
    )
}

fn logits(latent: &Latent, content: &str) -> String {
    match latent.dims.qk_rope_head_dim {
        0 => content.to_owned(),
        _ => format!("{content} + q_r·k_r"),
    }
}

/// Whether the cached latent is not the one that the down projection makes.
fn is_changed(latent: &Latent) -> bool {
    latent.kv_norm.params().is_some() || latent.kv_scale.is_some()
}

fn symbol(latent: &Latent) -> &'static str {
    if is_changed(latent) || latent.kv_source == KvSource::Other {
        "ĉ"
    } else {
        "c"
    }
}

fn normed(norm: &Norm, x: &str) -> String {
    match norm.params() {
        None => x.to_owned(),
        Some(params) => format!("{}({x})", norm_name(params.kind)),
    }
}
