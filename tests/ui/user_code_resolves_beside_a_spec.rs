use mla_runtime::{Batch, Cpu, CpuDevice, Mask, Result, Rows, Sequence, Weights, mla_layer};

#[mla_layer(spec = "../specs/err/rope_layout_missing.yaml")]
pub struct RopeLayoutMissing;

fn step(
    layer: &RopeLayoutMissing<Cpu>,
    cache: &mut RopeLayoutMissingCache<Cpu>,
    batch: &Batch,
    hidden: &Rows<Cpu, 2048>,
) -> Result<Rows<Cpu, 2048>> {
    layer.prefill(cache, batch, hidden)?;
    layer.decode(cache, batch, hidden)
}

fn main() -> Result<()> {
    let device = CpuDevice::default();
    let weights = Weights::open("model.safetensors")?;
    let layer = RopeLayoutMissing::<Cpu>::load(&weights, "model.layers.0.self_attn", &device)?;
    let mut cache = RopeLayoutMissingCache::contiguous(&device, 1, 16)?;
    let batch = Batch::new(&[Sequence { cached: 0, new: 2, blocks: &[] }])?;
    let hidden = Rows::from_f32(&device, &[0.0; 2 * 2048])?;
    layer.forward(&hidden, &[0, 1], &Mask::dense(1, 2))?;
    step(&layer, &mut cache, &batch, &hidden)?;
    Ok(())
}
