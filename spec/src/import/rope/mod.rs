//! Rope as the modeling code reads it, said in our language.
//!
//! Configs come in two styles: `rope_theta` beside `rope_scaling`, and `rope_parameters` with everything inside. Both
//! are read as the library does: a non-empty `rope_scaling` wins, `rope_type` wins over `type`, a theta inside wins over
//! one outside.

mod by_layer_type;
mod scaled;
mod stated;
mod stretched;
mod unrotated;
mod yarn;

pub(super) use yarn::mscales_differ;

use scaled::softmax_correction;

use super::assemble::{self, Comments};
use super::codes;
use super::config::{Config, Given};
use super::family::{Family, Rotation, Trait};
use super::lints;
use super::parts::QueryScaling;
use super::schedule::Attention;
use crate::diagnostic::Diagnostic;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::{Span, Spanned};
use crate::suggest::suggest;

/// Every key of a rope object that some rope type reads.
const KEYS: &[&str] = &[
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "attention_factor",
    "truncate",
    "partial_rotary_factor",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
];

/// Rope types that can be said.
const TYPES: &[&str] = &["default", "linear", "yarn", "longrope", "llama3", "dynamic"];

/// Keys of a rope object that no supported family's code reads.
const IRRELEVANT: &[&str] = &["max_position_embeddings", "finetuned", "original_rope_type"];

/// Rope types that exist and that this release can't express.
const LATER: &[&str] = &[
    "su",
    "proportional",
    "axial",
    "mrope",
    "ntk",
    "deepseek_yarn",
    "deepseek_llama_scaling",
];

/// The rope of one layer.
pub(super) struct RopeOf {
    /// Length of its rope part.
    pub(super) dim: Spanned<u32>,
    /// What kind of layer it is, where kinds have parameters of their own.
    pub(super) attention: Attention,
    /// Whether it rotates.
    pub(super) rotates: bool,
}

/// What was read.
pub(super) struct Read {
    /// The `rope` parameter.
    pub(super) node: Node,
    /// What the rope parameters say about queries.
    pub(super) query_scaling: Option<QueryScaling>,
}

/// The `rope` parameter of a layer, or `None` where it was refused.
pub(super) fn read(
    config: &Config<'_>,
    family: &Family,
    of: &RopeOf,
    comments: &mut Comments,
) -> Option<Read> {
    let whole = stated::chosen_object(config, family, comments)?;
    let interleave = config.flag("rope_interleave");
    let unscaled = |node| Read {
        node,
        query_scaling: None,
    };
    match family.rotation {
        Rotation::Never => {
            return unrotated::unrotated(config, family, &whole, comments).map(unscaled);
        }
        Rotation::NoRopePart => {
            return unrotated::no_rope_part(config, family, of, &whole, comments).map(unscaled);
        }
        Rotation::Always(_) | Rotation::Configured => {}
    }
    let rope = by_layer_type::parameters(config, family, whole, of)?;
    if stated::refuse_layer_types(&rope) {
        return None;
    }
    stated::lint_partial_rotary(config, family, &rope, of.dim.value);
    let theta = stated::theta(config, family, &rope, of.attention, comments);
    let layout = stated::layout(config, family, interleave, comments)?;
    let kind = stated::rope_type(&rope)?;
    if ["linear", "llama3", "dynamic"].contains(&kind.value) {
        lints::read_otherwise(
            config,
            &format!("rope type `{}`", kind.value),
            kind.span,
            "vLLM takes every scaled rope of these models for YaRN",
        );
    }
    let entries = match kind.value {
        "default" => scaled::plain(&rope, kind, theta, layout),
        "linear" => scaled::linear(&rope, kind, theta, layout)?,
        "longrope" => stretched::longrope(config, family, &rope, kind, theta, layout, comments)?,
        "llama3" => stretched::llama3(config, family, &rope, kind, theta, layout)?,
        "dynamic" => stretched::dynamic(config, family, &rope, kind, theta, layout, comments)?,
        "yarn" => yarn::read(config, family, &rope, kind, theta, layout, comments)?,
        // How LongCat's sparse checkpoints spell it.
        "deepseek_yarn" if family.has(Trait::TwoAttentions) => {
            yarn::read(config, family, &rope, kind, theta, layout, comments)?
        }
        other => {
            config.report(refused_type(other, kind.span));
            return None;
        }
    };
    if family.has(Trait::NoSoftmaxCorrection)
        && let Some(corrected) = softmax_correction(&rope, kind.value)
    {
        config.report(no_correction(family, corrected));
        return None;
    }
    let query_scaling = if family.has(Trait::Llama4Scaling) {
        llama4(config, family, &rope)?
    } else {
        None
    };
    review(&rope, kind.value);
    if of.dim.value == 0 {
        let node = unrotated::without_rope_part(config, &rope, kind, comments)?;
        return Some(Read {
            node,
            query_scaling,
        });
    }
    if !of.rotates {
        comments.remove_inside("params.rope");
        comments.add(
            "params.rope.type",
            "a layer without rope: its rope part belongs to the other one",
        );
        return Some(Read {
            node: assemble::rope::none(),
            query_scaling,
        });
    }
    lint_learned(config, family, comments);
    Some(Read {
        node: Node {
            kind: NodeKind::Map(entries),
            span: kind.span,
        },
        query_scaling,
    })
}

