//! The layer, apart from its rope and its indexer.

use super::super::codes;
use super::super::config::Given;
use super::super::defaults::Reader;
use super::super::keys::passed_over_there;
use super::super::parts::{LatentNorm, Logits, Parts, QkClip, Sizes};
use super::arguments::Form;
use super::pattern::Pattern;
use super::{indexer, rope};
use crate::diagnostic::Diagnostic;
use crate::node::{Node, NodeKind, Scalar};
use crate::span::Spanned;

/// Everything about the layer of a number, counted from 1; `None` where a size is missing.
pub(super) fn read(reader: &mut Reader<'_, '_>, form: Form, number: u32) -> Option<Parts> {
    let sizes = sizes(reader, form);
    let sparse = indexer::is_asked_for(reader);
    let norm = latent_norm(reader, form, sizes.as_ref(), sparse);
    let rope = rope::read(reader, form, sizes.as_ref());
    let lora = sizes
        .as_ref()
        .is_some_and(|sizes| sizes.q_lora_rank.is_some());
    let indexer = indexer::read(reader, number, sparse, lora);
    let fused_down = fused_down(reader, lora);
    let output_bias = output_bias(reader);
    let logits = Logits {
        scale: rope.softmax_scale,
        sink: sink(reader),
        dropout: dropout(reader),
        ..Logits::default()
    };
    let window = window(reader, number);
    let qk_clip = qk_clip(reader);
    refuse_local(reader);
    refuse_rope_fusion(reader, form, sparse);
    reader.comments.add(
        "params.attn_mask_type",
        "not among the arguments: decoders are causal",
    );
    Some(Parts {
        window,
        fused_down,
        output_bias,
        logits,
        indexer: indexer?,
        qk_clip,
        ..Parts::plain(sizes?, rope.node, norm)
    })
}

fn sizes(reader: &mut Reader<'_, '_>, form: Form) -> Option<Sizes> {
    let hidden_size = required(reader, form, "hidden_size");
    let num_attention_heads = required(reader, form, "num_attention_heads");
    let q_lora_rank = query_rank(reader, form);
    let kv_lora_rank = reader.size("kv_lora_rank", "params.kv_lora_rank", form.pick(32, 512));
    let nope = reader.size("qk_head_dim", "params.qk_nope_head_dim", 128);
    let rope = reader.size("qk_pos_emb_head_dim", "params.qk_rope_head_dim", 64);
    let value = reader.size("v_head_dim", "params.v_head_dim", 128);
    entry_points(
        reader,
        form,
        "kv_lora_rank",
        "32 on the command line, and 512 in `MLATransformerConfig`",
    );
    of_sections(reader, form);
    channels(reader, form, nope);
    Some(Sizes {
        hidden_size: hidden_size?,
        num_attention_heads: num_attention_heads?,
        q_lora_rank,
        kv_lora_rank,
        qk_nope_head_dim: nope,
        qk_rope_head_dim: rope,
        v_head_dim: value,
    })
}

/// A size that Megatron has no default for.
fn required(reader: &Reader<'_, '_>, form: Form, key: &str) -> Option<Spanned<u32>> {
    match reader.config.size(key) {
        Given::Value(value) => Some(value),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => {
            let spelled = match form {
                Form::Flags => format!("--{} N", key.replace('_', "-")),
                Form::Sections | Form::Fields => format!("{key}: N"),
            };
            reader.config.report(
                Diagnostic::error(
                    codes::SIZE_MISSING,
                    format!("`{}` is missing", form.named(key)),
                    reader.config.span,
                    "not among these",
                )
                .note("Megatron has no default for it")
                .help(format!("add `{spelled}`")),
            );
            None
        }
    }
}

/// `None`: plain queries, which the command line takes for absent ranks and `MLATransformerConfig` does not (features T-12).
fn query_rank(reader: &mut Reader<'_, '_>, form: Form) -> Option<Spanned<u32>> {
    const KEY: &str = "q_lora_rank";
    match reader.config.size(KEY) {
        Given::Value(rank) => Some(rank),
        Given::Wrong => None,
        Given::Null(_) => {
            let why = "q_lora_rank is None: queries are plain";
            reader.comments.add("submodules.linear_q_proj", why);
            None
        }
        Given::Absent if form == Form::Flags => {
            let why = "q_lora_rank is absent, which is None on the command line: queries are plain";
            reader.comments.add("submodules.linear_q_proj", why);
            None
        }
        Given::Absent => {
            entry_points(
                reader,
                form,
                KEY,
                "none on the command line (plain queries), and 512 in `MLATransformerConfig`",
            );
            Some(reader.size(KEY, "params.q_lora_rank", 512))
        }
    }
}

