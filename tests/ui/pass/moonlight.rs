//! Moonlight in Rust: the attribute, plain queries, and everything a user does with a layer.

use mla_runtime::{Batch, Cpu, CpuDevice, Mask, Result, Rows, Sequence, Weights, mla_layer};

/// Moonlight-16B-A3B's attention.
#[mla_layer(
    hidden_size = 2048, num_attention_heads = 16, kv_lora_rank = 512,
    qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128,
    attn_mask_type = causal, rope(type = plain, theta = 50000.0, layout = interleaved),
    build(phases = [forward, prefill, decode], dtype = f32, cache(format = latent_f32, page_size = 64), targets = [cpu]),
)]
pub struct MoonlightAttention {
    linear_q_proj: ColumnParallelLinear,
    linear_kv_down_proj: Linear,
    #[mla(eps = 1e-6)] // the code's default, not the config's rms_norm_eps (1e-5)
    kv_layernorm: RMSNorm,
    linear_kv_up_proj: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}

/// Two tokens at once, without a cache and with one, then a third.
fn generate(weights: &Weights) -> Result<Rows<Cpu, { moonlight_attention::HIDDEN_SIZE }>> {
    let device = CpuDevice::default();
    let layer = MoonlightAttention::<Cpu>::load(weights, "model.layers.0.self_attn", &device)?;
    let hidden = Rows::from_f32(&device, &[0.5; 2 * moonlight_attention::HIDDEN_SIZE])?;
    layer.forward(&hidden, &[0, 1], &Mask::dense(1, 2))?;
    let mut cache = MoonlightAttentionCache::<Cpu>::paged(&device, 1)?;
    let prompt = Batch::new(&[Sequence {
        cached: 0,
        new: 2,
        blocks: &[0],
    }])?;
    layer.prefill(&mut cache, &prompt, &hidden)?;
    let next = Rows::from_f32(&device, &[0.5; moonlight_attention::HIDDEN_SIZE])?;
    let step = Batch::new(&[Sequence {
        cached: 2,
        new: 1,
        blocks: &[0],
    }])?;
    layer.decode(&mut cache, &step, &next)
}

#[test]
fn the_layer_refuses_an_empty_checkpoint() -> Result<()> {
    let empty = Weights::random("", &[], 0)?;
    assert!(generate(&empty).is_err());
    Ok(())
}
