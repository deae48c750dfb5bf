//! Byte formats: bit for bit what PyTorch makes of the same values, as many bytes as documented, and attention over them.

mod attention;
mod golden;
mod queries;
mod sizes;

use mla_runtime::{Batch, Cpu, CpuDevice, RopeKey, Rows, Sequence, Unrotated};

const DEVICE: CpuDevice = CpuDevice::new();
type B = Cpu<f32>;

fn rows<const W: usize>(values: Vec<f32>) -> Rows<B, W> {
    Rows::from_vec(&DEVICE, values).expect("rows")
}

/// `count` rows of `R` values, at most 64 and perhaps none: columns of a wider tensor.
fn key<const R: usize>(values: Vec<f32>, count: usize) -> RopeKey<B, Unrotated, R> {
    let mut wide = vec![0.0; count * 64];
    for (i, value) in values.into_iter().enumerate() {
        wide[i / R * 64 + i % R] = value;
    }
    RopeKey::unrotated(rows::<64>(wide).columns::<0, R>()).expect("key")
}

fn batch(sequences: &[(usize, usize, &[u32])]) -> Batch {
    let sequences: Vec<Sequence<'_>> = sequences
        .iter()
        .map(|&(cached, new, blocks)| Sequence {
            cached,
            new,
            blocks,
        })
        .collect();
    Batch::new(&sequences).expect("batch")
}
