//! Writes the table of the fastest algorithms for products that real layers ask for, on a GPU, where it is asked for:
//!
//! ```text
//! MLA_TUNED_PRODUCTS=nvidia-h200.tsv cargo test --release -p mla-tests --test tune_products
//! ```
//!
//! The file belongs into `runtime/src/cuda/driver/blas/tables/`.

/// DeepSeek-V3's layer as it is trained.
#[allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a generated module, of which a test uses a part"
)]
mod trained {
    include!(concat!(env!("OUT_DIR"), "/real_training.rs"));
}

use mla_runtime::weights::generator::Recipe;
use mla_runtime::{
    Batch, Cuda, CudaDevice, Decode, Extras, KvCache, Load, Mask, NoProbe, ParameterSet, Prefill,
    Result, Sequence, Tensor, Train, Weights, bf16,
};

type B = Cuda<bf16>;

/// Where the table is written to.
const ASKED: &str = "MLA_TUNED_PRODUCTS";
/// Tokens of a prompt, and of a sequence that is trained on.
const PROMPT: usize = 4096;
/// Requests of decode steps, and the tokens that each of them has cached.
const BATCHES: [usize; 4] = [1, 32, 64, 128];
const CACHED: usize = 8192;
/// Tokens per block.
const PAGE: usize = 64;

#[test]
fn tuning_writes_a_table() {
    let Some(path) = std::env::var_os(ASKED) else {
        eprintln!("skipped: {ASKED} names no file");
        return;
    };
    let device = match CudaDevice::gpu(0) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("skipped: {error}");
            return;
        }
    };
    device.provide(mla_codegen::cuda::kernel_text);
    device.tune_products().expect("cuBLASLt is there");
    type V3 = mla_generated::deepseek_v3::DeepSeekV3Attention<B>;
    type V32 = mla_generated::deepseek_v3_2::DeepSeekV32Attention<B>;
    serve::<V3>(&device).expect("DeepSeek-V3 is served");
    serve::<V32>(&device).expect("DeepSeek-V3.2 is served");
    train::<trained::deepseek_v3::Layer<B>>(&device).expect("DeepSeek-V3 is trained");
    let table = device.tuned_products().expect("a table");
    assert!(table.contains(&device.name()), "{table}");
    // Its comment, the GPU, the library and the columns come first
    assert!(table.lines().count() > 4, "nothing was timed:\n{table}");
    std::fs::write(&path, &table).expect("the file can be written");
    println!("{table}");
}

fn loaded<L: Load<B>>(device: &CudaDevice) -> Result<L> {
    L::load(&Weights::random("layer", L::TENSORS, 5)?, "layer", device)
}

fn hidden<L: Load<B>>(device: &CudaDevice, rows: usize) -> Result<Tensor<B>> {
    let recipe = Recipe::for_hidden_states(6);
    Tensor::generated(device, &recipe, "hidden", [rows, L::HIDDEN_SIZE])
}

/// A prompt, and a decode step of each batch.
fn serve<L: Prefill<B> + Decode<B>>(device: &CudaDevice) -> Result<()> {
    let layer = loaded::<L>(device)?;
    let each = CACHED / PAGE + 1;
    let most = BATCHES.into_iter().max().unwrap_or(0);
    let mut cache = L::Cache::<bf16, bf16>::with_blocks(device, most * each, PAGE)?;
    let tables: Vec<Vec<u32>> = (0..most)
        .map(|request| {
            (0..each)
                .map(|page| (page * most + request) as u32)
                .collect()
        })
        .collect();
    let (extras, probe) = (&mut Extras::default(), &mut NoProbe);
    let prompt = Batch::new(&[Sequence {
        cached: 0,
        new: PROMPT,
        blocks: &tables[0],
    }])?;
    layer.prefill_erased(
        &mut cache,
        &prompt,
        &hidden::<L>(device, PROMPT)?,
        extras,
        probe,
    )?;
    for requests in BATCHES {
        let sequences: Vec<Sequence<'_>> = tables[..requests]
            .iter()
            .map(|blocks| Sequence {
                cached: CACHED,
                new: 1,
                blocks,
            })
            .collect();
        let batch = Batch::new(&sequences)?;
        layer.decode_erased(
            &mut cache,
            &batch,
            &hidden::<L>(device, requests)?,
            extras,
            probe,
        )?;
    }
    device.synchronize()
}

/// A training step.
fn train<L: Train<B>>(device: &CudaDevice) -> Result<()> {
    let layer = loaded::<L>(device)?;
    let input = hidden::<L>(device, PROMPT)?;
    let positions: Vec<u32> = (0..PROMPT as u32).collect();
    let extras = &mut Extras::default();
    let mask = Mask::cu_seqlens(&[0, PROMPT as u32]);
    let (output, saved) = layer.forward_train_erased(&input, &positions, &mask, extras)?;
    let mut gradients = L::Parameters::zeros(device)?;
    layer.backward_erased(saved, &input, &output, extras, &mut gradients)?;
    device.synchronize()
}