/// Points out an absent option whose default depends on where it is read (features T-04).
pub(super) fn entry_points(reader: &Reader<'_, '_>, form: Form, key: &str, defaults: &str) {
    if reader.has(key) {
        return;
    }
    let taken = form.pick("the command line's", "the class's");
    reader.config.report(
        Diagnostic::warning(
            codes::DIFFERS_THERE,
            format!(
                "`{}` is absent, and Megatron's defaults for it differ: {taken} is taken",
                form.named(key)
            ),
            reader.config.span,
            "not among these",
        )
        .note(format!("it is {defaults}"))
        .help(format!("state `{}`", form.named(key))),
    );
}

/// `--yaml-cfg` hands on the fields of `TransformerConfig` alone, to a class that has more.
fn of_sections(reader: &Reader<'_, '_>, form: Form) {
    const LOST: [&str; 12] = [
        "q_lora_rank",
        "kv_lora_rank",
        "qk_head_dim",
        "qk_pos_emb_head_dim",
        "v_head_dim",
        "rope_type",
        "rotary_base",
        "rotary_percent",
        "rotary_scaling_factor",
        "mscale",
        "mscale_all_dim",
        "cache_mla_latents",
    ];
    if form != Form::Sections {
        return;
    }
    let lost = LOST.iter().filter_map(|key| reader.config.entry(key));
    let lost: Vec<_> = lost.collect();
    let Some(first) = lost.first() else {
        return;
    };
    let names: Vec<_> = lost
        .iter()
        .map(|entry| format!("`{}`", entry.key.value))
        .collect();
    let message = format!(
        "Megatron's YAML reader does not hand on {}",
        names.join(", ")
    );
    reader.config.report(
        Diagnostic::warning(
            codes::IGNORED_THERE,
            message,
            first.key.span,
            "the first of them",
        )
        .note("it fills `MLATransformerConfig` with the fields of `TransformerConfig` alone, so latent attention's own have that class's defaults there; the spec has what is written here")
        .help("run Megatron with a command line"),
    );
}

/// `kv_channels` is the length of other attention's heads (features T-01).
fn channels(reader: &Reader<'_, '_>, form: Form, nope: Spanned<u32>) {
    let channels = reader.config.size("kv_channels").value();
    if let Some(channels) = channels.filter(|channels| channels.value != nope.value) {
        let why = "head dims are `qk_head_dim`, `qk_pos_emb_head_dim` and `v_head_dim`";
        let key = form.named("kv_channels");
        let lint = passed_over_there(&key, "Megatron", channels.span, why);
        reader.config.report(lint);
    }
}

