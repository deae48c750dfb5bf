//! Layers at their models' own sizes: a GPU against the CPU, a long prompt and a full batch of decode steps. Where there is no GPU nothing runs.

use std::time::Instant;

use mla_runtime::weights::generator::Recipe;
use mla_runtime::{
    Backend, Batch, CacheElement, CacheFormat, CacheLayout, Cpu, Cuda, CudaDevice, Decode, Extras,
    IndexCache, IndexedCache, KvCache, LatentCache, NoProbe, Prefill, Result, RopeLayout, Rotary,
    Rows, Scalar, Sequence, Tensor, Weights, bf16,
};

/// Tokens of the prompt.
const PROMPT: usize = 4096;
/// Requests of a decode step.
const BATCH: usize = 64;
/// Tokens that each of them has cached.
const CACHED: usize = 8192;
/// Tokens per block.
const PAGE: usize = 64;

/// A cache that can be filled with random entries.
trait Filled<B: Backend> {
    /// Writes an entry for each of the batch's new tokens.
    fn write_random(&mut self, device: &B::Device, batch: &Batch, seed: u64) -> Result<()>;
}

fn random<B: Backend, const W: usize>(
    device: &B::Device,
    name: &str,
    rows: usize,
    seed: u64,
) -> Result<Rows<B, W>> {
    let recipe = Recipe::for_hidden_states(seed);
    Rows::try_from(Tensor::generated(device, &recipe, name, [rows, W])?)
}

impl<B: Backend, F: CacheFormat, L: RopeLayout, P: CacheLayout, const C: usize, const R: usize>
    Filled<B> for LatentCache<B, F, L, P, C, R>
{
    fn write_random(&mut self, device: &B::Device, batch: &Batch, seed: u64) -> Result<()> {
        let latent = random::<B, C>(device, "latent", batch.tokens(), seed)?;
        let key = random::<B, R>(device, "key", batch.tokens(), seed)?;
        let frequencies: Vec<f64> = (0..R / 2)
            .map(|i| 1e4_f64.powf(-2.0 * i as f64 / R as f64))
            .collect();
        let rotary = Rotary::<B, L, L, R>::new(device, &frequencies, 1.0)?;
        let key = rotary.key(&key, &rotary.angles(batch.positions())?)?;
        self.write(batch, &latent, &key)
    }
}

impl<B: Backend, KV: Filled<B>, F: CacheFormat, P: CacheLayout, const D: usize> Filled<B>
    for IndexedCache<KV, IndexCache<B, F, P, D>>
{
    fn write_random(&mut self, device: &B::Device, batch: &Batch, seed: u64) -> Result<()> {
        self.kv.write_random(device, batch, seed)?;
        self.index.write(
            batch,
            &random::<B, D>(device, "index", batch.tokens(), seed)?,
        )
    }
}

/// Outputs of a prompt and of a decode step, and how long each took in seconds.
struct Outputs {
    prompt: Vec<f64>,
    step: Vec<f64>,
    seconds: [f64; 2],
}

fn outputs<L, B>(device: &B::Device) -> Result<Outputs>
where
    B: Backend<Elem: CacheElement>,
    L: Prefill<B> + Decode<B>,
    L::Cache<B::Elem, B::Elem>: Filled<B>,
{
    let weights = Weights::random("layer", L::TENSORS, 5)?;
    let layer = L::load(&weights, "layer", device)?;
    drop(weights);
    let blocks: Vec<u32> = (0..(PROMPT / PAGE) as u32).rev().collect();
    let mut cache = L::Cache::<B::Elem, B::Elem>::with_blocks(device, blocks.len(), PAGE)?;
    let batch = Batch::new(&[Sequence {
        cached: 0,
        new: PROMPT,
        blocks: &blocks,
    }])?;
    let hidden = |rows, seed| {
        let recipe = Recipe::for_hidden_states(seed);
        Tensor::generated(device, &recipe, "hidden", [rows, L::HIDDEN_SIZE])
    };
    let prompt = hidden(PROMPT, 6)?;
    let (prompt, first) = timed(|| {
        layer.prefill_erased(
            &mut cache,
            &batch,
            &prompt,
            &mut Extras::default(),
            &mut NoProbe,
        )
    })?;
    drop(cache);
    let each = (CACHED / PAGE + 1) as u32;
    // Neighbouring tokens' pages of a request lie far apart
    let tables: Vec<Vec<u32>> = (0..BATCH as u32)
        .map(|request| {
            (0..each)
                .map(|page| page * BATCH as u32 + request)
                .collect()
        })
        .collect();
    let mut cache = L::Cache::<B::Elem, B::Elem>::with_blocks(device, BATCH * each as usize, PAGE)?;
    for (request, blocks) in tables.iter().enumerate() {
        let filled = Batch::new(&[Sequence {
            cached: 0,
            new: CACHED,
            blocks,
        }])?;
        cache.write_random(device, &filled, request as u64)?;
    }
    let sequences: Vec<Sequence<'_>> = tables
        .iter()
        .map(|blocks| Sequence {
            cached: CACHED,
            new: 1,
            blocks,
        })
        .collect();
    let batch = Batch::new(&sequences)?;
    let hidden = hidden(BATCH, 7)?;
    let mut step = || {
        layer.decode_erased(
            &mut cache,
            &batch,
            &hidden,
            &mut Extras::default(),
            &mut NoProbe,
        )
    };
    step()?; // kernels are compiled, memory is there
    let (step, second) = timed(step)?;
    Ok(Outputs {
        prompt,
        step,
        seconds: [first, second],
    })
}

