//! Keys that no reader asked for: reviewed and irrelevant, unknown and harmless, or unknown and too close to attention
//! to be passed over.

use super::codes;
use super::config::Config;
use super::family::Family;
use crate::diagnostic::{Diagnostic, Severity};
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::Span;
use crate::suggest::suggest;

/// Parts of a name that may have to do with attention.
const ATTENTION: &[&str] = &[
    "rope",
    "rotary",
    "attn",
    "attention",
    "head",
    "lora",
    "mla",
    "index",
    "mask",
    "window",
    "sink",
    "scale",
    "scaling",
    "softmax",
    "norm",
    "layer_types",
    "position",
    "causal",
    "latent",
];

/// Keys that were reviewed: whatever they hold, the attention layer computes the same.
const IRRELEVANT: &[&str] = &[
    // what the file is
    "_commit_hash",
    "_name_or_path",
    "name_or_path",
    "architectures",
    "auto_map",
    "custom_pipelines",
    "dtype",
    "license",
    "model_type",
    "torch_dtype",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    // embeddings, head and tokens
    "bos_token_id",
    "embedding_initializer_range",
    "eos_token_id",
    "mask_token_id",
    "pad_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "tie_word_embeddings",
    "tie_encoder_decoder",
    "tokenizer_class",
    "vocab_size",
    "im_end_token_id",
    "lm_head_bias",
    // feed-forward and experts
    "aux_loss_alpha",
    "ep_size",
    "expert_layer_norm",
    "first_k_dense_replace",
    "hidden_act",
    "intermediate_size",
    "mlp_bias",
    "mlp_layer_types",
    "moe_intermediate_size",
    "moe_layer_freq",
    "moe_layer_pattern",
    "moe_renormalize",
    "moe_router_activation_func",
    "moe_router_dtype",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_expert_group",
    "num_experts",
    "num_experts_per_tok",
    "num_experts_per_token",
    "num_local_experts",
    "num_shared_experts",
    "output_router_logits",
    "post_mlp_layernorm",
    "use_post_mlp_norm",
    "routed_scaling_factor",
    "router_aux_loss_coef",
    "router_bias_update_speed",
    "router_jitter_noise",
    "scoring_func",
    "seq_aux",
    "swiglu_limit",
    "topk_group",
    "topk_method",
    "use_grouped_topk",
    // multi-token prediction, whose layers have attention layers of the same shape
    "mtp_loss_scaling_factor",
    "num_nextn_predict_layers",
    "num_mtp_layers",
    "num_mtp_modules",
    "mtp_num_hidden_layers",
    // training, dropout, parallelism
    "attention_dropout",
    "attention_probs_dropout_prob",
    "embd_pdrop",
    "gradient_checkpointing",
    "hidden_dropout",
    "hidden_dropout_prob",
    "initializer_range",
    "initializer_std",
    "pretraining_tp",
    "resid_pdrop",
    // which of the library's kernels runs, and what it returns
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_experts_implementation",
    "attn_implementation",
    "use_flash_attention",
    "use_flash_attention_2",
    "use_flash_attn",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "return_dict_in_generate",
    "output_scores",
    "torchscript",
    "use_bfloat16",
    "use_cache",
    "chunk_size_feed_forward",
    "is_llama_config",
    // how long sequences may get
    "max_position_embeddings",
    "original_max_position_embeddings",
    "max_sequence_length",
    "max_seq_len",
    "model_max_length",
    "seq_length",
    // what older libraries write for every model
    "add_cross_attention",
    "cross_attention_hidden_size",
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "prefix",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "top_k",
    "top_p",
    "typical_p",
    "generation_config",
    "pooler_hidden_act",
    "classifier_dropout",
];

/// Keys that are fine while they switch nothing on.
const INERT_WHEN: &[(&str, Inert)] = &[
    ("sliding_window", Inert::Off),
    ("use_sliding_window", Inert::Off),
    ("max_window_layers", Inert::Anything),
    ("layer_types", Inert::AllFullAttention),
    ("mla_use_nope", Inert::Off),
    ("use_mla", Inert::On),
    ("is_mla", Inert::On),
    ("use_qk_norm", Inert::Off),
    ("qk_norm", Inert::Off),
    ("qk_layernorm", Inert::Off),
    ("attention_out_bias", Inert::Off),
    ("attn_logit_softcapping", Inert::Off),
    ("norm_type", Inert::RmsNorm),
];

/// When a key switches nothing on.
#[derive(Clone, Copy)]
enum Inert {
    /// `null`, `false`, 0 or empty.
    Off,
    /// `true`.
    On,
    /// A list of `full_attention`.
    AllFullAttention,
    /// Some spelling of RMSNorm.
    RmsNorm,
    /// Always: it modifies another key of this list.
    Anything,
}

