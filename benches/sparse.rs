//! How sparse decode grows: attention with the number of selected keys, scoring with the context, each in time and in memory; and what of the
//! selection is left where keys are cached in fewer bits.
//!
//! DeepSeek-V3.2's sizes: 128 heads over latents of 512 and rope keys of 64, an indexer of 64 heads of 128; one new token.

use mla_runtime::weights::generator::Recipe;
use mla_runtime::{
    AccumLinear, Batch, Contiguous, Cpu, CpuDevice, Heads, IndexCache, Interleaved, KvCache,
    LatentCache, PerHead, Rows, Selecting, Selection, Sequence, Visibility,
};
use peak_alloc::PeakAlloc;

use crate::machine::{Clock, Fault};
use crate::options::Options;
use crate::overlap;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

const HEADS: usize = 128;
const LATENT: usize = 512;
const ROPE: usize = 64;
pub(crate) const INDEX_HEADS: usize = 64;
pub(crate) const INDEX_DIM: usize = 128;
const SCALE: f64 = 0.1352337788608801;

/// Cached tokens.
const CONTEXTS: [usize; 4] = [4096, 16384, 65536, 131_072];
/// Selected keys.
const SELECTED: [usize; 4] = [256, 512, 1024, 2048];

type Latents = LatentCache<Cpu, f32, Interleaved, Contiguous, LATENT, ROPE>;
type Keys = IndexCache<Cpu, f32, Contiguous, INDEX_DIM>;

/// Seconds of one call, the least of all rounds, and the most bytes that it had allocated at once.
#[derive(Debug, Clone, Copy)]
struct Cost {
    seconds: f64,
    bytes: f64,
}

/// Prints both tables and their slopes.
///
/// # Errors
/// The runtime refuses, or the clock.
pub(crate) fn run(options: &Options) -> Result<(), Fault> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.threads)
        .build()?;
    pool.install(|| -> Result<(), Fault> {
        println!(
            "sparse decode of one token, f32, {} threads, least of {} rounds\n",
            options.threads, options.rounds
        );
        println!("attention over selected latents: milliseconds / KiB allocated");
        print!("{:>9}", "context");
        SELECTED
            .iter()
            .for_each(|selected| print!(" {:>18}", format!("topk {selected}")));
        println!();
        let mut attention = Vec::new();
        for context in CONTEXTS {
            let row = attend(options, context)?;
            print!("{context:>9}");
            row.iter().for_each(|cost| {
                print!(" {:>9.3} {:>8.0}", cost.seconds * 1e3, cost.bytes / 1024.0)
            });
            println!();
            attention.push(row);
        }
        println!("\nscoring and top-k of 2048: milliseconds / KiB allocated");
        let mut scoring = Vec::new();
        for context in CONTEXTS {
            let cost = score(options, context)?;
            println!(
                "{context:>9} {:>9.3} {:>8.0}",
                cost.seconds * 1e3,
                cost.bytes / 1024.0
            );
            scoring.push(cost);
        }
        slopes(&attention, &scoring);
        overlap::run()
    })
}

/// Attention over each number of selected latents.
fn attend(options: &Options, context: usize) -> Result<Vec<Cost>, Fault> {
    let device = CpuDevice::new();
    let mut cache = Latents::contiguous(&device, 1, context + 1)?;
    cache.fill(0.25)?;
    let batch = batch(context)?;
    let q_latent: Heads<Cpu, HEADS, LATENT> =
        Rows::<Cpu, { HEADS * LATENT }>::from_vec(&device, values(1, HEADS * LATENT))?.into_heads();
    let q: Heads<Cpu, HEADS, ROPE> =
        Rows::<Cpu, { HEADS * ROPE }>::from_vec(&device, values(2, HEADS * ROPE))?.into_heads();
    let selected = (
        positions::<256>(&device, context)?,
        positions::<512>(&device, context)?,
        positions::<1024>(&device, context)?,
        positions::<2048>(&device, context)?,
    );
    macro_rules! cost {
        ($selection:expr) => {
            measure(options, || {
                let q_rope = q.part::<0, ROPE>();
                let attended: Heads<Cpu, HEADS, LATENT> = cache.attend_selected(
                    &batch,
                    &q_latent,
                    q_rope,
                    &$selection,
                    Visibility::CAUSAL,
                    SCALE,
                )?;
                Ok(drop(attended))
            })?
        };
    }
    Ok(vec![
        cost!(selected.0),
        cost!(selected.1),
        cost!(selected.2),
        cost!(selected.3),
    ])
}