/// A result on the host, and the seconds until it was there.
fn timed<B: Backend>(run: impl FnOnce() -> Result<Tensor<B>>) -> Result<(Vec<f64>, f64)> {
    let start = Instant::now();
    let values = run()?.to_vec()?;
    let seconds = start.elapsed().as_secs_f64();
    Ok((values.into_iter().map(Scalar::to_f64).collect(), seconds))
}

/// Root mean square of the difference, as a fraction of that of `wanted`.
fn relative(found: &[f64], wanted: &[f64]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let differences: f64 = found
        .iter()
        .zip(wanted)
        .map(|(a, b)| (a - b) * (a - b))
        .sum();
    let squares: f64 = wanted.iter().map(|b| b * b).sum();
    (differences / squares).sqrt()
}

fn judge(name: &str, dtype: &str, found: &Outputs, wanted: &Outputs, tolerance: f64) {
    let errors = [
        relative(&found.prompt, &wanted.prompt),
        relative(&found.step, &wanted.step),
    ];
    println!(
        "{name} {dtype}: prefill {PROMPT} off by {:.2e} ({:.0} ms; CPU {:.1} s), decode {BATCH} x {CACHED} off by {:.2e} ({:.2} ms; CPU {:.1} s)",
        errors[0],
        found.seconds[0] * 1e3,
        wanted.seconds[0],
        errors[1],
        found.seconds[1] * 1e3,
        wanted.seconds[1],
    );
    for error in errors {
        assert!(
            error <= tolerance,
            "{name} in {dtype}: off by {error:e}, {tolerance:e} is allowed"
        );
    }
}

/// A GPU with kernels for any sizes; `None` where there is none.
fn gpu() -> Option<CudaDevice> {
    let device = CudaDevice::gpu(0)
        .inspect_err(|error| eprintln!("skipped: {error}"))
        .ok()?;
    device.provide(mla_codegen::cuda::kernel_text);
    Some(device)
}

macro_rules! full_size {
    ($($module:ident $layer:ident $in_bf16:literal)+) => {
        $(#[test]
        fn $module() {
            use mla_generated::$module::$layer as Layer;
            let Some(device) = gpu() else { return };
            let wanted = outputs::<Layer<Cpu<f32>>, Cpu<f32>>(&Default::default()).expect("the CPU runs it");
            let found = outputs::<Layer<Cuda<f32>>, Cuda<f32>>(&device).expect("the GPU runs it");
            judge(stringify!($module), "f32", &found, &wanted, 1e-3);
            drop(found);
            device.trim();
            let found = outputs::<Layer<Cuda<bf16>>, Cuda<bf16>>(&device).expect("the GPU runs it");
            judge(stringify!($module), "bf16", &found, &wanted, $in_bf16);
        })+
    };
}

// Rounded scores pick some other keys: what attends to a selection differs by more than its roundings
full_size! {
    deepseek_v3 DeepSeekV3Attention 2e-2
    deepseek_v3_2 DeepSeekV32Attention 1e-1
    glm_5 GLM5Attention 1e-1
    minicpm3 MiniCPM3Attention 2e-2
    mistral_4 Mistral4Attention 2e-2
}
