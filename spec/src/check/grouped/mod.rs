//! `SelfAttention`: groups of query heads share a key and a value head (features 1.R).

mod sizes;
pub(super) mod slots;

use super::codes;
use super::foreign::Place;
use super::gate::{self, Wanted};
use super::modules::Attention;
use super::norms;
use super::rope;
use super::text::quoted;
use super::value::{Field, Stated, Table};
use super::words::Words;
use super::{About, Found, latent, logits, mask, qk_clip, scaling};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::ModuleSpec;
use crate::layer::{Core, Grouped, HeadNorms, Layer, Projections, QueryScaling, Rope};
use crate::span::{Span, Spanned};
use sizes::Sizes;
use slots::Parts;

/// The gates of attention without latents.
const GATES: Words<'static, Wanted> = Words {
    choices: &[
        ("per_head", Wanted::PerHead),
        ("per_element", Wanted::PerElement),
    ],
    aliases: &[
        ("headwise", "per_head"),
        ("elementwise", "per_element"),
        ("fused", "per_element"),
        ("fused_with_query", "per_element"),
    ],
    others: None,
};

/// Parameters that only latent attention has.
const OF_LATENTS: [&str; 9] = [
    "kv_lora_rank",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "v_head_dim",
    "q_lora_scale",
    "kv_lora_scale",
    "kv_source",
    "share_kv",
];

/// What the parameters say; a part is absent where it was refused.
struct Params {
    sizes: Sizes,
    rope: Option<Rope>,
    rope_span: Span,
    mask: Option<mask::Mask>,
    logits: logits::Found,
    query_scaling: Option<QueryScaling>,
    /// Where `query_scaling` stands, if there is any.
    scaled: Option<Span>,
    /// `qk_l2_norm`; `None` without it.
    l2: Option<L2>,
    gate: Stated<Wanted>,
    qk_clip: qk_clip::Found,
}

/// `qk_l2_norm: true`, where it stands, and its eps unless that was refused.
struct L2 {
    key: Span,
    eps: Option<f64>,
}

/// Checks the module.
pub(super) fn check(spec: &ModuleSpec, out: &mut Diagnostics) -> Found {
    let params = Params::read(spec, out);
    let l2 = params.l2.as_ref().map(|l2| l2.key);
    let parts = Parts::read(spec, l2, params.gate, out);
    Found {
        about: params.about(spec.module.span),
        layer: params.layer(parts),
    }
}

impl Params {
    fn read(spec: &ModuleSpec, out: &mut Diagnostics) -> Self {
        let mut table = Table::params(spec, Place::Grouped);
        refuse_latents(&mut table, spec, out);
        let sizes = Sizes::read(&mut table, out);
        let mask = mask::read(&mut table, &mask::SELF_ATTENTION, out);
        let (rope, rope_span) = rope::read(&mut table, sizes.rotated_part(), out);
        if let Some(rope) = &rope {
            sizes.check_rotation(rope, rope_span, out);
        }
        let logits = logits::read(&mut table, out);
        logits.agree_with(rope.as_ref(), rope_span, out);
        let scaled = table.take("query_scaling").map(|field| field.key.span);
        let query_scaling = scaling::of_queries(&mut table, out);
        let l2 = l2_norm(&mut table, out);
        let gate = gate::read(&mut table, &GATES, out);
        let normed = l2
            .as_ref()
            .map(|l2| l2.key)
            .or_else(|| slots::head_norm_in(spec));
        let qk_clip = qk_clip::read(&mut table, &logits, normed, out);
        table.finish(out);
        sizes.check_products(!gate.is_absent(), out);
        Self {
            sizes,
            rope,
            rope_span,
            mask,
            logits,
            query_scaling,
            scaled,
            l2,
            gate,
            qk_clip,
        }
    }

    fn about(&self, module: Span) -> About {
        let l2 = self.l2.as_ref().map(|l2| ("qk_l2_norm", l2.key));
        About {
            attention: Some((Attention::Grouped, module)),
            mask: self.mask,
            rope: self.rope.clone().map(|rope| (rope, self.rope_span)),
            bias: self.logits.bias,
            dropout: self.logits.dropout,
            of_training: qk_clip::of_training(&self.qk_clip),
            after_rope: l2.or(self.scaled.map(|key| ("query_scaling", key))),
            ..About::default()
        }
    }

