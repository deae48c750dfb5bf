//! Pooled index keys against plain `f64` loops: keys of pools, selections, and caches that change neither.

use mla_runtime::{
    Batch, CacheFormat, CacheLayout, Contiguous, Cpu, CpuDevice, CpuElement, Heads, KeyPools,
    KvCache, Mask, Padding, Paged, PerHead, PooledIndexCache, Rows, SelectingPools, Selection,
    Sequence, TensorShape, Visibility, Weights, bf16, indexer,
};

const DEVICE: CpuDevice = CpuDevice::new();
const HIDDEN: usize = 6;
const HI: usize = 2;
const DI: usize = 8;
const POOL: usize = 4;
/// Three pools and a tail of up to three.
const K: usize = 15;
const SELECTING: SelectingPools = SelectingPools {
    scale: 0.25,
    relu: true,
    always_select_tail: true,
};

/// Values that bf16 holds exactly, without ties among the scores that they make.
fn numbers(len: usize, seed: f64) -> Vec<f64> {
    (0..len)
        .map(|i| bf16::from_f64(((i as f64).powf(1.3) * 0.731 + seed).sin()).to_f64())
        .collect()
}

struct Layer<T: CpuElement> {
    q: Heads<Cpu<T>, HI, DI>,
    weights: PerHead<Cpu<T>, HI>,
    k: Rows<Cpu<T>, DI>,
    gates: Rows<Cpu<T>, DI>,
    pools: KeyPools<Cpu<T>, HIDDEN, DI, POOL>,
}

fn rows<T: CpuElement, const W: usize>(values: &[f64]) -> Rows<Cpu<T>, W> {
    Rows::from_f64(&DEVICE, values).unwrap()
}

/// Tokens `range` of a sequence.
fn layer<T: CpuElement>(range: std::ops::Range<usize>) -> Layer<T> {
    let part =
        |width: usize, seed| numbers(range.end * width, seed)[range.start * width..].to_vec();
    let cast = |values: Vec<f64>| values.into_iter().map(T::from_f64).collect();
    let pools = KeyPools::new(
        &DEVICE,
        cast(numbers(DI * HIDDEN, 5.0)),
        cast(numbers(POOL * DI, 6.0)),
    )
    .unwrap();
    let hidden: Rows<Cpu<T>, HIDDEN> = rows(&part(HIDDEN, 4.0));
    Layer {
        q: rows::<T, { HI * DI }>(&part(HI * DI, 1.0)).into_heads(),
        weights: rows::<T, HI>(&part(HI, 2.0)).view().to_per_head().unwrap(),
        k: rows(&part(DI, 3.0)),
        gates: pools.gates(&hidden).unwrap(),
        pools,
    }
}

/// The key of the pool that starts at a row.
fn pool_key(first: usize, tokens: usize) -> Vec<f64> {
    let (k, hidden) = (numbers(tokens * DI, 3.0), numbers(tokens * HIDDEN, 4.0));
    let (gate, ape) = (numbers(DI * HIDDEN, 5.0), numbers(POOL * DI, 6.0));
    (0..DI)
        .map(|c| {
            let weight = |t: usize| {
                let hidden = &hidden[(first + t) * HIDDEN..][..HIDDEN];
                let gate: f64 = gate[c * HIDDEN..]
                    .iter()
                    .zip(hidden)
                    .map(|(g, x)| g * x)
                    .sum();
                (gate + ape[t * DI + c]).exp()
            };
            let sum: f64 = (0..POOL).map(weight).sum();
            (0..POOL)
                .map(|t| weight(t) * k[(first + t) * DI + c])
                .sum::<f64>()
                / sum
        })
        .collect()
}

