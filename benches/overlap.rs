//! What an indexer chooses among keys that are cached in fewer bits, beside what it chooses among the same keys in f32.
//!
//! DeepSeek-V3.2's indexer: 64 heads of 128, 2048 keys of each query's. Queries stay in f32.

use std::collections::HashSet;

use mla_runtime::{
    AccumLinear, AnyScale, Batch, CacheFormat, Contiguous, Cpu, CpuDevice, Heads, IndexCache,
    IndexFp8, IndexMxfp4, PerHead, PowerOfTwo, Rows, Selecting, Sequence, Visibility,
};

use crate::machine::Fault;
use crate::sparse::{INDEX_DIM, INDEX_HEADS, values};

const CONTEXT: usize = 32768;
const CHOSEN: usize = 2048;
const QUERIES: usize = 4;

/// Keys of a context.
struct Keys {
    name: &'static str,
    values: Vec<f32>,
}

/// Keys that are alike in nothing, keys of which all differ by a hundredth, and keys that come in pairs that differ by a ten-thousandth: in each pair, which is chosen is a matter of the last bits.
fn kinds() -> [Keys; 3] {
    let noise = values(5, CONTEXT * INDEX_DIM);
    let common = values(6, INDEX_DIM);
    let crowded = noise.chunks_exact(INDEX_DIM).flat_map(|own| {
        let both = own.iter().zip(&common);
        both.map(|(own, common)| common + 0.01 * own)
    });
    let paired = |key: usize| {
        let first = &noise[key / 2 * INDEX_DIM..][..INDEX_DIM];
        let own = &noise[key * INDEX_DIM..][..INDEX_DIM];
        first.iter().zip(own).map(|(first, own)| first + 1e-4 * own)
    };
    [
        Keys {
            name: "random",
            values: noise.clone(),
        },
        Keys {
            name: "crowded",
            values: crowded.collect(),
        },
        Keys {
            name: "in pairs",
            values: (0..CONTEXT).flat_map(paired).collect(),
        },
    ]
}

/// Prints the share of the keys chosen in f32 that are chosen too.
///
/// # Errors
/// The runtime refuses.
pub(crate) fn run() -> Result<(), Fault> {
    println!(
        "\nof {CHOSEN} keys chosen of {CONTEXT} in f32, the share that is chosen where keys are cached as\n"
    );
    println!(
        "{:<10} {:>9} {:>9} {:>14} {:>9}",
        "keys", "bf16", "fp8", "fp8, powers", "mxfp4"
    );
    for keys in kinds() {
        let exact = chosen::<f32>(&keys)?;
        let shares = [
            share(&exact, &chosen::<mla_runtime::bf16>(&keys)?),
            share(&exact, &chosen::<IndexFp8<AnyScale>>(&keys)?),
            share(&exact, &chosen::<IndexFp8<PowerOfTwo>>(&keys)?),
            share(&exact, &chosen::<IndexMxfp4>(&keys)?),
        ];
        let [bf16, fp8, powers, mxfp4] = shares;
        println!(
            "{:<10} {bf16:>9.4} {fp8:>9.4} {powers:>14.4} {mxfp4:>9.4}",
            keys.name
        );
    }
    Ok(())
}

/// What is chosen for each query.
fn chosen<F: CacheFormat>(keys: &Keys) -> Result<Vec<HashSet<i32>>, Fault> {
    let device = CpuDevice::new();
    let mut cache =
        IndexCache::<Cpu, F, Contiguous, INDEX_DIM>::contiguous(&device, 1, CONTEXT + QUERIES)?;
    let cached = Batch::new(&[Sequence {
        cached: 0,
        new: CONTEXT,
        blocks: &[0],
    }])?;
    cache.write(&cached, &Rows::from_vec(&device, keys.values.clone())?)?;
    let batch = Batch::new(&[Sequence {
        cached: CONTEXT - QUERIES,
        new: QUERIES,
        blocks: &[0],
    }])?;
    let q = values(3, QUERIES * INDEX_HEADS * INDEX_DIM);
    let q: Heads<Cpu, INDEX_HEADS, INDEX_DIM> =
        Rows::<Cpu, { INDEX_HEADS * INDEX_DIM }>::from_vec(&device, q)?.into_heads();
    let weights = AccumLinear::<Cpu, 1, INDEX_HEADS>::new(&device, values(4, INDEX_HEADS), None)?;
    let weights: PerHead<Cpu, INDEX_HEADS> =
        weights.forward(&Rows::from_vec(&device, vec![1.0; QUERIES])?)?;
    let selecting = Selecting {
        scale: 1.0 / ((INDEX_HEADS * INDEX_DIM) as f64).sqrt(),
        relu: true,
        initial: 0,
        local: 0,
    };
    let selection = cache.select::<INDEX_HEADS, CHOSEN>(
        &batch,
        &q,
        &weights,
        Visibility::CAUSAL,
        &selecting,
    )?;
    let lists = selection.to_vec()?;
    Ok(lists
        .chunks_exact(CHOSEN)
        .map(|list| list.iter().copied().filter(|&key| key >= 0).collect())
        .collect())
}

/// The share of all chosen keys that are in both.
fn share(exact: &[HashSet<i32>], found: &[HashSet<i32>]) -> f64 {
    let all: usize = exact.iter().map(HashSet::len).sum();
    let both = exact.iter().zip(found);
    let shared: usize = both.map(|(a, b)| a.intersection(b).count()).sum();
    shared as f64 / all as f64
}