    /// The layer, where all of it was right.
    fn layer(self, parts: Parts) -> Option<Layer> {
        let sizes = self.sizes;
        let rope = self.rope?;
        Some(Layer {
            name: String::new(),
            input_norm: parts.input_norm?,
            projections: Projections::Grouped(Grouped {
                hidden_size: sizes.hidden_size?.value,
                num_attention_heads: sizes.num_attention_heads?.value,
                num_query_groups: sizes.num_query_groups?.value,
                kv_channels: sizes.kv_channels?.value,
                rotary_dim: sizes.rotated(&rope)?,
                qkv: parts.qkv?,
                norms: match self.l2 {
                    Some(l2) => HeadNorms::L2 { eps: l2.eps? },
                    None => parts.norms?,
                },
            }),
            rope,
            query_scaling: self.query_scaling?,
            mask: self.mask?.value,
            logits: self.logits.logits?,
            core: parts.core.map(|()| Core::Dense)?,
            gate: parts.gate?,
            output_bias: parts.output_bias?,
            qk_clip: self.qk_clip.optional()?,
        })
    }
}

/// Refuses parameters that only latent attention has; also `CrossAttention`'s.
pub(super) fn refuse_latents(table: &mut Table<'_>, spec: &ModuleSpec, out: &mut Diagnostics) {
    for key in OF_LATENTS {
        let Some(field) = table.take_stray(key) else {
            continue;
        };
        let module = quoted(&spec.module.value);
        let message = format!("`{module}` has no `{key}`: it makes no latents");
        let label = "belongs to latent attention";
        let stray = Diagnostic::error(codes::LATENT_PARAMETER, message, field.key.span, label);
        let stray = stray.and(spec.module.span, "attention without latents");
        out.push(stray.help(match key {
            "v_head_dim" | "qk_nope_head_dim" => format!(
                "write `kv_channels`, the length of a head, or `module: MLASelfAttention`, which has `{key}`"
            ),
            "qk_rope_head_dim" => {
                "write `rotary_dim`, or `module: MLASelfAttention`, which has `qk_rope_head_dim`".to_owned()
            }
            _ => format!("remove it, or write `module: MLASelfAttention`, which has `{key}`"),
        }));
    }
}

/// `kv_channels`, which is always stated: `h / H` is not the head dim of many checkpoints.
pub(super) fn kv_channels(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<Spanned<u32>> {
    if let Some(field) = table.take("kv_channels") {
        return field.integer(1, latent::sizes::LARGEST, out);
    }
    if !table.is_misspelt("kv_channels") {
        let message = "`kv_channels`, the length of a head, is missing";
        let label = "how long is a head?";
        let missing = Diagnostic::error(codes::MISSING_KV_CHANNELS, message, table.anchor(), label);
        out.push(
            missing
                .note("`hidden_size / num_attention_heads` is not a default: many checkpoints have another length")
                .help("add `kv_channels` (HF `head_dim`)"),
        );
    }
    None
}

/// Reads `qk_l2_norm` and `qk_l2_norm_eps`; `None` without such a norm.
fn l2_norm(table: &mut Table<'_>, out: &mut Diagnostics) -> Option<L2> {
    let switch = table.take("qk_l2_norm");
    let on = switch.and_then(|field| field.boolean(out));
    let eps = table.take("qk_l2_norm_eps");
    match (switch, on, eps) {
        (Some(switch), Some(true), eps) => Some(L2 {
            key: switch.key.span,
            eps: l2_eps(eps, switch, table, out),
        }),
        // What was meant is not known; that there is a norm is likely.
        (Some(switch), None, _) => Some(L2 {
            key: switch.key.span,
            eps: None,
        }),
        (_, _, Some(eps)) => {
            let message = "`qk_l2_norm_eps` belongs to a norm that this layer lacks";
            let label = "would change nothing";
            let stray = Diagnostic::error(codes::L2_EPS_WITHOUT_NORM, message, eps.key.span, label);
            let stray = match switch {
                Some(switch) => stray.and(switch.value.span, "no such norm"),
                None => stray,
            };
            out.push(stray.help("write `qk_l2_norm: true`, or remove the eps"));
            None
        }
        (_, _, None) => None,
    }
}

fn l2_eps(
    eps: Option<Field<'_>>,
    switch: Field<'_>,
    table: &Table<'_>,
    out: &mut Diagnostics,
) -> Option<f64> {
    if let Some(field) = eps {
        return norms::eps_value(&field, out);
    }
    if !table.is_misspelt("qk_l2_norm_eps") {
        let message = "`qk_l2_norm` lacks `qk_l2_norm_eps`";
        let label = "needs an eps";
        let missing = Diagnostic::error(codes::MISSING_EPS, message, switch.key.span, label);
        out.push(
            missing.help(
                "add the eps that the model's own code uses, such as `qk_l2_norm_eps: 1.0e-6`",
            ),
        );
    }
    None
}