/// What row `t` of a sequence that starts at row `first` selects, by sorting all its pools.
fn wanted(first: usize, t: usize, tokens: usize, most: usize, tail: bool) -> Vec<i32> {
    let (q, w) = (numbers(tokens * HI * DI, 1.0), numbers(tokens * HI, 2.0));
    let seen = t + 1 - first;
    let score = |pool: usize| -> f64 {
        let key = pool_key(first + pool * POOL, tokens);
        let head = |j: usize| {
            let product: f64 = q[(t * HI + j) * DI..]
                .iter()
                .zip(&key)
                .map(|(q, k)| q * k)
                .sum();
            w[t * HI + j] * product.max(0.0)
        };
        (0..HI).map(head).sum()
    };
    let mut pools: Vec<(f64, usize)> = (0..seen / POOL).map(|pool| (-score(pool), pool)).collect();
    pools.sort_by(|a, b| a.partial_cmp(b).unwrap());
    pools.truncate(most);
    let mut positions: Vec<i32> = pools
        .iter()
        .flat_map(|&(_, pool)| pool * POOL..(pool + 1) * POOL)
        .chain(if tail { seen / POOL * POOL..seen } else { 0..0 })
        .map(|position| position as i32)
        .collect();
    positions.sort_unstable();
    positions.resize(most * POOL + if tail { POOL - 1 } else { 0 }, -1);
    positions
}

fn whole<T: CpuElement>() {
    const TOKENS: usize = 45;
    // The first sequence is shorter than a pool, the second starts inside a row of padding
    let starts = [0, 3, 8];
    let ids: Vec<u32> = (0..TOKENS as u32)
        .map(|t| match t {
            0..3 => 1,
            3..8 => 0,
            _ => 2,
        })
        .collect();
    let layer = layer::<T>(0..TOKENS);
    let segments = Mask::segment_ids(1, TOKENS, &ids)
        .segments(TOKENS, Visibility::CAUSAL, Padding::Allowed)
        .unwrap();
    let with_tail: Selection<Cpu<T>, K> = indexer::select_pools(
        &layer.q,
        &layer.k,
        &layer.gates,
        &layer.weights,
        &layer.pools,
        &segments,
        &SELECTING,
    )
    .unwrap();
    let no_tail = SelectingPools {
        always_select_tail: false,
        ..SELECTING
    };
    let without: Selection<Cpu<T>, 12> = indexer::select_pools(
        &layer.q,
        &layer.k,
        &layer.gates,
        &layer.weights,
        &layer.pools,
        &segments,
        &no_tail,
    )
    .unwrap();
    let (with_tail, without) = (with_tail.to_vec().unwrap(), without.to_vec().unwrap());
    for t in 0..TOKENS {
        let (found, found_without) = (
            &with_tail[t * K..(t + 1) * K],
            &without[t * 12..(t + 1) * 12],
        );
        if ids[t] == 0 {
            assert!(
                found
                    .iter()
                    .chain(found_without)
                    .all(|&position| position == -1)
            );
            continue;
        }
        let first = *starts.iter().rfind(|&&start| start <= t).unwrap();
        assert_eq!(found, wanted(first, t, TOKENS, 3, true), "query {t}");
        assert_eq!(
            found_without,
            wanted(first, t, TOKENS, 3, false),
            "query {t}"
        );
    }
}

#[test]
fn pools_are_selected_whole_and_tails_as_they_are() {
    whole::<f64>();
    whole::<f32>();
}

fn cached<T: CpuElement, F: CacheFormat, P: CacheLayout>(
    page: usize,
    blocks: &[u32],
    steps: &[usize],
) {
    let tokens = steps.iter().sum();
    let mut cache: PooledIndexCache<Cpu<T>, F, P, DI, POOL> =
        PooledIndexCache::with_blocks(&DEVICE, 12, page).unwrap();
    KvCache::fill(&mut cache, f64::NAN).unwrap();
    let mut at = 0;
    for &new in steps {
        let layer = layer::<T>(at..at + new);
        let batch = Batch::new(&[Sequence {
            cached: at,
            new,
            blocks,
        }])
        .unwrap();
        cache.check(&batch, new).unwrap();
        cache
            .write(&batch, &layer.k, &layer.gates, &layer.pools)
            .unwrap();
        let selection: Selection<Cpu<T>, K> = cache
            .select(
                &batch,
                &layer.q,
                &layer.weights,
                Visibility::CAUSAL,
                &SELECTING,
            )
            .unwrap();
        let found = selection.to_vec().unwrap();
        for (row, found) in found.chunks_exact(K).enumerate() {
            assert_eq!(
                found,
                wanted(0, at + row, tokens, 3, true),
                "query {}",
                at + row
            );
        }
        at += new;
    }
    let keys = cache.index_rows(blocks, tokens).unwrap().unwrap();
    assert_eq!(keys, numbers(tokens * DI, 3.0));
    let gates = cache.entries(blocks, tokens).unwrap().1.to_vec().unwrap();
    assert_eq!(gates.len(), tokens * DI);
}

