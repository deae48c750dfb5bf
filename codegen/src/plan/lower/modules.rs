//! The modules that hold parameters, with the Hugging Face names they are loaded from.

use crate::plan::mla;
use mla_spec::{DownProjection, Layer, Norm, Query};

use super::sizes::Sizes;
use crate::plan::formulas::norm_name;
use crate::plan::{Dim, LinearParams, Module, ModuleKind, NormParams};

/// A latent's norm: its slot, constant, source and width.
struct Latent {
    norm_slot: &'static str,
    eps_name: &'static str,
    norm_source: &'static str,
    width: Dim,
    symbol: &'static str,
}

/// The struct's fields, in the order in which data passes them.
pub(super) fn modules(layer: &Layer, sizes: &Sizes) -> Vec<Module> {
    let mut modules = Vec::new();
    let fused_bias = match mla(layer).down {
        DownProjection::Fused { bias } => Some(bias),
        DownProjection::Separate { .. } => None,
    };
    let (q_bias, kv_bias) = match mla(layer).down {
        DownProjection::Separate { q_bias, kv_bias } => (q_bias, kv_bias),
        DownProjection::Fused { bias } => (bias, bias),
    };
    if let (Some(bias), Some(width), Some(rank)) = (fused_bias, sizes.qkv_down, sizes.q_rank) {
        modules.push(Module {
            slot: "linear_qkv_down_proj",
            kind: ModuleKind::Linear(LinearParams {
                input: sizes.hidden,
                output: width,
                sources: vec![("q_a_proj", rank), ("kv_a_proj_with_mqa", sizes.kv_down)],
                bias,
            }),
            doc: "W_DQ over W_DKV, HF `q_a_proj` and `kv_a_proj_with_mqa`.".to_owned(),
        });
    }
    match (&mla(layer).query, sizes.q_rank) {
        (Query::Lora { norm, .. }, Some(rank)) => {
            if fused_bias.is_none() {
                modules.push(linear(
                    ("linear_q_down_proj", "W_DQ"),
                    "q_a_proj",
                    (sizes.hidden, rank),
                    q_bias,
                ));
            }
            let latent = Latent {
                norm_slot: "q_layernorm",
                eps_name: "Q_LAYERNORM_EPS",
                norm_source: "q_a_layernorm",
                width: rank,
                symbol: "query",
            };
            up_projection(
                &mut modules,
                norm,
                &latent,
                ("linear_q_up_proj", "W_UQ"),
                "q_b_proj",
                sizes.q_width,
            );
        }
        _ => {
            let widths = (sizes.hidden, sizes.q_width);
            modules.push(linear(("linear_q_proj", "W_Q"), "q_proj", widths, false));
        }
    }
    if fused_bias.is_none() {
        let widths = (sizes.hidden, sizes.kv_down);
        modules.push(linear(
            ("linear_kv_down_proj", "W_DKV"),
            "kv_a_proj_with_mqa",
            widths,
            kv_bias,
        ));
    }
    let latent = Latent {
        norm_slot: "kv_layernorm",
        eps_name: "KV_LAYERNORM_EPS",
        norm_source: "kv_a_layernorm",
        width: sizes.kv_rank,
        symbol: "key-value",
    };
    up_projection(
        &mut modules,
        &mla(layer).kv_norm,
        &latent,
        ("linear_kv_up_proj", "W_UKV"),
        "kv_b_proj",
        sizes.kv_up,
    );
    let widths = (sizes.out, sizes.hidden);
    modules.push(linear(
        ("linear_proj", "W_O"),
        "o_proj",
        widths,
        layer.output_bias,
    ));
    modules
}

/// An up projection with the norm before or inside it.
fn up_projection(
    modules: &mut Vec<Module>,
    norm: &Norm,
    latent: &Latent,
    (slot, symbol): (&'static str, &str),
    source: &'static str,
    output: Dim,
) {
    let params = |norm: &mla_spec::NormParams| NormParams {
        kind: norm.kind,
        width: latent.width,
        eps: norm.eps,
        eps_name: latent.eps_name,
        source: latent.norm_source,
    };
    let plain = linear((slot, symbol), source, (latent.width, output), false);
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

fn linear(
    (slot, symbol): (&'static str, &str),
    source: &'static str,
    (input, output): (Dim, Dim),
    bias: bool,
) -> Module {
    let with_bias = if bias { ", with a bias" } else { "" };
    Module {
        slot,
        kind: ModuleKind::Linear(LinearParams {
            input,
            output,
            sources: vec![(source, output)],
            bias,
        }),
        doc: format!("{symbol}, HF `{source}`{with_bias}."),
    }
}
