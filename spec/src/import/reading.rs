//! One layer of a config, read key by key.

use super::assemble::Comments;
use super::codes;
use super::config::{Config, Given};
use super::family::{Family, LatentEps, Trait};
use super::parts::{Gate, LatentNorm, Logits, Parts, QueryScaling, Sizes};
use super::rope::{self, RopeOf};
use super::schedule::{Attention, KvRole, LayerKind};

use super::{indexer, lints, sizes};
use crate::diagnostic::Diagnostic;
use crate::span::Spanned;

/// Everything about this layer, or `None` where something was refused; what else is wrong is reported too.
pub(super) fn layer(
    config: &Config<'_>,
    family: &Family,
    layer: u32,
    kind: LayerKind,
    comments: &mut Comments,
) -> Option<Parts> {
    let own = sizes::own(config, family, layer, kind.attention)?;
    let sizes = sizes::read(config, family, &own, comments);
    lints::eps(config, family);
    let latent_eps = latent_eps(config, family);
    let bias = bias(config, &sizes, kind, comments);
    let rope_dim = sizes
        .as_ref()
        .map_or(Spanned::unplaced(2), |sizes| sizes.qk_rope_head_dim);
    let rope = rope::read(
        config,
        family,
        &RopeOf {
            dim: rope_dim,
            attention: kind.attention,
            rotates: kind.rotates,
        },
        comments,
    );
    let indexer = indexer::read(config, family, kind, rope_dim.value, comments);
    let window = window(config, family, kind.attention, comments);
    let scaled = latent_scales(config, family, comments);
    if let Some(sizes) = &sizes {
        lints::key_value_heads(config, sizes.num_attention_heads);
        lints::head_dims(
            config,
            family,
            sizes.qk_nope_head_dim,
            sizes.qk_rope_head_dim,
        );
    }
    add_fixed_comments(config, family, sizes.as_ref(), kind, comments);
    let mut sizes = sizes?;
    if !kind.rotates && family.has(Trait::NopeWidens) {
        widen(&mut sizes, comments);
    }
    let rope = rope?;
    let query_scaling = if family.has(Trait::LogPositionScaling) {
        Some(QueryScaling::LogPosition)
    } else {
        rope.query_scaling
    };
    let bias = bias?;
    Some(Parts {
        window: window?,
        down_bias: bias,
        output_bias: bias,
        latent_scales: scaled?,
        query_scaling,
        logits: Logits {
            sink: family
                .has(Trait::Sinks)
                .then(|| Spanned::unplaced("learnable")),
            ..Logits::default()
        },
        gate: gate(family),
        rope_key_norm: family.has(Trait::RopeKeyNorm),
        kv: kind.kv,
        indexer: indexer?,
        ..Parts::plain(sizes, rope.node, Some(LatentNorm::rms(latent_eps?)))
    })
}

/// A layer that does not rotate counts its rope part to the other one (features S-15).
fn widen(sizes: &mut Sizes, comments: &mut Comments) {
    let whole = sizes
        .qk_nope_head_dim
        .value
        .saturating_add(sizes.qk_rope_head_dim.value);
    sizes.qk_nope_head_dim = Spanned::new(whole, sizes.qk_nope_head_dim.span);
    sizes.qk_rope_head_dim = Spanned::unplaced(0);
    comments.add(
        "params.qk_nope_head_dim",
        "qk_nope_head_dim + qk_rope_head_dim: a layer without rope",
    );
}

fn latent_eps(config: &Config<'_>, family: &Family) -> Option<Spanned<f64>> {
    match family.latent_eps {
        LatentEps::OfTheClass => Some(Spanned::unplaced(lints::LATENT_EPS)),
        LatentEps::Configured => match config.real("rms_norm_eps") {
            Given::Value(eps) => Some(eps),
            Given::Wrong => None,
            Given::Absent | Given::Null(_) => Some(Spanned::unplaced(family.defaults.rms_norm_eps)),
        },
    }
}

/// `attention_bias`: a bias on `q_a_proj`, `kv_a_proj_with_mqa` and `o_proj`, never on `q_proj` or the up projections.
fn bias(
    config: &Config<'_>,
    sizes: &Option<Sizes>,
    kind: LayerKind,
    comments: &mut Comments,
) -> Option<Option<Spanned<bool>>> {
    match config.flag("attention_bias") {
        Given::Wrong => None,
        Given::Value(bias) if bias.value => {
            let text = "attention_bias: on the down projections and the output, never on the up projections or q_proj";
            if kind.kv != KvRole::Reused {
                comments.add("submodules.linear_kv_down_proj.params.bias", text);
            }
            comments.add("submodules.linear_proj.params.bias", "attention_bias");
            if sizes
                .as_ref()
                .is_some_and(|sizes| sizes.q_lora_rank.is_some())
            {
                comments.add(
                    "submodules.linear_q_down_proj.params.bias",
                    "attention_bias",
                );
            }
            Some(Some(bias))
        }
        Given::Value(_) | Given::Absent | Given::Null(_) => Some(None),
    }
}

