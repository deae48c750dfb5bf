use mla_runtime::{Batch, Cpu, CpuDevice, Mask, Result, Rows, Sequence, Weights};
use mla_runtime::{Describes, MlaLayer, slots::*};

#[derive(MlaLayer)]
#[mla(
    hidden_size = 2048, num_attention_heads = 16, kv_lora_rank = 512,
    qk_nope_head_dim = 128, qk_rope_head_dim = 64, v_head_dim = 128,
    attn_mask_type = casual, rope(type = plain, theta = 50000.0, layout = interleaved),
)]
pub struct Described {
    linear_q_proj: ColumnParallelLinear,
    linear_kv_down_proj: Linear,
    #[mla(eps = 1e-6)]
    kv_layernorm: RMSNorm,
    linear_kv_up_proj: ColumnParallelLinear,
    core_attention: DotProductAttention,
    linear_proj: RowParallelLinear,
}

type Layer = <Described as Describes>::Layer<Cpu>;

fn step(
    layer: &DescribedLayer<Cpu>,
    cache: &mut DescribedLayerCache<Cpu>,
    batch: &Batch,
    hidden: &Rows<Cpu, 2048>,
) -> Result<Rows<Cpu, 2048>> {
    layer.prefill(cache, batch, hidden)?;
    layer.decode(cache, batch, hidden)
}

fn main() -> Result<()> {
    let device = CpuDevice::default();
    let weights = Weights::open("model.safetensors")?;
    let layer = Layer::load(&weights, "model.layers.0.self_attn", &device)?;
    let mut cache = DescribedLayerCache::contiguous(&device, 1, 16)?;
    let batch = Batch::new(&[Sequence { cached: 0, new: 2, blocks: &[] }])?;
    let hidden = Rows::from_f32(&device, &[0.0; 2 * 2048])?;
    layer.forward(&hidden, &[0, 1], &Mask::dense(1, 2))?;
    step(&layer, &mut cache, &batch, &hidden)?;
    Ok(())
}