/// The latents' norm: there is none unless `qk_layernorm` says so (features T-03, C-05).
fn latent_norm(
    reader: &mut Reader<'_, '_>,
    form: Form,
    sizes: Option<&Sizes>,
    sparse: bool,
) -> Option<LatentNorm> {
    let on = reader.flag("qk_layernorm", false);
    let kind = reader.word("normalization", form.pick("LayerNorm", "RMSNorm"));
    const EPS: &str = "layernorm_epsilon";
    let path = "submodules.kv_layernorm.params.eps";
    let eps = reader.real(EPS, path, 1e-5);
    reader.forget(EPS);
    let kind_name = match kind.value {
        "RMSNorm" => "RMSNorm",
        "LayerNorm" => "LayerNorm",
        other => {
            let message = format!("`normalization` is `{}`", other.escape_debug());
            let wrong = Diagnostic::error(codes::WRONG_VALUE, message, kind.span, "not a norm");
            reader
                .config
                .report(wrong.help("write `RMSNorm` or `LayerNorm`"));
            return None;
        }
    };
    if !on.value {
        let span = if on.span.is_none() {
            reader.config.span
        } else {
            on.span
        };
        reader.config.report(
            Diagnostic::warning(
                codes::DIFFERS_THERE,
                "latents are not normed: Megatron leaves their norms out unless `qk_layernorm` asks for them",
                span,
                "does not ask for them",
            )
            .note("every released checkpoint with latent attention has them")
            .help(format!("add `{}`", form.switched_on("qk_layernorm"))),
        );
        return None;
    }
    if sizes.is_some_and(|sizes| sizes.q_lora_rank.is_none()) {
        reader.config.report(
            Diagnostic::error(
                codes::NOT_SAID_HERE,
                "Megatron puts a norm of the layer's input into plain queries' projection here",
                on.span,
                "norms the input of `linear_q_proj` a second time",
            )
            .note("no released model has that norm, and this language has no place for it: `qk_layernorm` norms latents, and plain queries have none")
            .help("state `q_lora_rank`; a model whose queries are plain and whose latents are normed can't be said with Megatron's arguments, so import its `config.json`"),
        );
    }
    if !reader.has("normalization") {
        let names = "LayerNorm on the command line, and RMSNorm in `MLATransformerConfig`";
        entry_points(reader, form, "normalization", names);
    }
    if !reader.has(EPS) {
        reader.config.report(
            Diagnostic::warning(
                codes::DIFFERS_THERE,
                "the norms' epsilon is not stated, so it is Megatron's 1e-5",
                reader.config.span,
                "not among these",
            )
            .note("released checkpoints mostly have 1e-6")
            .help(match form {
                Form::Flags => "add `--norm-epsilon 1e-6`, or whatever the model was trained with",
                _ => "add `layernorm_epsilon: 1.0e-6`, or whatever the model was trained with",
            }),
        );
    }
    // Megatron resolves trivial norm slots to the backend's fused modules, and to separate ones beside an indexer.
    Some(LatentNorm {
        kind: kind_name,
        eps,
        fused: !sparse,
    })
}

/// One projection for both latents.
fn fused_down(reader: &mut Reader<'_, '_>, lora: bool) -> bool {
    let on = reader.flag("mla_down_proj_fusion", false);
    if on.value && !lora {
        let message = "`mla_down_proj_fusion` needs `q_lora_rank`";
        reader.config.report(
            Diagnostic::error(codes::REFUSED_THERE, message, on.span, "nothing to fuse")
                .note("it joins the two down projections, and plain queries have none")
                .help("remove `mla_down_proj_fusion`, or state `q_lora_rank`"),
        );
    }
    on.value && lora
}

/// `add_bias_linear` reaches `linear_proj` alone, and is true unless it is switched off.
fn output_bias(reader: &mut Reader<'_, '_>) -> Option<Spanned<bool>> {
    let on = reader.flag("add_bias_linear", true);
    if !on.value {
        return None;
    }
    reader.comments.add(
        "submodules.linear_proj.params.bias",
        "Megatron's default; of all projections here, add_bias_linear reaches this one alone",
    );
    Some(on)
}

fn sink(reader: &mut Reader<'_, '_>) -> Option<Spanned<&'static str>> {
    let kind = reader.word("softmax_type", "vanilla");
    let sink = match kind.value {
        "vanilla" => return None,
        "off-by-one" => "off-by-one",
        "learnable" => "learnable",
        other => {
            let message = format!("`softmax_type` knows no `{}`", other.escape_debug());
            let wrong = Diagnostic::error(codes::WRONG_VALUE, message, kind.span, "not known");
            let help = "write `vanilla`, `off-by-one` or `learnable`";
            reader.config.report(wrong.help(help));
            return None;
        }
    };
    reader.config.report(
        Diagnostic::warning(
            codes::DIFFERS_THERE,
            "Megatron trains with `softmax_type` and leaves it out of dynamic inference",
            kind.span,
            "not read by latent attention at inference",
        )
        .note("the imported layer's softmax is the trained one in every phase"),
    );
    Some(Spanned::new(sink, kind.span))
}

/// `attention_dropout`, which is 0.1 where nothing is said.
fn dropout(reader: &mut Reader<'_, '_>) -> Option<Spanned<f64>> {
    const KEY: &str = "attention_dropout";
    let rate = reader.real(KEY, "params.attention_dropout", 0.1);
    reader.forget(KEY);
    (rate.value != 0.0).then_some(rate)
}

