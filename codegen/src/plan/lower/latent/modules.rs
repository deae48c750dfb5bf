//! The modules of a latent layer, with the Hugging Face names they are loaded from.

use mla_spec::{DownProjection, KvSource, Latent, Layer, Norm, Query, QueryScaleSite};

use super::super::common::{first_modules, last_modules};
use super::super::indexer;
use super::super::module::{linear, norm};
use super::super::writer::rank;
use super::sizes::{K_ROPE_NORM_RANK, KV_NORM_RANK, Q_NORM_RANK, Sizes};
use crate::plan::formulas::norm_name;
use crate::plan::{Dim, LinearParams, Module, ModuleKind, NormParams, Number, Numeral, Rows};

/// Names of the numbers that latents are multiplied by.
pub(super) const Q_LATENT_SCALE: &str = "Q_LATENT_SCALE";
pub(super) const KV_LATENT_SCALE: &str = "KV_LATENT_SCALE";

/// A latent's norm: its slot, constant, source and width.
struct Normed {
    norm_slot: &'static str,
    eps_name: &'static str,
    rank_name: &'static str,
    norm_source: &'static str,
    width: Dim,
    symbol: &'static str,
}

/// The numbers that latents are multiplied by.
pub(super) fn numbers(latent: &Latent) -> Vec<Number> {
    let derivation = |scale: &mla_spec::LatentScale, rank: u32| {
        if scale.hidden_over_rank {
            format!("({} / {rank})^1/2", latent.dims.hidden_size)
        } else {
            "as the spec states it".to_owned()
        }
    };
    let mut all = Vec::new();
    if let Query::Lora {
        rank,
        scale: Some((scale, site)),
        ..
    } = &latent.query
    {
        let what = match site {
            QueryScaleSite::Latent => "the normed query latent is",
            QueryScaleSite::Query => "queries are",
        };
        all.push(Number {
            name: Q_LATENT_SCALE,
            value: Numeral::Real(scale.factor),
            doc: format!("What {what} multiplied by: {}.", derivation(scale, *rank)),
        });
    }
    if let Some(scale) = &latent.kv_scale {
        all.push(Number {
            name: KV_LATENT_SCALE,
            value: Numeral::Real(scale.factor),
            doc: format!(
                "What the normed key-value latent is multiplied by: {}.",
                derivation(scale, latent.dims.kv_lora_rank)
            ),
        });
    }
    all
}

/// The struct's fields, in the order in which data passes them.
pub(super) fn modules(layer: &Layer, latent: &Latent, sizes: &Sizes) -> Vec<Module> {
    let common = sizes.common();
    let mut modules = first_modules(layer, &common);
    modules.extend(fused_down(latent, sizes));
    queries(&mut modules, latent, sizes);
    modules.extend(indexer::modules(layer, sizes.hidden, sizes.q_rank));
    let (kv_bias, is_fused) = match latent.down {
        DownProjection::Separate { kv_bias, .. } => (kv_bias, false),
        DownProjection::Fused { bias } => (bias, true),
    };
    let is_own = latent.kv_source != KvSource::Other;
    if is_own && !is_fused {
        let widths = (sizes.hidden, sizes.kv_down);
        modules.push(linear(
            ("linear_kv_down_proj", "W_DKV"),
            "kv_a_proj_with_mqa",
            widths,
            kv_bias,
        ));
    }
    modules.extend(latent.k_rope_norm.map(|params| {
        norm(
            ("k_rope_layernorm", "the shared rope key"),
            "k_rope_only_layernorm",
            ("K_ROPE_LAYERNORM_EPS", params.eps),
            (params.kind, sizes.rope, rank(params.kind, K_ROPE_NORM_RANK)),
        )
    }));
    let normed = Normed {
        norm_slot: "kv_layernorm",
        eps_name: "KV_LAYERNORM_EPS",
        rank_name: KV_NORM_RANK,
        norm_source: "kv_a_layernorm",
        width: sizes.kv_rank,
        symbol: "key-value",
    };
    up_projection(
        &mut modules,
        &latent.kv_norm,
        &normed,
        ("linear_kv_up_proj", "W_UKV"),
        "kv_b_proj",
        (sizes.kv_rank, sizes.kv_up),
    );
    modules.extend(last_modules(layer, &common));
    modules
}

