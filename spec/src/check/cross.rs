//! `CrossAttention`: from one sequence to another (features R-11).

use super::codes;
use super::foreign::Place;
use super::grouped::slots::{core, output, projection};
use super::grouped::{kv_channels, refuse_latents};
use super::latent::sizes::{LARGEST, WIDEST};
use super::mask::Mask;
use super::modules::Attention;
use super::slots::{Known, Slots};
use super::text::quoted;
use super::value::Table;
use super::words::Words;
use super::{About, Found, logits, mask, qk_clip};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::ModuleSpec;
use crate::layer::{AttnMask, Core, Cross, Layer, MaskKind, Projections, QueryScaling, Rope};
use crate::reference::CROSS_SLOTS;
use crate::span::Spanned;

const SLOTS: Known = Known {
    module: "CrossAttention",
    slots: &CROSS_SLOTS,
    foreign: FOREIGN,
};

/// Other systems' slots and names of weights, with what to do.
#[rustfmt::skip] // a table
const FOREIGN: &[(&str, Option<&str>, &str)] = &[
    ("linear_qkv", None, "fill `linear_q` and `linear_kv`: queries and keys come from different sequences"),
    ("q_proj", Some("linear_q"), "here it is called `linear_q`"),
    ("k_proj", Some("linear_kv"), "fill `linear_kv`, which makes keys and values"),
    ("v_proj", Some("linear_kv"), "fill `linear_kv`, which makes keys and values"),
    ("o_proj", Some("linear_proj"), "here it is called `linear_proj`"),
    ("out_proj", Some("linear_proj"), "here it is called `linear_proj`"),
    ("q_layernorm", None, "remove it: `CrossAttention` norms no heads"),
    ("k_layernorm", None, "remove it: `CrossAttention` norms no heads"),
    ("linear_gate_proj", None, "remove it: `CrossAttention` has no output gate"),
    ("linear_q_proj", Some("linear_q"), "here it is called `linear_q`; the longer name is `MLASelfAttention`'s"),
];

/// What the other modules have and this one lacks (features 4.1-45), with what to do.
const LACKS: &[(&str, &str)] = &[
    (
        "num_query_groups",
        "remove it: every head has keys and values of its own",
    ),
    (
        "rope",
        "remove it: positions of two sequences don't compare, so nothing is rotated",
    ),
    (
        "rotary_dim",
        "remove it: positions of two sequences don't compare, so nothing is rotated",
    ),
    (
        "attention_output_gate",
        "remove it: there is no output gate",
    ),
    ("qk_l2_norm", "remove it: heads are not normed"),
    ("qk_l2_norm_eps", "remove it: heads are not normed"),
    (
        "query_scaling",
        "remove it: queries are not scaled by position",
    ),
    (
        "window_size",
        "remove it: a window counts tokens between a query and a key of one sequence",
    ),
    (
        "attention_chunk_size",
        "remove it: chunks are of one sequence",
    ),
    (
        "bidirectional_blocks",
        "remove it: blocks are of one sequence",
    ),
];

const MASKS: Words<'static, AttnMask> = Words {
    choices: &[
        ("no_mask", AttnMask::FULL),
        ("padding", AttnMask::PADDING),
        ("arbitrary", AttnMask::of(MaskKind::Arbitrary, false)),
        (
            "causal_bottom_right",
            AttnMask::of(MaskKind::CausalBottomRight, false),
        ),
        // Refused with a reason of their own.
        ("causal", AttnMask::CAUSAL),
        ("padding_causal", AttnMask::PADDING_CAUSAL),
    ],
    aliases: &[("full", "no_mask"), ("none", "no_mask")],
    others: None,
};

