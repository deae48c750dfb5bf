//! Which key of a spec a fact is about.

/// The key, as a path: `params.rope`.
#[rustfmt::skip] // a table: one fact a line
const KEYS: &[(&str, &str)] = &[
    ("hidden size", "params.hidden_size"),
    ("heads", "params.num_attention_heads"),
    ("rank of the query latent", "params.q_lora_rank"),
    ("rank of the key-value latent", "params.kv_lora_rank"),
    ("head dim, not rotated", "params.qk_nope_head_dim"),
    ("head dim, rotated", "params.qk_rope_head_dim"),
    ("head dim of values", "params.v_head_dim"),
    ("norm of the query latent", "submodules.q_layernorm"),
    ("norm of the query latent stands", "submodules.q_layernorm"),
    ("norm of the key-value latent", "submodules.kv_layernorm"),
    ("norm of the key-value latent stands", "submodules.kv_layernorm"),
    ("norm of the rope key", "submodules.k_rope_layernorm"),
    ("norm of the input", "submodules.input_layernorm"),
    ("query latent times", "params.q_lora_scale"),
    ("where the query is scaled", "params.q_lora_scale"),
    ("key-value latent times", "params.kv_lora_scale"),
    ("latents", "params.kv_source"),
    ("down projections", "submodules.linear_qkv_down_proj"),
    ("query's up projection", "submodules.linear_q_gate_proj"),
    ("bias of the query latent", "submodules.linear_q_down_proj"),
    ("bias of the key-value latent", "submodules.linear_kv_down_proj"),
    ("bias of the output", "submodules.linear_proj"),
    ("rope", "params.rope"),
    ("cos and sin times", "params.rope"),
    ("pairs of the rope", "params.rope"),
    ("softmax scale", "params.softmax_scale"),
    ("queries by position", "params.query_scaling"),
    ("mask", "params.attn_mask_type"),
    ("soft cap", "params.attn_logits_soft_cap"),
    ("softmax's denominator", "params.softmax_type"),
    ("bias of logits", "params.core_attention_bias"),
    ("dropout of probabilities (training)", "params.attention_dropout"),
    ("output gate", "params.attention_output_gate"),
    ("QK-clip (training)", "params.qk_clip"),
    ("keys attended to", "submodules.core_attention"),
    ("keys always picked", "submodules.core_attention"),
    ("pools of keys", "submodules.core_attention"),
    ("later layers use what is picked", "submodules.core_attention"),
    ("indexer is rotated", "submodules.core_attention"),
    ("indexer's heads", "submodules.core_attention"),
    ("indexer's head dim", "submodules.core_attention"),
    ("indexer's queries are made of", "submodules.core_attention"),
    ("norm of the indexer's key", "submodules.core_attention"),
    ("indexer's scores below 0 count as 0", "submodules.core_attention"),
    ("indexer's queries by position", "submodules.core_attention"),
    ("indexer's loss (training)", "submodules.core_attention"),
    ("pairs of the indexer's rope", "submodules.core_attention"),
    ("order of the indexer's heads", "submodules.core_attention"),
    ("indexer's keys turned by Hadamard", "submodules.core_attention"),
];

/// The key that a fact is about.
pub(super) fn of(fact: &str) -> Option<&'static str> {
    let found = KEYS.iter().find(|(name, _)| *name == fact);
    found.map(|(_, key)| *key)
}

/// Whether a fact of layout decides on what the same weights compute.
pub(super) fn moves_weights(fact: &str) -> bool {
    const MOVING: [&str; 3] = [
        "pairs of the rope",
        "pairs of the indexer's rope",
        "order of the indexer's heads",
    ];
    MOVING.contains(&fact)
}