/// `window_size`, in layers that `window_attn_skip_freq` leaves it.
fn window(reader: &mut Reader<'_, '_>, number: u32) -> Option<Spanned<u32>> {
    let windowed = match reader.config.entry("window_attn_skip_freq") {
        Some(entry) if entry.value.kind != NodeKind::Scalar(Scalar::Null) => {
            match Pattern::of(&entry.value).and_then(|pattern| pattern.holds(number)) {
                Some(windowed) => windowed,
                None => {
                    reader.config.report(
                        Diagnostic::error(
                            codes::WRONG_VALUE,
                            "`window_attn_skip_freq` does not say whether this layer has a window",
                            entry.value.span,
                            "not a pattern of the layer",
                        )
                        .help("write a number, or a list of 0 and 1 for every layer, such as `[1]*3+[0]`"),
                    );
                    return None;
                }
            }
        }
        _ => true,
    };
    let entry = reader.config.entry("window_size")?;
    let sides = sides(&entry.value);
    match sides {
        Some((-1, _)) => None,
        Some((left, 0 | -1)) if windowed => u32::try_from(left)
            .ok()
            .map(|left| Spanned::new(left, entry.value.span)),
        Some((0.., 0 | -1)) => None,
        _ if entry.value.kind == NodeKind::Scalar(Scalar::Null) => None,
        _ => {
            reader.config.report(
                Diagnostic::error(
                    codes::WRONG_VALUE,
                    "`window_size` is not a pair of bounds of a causal layer",
                    entry.value.span,
                    "wanted `(left,0)`",
                )
                .help("write how many tokens before it a query sees, and 0: `(4095,0)`"),
            );
            None
        }
    }
}

/// A pair of bounds, -1 for none.
fn sides(value: &Node) -> Option<(i64, i64)> {
    match &value.kind {
        NodeKind::Seq(items) => match items.as_slice() {
            [
                Node {
                    kind: NodeKind::Scalar(Scalar::Int(left)),
                    ..
                },
                Node {
                    kind: NodeKind::Scalar(Scalar::Int(right)),
                    ..
                },
            ] => Some((*left, *right)),
            _ => None,
        },
        NodeKind::Scalar(Scalar::Str(text)) => {
            let inside = text
                .trim_start_matches(['(', '['])
                .trim_end_matches([')', ']']);
            let (left, right) = inside.split_once(',')?;
            Some((left.trim().parse().ok()?, right.trim().parse().ok()?))
        }
        _ => None,
    }
}

fn qk_clip(reader: &mut Reader<'_, '_>) -> Option<QkClip> {
    let on = reader.flag("qk_clip", false);
    let threshold = reader.optional("qk_clip_threshold");
    let alpha = reader.optional("qk_clip_alpha");
    on.value.then_some(QkClip {
        threshold: threshold.unwrap_or(Spanned::unplaced(100.0)),
        alpha: alpha.unwrap_or(Spanned::unplaced(0.5)),
    })
}

/// The local implementation can't build latent attention (features A-06).
fn refuse_local(reader: &mut Reader<'_, '_>) {
    let implementation = reader.word("transformer_impl", "transformer_engine");
    if implementation.value == "local" {
        reader.config.report(
            Diagnostic::error(
                codes::REFUSED_THERE,
                "Megatron's local implementation can't build latent attention",
                implementation.span,
                "refused",
            )
            .note("its attention takes no head dims for keys and values apart, and has no fused norms")
            .help("write `transformer_engine`"),
        );
    }
}

/// Megatron's fused rope kernel is for YaRN, and neither for an indexer's layers nor for cached latents. The command line asks for
/// it unless it is told otherwise.
fn refuse_rope_fusion(reader: &mut Reader<'_, '_>, form: Form, sparse: bool) {
    let rotary = reader
        .word("position_embedding_type", "learned_absolute")
        .value
        == "rope"
        || reader.flag("use_rotary_position_embeddings", false).value;
    let fused = reader.flag("apply_rope_fusion", form == Form::Flags && rotary);
    if !fused.value {
        return;
    }
    let kind = reader.word("rope_type", "yarn");
    let latents = reader.flag("cache_mla_latents", false);
    let (what, span) = if kind.value == "rope" {
        ("rope type `rope`", kind.span)
    } else if latents.value {
        ("cached latents", latents.span)
    } else if sparse {
        ("an indexer", reader.place("experimental_attention_variant"))
    } else {
        return;
    };
    let help = match form {
        Form::Flags => "add `--no-rope-fusion`",
        Form::Sections | Form::Fields => "write `apply_rope_fusion: false`",
    };
    let message = format!("Megatron refuses {what} beside its fused rope kernel");
    reader.config.report(
        Diagnostic::error(codes::REFUSED_THERE, message, span, "not fused")
            .note("the kernel is asked for wherever nothing switches it off on a command line")
            .help(help),
    );
}
