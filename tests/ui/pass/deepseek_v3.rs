//! DeepSeek-V3 in Rust: the attribute, low-rank queries, yarn, inside of another module and with another visibility.

mod inner {
    /// DeepSeek-V3's attention.
    #[mla_runtime::mla_layer(
        hidden_size = 7168, num_attention_heads = 128, q_lora_rank = 1536, kv_lora_rank = 512,
        qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128,
        attn_mask_type = causal,
        rope(
            type = yarn, theta = 10000.0, layout = interleaved, factor = 40.0, original_max_position_embeddings = 4096,
            beta_fast = 32.0, beta_slow = 1.0, mscale = 1.0, mscale_all_dim = 1.0, truncate = true,
        ),
        build(phases = [forward, prefill, decode, mixed], dtype = f32, cache(format = latent_f32, page_size = 64), targets = [cpu]),
        crate = ::mla_runtime,
    )]
    pub(super) struct DeepSeekV3Attention {
        linear_q_down_proj: Linear,
        #[mla(eps = 1e-6)]
        q_layernorm: RMSNorm,
        linear_q_up_proj: ColumnParallelLinear,
        linear_kv_down_proj: Linear,
        #[mla(eps = 1e-6)]
        kv_layernorm: RMSNorm,
        linear_kv_up_proj: ColumnParallelLinear,
        core_attention: DotProductAttention,
        linear_proj: RowParallelLinear,
    }
}

#[test]
fn it_is_visible_outside_of_its_module() {
    let _ = inner::DeepSeekV3Attention::<mla_runtime::Cpu>::load;
    assert_eq!(inner::deep_seek_v3_attention::KV_LORA_RANK, 512);
}
