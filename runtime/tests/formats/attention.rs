//! Attention over caches of bytes: exactly that over what they decode to, and close to that over the values that were written.

use mla_runtime::{
    Attended, Batch, CacheFormat, Fp8DsMla, Fp8E4m3, Fp8E5m2, Fp8Model1, Heads, KvCache,
    LatentCache, Mxfp8, Paged, PowerOfTwo, Selection, Softmax, Tensor, Unrotated, Visibility,
};

use super::{B, DEVICE, batch, key, rows};

const C: usize = 256;
const R: usize = 32;
const H: usize = 3;
const K: usize = 8;
const SCALE: f64 = 0.06;

type Cache<F> = LatentCache<B, F, Unrotated, Paged<3>, C, R>;

/// Values of a normalised latent's size that repeat nowhere.
fn wave(len: usize, seed: f32) -> Vec<f32> {
    let value = |i: usize| (i as f32 * 0.731 + seed).sin() + (i as f32 * 0.137 - seed).cos();
    (0..len).map(value).collect()
}

fn heads<const D: usize>(rows: usize, seed: f32) -> Heads<B, H, D> {
    let tensor = Tensor::from_vec(&DEVICE, wave(rows * H * D, seed), H * D).expect("tensor");
    Heads::try_from(tensor).expect("heads")
}

fn write<F: CacheFormat>(cache: &mut Cache<F>, batch: &Batch, seed: f32) {
    let tokens = batch.tokens();
    let latent = rows::<C>(wave(tokens * C, seed));
    cache
        .write(
            batch,
            &latent,
            &key::<R>(wave(tokens * R, seed + 0.5), tokens),
        )
        .expect("written");
}

/// Two requests of 8 and 5 tokens, of which 3 and 1 are new; the second has padding.
fn batches() -> [Batch; 2] {
    let tables: [&[u32]; 2] = [&[6, 0, 3], &[5, 1]];
    let first = batch(&[(0, 5, tables[0]), (0, 4, tables[1])]);
    let second = batch(&[(5, 3, tables[0]), (4, 2, tables[1])])
        .with_slot_mapping(vec![2, 9, 10, 4, -1])
        .expect("slots");
    [first, second]
}

fn filled<F: CacheFormat>() -> Cache<F> {
    let mut cache = Cache::<F>::paged(&DEVICE, 7).expect("cache");
    KvCache::<B>::fill(&mut cache, f64::NAN).expect("filled");
    for (i, batch) in batches().iter().enumerate() {
        write(&mut cache, batch, i as f32);
    }
    cache
}

/// A plain cache of what another one decodes to.
fn decoded<F: CacheFormat>(cache: &Cache<F>) -> Cache<f32> {
    let mut plain = Cache::<f32>::paged(&DEVICE, 7).expect("cache");
    KvCache::<B>::fill(&mut plain, f64::NAN).expect("filled");
    for (tokens, blocks) in [(8, &[6, 0, 3][..]), (5, &[5, 1])] {
        let (latent, k_rope) = cache.entries(blocks, tokens).expect("entries");
        plain
            .write(&batch(&[(0, tokens, blocks)]), &latent, &k_rope)
            .expect("written");
    }
    plain
}

fn attend<F: CacheFormat>(
    cache: &Cache<F>,
    selection: Option<&Selection<B, K>>,
    visibility: Visibility,
    softmax: Softmax<'_, B>,
) -> Vec<f32> {
    let [_, batch] = batches();
    let (q, q_rope) = (heads::<C>(5, 0.3), heads::<R>(5, 0.4));
    let attended: Attended<B, H, C> = match selection {
        None => cache.attend(&batch, &q, q_rope.view(), visibility, softmax),
        Some(chosen) => {
            cache.attend_selected(&batch, &q, q_rope.view(), chosen, visibility, softmax)
        }
    }
    .expect("attended");
    let mut values = attended.to_vec().expect("values");
    values.extend(
        attended
            .lse()
            .to_vec()
            .expect("values")
            .iter()
            .filter(|lse| lse.is_finite()),
    );
    assert!(values.iter().all(|value| value.is_finite()));
    values
}

/// Root mean square of the difference, as a fraction of that of `wanted`.
fn difference(found: &[f32], wanted: &[f32]) -> f64 {
    let square = |values: &mut dyn Iterator<Item = f32>| -> f64 {
        values.map(|value| f64::from(value).powi(2)).sum()
    };
    let apart = square(&mut found.iter().zip(wanted).map(|(x, y)| x - y));
    (apart / square(&mut wanted.iter().copied())).sqrt()
}

fn softmax() -> Softmax<'static, B> {
    Softmax::scaled(SCALE)
}