#[test]
fn cached_pools_are_those_of_the_whole() {
    for steps in [vec![43], vec![1; 30], vec![3, 1, 1, 9, 2, 27]] {
        cached::<f64, f64, Paged<8>>(8, &[7, 2, 11, 0, 5, 3], &steps);
        cached::<f32, f32, Paged<4>>(4, &[7, 2, 11, 0, 5, 3, 1, 8, 4, 10, 6], &steps);
        cached::<f64, f32, Contiguous>(46, &[3], &steps);
    }
}

#[test]
fn tokens_that_are_written_again_make_new_pools() {
    let mut cache: PooledIndexCache<Cpu<f64>, f64, Contiguous, DI, POOL> =
        PooledIndexCache::contiguous(&DEVICE, 1, 16).unwrap();
    let batch = |cached, new| {
        Batch::new(&[Sequence {
            cached,
            new,
            blocks: &[0],
        }])
        .unwrap()
    };
    let mut write = |from: std::ops::Range<usize>, cached: usize| {
        let layer = layer::<f64>(from.clone());
        let batch = batch(cached, from.len());
        cache
            .write(&batch, &layer.k, &layer.gates, &layer.pools)
            .unwrap();
        let selection: Selection<Cpu<f64>, 7> = cache
            .select(
                &batch,
                &layer.q,
                &layer.weights,
                Visibility::CAUSAL,
                &SELECTING,
            )
            .unwrap();
        selection.to_vec().unwrap()
    };
    // Other tokens first, then the ones that count from position 6 on
    write(0..6, 0);
    write(30..40, 6);
    let again = write(6..16, 6);
    for (row, found) in again.chunks_exact(7).enumerate() {
        assert_eq!(found, wanted(0, 6 + row, 16, 1, true), "query {}", 6 + row);
    }
}

#[test]
fn gates_and_summands_load_by_the_checkpoint_s_names() {
    let tensors = [
        TensorShape::new("indexer.index_kpool_compress_gate", &[DI, HIDDEN]),
        TensorShape::new("indexer.index_kpool_compress_ape", &[POOL, DI]),
    ];
    let weights = Weights::random("l", &tensors, 3).unwrap();
    let selected = weights.exactly("l", &tensors).unwrap();
    let name = "indexer.index_kpool_compress";
    let pools: KeyPools<Cpu<f64>, HIDDEN, DI, POOL> =
        KeyPools::load(&selected, name, &DEVICE).unwrap();
    let gate = selected.read::<f64>(tensors[0].name).unwrap().1;
    let hidden = numbers(HIDDEN, 0.4);
    let found = pools
        .gates(&rows::<f64, HIDDEN>(&hidden))
        .unwrap()
        .to_vec()
        .unwrap();
    for (found, gate) in found.iter().zip(gate.chunks_exact(HIDDEN)) {
        let wanted: f64 = gate.iter().zip(&hidden).map(|(g, x)| g * x).sum();
        assert!((found - wanted).abs() < 1e-14);
    }
    assert!(KeyPools::<Cpu, HIDDEN, DI, 3>::load(&selected, name, &DEVICE).is_err());
    assert!(KeyPools::<Cpu, 5, DI, POOL>::load(&selected, name, &DEVICE).is_err());
}

#[test]
fn what_pools_cannot_be_is_refused() {
    let layer = layer::<f64>(0..6);
    let select = |segments: &mla_runtime::Segments| {
        let selection: Result<Selection<Cpu<f64>, K>, _> = indexer::select_pools(
            &layer.q,
            &layer.k,
            &layer.gates,
            &layer.weights,
            &layer.pools,
            segments,
            &SELECTING,
        );
        selection.is_err()
    };
    // New tokens of a request whose first ones are in a cache
    let late = Batch::new(&[Sequence {
        cached: 5,
        new: 6,
        blocks: &[],
    }])
    .unwrap();
    assert!(select(&late.segments(Visibility::CAUSAL).unwrap()));
    let given = Mask::visible(1, 6, &[true; 36]);
    assert!(select(
        &given
            .segments(6, Visibility::GIVEN, Padding::Refused)
            .unwrap()
    ));
    let other = Mask::dense(1, 5);
    assert!(select(
        &other
            .segments(5, Visibility::CAUSAL, Padding::Refused)
            .unwrap()
    ));
}
