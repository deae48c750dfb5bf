//! An indexer's queries that are rounded as its cache rounds keys.

use mla_runtime::{
    CacheFormat, Heads, IndexCache, IndexFp8, IndexMxfp4, Paged, PerHead, PowerOfTwo, Rows,
    Selecting, Selection, Visibility, bf16,
};

use super::{B, DEVICE, batch, rows};

const HI: usize = 2;
const DI: usize = 64;
const K: usize = 5;
const TOKENS: usize = 24;
const SELECTING: Selecting = Selecting {
    scale: 0.1,
    relu: true,
    initial: 0,
    local: 0,
};

/// Numbers between -1 and 1, of which hardly two are the same.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn heads(values: Vec<f32>) -> Heads<B, HI, DI> {
    rows::<{ HI * DI }>(values).into_heads()
}

/// What is selected by queries and by their rounded selves, of keys in the format `F`; and by queries that are not rounded.
fn selected<F: CacheFormat>(seed: u64) -> [Vec<i32>; 3] {
    let tokens = batch(&[(0, TOKENS, &[1, 0, 3])]);
    let cache = || IndexCache::<B, F, Paged<8>, DI>::paged(&DEVICE, 4 * HI).expect("cache");
    let mut keys = cache();
    let k: Rows<B, DI> = rows(numbers(TOKENS * DI, seed));
    keys.write(&tokens, &k).expect("written");
    let q = numbers(TOKENS * HI * DI, seed + 1);
    let weights: Rows<B, HI> = rows(numbers(TOKENS * HI, seed + 2));
    let weights: PerHead<B, HI> = weights.view().to_per_head().expect("weights");

    // What a cache gives back of queries that it is given as keys
    let mut kept = cache();
    let blocks: Vec<u32> = (0..6).collect();
    let lines = batch(&[(0, TOKENS * HI, &blocks)]);
    let given: Rows<B, DI> = rows(q.clone());
    kept.write(&lines, &given).expect("written");
    let said = kept.entries(&blocks, TOKENS * HI).expect("entries");
    let rounded = heads(said.to_vec().expect("values"));

    let list = |selection: Selection<B, K>| selection.to_vec().expect("values");
    let visibility = Visibility::CAUSAL;
    let by = |q: &Heads<B, HI, DI>| {
        list(
            keys.select(&tokens, q, &weights, visibility, &SELECTING)
                .expect("runs"),
        )
    };
    let q = heads(q);
    let found = keys.select_rounded(&tokens, &q, &weights, visibility, &SELECTING);
    [list(found.expect("runs")), by(&rounded), by(&q)]
}

#[test]
fn queries_are_rounded_as_keys_are() {
    fn check<F: CacheFormat>(changes: bool) {
        let mut changed = false;
        for seed in 1..20 {
            let [found, wanted, plain] = selected::<F>(seed);
            assert_eq!(found, wanted, "{}", F::NAME);
            changed |= found != plain;
        }
        assert_eq!(changed, changes, "{}", F::NAME);
    }
    check::<IndexFp8>(true);
    check::<IndexFp8<PowerOfTwo>>(true);
    check::<IndexMxfp4>(true);
    check::<bf16>(true);
    check::<f32>(false);
}