/// One matrix for all latents.
fn fused_down(latent: &Latent, sizes: &Sizes) -> Option<Module> {
    let DownProjection::Fused { bias } = latent.down else {
        return None;
    };
    let sources = vec![
        ("q_a_proj", sizes.q_rank?),
        ("kv_a_proj_with_mqa", sizes.kv_down),
    ];
    Some(Module {
        slot: "linear_qkv_down_proj",
        kind: ModuleKind::Linear(LinearParams {
            input: sizes.hidden,
            output: sizes.qkv_down?,
            rows: Rows::Stacked(sources),
            bias,
        }),
        doc: "W_DQ over W_DKV, HF `q_a_proj` and `kv_a_proj_with_mqa`.".to_owned(),
    })
}

/// What queries are made by.
fn queries(modules: &mut Vec<Module>, latent: &Latent, sizes: &Sizes) {
    let (Query::Lora { norm, .. }, Some(rank)) = (&latent.query, sizes.q_rank) else {
        let widths = (sizes.hidden, sizes.q_width);
        modules.push(linear(("linear_q_proj", "W_Q"), "q_proj", widths, false));
        return;
    };
    if let DownProjection::Separate { q_bias, .. } = latent.down {
        modules.push(linear(
            ("linear_q_down_proj", "W_DQ"),
            "q_a_proj",
            (sizes.hidden, rank),
            q_bias,
        ));
    }
    let normed = Normed {
        norm_slot: "q_layernorm",
        eps_name: "Q_LAYERNORM_EPS",
        rank_name: Q_NORM_RANK,
        norm_source: "q_a_layernorm",
        width: rank,
        symbol: "query",
    };
    match sizes.gated {
        None => up_projection(
            modules,
            norm,
            &normed,
            ("linear_q_up_proj", "W_UQ"),
            "q_b_proj",
            (rank, sizes.q_width),
        ),
        Some(gated) => up_projection(
            modules,
            norm,
            &normed,
            ("linear_q_gate_proj", "W_UQG"),
            "q_gate_proj",
            (gated.input, gated.width),
        ),
    }
}

/// An up projection with the norm before or inside it.
fn up_projection(
    modules: &mut Vec<Module>,
    norm: &Norm,
    latent: &Normed,
    (slot, symbol): (&'static str, &str),
    source: &'static str,
    widths: (Dim, Dim),
) {
    let params = |norm: &mla_spec::NormParams| NormParams {
        kind: norm.kind,
        width: latent.width,
        rank: rank(norm.kind, latent.rank_name),
        eps: norm.eps,
        eps_name: latent.eps_name,
        source: latent.norm_source,
    };
    let plain = linear((slot, symbol), source, widths, false);
    match (norm, plain.kind) {
        (Norm::Separate(norm), kind) => {
            modules.push(Module {
                slot: latent.norm_slot,
                kind: ModuleKind::Norm(params(norm)),
                doc: format!(
                    "{} of the {} latent, HF `{}`.",
                    norm_name(norm.kind),
                    latent.symbol,
                    latent.norm_source
                ),
            });
            modules.push(Module {
                slot,
                kind,
                doc: plain.doc,
            });
        }
        (Norm::FusedIntoLinear(norm), ModuleKind::Linear(linear)) => modules.push(Module {
            slot,
            kind: ModuleKind::NormLinear(params(norm), linear),
            doc: format!(
                "{symbol} with the {} latent's {} inside, HF `{source}` and `{}`.",
                latent.symbol,
                norm_name(norm.kind),
                latent.norm_source
            ),
        }),
        (_, kind) => modules.push(Module {
            slot,
            kind,
            doc: plain.doc,
        }),
    }
}