/// Judges every entry of `config` that was not asked for. `known` are keys that reading gets to unless it stops early.
pub(super) fn review(config: &Config<'_>, family: &Family, known: &[&str], strict: bool) {
    let mut passed_over: Vec<&Entry> = Vec::new();
    for entry in config.unasked() {
        let key = entry.key.value.as_str();
        if known.contains(&key) || is_reviewed(key, family) || is_inert(entry) {
            continue;
        }
        if says_something(&entry.value) && touches_attention(key, &entry.value) {
            config.report(unknown_attention_key(entry, family, known));
        } else {
            passed_over.push(entry);
        }
    }
    if let Some(first) = passed_over.first() {
        config.report(unknown_keys(&passed_over, first.key.span, family, strict));
    }
}

fn is_reviewed(key: &str, family: &Family) -> bool {
    IRRELEVANT.contains(&key) || family.known.contains(&key) || family.reviewed.contains(&key)
}

fn is_inert(entry: &Entry) -> bool {
    let Some((_, inert)) = INERT_WHEN.iter().find(|(key, _)| *key == entry.key.value) else {
        return false;
    };
    match (inert, &entry.value.kind) {
        (Inert::Anything, _) => true,
        (Inert::Off, kind) => {
            !says_something(&entry.value)
                || matches!(kind, NodeKind::Scalar(Scalar::Bool(false) | Scalar::Int(0)))
        }
        (Inert::On, kind) => matches!(kind, NodeKind::Scalar(Scalar::Bool(true))),
        (Inert::AllFullAttention, NodeKind::Seq(items)) => items
            .iter()
            .all(|item| item.kind == NodeKind::Scalar(Scalar::Str("full_attention".to_owned()))),
        (Inert::RmsNorm, NodeKind::Scalar(Scalar::Str(word))) => {
            word.eq_ignore_ascii_case("rmsnorm") || word == "rms_norm"
        }
        (Inert::AllFullAttention | Inert::RmsNorm, kind) => {
            matches!(kind, NodeKind::Scalar(Scalar::Null))
        }
    }
}

/// Whether a value is more than `null` or empty.
fn says_something(value: &Node) -> bool {
    match &value.kind {
        NodeKind::Scalar(Scalar::Null) => false,
        NodeKind::Seq(items) => !items.is_empty(),
        NodeKind::Map(entries) => !entries.is_empty(),
        NodeKind::Scalar(_) => true,
    }
}

/// Whether a key's name, or a name or word inside its value, has to do with attention.
fn touches_attention(key: &str, value: &Node) -> bool {
    named_like_attention(key)
        || match &value.kind {
            NodeKind::Scalar(Scalar::Str(word)) => named_like_attention(word),
            NodeKind::Scalar(_) => false,
            NodeKind::Seq(items) => items.iter().any(|item| touches_attention("", item)),
            NodeKind::Map(entries) => entries
                .iter()
                .any(|entry| touches_attention(&entry.key.value, &entry.value)),
        }
}

fn named_like_attention(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    word.ends_with("_layers") || ATTENTION.iter().any(|part| word.contains(part))
}

fn unknown_attention_key(entry: &Entry, family: &Family, known: &[&str]) -> Diagnostic {
    let key = &entry.key.value;
    let diagnostic = Diagnostic::error(
        codes::UNKNOWN_ATTENTION_KEY,
        format!("`{key}` may change attention, and `{}` is not known to have it", family.name()),
        entry.key.span,
        "not understood",
    )
    .note("a key that touches attention is never passed over: a layer that ignores it would load and be wrong");
    match suggest(key, known.iter().copied()) {
        Some(near) => diagnostic.help(format!("did you mean `{near}`?")),
        None if key.starts_with("index_") => {
            diagnostic.help("`index_*` keys belong to families with sparse attention, such as `deepseek_v32`")
        }
        None => diagnostic.help("remove the key if this model's attention does not read it; otherwise write the spec by hand"),
    }
}

fn unknown_keys(entries: &[&Entry], at: Span, family: &Family, strict: bool) -> Diagnostic {
    const SHOWN: usize = 8;
    let mut names: Vec<_> = entries
        .iter()
        .take(SHOWN)
        .map(|entry| format!("`{}`", entry.key.value))
        .collect();
    if entries.len() > SHOWN {
        names.push(format!("{} more", entries.len() - SHOWN));
    }
    let noun = if entries.len() == 1 { "key" } else { "keys" };
    let message = format!(
        "{noun} not known for `{}`: {}",
        family.name(),
        names.join(", ")
    );
    let mut diagnostic = Diagnostic::warning(codes::UNKNOWN_KEYS, message, at, "the first of them")
        .note("nothing in their names or values has to do with attention, so they are passed over");
    if strict {
        diagnostic.severity = Severity::Error;
        diagnostic.notes = vec!["`--strict` passes over nothing that was not reviewed".to_owned()];
    }
    diagnostic
}
