//! A small odd layer in Rust: the attribute, every structural choice unlike DeepSeek's, and a step of training.

use mla_runtime::{
    Cpu, CpuDevice, Mask, ParameterSet, Result, Rows, Trainable, Weights, mla_layer,
};

/// Every size is odd or otherwise awkward.
#[mla_layer(
    hidden_size = 75, num_attention_heads = 5, q_lora_rank = 27, kv_lora_rank = 21,
    qk_nope_head_dim = 11, qk_rope_head_dim = 6, v_head_dim = 13,
    attn_mask_type = padding_causal,
    rope(
        type = yarn, theta = 777.5, layout = half, factor = 3.5, original_max_position_embeddings = 50,
        beta_fast = 4.0, beta_slow = 0.5, mscale = 0.9, mscale_all_dim = 0.4, truncate = false,
    ),
    build(
        phases = [forward, prefill, decode, train], dtype = f32,
        cache(format = latent_f32, page_size = 3, rope_layout = interleaved),
        context_chunk = 7, recompute = [layernorm], offload = [q_up_proj, core_attn], targets = [cpu],
    ),
)]
pub struct OddSmallAttention {
    #[mla(bias = true)]
    linear_qkv_down_proj: Linear,
    q_layernorm: IdentityOp,
    #[mla(normalization = RMSNorm, eps = 1e-5)]
    linear_q_up_proj: LayerNormColumnParallelLinear,
    kv_layernorm: IdentityOp,
    #[mla(normalization = LayerNorm, eps = 3e-6)]
    linear_kv_up_proj: LayerNormColumnParallelLinear,
    core_attention: DotProductAttention,
    #[mla(bias = true)]
    linear_proj: RowParallelLinear,
}

/// Steps downhill on half the output's square; returns the loss before each.
fn descend(steps: usize) -> Result<Vec<f64>> {
    let device = CpuDevice::default();
    let weights = Weights::random("layer", &odd_small_attention::TENSORS, 1)?;
    let mut layer = OddSmallAttention::<Cpu<f64>>::load(&weights, "layer", &device)?;
    let mut master: OddSmallAttentionParameters<_> = layer.parameters(&device)?;
    let hidden: Vec<f64> = (0..4 * odd_small_attention::HIDDEN_SIZE)
        .map(|at| (at as f64 * 0.37).sin())
        .collect();
    let hidden = Rows::from_f64(&device, &hidden)?;
    let mut losses = Vec::new();
    for _ in 0..steps {
        let mut gradients = OddSmallAttentionParameters::zeros(&device)?;
        let (output, saved) = layer.forward_train(&hidden, &[0, 1, 2, 3], &Mask::dense(1, 4))?;
        layer.backward(saved, &hidden, &output, &mut gradients)?;
        ParameterSet::update([&mut master], [&gradients], |_, [weights], [gradients]| {
            for (weight, gradient) in weights.iter_mut().zip(gradients) {
                *weight -= 1e-3 * gradient;
            }
        })?;
        layer.assign(&master)?;
        losses.push(output.to_vec()?.iter().map(|y| 0.5 * y * y).sum());
    }
    Ok(losses)
}

#[test]
fn the_layer_learns() -> Result<()> {
    let losses = descend(4)?;
    assert!(
        losses.is_sorted_by(|before, after| before > after),
        "{losses:?}"
    );
    Ok(())
}
