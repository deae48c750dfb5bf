//! What is known to go wrong between configs, checkpoints and code, where this config shows it.

use super::codes;
use super::config::{Config, Given};
use super::family::{Family, LatentEps, Trait};
use crate::diagnostic::Diagnostic;
use crate::node::{NodeKind, Scalar};
use crate::span::{Span, Spanned};

/// The eps that most families' code gives its latent norms, whatever `rms_norm_eps` says.
pub(super) const LATENT_EPS: f64 = 1e-6;

/// The config's `rms_norm_eps` against the latent norms' own eps.
pub(super) fn eps(config: &Config<'_>, family: &Family) {
    let given = config.real("rms_norm_eps").value();
    let (eps, span) = match given {
        Some(given) => (given.value, given.span),
        None => (family.defaults.rms_norm_eps, config.span),
    };
    if eps != LATENT_EPS && family.latent_eps == LatentEps::OfTheClass {
        config.report(
            Diagnostic::warning(
                codes::EPS_DIFFERS,
                format!("the latent norms use eps 1e-6, not `rms_norm_eps` ({eps:e})"),
                span,
                "not the latent norms' eps",
            )
            .note("the modeling code builds `q_a_layernorm` and `kv_a_layernorm` with their class's default eps; some engines pass `rms_norm_eps` instead")
            .help("change `eps` of `q_layernorm` and `kv_layernorm` only if the model was trained that way"),
        );
    }
}

/// `num_key_value_heads`, which has no meaning in MLA.
pub(super) fn key_value_heads(config: &Config<'_>, heads: Spanned<u32>) {
    if let Given::Value(given) = config.size("num_key_value_heads")
        && given.value != heads.value
    {
        config.report(
            Diagnostic::warning(
                codes::KV_HEADS,
                format!("`num_key_value_heads` is not read: all {} heads have their own keys and values", heads.value),
                given.span,
                "has no effect",
            )
            .and(heads.span, "the number of heads"),
        );
    }
}

/// `head_dim` and `qk_head_dim` against the head dims that count.
pub(super) fn head_dims(
    config: &Config<'_>,
    family: &Family,
    nope: Spanned<u32>,
    rope: Spanned<u32>,
) {
    let whole = u64::from(nope.value) + u64::from(rope.value);
    // Where kinds of layers differ, these keys are about one of them.
    let of_one_kind = family.has(Trait::PerLayerType);
    if let Given::Value(given) = config.size("qk_head_dim")
        && u64::from(given.value) != whole
        && !of_one_kind
    {
        config.report(
            Diagnostic::error(
                codes::CONTRADICTION,
                format!("`qk_head_dim` is {}, but the parts add up to {whole}", given.value),
                given.span,
                "not the sum of the parts",
            )
            .and(nope.span, "this part")
            .and(rope.span, "and this one")
            .help("remove `qk_head_dim`; it is derived from `qk_nope_head_dim` and `qk_rope_head_dim`"),
        );
    }
    if let Given::Value(given) = config.size("head_dim")
        && given.value != rope.value
        && u64::from(given.value) != whole
        && !family.has(Trait::HeadDimOfOthers)
    {
        config.report(
            Diagnostic::warning(
                codes::HEAD_DIM_MISLEADS,
                format!("`head_dim` ({}) is not read: a query head is {} + {} long", given.value, nope.value, rope.value),
                given.span,
                "has no effect",
            )
            .note("engines that derive the softmax scale or the rope table from `head_dim` go wrong here"),
        );
    }
}

/// What is said once, whichever layer is imported.
pub(super) fn whole_config(config: &Config<'_>, family: &Family) {
    quantization(config);
    if let Some(names) = family.released_names {
        config.report(
            Diagnostic::warning(
                codes::RELEASED_NAMES,
                format!(
                    "the released files of `{}` name tensors otherwise",
                    family.name()
                ),
                config.span,
                "describes such a checkpoint",
            )
            .note(format!("they have {names}"))
            .help("load a checkpoint that the library saved, or rename the tensors as it does"),
        );
    }
    if family.has(Trait::GatedInputNorm) {
        let rank = config.size("gated_norm_rank").value();
        config.report(
            Diagnostic::warning(
                codes::OUTER_NORM,
                format!("the input norm of `{}` is gated, and not part of the imported layer", family.name()),
                rank.map_or(config.span, |rank| rank.span),
                "of the norm outside `self_attn`",
            )
            .note("`input_layernorm` stands beside `self_attn` in the checkpoint; the layer's input is what comes out of it")
            .help("to compute it here, fill the slot `input_layernorm` with a GatedRMSNorm of `rms_norm_eps` and this rank"),
        );
    }
}

/// What other engines are known to read otherwise or not at all.
pub(super) fn read_otherwise(config: &Config<'_>, what: &str, span: Span, why: &str) {
    config.report(
        Diagnostic::warning(
            codes::READ_OTHERWISE,
            format!("engines differ on {what}"),
            span,
            "read as the modeling code does",
        )
        .note(why),
    );
}

/// Quantised checkpoints.
pub(super) fn quantization(config: &Config<'_>) {
    for key in ["quantization_config", "compression_config"] {
        if let Some(entry) = config.entry(key)
            && entry.value.kind != NodeKind::Scalar(Scalar::Null)
        {
            config.report(
                Diagnostic::warning(
                    codes::QUANTIZED,
                    "the checkpoint is quantised: weights are dequantised as they load",
                    entry.key.span,
                    "does not change the spec",
                )
                .note("block scales (`weight_scale_inv`) are multiplied in, unless `weights: fp8_blocks` in `build` keeps codes and scales; what the layer computes with is \
                     the spec's `dtype`"),
            );
        }
    }
}

/// Sizes that the config leaves to `defaults`: its class's, or its system's.
pub(super) fn absent_sizes(config: &Config<'_>, defaults: &str, absent: &[String]) {
    let help = "loading compares every shape, so a wrong guess can't go unnoticed";
    report_absent(config, defaults, absent, help);
}

/// Numbers that the config leaves to its system's defaults.
pub(super) fn absent_numbers(config: &Config<'_>, defaults: &str, absent: &[String]) {
    let help = "state them: no shape shows a wrong one";
    report_absent(config, defaults, absent, help);
}

fn report_absent(config: &Config<'_>, defaults: &str, absent: &[String], help: &str) {
    if absent.is_empty() {
        return;
    }
    let names: Vec<_> = absent.iter().map(|name| format!("`{name}`")).collect();
    let message = format!(
        "not in the config, so {defaults} are taken: {}",
        names.join(", ")
    );
    config.report(
        Diagnostic::warning(codes::SIZES_ABSENT, message, config.span, "not in here").help(help),
    );
}
