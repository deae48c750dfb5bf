//! Every key of the language: none of them is a misspelling of another, however near they are.

#[rustfmt::skip] // a list of words
const KEYS: &[&str] = &[
    // attention modules
    "hidden_size", "num_attention_heads", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
    "v_head_dim", "rope", "attn_mask_type", "window_size", "attention_chunk_size", "bidirectional_blocks",
    "softmax_scale", "softmax_type", "attn_logits_soft_cap", "core_attention_bias", "attention_dropout",
    "query_scaling", "q_lora_scale", "kv_lora_scale", "attention_output_gate", "kv_source", "share_kv",
    "num_query_groups", "kv_channels", "rotary_dim", "qk_l2_norm", "qk_l2_norm_eps", "context_hidden_size",
    // rope
    "type", "theta", "layout", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale",
    "attention_factor", "mscale_all_dim", "truncate", "low_freq_factor", "high_freq_factor", "short_factor",
    "long_factor", "select", "max_position_embeddings",
    // scales
    "beta", "position_offset", "at",
    // modules in slots
    "bias", "dtype", "eps", "rank", "normalization",
    // indexers
    "num_heads", "head_dim", "topk", "rope_layout", "split_order", "query_input", "relu", "hadamard", "forced", "pool",
    "share_topk", "initial", "local", "size", "always_select_tail", "loss",
    // training
    "qk_clip", "threshold", "alpha", "stage", "coeff", "reduction", "epsilon",
    // build
    "phases", "cache", "form", "expect", "context_chunk", "flash_decode", "recompute", "offload", "fold", "targets", "format", "scale_format",
    "index_format", "page_size", "prefill_tokens", "prefill_context", "decode_tokens", "decode_context",
];

/// Whether a key is one of the language's, at some place.
pub(super) fn has(key: &str) -> bool {
    KEYS.contains(&key)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::has;

    /// The keys of each mapping of the schema but the slots, whose keys name modules.
    fn keys(schema: &Value, found: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (key, value) in properties {
                if key != "submodules" {
                    found.push(key.clone());
                    keys(value, found);
                }
            }
        }
        for shape in schema["anyOf"].as_array().into_iter().flatten() {
            keys(shape, found);
        }
    }

    #[test]
    fn it_has_the_keys_of_the_schema() {
        let schema: Value =
            serde_json::from_str(&crate::schema::json_schema()).expect("the schema is JSON");
        let mut found = Vec::new();
        for layer in schema["anyOf"].as_array().into_iter().flatten() {
            for section in ["params", "build"] {
                keys(&layer["properties"][section], &mut found);
            }
        }
        assert!(found.len() > 100, "{found:?}");
        found
            .iter()
            .for_each(|key| assert!(has(key), "the language has no `{key}`"));
    }
}
