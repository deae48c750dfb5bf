//! Cross attention: what is cached once serves every later step.

use mla_generated::bart_large_cross::{
    BartLargeCrossAttention, CONTEXT_HIDDEN_SIZE, Cache, HIDDEN_SIZE, TENSORS,
};
use mla_runtime::weights::generator::Recipe;
use mla_runtime::{Batch, Cpu, CpuDevice, Mask, Rows, Sequence, Weights};

/// Tokens of each request, and of its context.
const TOKENS: [usize; 2] = [5, 3];
const CONTEXTS: [usize; 2] = [70, 41];

fn rows<const W: usize>(seed: u64, rows: usize) -> Vec<f32> {
    Recipe::for_hidden_states(seed).values("rows", rows * W)
}

fn ends(lengths: [usize; 2]) -> Mask {
    Mask::cu_seqlens(&[0, lengths[0] as u32, (lengths[0] + lengths[1]) as u32])
}

/// A batch of `new` tokens per request, whose contexts lie in shuffled pages of 64.
fn batch(new: [usize; 2]) -> Batch {
    let blocks: [&[u32]; 2] = [&[3, 0], &[2]];
    let request = |i: usize| Sequence {
        cached: CONTEXTS[i],
        new: new[i],
        blocks: blocks[i],
    };
    Batch::new(&[request(0), request(1)]).unwrap()
}

#[test]
fn a_cached_context_gives_what_forward_gives() {
    let device = CpuDevice::new();
    let weights = Weights::random("layer", &TENSORS, 0).unwrap();
    let layer = BartLargeCrossAttention::<Cpu>::load(&weights, "layer", &device).unwrap();
    let total: usize = TOKENS.iter().sum();
    let hidden = rows::<HIDDEN_SIZE>(1, total);
    let context = rows::<CONTEXT_HIDDEN_SIZE>(2, CONTEXTS.iter().sum());
    let context = Rows::from_vec(&device, context).unwrap();
    let whole = Rows::from_vec(&device, hidden.clone()).unwrap();
    let positions = vec![0; total];
    let wanted = layer
        .forward(&whole, &positions, &ends(TOKENS), &context, &ends(CONTEXTS))
        .unwrap()
        .to_vec()
        .unwrap();

    let mut cache = Cache::<Cpu>::paged(&device, 4).unwrap();
    let part = |from: [usize; 2], new: [usize; 2]| {
        let starts = [0, TOKENS[0]];
        let values: Vec<f32> = (0..2)
            .flat_map(|i| {
                let first = starts[i] + from[i];
                hidden[first * HIDDEN_SIZE..(first + new[i]) * HIDDEN_SIZE].to_vec()
            })
            .collect();
        Rows::<Cpu, HIDDEN_SIZE>::from_vec(&device, values).unwrap()
    };
    let first = layer
        .prefill(&mut cache, &batch([4, 2]), &part([0, 0], [4, 2]), &context)
        .unwrap()
        .to_vec()
        .unwrap();
    let last = layer
        .decode(&mut cache, &batch([1, 1]), &part([4, 2], [1, 1]))
        .unwrap()
        .to_vec()
        .unwrap();
    let row = |values: &[f32], i: usize| values[i * HIDDEN_SIZE..(i + 1) * HIDDEN_SIZE].to_vec();
    let found: Vec<f32> = [
        first[..4 * HIDDEN_SIZE].to_vec(),
        row(&last, 0),
        first[4 * HIDDEN_SIZE..].to_vec(),
        row(&last, 1),
    ]
    .concat();
    let error = found
        .iter()
        .zip(&wanted)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max);
    assert!(error < 1e-4, "max error {error}");
    assert!(wanted.iter().any(|value| value.abs() > 1e-3));
}

#[test]
fn a_batch_beyond_its_context_is_refused() {
    let device = CpuDevice::new();
    let weights = Weights::random("layer", &TENSORS, 0).unwrap();
    let layer = BartLargeCrossAttention::<Cpu>::load(&weights, "layer", &device).unwrap();
    let mut cache = Cache::<Cpu>::paged(&device, 4).unwrap();
    let short = Batch::new(&[Sequence {
        cached: 70,
        new: 1,
        blocks: &[1],
    }])
    .unwrap();
    let hidden = Rows::from_vec(&device, rows::<HIDDEN_SIZE>(1, 1)).unwrap();
    assert!(layer.decode(&mut cache, &short, &hidden).is_err());
}
