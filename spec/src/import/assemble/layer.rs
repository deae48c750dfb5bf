//! One layer's ModuleSpec.

use super::{entry, flag, list, map, real, size, word};
use crate::document::{ModuleSpec, Param, Submodule};
use crate::import::parts::{
    Gate, Indexer, IndexerLoss, LatentNorm, Lightning, Logits, Parts, QueryScaling,
};
use crate::import::schedule::KvRole;
use crate::layer::{QueryScaleSite, RopeLayout, SplitOrder};
use crate::node::{Entry, Node, Scalar};
use crate::span::{Span, Spanned};

/// The layer that `parts` describe.
pub(in crate::import) fn layer(parts: Parts) -> ModuleSpec {
    ModuleSpec {
        submodules: submodules(&parts),
        ..module("MLASelfAttention", params(parts))
    }
}

fn params(parts: Parts) -> Vec<Entry> {
    let sizes = parts.sizes;
    let mut params = vec![
        size("hidden_size", sizes.hidden_size),
        size("num_attention_heads", sizes.num_attention_heads),
    ];
    params.extend(sizes.q_lora_rank.map(|rank| size("q_lora_rank", rank)));
    params.extend([
        size("kv_lora_rank", sizes.kv_lora_rank),
        size("qk_nope_head_dim", sizes.qk_nope_head_dim),
        size("qk_rope_head_dim", sizes.qk_rope_head_dim),
        size("v_head_dim", sizes.v_head_dim),
        word("attn_mask_type", "causal", Span::NONE),
    ]);
    params.extend(parts.window.map(window));
    params.push(entry("rope", parts.rope));
    params.extend(parts.query_scaling.map(query_scaling));
    params.extend(parts.latent_scales.into_iter().flat_map(latent_scales));
    params.extend(logits(parts.logits));
    params.extend(parts.gate.map(|gate| {
        let granularity = match gate {
            Gate::PerHead { .. } => "per_head",
            Gate::PerElement => "per_element",
            Gate::WithQuery => "fused_with_query",
        };
        word("attention_output_gate", granularity, Span::NONE)
    }));
    params.extend(match parts.kv {
        KvRole::Own => None,
        KvRole::Stored => Some(flag("share_kv", Spanned::unplaced(true))),
        KvRole::Reused => Some(word("kv_source", "shared", Span::NONE)),
    });
    params.extend(parts.qk_clip.map(|clip| {
        let entries = vec![real("threshold", clip.threshold), real("alpha", clip.alpha)];
        entry("qk_clip", map(entries))
    }));
    params
}

fn logits(logits: Logits) -> impl Iterator<Item = Entry> {
    let scale = logits.scale.map(|scale| real("softmax_scale", scale));
    let sink = logits
        .sink
        .map(|sink| word("softmax_type", sink.value, sink.span));
    let soft_cap = logits.soft_cap.map(|cap| real("attn_logits_soft_cap", cap));
    let dropout = logits.dropout.map(|rate| real("attention_dropout", rate));
    [scale, sink, soft_cap, dropout].into_iter().flatten()
}

/// `window_size: [left, 0]`.
fn window(left: Spanned<u32>) -> Entry {
    let left = Node::scalar(Scalar::Int(i64::from(left.value)), left.span);
    let right = Node::scalar(Scalar::Int(0), Span::NONE);
    entry("window_size", list(vec![left, right]))
}

fn query_scaling(scaling: QueryScaling) -> Entry {
    let entries = match scaling {
        QueryScaling::Llama4 { beta, original } => vec![
            word("type", "llama4", Span::NONE),
            real("beta", beta),
            size("original_max_position_embeddings", original),
            size("position_offset", Spanned::unplaced(0)),
        ],
        QueryScaling::LogPosition => vec![word("type", "log_position", Span::NONE)],
    };
    entry("query_scaling", map(entries))
}

fn latent_scales(site: QueryScaleSite) -> [Entry; 2] {
    let factor = || word("factor", "hidden_over_rank", Span::NONE);
    let at = match site {
        QueryScaleSite::Latent => "latent",
        QueryScaleSite::Query => "query",
    };
    [
        entry(
            "q_lora_scale",
            map(vec![factor(), word("at", at, Span::NONE)]),
        ),
        entry("kv_lora_scale", map(vec![factor()])),
    ]
}

fn submodules(parts: &Parts) -> Vec<Submodule> {
    let biased = |slot_name: &str, name: &str, bias: Option<Spanned<bool>>| {
        let bias = bias.map(|bias| flag("bias", bias));
        slot(slot_name, module(name, bias.into_iter().collect()))
    };
    let mut slots = Vec::new();
    match parts.sizes.q_lora_rank {
        None => slots.push(plain("linear_q_proj", "ColumnParallelLinear")),
        Some(_) => {
            let up = match parts.gate {
                Some(Gate::WithQuery) => "linear_q_gate_proj",
                _ => "linear_q_up_proj",
            };
            if !parts.fused_down {
                slots.push(biased("linear_q_down_proj", "Linear", parts.down_bias));
            }
            slots.extend(normed_up("q_layernorm", up, parts.latent_norm.as_ref()));
        }
    }
    if parts.kv == KvRole::Reused {
        slots.push(plain("linear_kv_up_proj", "ColumnParallelLinear"));
    } else {
        let down = match parts.fused_down {
            true => "linear_qkv_down_proj",
            false => "linear_kv_down_proj",
        };
        slots.push(biased(down, "Linear", parts.down_bias));
        let norm = parts.latent_norm.as_ref();
        slots.extend(normed_up("kv_layernorm", "linear_kv_up_proj", norm));
    }
    if parts.rope_key_norm {
        slots.extend(parts.latent_norm.as_ref().map(|norm| {
            let eps = real("eps", norm.eps);
            slot("k_rope_layernorm", module(norm.kind, vec![eps]))
        }));
    }
    slots.push(slot("core_attention", core(parts.indexer.as_ref())));
    slots.extend(gate(parts.gate));
    slots.push(biased(
        "linear_proj",
        "RowParallelLinear",
        parts.output_bias,
    ));
    slots
}