/// How many tokens before it a sliding layer's query sees. Other layers have no window, whatever the config says.
fn window(
    config: &Config<'_>,
    family: &Family,
    attention: Attention,
    comments: &mut Comments,
) -> Option<Option<Spanned<u32>>> {
    if !family.has(Trait::PerLayerType) {
        return Some(None);
    }
    let keys = match (
        config.size("sliding_window"),
        config.size("sliding_window_size"),
    ) {
        (Given::Wrong, _) | (_, Given::Wrong) => return None,
        (Given::Value(keys), _) | (_, Given::Value(keys)) => keys,
        _ => Spanned::unplaced(512),
    };
    if attention != Attention::Sliding {
        return Some(None);
    }
    if keys.value == 0 {
        config.report(Diagnostic::error(
            codes::WRONG_VALUE,
            "`sliding_window` is 0, wanted at least 1",
            keys.span,
            "a query sees itself",
        ));
        return None;
    }
    comments.add(
        "params.window_size",
        "sliding_window counts the query itself",
    );
    Some(Some(Spanned::new(keys.value - 1, keys.span)))
}

/// `mla_scale_q_lora` and `mla_scale_kv_lora`: the modeling code scales whatever they say.
fn latent_scales(
    config: &Config<'_>,
    family: &Family,
    comments: &mut Comments,
) -> Option<Option<crate::layer::QueryScaleSite>> {
    let site = family.traits.iter().find_map(|one| match one {
        Trait::LatentScales(site) => Some(*site),
        _ => None,
    });
    let Some(site) = site else {
        return Some(None);
    };
    let mut fine = true;
    for key in ["mla_scale_q_lora", "mla_scale_kv_lora"] {
        match config.flag(key) {
            Given::Value(Spanned { value: false, span }) => {
                let message = format!(
                    "`{key}` is false, but `{}` always scales its latents",
                    family.name()
                );
                config.report(
                    Diagnostic::error(
                        codes::CONTRADICTION,
                        message,
                        span,
                        "the modeling code does not read this",
                    )
                    .help("remove it to import what the modeling code computes"),
                );
                fine = false;
            }
            Given::Wrong => fine = false,
            Given::Value(_) | Given::Absent | Given::Null(_) => {}
        }
    }
    let (query, latent) = match site {
        crate::layer::QueryScaleSite::Query => (
            "sqrt(hidden_size / q_lora_rank), in the modeling code",
            "sqrt(hidden_size / kv_lora_rank), in the modeling code",
        ),
        crate::layer::QueryScaleSite::Latent => (
            "an indexer sees the scaled latent",
            "the cached latent is the scaled one",
        ),
    };
    comments.add("params.q_lora_scale", query);
    comments.add("params.kv_lora_scale", latent);
    fine.then_some(Some(site))
}

fn gate(family: &Family) -> Option<Gate> {
    family.traits.iter().find_map(|one| match one {
        Trait::GatePerHead { full_precision } => Some(Gate::PerHead {
            full_precision: *full_precision,
        }),
        Trait::GatePerElement => Some(Gate::PerElement),
        Trait::GateWithQuery => Some(Gate::WithQuery),
        _ => None,
    })
}

/// Comments on what a family's code fixes.
fn add_fixed_comments(
    config: &Config<'_>,
    family: &Family,
    sizes: Option<&Sizes>,
    kind: LayerKind,
    comments: &mut Comments,
) {
    let eps = match family.latent_eps {
        LatentEps::OfTheClass => "the code's own default, whatever rms_norm_eps says",
        LatentEps::Configured => "rms_norm_eps",
    };
    if kind.kv != KvRole::Reused {
        comments.add("submodules.kv_layernorm.params.eps", eps);
    }
    if sizes.is_some_and(|sizes| sizes.q_lora_rank.is_some()) {
        comments.add("submodules.q_layernorm.params.eps", eps);
    } else {
        let why = match family.query_rank {
            super::family::QueryRank::Never => "there is no query latent",
            _ => "q_lora_rank is null: queries are plain",
        };
        comments.add("submodules.linear_q_proj", why);
    }
    comments.add(
        "params.attn_mask_type",
        "not in the config: decoders are causal",
    );
    match gate(family) {
        Some(Gate::PerHead {
            full_precision: true,
        }) => comments.add(
            "submodules.linear_gate_proj.params.dtype",
            "the modeling code takes the sigmoid in f32",
        ),
        Some(Gate::WithQuery) => comments.add(
            "submodules.linear_q_gate_proj",
            "one matrix for queries and gates, of the normed and the raw query latent",
        ),
        _ => {}
    }
    if kind.kv == KvRole::Reused {
        comments.add(
            "params.kv_source",
            "attends to an earlier layer's latents; only its queries are rotated",
        );
    }
    for key in ["torch_dtype", "dtype"] {
        if let Some(stored) = config.word_if_any(key) {
            comments.add(
                "build.dtype",
                &format!("of the arithmetic; weights are stored as {stored} and convert at load"),
            );
        }
    }
}
