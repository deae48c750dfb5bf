//! Decode steps as one graph: recorded once, run again with other lengths, other tokens and other block tables.

use mla_generated::odd_small::OddSmallAttention as Layer;
use mla_runtime::weights::generator::Recipe;
use mla_runtime::{
    Batch, Cuda, CudaDevice, CudaGraph, CudaOptions, Decode, Extras, KvCache, Load, NoProbe,
    Prefill, Result, Sequence, Tensor, Weights,
};

type B = Cuda<f32>;
type Cache = mla_generated::odd_small::Cache<B, f32>;

const REQUESTS: usize = 3;
const PROMPT: usize = 5;
const STEPS: usize = 9;

/// The device, with kernels for any sizes.
fn device() -> CudaDevice {
    let device = CudaDevice::any(CudaOptions::default());
    device.provide(mla_codegen::cuda::kernel_text);
    device
}

/// The layer, and a cache whose blocks are twice as many as are needed.
fn start(device: &CudaDevice) -> Result<(Layer<B>, Cache, Vec<Vec<u32>>)> {
    let weights = Weights::random("layer", <Layer<B> as Load<B>>::TENSORS, 3)?;
    let layer = Layer::<B>::load(&weights, "layer", device)?;
    let page = Cache::PAGE_SIZE.unwrap_or(PROMPT + STEPS);
    let each = (PROMPT + STEPS).div_ceil(page);
    let mut cache = Cache::with_blocks(device, 2 * REQUESTS * each, page)?;
    cache.fill(f64::NAN)?;
    // Every other block, the last ones first
    let tables = (0..REQUESTS)
        .map(|request| {
            (0..each)
                .map(|i| (2 * (request * each + i)) as u32)
                .rev()
                .collect()
        })
        .collect();
    Ok((layer, cache, tables))
}

/// New tokens of all requests.
fn hidden(device: &CudaDevice, tokens: usize, step: u64) -> Result<Tensor<B>> {
    let width = <Layer<B> as Load<B>>::HIDDEN_SIZE;
    let values = Recipe::for_hidden_states(step).values("hidden", REQUESTS * tokens * width);
    Tensor::from_vec(device, values, width)
}

fn batch(tables: &[Vec<u32>], cached: usize, new: usize) -> Result<Batch> {
    // Requests have different lengths: those of later ones are behind
    let sequences: Vec<Sequence<'_>> = tables
        .iter()
        .map(|blocks| Sequence {
            cached,
            new,
            blocks,
        })
        .collect();
    Batch::new(&sequences)
}

fn prompt(
    device: &CudaDevice,
    layer: &Layer<B>,
    cache: &mut Cache,
    tables: &[Vec<u32>],
) -> Result<()> {
    let hidden = hidden(device, PROMPT, 100)?;
    let batch = batch(tables, 0, PROMPT)?;
    layer
        .prefill_erased::<f32, f32>(cache, &batch, &hidden, &mut Extras::default(), &mut NoProbe)
        .map(drop)
}

fn step(
    device: &CudaDevice,
    layer: &Layer<B>,
    cache: &mut Cache,
    tables: &[Vec<u32>],
    at: usize,
) -> Result<Tensor<B>> {
    let hidden = hidden(device, 1, at as u64)?;
    let batch = batch(tables, PROMPT + at, 1)?;
    layer.decode_erased::<f32, f32>(cache, &batch, &hidden, &mut Extras::default(), &mut NoProbe)
}

#[test]
fn steps_of_a_graph_are_those_without_one() {
    let device = device();
    let (layer, mut cache, tables) = start(&device).expect("a layer");
    prompt(&device, &layer, &mut cache, &tables).expect("a prompt");
    let wanted: Vec<Vec<f32>> = (0..STEPS)
        .map(|at| step(&device, &layer, &mut cache, &tables, at)?.to_vec())
        .collect::<Result<_>>()
        .expect("steps");
    // The same tokens in other blocks
    let (layer, mut cache, mut tables) = start(&device).expect("a layer");
    tables.iter_mut().flatten().for_each(|block| *block += 1);
    prompt(&device, &layer, &mut cache, &tables).expect("a prompt");
    let mut graph = CudaGraph::new(&device);
    for (at, wanted) in wanted.iter().enumerate() {
        let out = graph
            .run(|| step(&device, &layer, &mut cache, &tables, at))
            .expect("a step");
        assert_eq!(&out.to_vec().expect("values"), wanted, "step {at}");
    }
    assert_eq!(graph.recordings(), 1, "lengths grew, and nothing else did");
}

#[test]
fn a_step_neither_allocates_nor_waits() {
    let device = device();
    let (layer, mut cache, tables) = start(&device).expect("a layer");
    prompt(&device, &layer, &mut cache, &tables).expect("a prompt");
    let mut graph = CudaGraph::new(&device);
    for at in 0..STEPS {
        let before = device.statistics();
        let out = match at % 2 {
            // Once each way, so that there is something to use again
            0 => step(&device, &layer, &mut cache, &tables, at),
            _ => graph.run(|| step(&device, &layer, &mut cache, &tables, at)),
        };
        drop(out.expect("a step"));
        let after = device.statistics();
        if at >= 2 {
            assert_eq!(after.allocations, before.allocations, "step {at} allocates");
            assert_eq!(after.waits, before.waits, "step {at} waits");
        }
    }
    assert_eq!(graph.recordings(), 1);
}

#[test]
fn the_same_step_gives_the_same_bits_whatever_shared_memory_held() {
    let device = device();
    let (layer, mut cache, tables) = start(&device).expect("a layer");
    prompt(&device, &layer, &mut cache, &tables).expect("a prompt");
    let mut graph = CudaGraph::new(&device);
    let mut bits = || -> Result<Vec<u32>> {
        let out = graph.run(|| step(&device, &layer, &mut cache, &tables, 0))?;
        Ok(out.to_vec()?.into_iter().map(f32::to_bits).collect())
    };
    let first = bits().expect("a step");
    // An emulated device takes seconds for what a GPU does in milliseconds
    let runs = if device.arch() == "host" { 3 } else { 1000 };
    for run in 0..runs {
        let patterns = [0xffff_ffff, 0x7f80_0000, 0, 0x3f80_0000, 0xdead_beef];
        device
            .poison_shared_memory(patterns[run % patterns.len()])
            .expect("it runs");
        assert_eq!(bits().expect("a step"), first, "run {run}");
    }
}