fn plain(slot_name: &str, name: &str) -> Submodule {
    slot(slot_name, module(name, Vec::new()))
}

/// A latent's norm and the projection behind it, which may hold the norm.
fn normed_up(norm_slot: &str, up_slot: &str, norm: Option<&LatentNorm>) -> [Submodule; 2] {
    let Some(norm) = norm else {
        return [
            plain(norm_slot, "IdentityOp"),
            plain(up_slot, "ColumnParallelLinear"),
        ];
    };
    let eps = real("eps", norm.eps);
    if norm.fused {
        let params = vec![word("normalization", norm.kind, Span::NONE), eps];
        return [
            plain(norm_slot, "IdentityOp"),
            slot(up_slot, module("LayerNormColumnParallelLinear", params)),
        ];
    }
    [
        slot(norm_slot, module(norm.kind, vec![eps])),
        plain(up_slot, "ColumnParallelLinear"),
    ]
}

fn gate(gate: Option<Gate>) -> Option<Submodule> {
    let full_precision = match gate? {
        Gate::WithQuery => return None,
        Gate::PerHead { full_precision } => full_precision,
        Gate::PerElement => false,
    };
    Some(slot(
        "linear_gate_proj",
        module(
            "ColumnParallelLinear",
            full_precision_params(full_precision),
        ),
    ))
}

fn full_precision_params(full_precision: bool) -> Vec<Entry> {
    let dtype = full_precision.then(|| word("dtype", "f32", Span::NONE));
    dtype.into_iter().collect()
}

fn core(indexer: Option<&Indexer>) -> ModuleSpec {
    let indexer = match indexer {
        None => return module("DotProductAttention", Vec::new()),
        Some(Indexer::Shared { topk }) => module("SharedIndexer", vec![size("topk", *topk)]),
        Some(Indexer::Lightning(lightning)) => ModuleSpec {
            submodules: indexer_slots(lightning),
            ..module("LightningIndexer", indexer_params(lightning))
        },
    };
    ModuleSpec {
        submodules: vec![slot("indexer", indexer)],
        ..module("SparseAttention", Vec::new())
    }
}

fn indexer_params(indexer: &Lightning) -> Vec<Entry> {
    let mut params = vec![
        size("num_heads", indexer.num_heads),
        size("head_dim", indexer.head_dim),
        size("topk", indexer.topk),
    ];
    if let Some((layout, split)) = indexer.rope {
        let layout = match layout {
            RopeLayout::Interleaved => "interleaved",
            RopeLayout::Half => "half",
        };
        let split = match split {
            SplitOrder::RopeFirst => "rope_first",
            SplitOrder::NopeFirst => "nope_first",
        };
        params.push(word("rope_layout", layout, Span::NONE));
        params.push(word("split_order", split, Span::NONE));
    }
    let input = if indexer.from_hidden {
        "hidden"
    } else {
        "q_latent"
    };
    params.push(word("query_input", input, Span::NONE));
    params.push(flag("relu", indexer.relu));
    if indexer.hadamard {
        params.push(flag("hadamard", Spanned::unplaced(true)));
    }
    if indexer.log_position {
        params.push(query_scaling(QueryScaling::LogPosition));
    }
    params.extend(indexer.forced.map(|(initial, local)| {
        entry(
            "forced",
            map(vec![size("initial", initial), size("local", local)]),
        )
    }));
    params.extend(indexer.pool.map(|(tokens, tail)| {
        entry(
            "pool",
            map(vec![size("size", tokens), flag("always_select_tail", tail)]),
        )
    }));
    if indexer.shared {
        params.push(flag("share_topk", Spanned::unplaced(true)));
    }
    params.extend(indexer.loss.as_ref().map(loss));
    params
}

fn loss(loss: &IndexerLoss) -> Entry {
    let entries = vec![
        word("stage", loss.stage.value, loss.stage.span),
        real("coeff", loss.coeff),
        word("reduction", loss.reduction.value, loss.reduction.span),
        word("epsilon", loss.epsilon, Span::NONE),
    ];
    entry("loss", map(entries))
}

fn indexer_slots(indexer: &Lightning) -> Vec<Submodule> {
    let linear = |name: &str| slot(name, module("Linear", Vec::new()));
    let mut slots = Vec::new();
    if indexer.from_hidden {
        let eps = real("eps", Spanned::unplaced(1e-6));
        slots.push(slot("q_input_norm", module("LayerNorm", vec![eps])));
    }
    slots.extend([
        linear("linear_wq_b"),
        linear("linear_wk"),
        slot(
            "linear_weights_proj",
            module(
                "Linear",
                full_precision_params(indexer.full_precision_weights),
            ),
        ),
        slot(
            "k_norm",
            module(indexer.k_norm, vec![real("eps", indexer.k_norm_eps)]),
        ),
    ]);
    slots
}

fn module(name: &str, params: Vec<Entry>) -> ModuleSpec {
    let params = params
        .into_iter()
        .map(|Entry { key, value }| Param { key, value })
        .collect();
    ModuleSpec {
        module: Spanned::unplaced(name.to_owned()),
        params,
        submodules: Vec::new(),
        span: Span::NONE,
    }
}

fn slot(name: &str, spec: ModuleSpec) -> Submodule {
    Submodule {
        slot: Spanned::unplaced(name.to_owned()),
        spec,
    }
}