/// Checks the module.
pub(super) fn check(spec: &ModuleSpec, out: &mut Diagnostics) -> Found {
    let mut table = Table::params(spec, Place::Grouped);
    refuse_latents(&mut table, spec, out);
    refuse_lacking(&mut table, spec, out);
    let mut size = |key| table.require(key)?.integer(1, LARGEST, out);
    let (hidden_size, num_attention_heads, context_hidden_size) = (
        size("hidden_size"),
        size("num_attention_heads"),
        size("context_hidden_size"),
    );
    let kv_channels = kv_channels(&mut table, out);
    check_products(num_attention_heads, kv_channels, out);
    let mask = causal_refused(mask::read(&mut table, &MASKS, out), out);
    let logits = logits::read(&mut table, out);
    let qk_clip = qk_clip::read(&mut table, &logits, None, out);
    table.finish(out);

    let mut slots = Slots::read(spec, &SLOTS, out);
    let mut bias = |slot| {
        let slot = slots.require(slot)?;
        projection(slot, out)
    };
    let (q_bias, kv_bias) = (bias("linear_q"), bias("linear_kv"));
    let core = slots
        .require("core_attention")
        .and_then(|slot| core(slot, out));
    let output_bias = output(&mut slots, out);
    slots.finish(out);

    let layer = || {
        Some(Layer {
            name: String::new(),
            input_norm: None,
            projections: Projections::Cross(Cross {
                hidden_size: hidden_size?.value,
                context_hidden_size: context_hidden_size?.value,
                num_attention_heads: num_attention_heads?.value,
                kv_channels: kv_channels?.value,
                q_bias: q_bias?,
                kv_bias: kv_bias?,
            }),
            rope: Rope::None,
            query_scaling: QueryScaling::None,
            mask: mask?.value,
            logits: logits.logits?,
            core: core.map(|()| Core::Dense)?,
            gate: None,
            output_bias: output_bias?,
            qk_clip: qk_clip.optional()?,
        })
    };
    Found {
        layer: layer(),
        about: About {
            attention: Some((Attention::Cross, spec.module.span)),
            mask,
            rope: Some((Rope::None, spec.module.span)),
            bias: logits.bias,
            dropout: logits.dropout,
            of_training: qk_clip::of_training(&qk_clip),
            ..About::default()
        },
    }
}

fn refuse_lacking(table: &mut Table<'_>, spec: &ModuleSpec, out: &mut Diagnostics) {
    for (key, remedy) in LACKS {
        let Some(field) = table.take_stray(key) else {
            continue;
        };
        let message = format!("`{}` has no `{key}`", quoted(&spec.module.value));
        let label = "not in cross attention";
        let lacks = Diagnostic::error(
            codes::NOT_IN_CROSS_ATTENTION,
            message,
            field.key.span,
            label,
        );
        out.push(
            lacks
                .and(spec.module.span, "attends to another sequence")
                .help(*remedy),
        );
    }
}

/// A mask between two sequences. The diagonal of [`MaskKind::Causal`] starts at their first tokens, which compares what doesn't.
fn causal_refused(mask: Option<Mask>, out: &mut Diagnostics) -> Option<Mask> {
    let mask = mask?;
    if mask.value.kind != MaskKind::Causal {
        return Some(mask);
    }
    let message = "a causal mask compares positions of one sequence, and cross attention has two";
    let label = "which key comes before which query?";
    let causal = Diagnostic::error(codes::CROSS_MASK, message, mask.span, label);
    out.push(causal.help(
        "write `no_mask` or `padding`, or `causal_bottom_right` to align the two sequences' ends",
    ));
    None
}

fn check_products(heads: Option<Spanned<u32>>, dim: Option<Spanned<u32>>, out: &mut Diagnostics) {
    let (Some(heads), Some(dim)) = (heads, dim) else {
        return;
    };
    let width = 2 * u64::from(heads.value) * u64::from(dim.value);
    if width > WIDEST {
        let message = format!("keys and values make {width} elements per token");
        let label = format!("both may have {WIDEST} at most");
        let large = Diagnostic::error(codes::LAYER_TOO_LARGE, message, heads.span, label);
        out.push(
            large
                .and(dim.span, "`kv_channels`")
                .help("is a total given where a size per head is wanted?"),
        );
    }
}
