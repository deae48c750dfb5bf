//! Layers that rotate nothing.

use super::super::assemble::{self, Comments};
use super::super::codes;
use super::super::config::{Config, Given};
use super::super::family::Family;
use super::scaled::softmax_correction;
use super::{KEYS, RopeOf};
use crate::diagnostic::Diagnostic;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::Spanned;

/// Kimi-Linear's attention layers: positions come from its other layers.
pub(super) fn unrotated(
    config: &Config<'_>,
    family: &Family,
    rope: &Config<'_>,
    comments: &mut Comments,
) -> Option<Node> {
    if let Given::Value(Spanned { value: false, span }) = config.flag("mla_use_nope") {
        config.report(
            Diagnostic::error(
                codes::CONTRADICTION,
                format!(
                    "`mla_use_nope` is false, but `{}` never rotates",
                    family.name()
                ),
                span,
                "the modeling code has no rotation to switch on",
            )
            .help("set it to true; a rotated layer of this shape is `deepseek_v3`"),
        );
        return None;
    }
    for key in ["rope_theta", "partial_rotary_factor"] {
        config.entry(key);
    }
    if let Some(kind) = rope.entry("rope_type").or_else(|| rope.entry("type"))
        && kind.value.kind != NodeKind::Scalar(Scalar::Str("default".to_owned()))
    {
        config.report(Diagnostic::warning(
            codes::UNUSED_ROPE_KEYS,
            format!(
                "rope parameters are not read: `{}` rotates nothing",
                family.name()
            ),
            kind.key.span,
            "has no effect",
        ));
    }
    comments.add(
        "params.rope.type",
        "nothing is rotated (mla_use_nope); the rope part still counts in the dot product",
    );
    Some(assemble::rope::none())
}

/// A family without a rope part.
pub(super) fn no_rope_part(
    config: &Config<'_>,
    family: &Family,
    of: &RopeOf,
    rope: &Config<'_>,
    comments: &mut Comments,
) -> Option<Node> {
    if of.dim.value != 0 {
        let message = format!(
            "`qk_rope_head_dim` is {}, but `{}` has no rope part",
            of.dim.value,
            family.name()
        );
        config.report(Diagnostic::error(
            codes::CONTRADICTION,
            message,
            of.dim.span,
            "the modeling code wants 0",
        ));
        return None;
    }
    for key in ["rope_theta", "partial_rotary_factor"] {
        config.entry(key);
    }
    for key in KEYS {
        rope.entry(key);
    }
    comments.add("params.rope.type", "there is no rope part");
    Some(assemble::rope::none())
}

/// `qk_rope_head_dim` 0: there is nothing to rotate, but a scaled rope still corrects the softmax scale.
pub(super) fn without_rope_part(
    config: &Config<'_>,
    rope: &Config<'_>,
    kind: Spanned<&str>,
    comments: &mut Comments,
) -> Option<Node> {
    if let Some(corrected) = softmax_correction(rope, kind.value) {
        config.report(
            Diagnostic::error(
                codes::ROPE_NOT_EXPRESSIBLE,
                "`mscale_all_dim` corrects the softmax scale of a layer without rope part",
                corrected,
                "multiplies the softmax scale",
            )
            .note("the language states this correction inside `rope`, which a layer with `qk_rope_head_dim: 0` does not have")
            .help("remove `mscale_all_dim`, or write the spec by hand"),
        );
        return None;
    }
    comments.add("params.rope.type", "there is no rope part");
    Some(assemble::rope::none())
}