/// `llama_4_scaling_beta`, which stands among the rope parameters (features E-02): `Some(None)` where it scales nothing.
fn llama4(config: &Config<'_>, family: &Family, rope: &Config<'_>) -> Option<Option<QueryScaling>> {
    let original = yarn::original_length(config, family, rope, &mut Comments::default());
    match rope.real("llama_4_scaling_beta") {
        Given::Value(beta) => {
            if beta.value == 0.0 {
                return Some(None); // queries times 1
            }
            lints::read_otherwise(
                config,
                "`llama_4_scaling_beta`",
                beta.span,
                "Megatron and MaxText have no such scaling with latent attention, and give other numbers beyond the original length",
            );
            Some(Some(QueryScaling::Llama4 { beta, original }))
        }
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => {
            let message = format!("`{}` needs `llama_4_scaling_beta`", family.name());
            config.report(
                Diagnostic::error(
                    codes::ROPE_KEY_MISSING,
                    message,
                    rope.span,
                    "not among the rope parameters",
                )
                .note(
                    "queries are multiplied by 1 + beta ln(1 + floor(position / original length))",
                )
                .help("state it; 0 multiplies by 1"),
            );
            None
        }
    }
}

fn no_correction(family: &Family, corrected: Span) -> Diagnostic {
    let message = format!(
        "`mscale_all_dim` does not correct the softmax scale of `{}`",
        family.name()
    );
    Diagnostic::error(
        codes::ROPE_NOT_EXPRESSIBLE,
        message,
        corrected,
        "read for cos and sin only",
    )
    .note("the language lets one number do both, as every other family's modeling code does")
    .help("replace the two mscales by `attention_factor`")
}

/// Frequencies that a learned tensor multiplies (LeRoPE).
fn lint_learned(config: &Config<'_>, family: &Family, comments: &mut Comments) {
    if !family.has(Trait::LearnedFrequencies) {
        return;
    }
    comments.add(
        "params.rope.theta",
        "frequencies before the checkpoint's `rotary_emb.alpha` multiplies them by exp(alpha)",
    );
    config.report(
        Diagnostic::warning(
            codes::LEARNED_FREQUENCIES,
            "the frequencies of this checkpoint are learned, and not in its config",
            config.span,
            "gives them only up to a factor each",
        )
        .note("`model.rotary_emb.alpha` (`lerope.alpha` in the released files) lies outside the layer; frequency i is multiplied by exp(alpha[i])")
        .help("read that tensor and state the frequencies: `type: longrope, select: short`, each short factor theta^(-2i/d) over the frequency; until then, positions are wrong wherever alpha is not 0"),
    );
}

fn refused_type(kind: &str, span: Span) -> Diagnostic {
    if LATER.contains(&kind) {
        let message = format!("rope type `{kind}` is not in this release");
        return Diagnostic::error(codes::ROPE_TYPE, message, span, "not in this release")
            .help(supported());
    }
    let diagnostic = Diagnostic::error(
        codes::ROPE_TYPE,
        format!("unknown rope type `{kind}`"),
        span,
        "unknown",
    );
    match suggest(kind, TYPES.iter().chain(LATER).copied()) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None => diagnostic.help(supported()),
    }
}

fn supported() -> String {
    let names: Vec<_> = TYPES.iter().map(|name| format!("`{name}`")).collect();
    format!("supported: {}", names.join(", "))
}

/// Refuses keys of the rope object that nothing reads.
fn review(rope: &Config<'_>, kind: &str) {
    for entry in rope.unasked() {
        let key = entry.key.value.as_str();
        if IRRELEVANT.contains(&key)
            || KEYS.contains(&key)
            || entry.value.kind == NodeKind::Scalar(Scalar::Null)
        {
            continue;
        }
        let diagnostic = Diagnostic::error(
            codes::UNKNOWN_ATTENTION_KEY,
            format!("`{key}` is no parameter of rope type `{kind}`"),
            entry.key.span,
            "not understood",
        );
        rope.report(match suggest(key, KEYS.iter().copied()) {
            Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
            None => diagnostic.help("remove the key if this model's attention does not read it"),
        });
    }
}