/// Scores of all cached keys, and the best 2048.
fn score(options: &Options, context: usize) -> Result<Cost, Fault> {
    let device = CpuDevice::new();
    let mut cache = Keys::contiguous(&device, 1, context + 1)?;
    let cached = Batch::new(&[Sequence {
        cached: 0,
        new: context,
        blocks: &[0],
    }])?;
    let keys = Rows::<Cpu, INDEX_DIM>::from_vec(&device, values(5, context * INDEX_DIM))?;
    cache.write(&cached, &keys)?;
    let batch = batch(context)?;
    let q: Heads<Cpu, INDEX_HEADS, INDEX_DIM> = Rows::<Cpu, { INDEX_HEADS * INDEX_DIM }>::from_vec(
        &device,
        values(3, INDEX_HEADS * INDEX_DIM),
    )?
    .into_heads();
    let weights = AccumLinear::<Cpu, 1, INDEX_HEADS>::new(&device, values(4, INDEX_HEADS), None)?;
    let weights: PerHead<Cpu, INDEX_HEADS> =
        weights.forward(&Rows::from_vec(&device, vec![1.0])?)?;
    let selecting = Selecting {
        scale: 1.0 / ((INDEX_HEADS * INDEX_DIM) as f64).sqrt(),
        relu: true,
        initial: 0,
        local: 0,
    };
    measure(options, || {
        cache
            .select::<INDEX_HEADS, 2048>(&batch, &q, &weights, Visibility::CAUSAL, &selecting)
            .map(drop)
    })
}

/// The slopes, between the extremes of each axis.
fn slopes(attention: &[Vec<Cost>], scoring: &[Cost]) {
    let (Some(short), Some(long)) = (attention.first(), attention.last()) else {
        return;
    };
    let tokens = (CONTEXTS[CONTEXTS.len() - 1] - CONTEXTS[0]) as f64;
    let keys = (SELECTED[SELECTED.len() - 1] - SELECTED[0]) as f64;
    let last = SELECTED.len() - 1;
    println!("\nslopes: nanoseconds and bytes per key more");
    for (what, fewer, more, count) in [
        ("attention, per selected key", long[0], long[last], keys),
        (
            "attention, per cached token",
            short[last],
            long[last],
            tokens,
        ),
        (
            "scoring, per cached token",
            scoring[0],
            scoring[scoring.len() - 1],
            tokens,
        ),
    ] {
        println!(
            "{what:<28} {:>10.2} {:>10.2}",
            (more.seconds - fewer.seconds) / count * 1e9,
            (more.bytes - fewer.bytes) / count
        );
    }
}

fn measure(
    options: &Options,
    mut call: impl FnMut() -> mla_runtime::Result<()>,
) -> Result<Cost, Fault> {
    call()?;
    let mut cost = Cost {
        seconds: f64::INFINITY,
        bytes: 0.0,
    };
    for _ in 0..options.rounds.max(3) {
        MEMORY.reset_peak_usage();
        let before = MEMORY.current_usage();
        let clock: Clock = options.clock;
        let (seconds, result) = clock.time(&mut call);
        result?;
        cost.seconds = cost.seconds.min(seconds?);
        cost.bytes = MEMORY.peak_usage().saturating_sub(before) as f64;
    }
    Ok(cost)
}

fn batch(context: usize) -> mla_runtime::Result<Batch> {
    Batch::new(&[Sequence {
        cached: context,
        new: 1,
        blocks: &[0],
    }])
}

pub(crate) fn values(seed: u64, count: usize) -> Vec<f32> {
    Recipe::for_hidden_states(seed).values("values", count)
}

/// `K` positions spread over the context, as an indexer might pick them.
fn positions<const K: usize>(
    device: &CpuDevice,
    context: usize,
) -> mla_runtime::Result<Selection<Cpu, K>> {
    let positions = (0..K).map(|i| (i * context / K) as i32).collect();
    Selection::from_vec(device, positions)
}