/// Attention over a format is attention over its decoded values, whatever is selected or seen.
fn as_decoded<F: CacheFormat>() {
    let cache = filled::<F>();
    let plain = decoded(&cache);
    let window = Visibility::CAUSAL.window(Some(2), Some(0));
    // The last row is padding
    let lists: [&[u32]; 5] = [&[0, 5], &[1, 2, 6, 7], &[0, 3, 4, 7], &[1, 4], &[]];
    let selection = Selection::<B, K>::from_lists(&DEVICE, &lists).expect("selection");
    let dropped = Softmax::scaled(SCALE).dropout(Some(mla_runtime::Dropout {
        probability: 0.3,
        seed: 1,
    }));
    for visibility in [Visibility::CAUSAL, window] {
        for selection in [None, Some(&selection)] {
            for softmax in [softmax(), dropped] {
                let found = attend(&cache, selection, visibility, softmax);
                let wanted = attend(&plain, selection, visibility, softmax);
                let apart = difference(&found, &wanted);
                assert!(apart < 1e-6, "{}: {apart:e}", F::NAME);
            }
        }
    }
}

#[test]
fn attention_is_that_over_decoded_entries() {
    as_decoded::<Fp8E4m3>();
    as_decoded::<Fp8E5m2>();
    as_decoded::<Fp8DsMla>();
    as_decoded::<Fp8DsMla<PowerOfTwo>>();
    as_decoded::<Fp8Model1>();
    as_decoded::<Mxfp8>();
}

/// How far a format may be from an f32 cache, as a fraction of the output's root mean square.
///
/// e4m3 rounds by up to 1/16, e5m2 by up to 1/8 of a value; errors of the many values that are summed mostly cancel. Where the
/// rotated part is quantised as well, logits are a little further off.
fn close<F: CacheFormat>(allowed: f64) {
    let wanted = attend(&filled::<f32>(), None, Visibility::CAUSAL, softmax());
    let found = attend(&filled::<F>(), None, Visibility::CAUSAL, softmax());
    let apart = difference(&found, &wanted);
    assert!(apart < allowed, "{}: {apart:e}", F::NAME);
    assert!(
        apart > allowed / 20.0,
        "{}: {apart:e} is suspiciously close",
        F::NAME
    );
}

#[test]
fn decode_stays_close_to_a_cache_of_f32() {
    close::<Fp8E4m3>(0.04);
    close::<Fp8E5m2>(0.08);
    close::<Fp8DsMla>(0.04);
    close::<Fp8DsMla<PowerOfTwo>>(0.04);
    close::<Fp8Model1>(0.04);
    close::<Mxfp8>(0.04);
}

/// More tokens than are decoded at once.
#[test]
fn long_contexts_are_decoded_in_pieces() {
    const TOKENS: usize = 4096 + 300;
    type Small<F> = LatentCache<B, F, Unrotated, Paged<64>, 128, 0>;
    fn run<F: CacheFormat>(
        decoded: Option<&Small<Fp8DsMla>>,
        sparse: bool,
    ) -> (Small<F>, Vec<f32>) {
        let pages: Vec<u32> = (0..70).rev().collect();
        let mut cache = Small::<F>::paged(&DEVICE, 70).expect("cache");
        let all = batch(&[(0, TOKENS, &pages)]);
        match decoded {
            None => cache.write(
                &all,
                &rows::<128>(wave(TOKENS * 128, 0.7)),
                &key::<0>(vec![], TOKENS),
            ),
            Some(other) => {
                let (latent, k_rope) = other.entries(&pages, TOKENS).expect("entries");
                cache.write(&all, &latent, &k_rope)
            }
        }
        .expect("written");
        let last = batch(&[(TOKENS - 2, 2, &pages)]);
        let tensor = Tensor::from_vec(&DEVICE, wave(2 * H * 128, 0.1), H * 128).expect("tensor");
        let q: Heads<B, H, 128> = Heads::try_from(tensor).expect("heads");
        let tensor = Tensor::from_vec(&DEVICE, wave(2 * H, 0.1), H).expect("tensor");
        let wide: Heads<B, H, 1> = Heads::try_from(tensor).expect("heads");
        let q_rope = wide.part::<0, 0>();
        // Every token: more than are gathered at once
        let every: Vec<u32> = (0..TOKENS as u32).collect();
        let selection = Selection::<B, TOKENS>::from_lists(&DEVICE, &[&every, &every]);
        let selection = selection.expect("selection");
        let attended: mla_runtime::Result<Attended<B, H, 128>> = if sparse {
            cache.attend_selected(&last, &q, q_rope, &selection, Visibility::CAUSAL, softmax())
        } else {
            cache.attend(&last, &q, q_rope, Visibility::CAUSAL, softmax())
        };
        let values = attended.expect("attended").to_vec().expect("values");
        (cache, values)
    }
    for sparse in [false, true] {
        let (cache, found) = run::<Fp8DsMla>(None, sparse);
        let (_, wanted) = run::<f32>(Some(&cache), sparse);
        let apart = difference(&found, &wanted);
        assert!(apart < 1e-5, "{apart:e}");
    }
}
