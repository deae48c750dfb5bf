//! The mathematics of each step, as one line in the literature's symbols.
//!
//! `x` input, `c` latents, `ĉ` normed latents, `q̃` absorbed queries, `p` probabilities, `z` attended latents, `τ` the softmax scale;
//! `n`, `r` mark the parts of a head without and with position, `h` the head.

use crate::plan::mla;
use mla_spec::{DownProjection, Layer, Norm, NormKind, Query, Rope};

/// `W · x`, or `W · x + b`.
pub(super) fn product(matrix: &str, x: &str, bias: bool) -> String {
    format!("{matrix} · {x}{}", if bias { " + b" } else { "" })
}

/// How queries are made, starting at the latent where one matrix makes all latents.
pub(super) fn queries(layer: &Layer) -> String {
    let q = match (&mla(layer).query, &mla(layer).down) {
        (Query::Plain, _) => "q = W_Q · x".to_owned(),
        (Query::Lora { norm, .. }, DownProjection::Fused { .. }) => {
            format!("q = W_UQ · {}", normed(norm, "c_q"))
        }
        (Query::Lora { norm, .. }, DownProjection::Separate { q_bias, .. }) => {
            let down = product("W_DQ", "x", *q_bias);
            match norm {
                Norm::Identity => format!("q = W_UQ · ({down})"),
                norm => format!("q = W_UQ · {}", normed(norm, &down)),
            }
        }
    };
    match &layer.rope {
        Rope::None => format!("Queries: {q}"),
        Rope::Rotary(_) => format!(
            "Queries: {q}, rope on the last {} of each head's {}",
            mla(layer).dims.qk_rope_head_dim,
            mla(layer).dims.qk_head_dim()
        ),
    }
}

/// How the latent and the shared rope key are made.
pub(super) fn latent(layer: &Layer) -> String {
    let has_key = mla(layer).dims.qk_rope_head_dim > 0;
    let what = if has_key {
        "Latent and shared rope key"
    } else {
        "Latent"
    };
    let mut parts = Vec::new();
    if let DownProjection::Separate { kv_bias, .. } = mla(layer).down {
        let made = if has_key { "[c; k_r]" } else { "c" };
        parts.push(format!("{made} = {}", product("W_DKV", "x", kv_bias)));
    }
    if mla(layer).kv_norm.params().is_some() {
        parts.push(format!("ĉ = {}", normed(&mla(layer).kv_norm, "c")));
    }
    if matches!(layer.rope, Rope::Rotary(_)) {
        parts.push("rope on k_r".to_owned());
    }
    if parts.is_empty() {
        return format!("{what}, as they are");
    }
    format!("{what}: {}", parts.join(";  "))
}

/// Attention with keys and values per head.
pub(super) fn expanded(layer: &Layer) -> String {
    format!(
        "Expanded form: [k_n; v]_h = W_UKV,h · {};  p = softmax(τ · ({}));  o_h = Σ p · v_h",
        latent_symbol(layer),
        logits(layer, "q_n·k_n")
    )
}

/// Attention over a naive cache.
pub(super) fn naive_cache(layer: &Layer) -> String {
    format!(
        "Expanded form, over what the cache holds: p = softmax(τ · ({}));  o_h = Σ p · v_h",
        logits(layer, "q_n·k_n")
    )
}

/// What goes into a naive cache.
pub(super) fn naive_write(layer: &Layer) -> String {
    format!(
        "The cache keeps every head's key and value: [k_n; v]_h = W_UKV,h · {}",
        latent_symbol(layer)
    )
}

/// Attention over latents.
pub(super) fn absorbed(layer: &Layer) -> String {
    let latent = latent_symbol(layer);
    format!(
        "Absorbed form: q̃_h = W_UK,hᵀ · q_n;  p = softmax(τ · ({}));  z_h = Σ p · {latent}",
        logits(layer, &format!("q̃·{latent}"))
    )
}

/// What goes into a latent cache.
pub(super) fn latent_write(layer: &Layer) -> String {
    let latent = latent_symbol(layer);
    match mla(layer).dims.qk_rope_head_dim {
        0 => format!("The cache keeps {latent}"),
        _ => format!("The cache keeps {latent} and k_r"),
    }
}

/// Attention over already cached latents.
pub(super) fn context(chunk: u32) -> String {
    format!("What the cache already holds, {chunk} tokens at a time, merged by log-sum-exp")
}

/// The last projection.
pub(super) fn output(layer: &Layer) -> String {
    format!(
        "Output: y = {}",
        product("W_O", "[o_1; …; o_H]", layer.output_bias)
    )
}

/// The last projection after attention over latents.
pub(super) fn absorbed_output(layer: &Layer) -> String {
    format!(
        "Output: o_h = W_UV,h · z_h;  y = {}",
        product("W_O", "[o_1; …; o_H]", layer.output_bias)
    )
}

fn logits(layer: &Layer, content: &str) -> String {
    match mla(layer).dims.qk_rope_head_dim {
        0 => content.to_owned(),
        _ => format!("{content} + q_r·k_r"),
    }
}

fn latent_symbol(layer: &Layer) -> &'static str {
    match mla(layer).kv_norm {
        Norm::Identity => "c",
        Norm::Separate(_) | Norm::FusedIntoLinear(_) => "ĉ",
    }
}

fn normed(norm: &Norm, x: &str) -> String {
    match norm.params() {
        None => x.to_owned(),
        Some(params) => format!("{}({x})", norm_name(params.kind)),
    }
}

/// The norm's name in formulas.
pub(super) fn norm_name(kind: NormKind) -> &'static str {
    match kind {
        NormKind::RmsNorm => "RMSNorm",
        NormKind::LayerNorm => "LayerNorm",
        NormKind::GatedRmsNorm { .. } => "GatedRMSNorm",
    }
}
