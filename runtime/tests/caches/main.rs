//! Caches: what is written is what is read, in any layout; hostile batches are errors and change nothing.

mod refused;

use std::ops::Range;

use mla_runtime::{
    Attended, Batch, CacheFormat, CacheLayout, Contiguous, Cpu, CpuDevice, Error, Heads, KvCache,
    LatentCache, Mask, NaiveCache, Padding, Paged, RopeKey, Rows, Scalar, Sequence, Tensor,
    Unrotated, Visibility, attention, bf16, f16,
};
use proptest::prelude::*;

const DEVICE: CpuDevice = CpuDevice::new();
const C: usize = 5;
const R: usize = 2;
const H: usize = 3;
const N: usize = 4;
const V: usize = 3;
const SCALE: f64 = 0.5;
type B = Cpu<f64>;
type Latent<P, E = f64> = LatentCache<B, E, Unrotated, P, C, R>;
type Naive<P, E = f64> = NaiveCache<B, E, Unrotated, P, H, { N + R }, V>;

fn values(len: usize, seed: f64) -> Vec<f64> {
    (0..len).map(|i| (i as f64 * 0.731 + seed).sin()).collect()
}

/// Values for tokens `from .. from + rows` of an endless request `seed`.
fn tokens<const W: usize>(seed: f64, from: usize, rows: usize) -> Vec<f64> {
    values((from + rows) * W, seed)[from * W..].to_vec()
}

fn rows<const W: usize>(values: Vec<f64>) -> Rows<B, W> {
    Rows::from_vec(&DEVICE, values).expect("rows")
}

fn heads<const D: usize>(values: Vec<f64>) -> Heads<B, H, D> {
    Heads::try_from(Tensor::from_vec(&DEVICE, values, H * D).expect("rows")).expect("heads")
}

fn key(values: Vec<f64>) -> RopeKey<B, Unrotated, R> {
    RopeKey::unrotated(rows::<R>(values).view()).expect("key")
}

/// Both caches of one layout, fed alike.
struct Pair<P: CacheLayout, E: CacheFormat> {
    latent: Latent<P, E>,
    naive: Naive<P, E>,
}

impl<P: CacheLayout, E: CacheFormat> Pair<P, E> {
    fn new(blocks: usize, per_block: usize) -> Self {
        let mut latent = Latent::<P, E>::with_blocks(&DEVICE, blocks, per_block).expect("cache");
        let mut naive = Naive::<P, E>::with_blocks(&DEVICE, blocks, per_block).expect("cache");
        KvCache::<B>::fill(&mut latent, f64::NAN).expect("filled");
        KvCache::<B>::fill(&mut naive, f64::NAN).expect("filled");
        Self { latent, naive }
    }

    /// Writes and attends; outputs of both forms for the new tokens of all requests. Request `i` has seed `i`.
    fn step(&mut self, batch: &Batch) -> (Vec<f64>, Vec<f64>) {
        let all = |width: usize, offset: f64| -> Vec<f64> {
            batch
                .sequences()
                .enumerate()
                .flat_map(|(i, s)| {
                    values((s.cached + s.new) * width, i as f64 + offset)[s.cached * width..]
                        .to_vec()
                })
                .collect()
        };
        self.latent.check(batch, batch.tokens()).expect("fits");
        self.naive.check(batch, batch.tokens()).expect("fits");
        let k_rope = key(all(R, 0.1));
        self.latent
            .write(batch, rows::<C>(all(C, 0.2)).view(), &k_rope)
            .expect("written");
        self.naive
            .write(batch, &heads::<{ N + V }>(all(H * (N + V), 0.3)), &k_rope)
            .expect("written");
        let q_rope = heads::<R>(all(H * R, 0.5));
        let latent: Attended<B, H, C> = self
            .latent
            .attend(
                batch,
                &heads::<C>(all(H * C, 0.4)),
                q_rope.view(),
                Visibility::CAUSAL,
                SCALE,
            )
            .expect("attended");
        let naive: Attended<B, H, V> = self
            .naive
            .attend(
                batch,
                &heads::<{ N + R }>(all(H * (N + R), 0.6)),
                Visibility::CAUSAL,
                SCALE,
            )
            .expect("attended");
        (
            latent.to_vec().expect("values"),
            naive.to_vec().expect("values"),
        )
    }
}

/// The same for one whole request without a cache.
fn whole(seed: f64, len: usize) -> (Vec<f64>, Vec<f64>) {
    let segments = Mask::dense(1, len)
        .segments(len, Visibility::CAUSAL, Padding::Refused)
        .expect("segments");
    let k_rope = key(tokens::<R>(seed + 0.1, 0, len));
    let latent = rows::<C>(tokens::<C>(seed + 0.2, 0, len));
    let q_rope = heads::<R>(values(len * H * R, seed + 0.5));
    let q = heads::<C>(values(len * H * C, seed + 0.4));
    let absorbed: Attended<B, H, C> =
        attention::absorbed(&q, q_rope.view(), &latent, &k_rope, &segments, SCALE)
            .expect("attended");
    let kv = heads::<{ N + V }>(values(len * H * (N + V), seed + 0.3));
    let q = heads::<{ N + R }>(values(len * H * (N + R), seed + 0.6));
    let expanded: Attended<B, H, V> =
        attention::expanded(&q, &kv, &k_rope, &segments, SCALE).expect("attended");
    (
        absorbed.to_vec().expect("values"),
        expanded.to_vec().expect("values"),
    )
}

fn assert_close(found: &[f64], wanted: &[f64], tolerance: f64) {
    assert_eq!(found.len(), wanted.len());
    for (i, (x, y)) in found.iter().zip(wanted).enumerate() {
        assert!((x - y).abs() <= tolerance, "at {i}: {x} is not {y}");
    }
}

/// Feeds three requests in ragged pieces and compares every row with the whole.
fn ragged<P: CacheLayout, E: CacheFormat>(
    blocks: usize,
    per_block: usize,
    tables: [&[u32]; 3],
    pieces: &[[usize; 3]],
    tolerance: f64,
) {
    let mut caches = Pair::<P, E>::new(blocks, per_block);
    let mut cached = [0; 3];
    for piece in pieces {
        let sequences: Vec<Sequence<'_>> = (0..3)
            .map(|i| Sequence {
                cached: cached[i],
                new: piece[i],
                blocks: tables[i],
            })
            .collect();
        let batch = Batch::new(&sequences).expect("batch");
        let (absorbed, expanded) = caches.step(&batch);
        let mut row = 0;
        for i in 0..3 {
            let (a, e) = whole(i as f64, cached[i] + piece[i]);
            let rows = row..row + piece[i];
            assert_close(
                &absorbed[rows.start * H * C..rows.end * H * C],
                &a[cached[i] * H * C..],
                tolerance,
            );
            assert_close(
                &expanded[rows.start * H * V..rows.end * H * V],
                &e[cached[i] * H * V..],
                tolerance,
            );
            row += piece[i];
            cached[i] += piece[i];
        }
    }
}

const PIECES: &[[usize; 3]] = &[
    [4, 0, 1],
    [0, 3, 1],
    [1, 1, 1],
    [5, 2, 0],
    [0, 0, 0],
    [1, 0, 4],
];

#[test]
fn contiguous_caches_in_ragged_steps() {
    ragged::<Contiguous, f64>(4, 11, [&[3], &[0], &[1]], PIECES, 1e-12);
    ragged::<Contiguous, f32>(4, 11, [&[3], &[0], &[1]], PIECES, 1e-6);
}

#[test]
fn pages_of_odd_sizes_in_any_order() {
    ragged::<Paged<1>, f64>(
        40,
        1,
        [
            &[9, 3, 20, 1, 0, 8, 39, 7, 6, 5, 4],
            &[30, 31, 32, 33, 34, 35],
            &[15, 10, 12, 11, 14, 13, 16],
        ],
        PIECES,
        1e-12,
    );
    ragged::<Paged<3>, f64>(12, 3, [&[9, 3, 2, 1], &[0, 8], &[11, 4, 5]], PIECES, 1e-12);
    ragged::<Paged<64>, f64>(3, 64, [&[2], &[0], &[1]], PIECES, 1e-12);
    ragged::<Paged<3>, bf16>(12, 3, [&[9, 3, 2, 1], &[0, 8], &[11, 4, 5]], PIECES, 2e-2);
    ragged::<Paged<3>, f16>(12, 3, [&[9, 3, 2, 1], &[0, 8], &[11, 4, 5]], PIECES, 2e-3);
}

#[test]
fn long_contexts_split_over_threads_and_runs_of_pages() {
    // Runs of 2 neighbouring pages of 70, broken in the middle: in-place and gathered blocks alternate
    let table: Vec<u32> = vec![4, 5, 0, 2, 3, 9, 8, 7, 6, 1];
    ragged::<Paged<70>, f64>(
        20,
        70,
        [&table, &[10], &[11]],
        &[[650, 2, 0], [1, 1, 1], [3, 0, 2]],
        1e-12,
    );
    ragged::<Contiguous, f32>(3, 700, [&[1], &[0], &[2]], &[[650, 2, 0], [1, 1, 1]], 1e-5);
}

#[test]
fn context_chunks_hold_every_token_once_new_ones_behind_their_last() {
    let mut caches = Pair::<Paged<3>, f64>::new(12, 3);
    let tables: [&[u32]; 4] = [&[9, 3, 2], &[0, 8], &[11, 4, 5], &[1]];
    let sequence = |i: usize, cached: usize, new: usize| Sequence {
        cached,
        new,
        blocks: tables[i],
    };
    caches.step(
        &Batch::new(&[sequence(0, 0, 7), sequence(1, 0, 2), sequence(2, 0, 5)]).expect("batch"),
    );
    // The second request has no new token, so nobody looks at its context; the last one has none
    let lengths = [(7, 2), (2, 0), (5, 1), (0, 3)];
    let batch: Vec<Sequence<'_>> = lengths
        .iter()
        .enumerate()
        .map(|(i, &(cached, new))| sequence(i, cached, new))
        .collect();
    let batch = Batch::new(&batch).expect("batch");
    let new = |row: usize| vec![100.0 + row as f64; C];
    let latent: Vec<f64> = (0..batch.tokens()).flat_map(new).collect();
    let latent = rows::<C>(latent);
    let key = key(vec![0.5; batch.tokens() * R]);
    for chunk in [1, 3, 4, 7, 11, 12, 100, usize::MAX] {
        let mut latents: [Vec<f64>; 3] = Default::default();
        for context in caches
            .latent
            .context(&batch, &latent, &key, chunk, Visibility::CAUSAL)
        {
            let context = context.expect("a chunk");
            assert!(context.latent.rows() <= chunk.saturating_add(batch.tokens()));
            assert_eq!(context.segments.keys(), context.latent.rows());
            assert_eq!(context.segments.queries(), 6);
            let values = context.latent.to_vec().expect("values");
            for segment in context.segments.list() {
                let request = match segment.queries.start {
                    0 => 0,
                    2 => 1,
                    _ => 2,
                };
                assert_eq!(segment.first_key, latents[request].len() / C);
                latents[request].extend(&values[segment.keys.start * C..segment.keys.end * C]);
            }
        }
        let wanted = |seed: f64, cached: usize, rows: Range<usize>| -> Vec<f64> {
            let cached = tokens::<C>(seed, 0, cached).into_iter();
            cached.chain(rows.flat_map(new)).collect()
        };
        assert_eq!(latents[0], wanted(0.2, 7, 0..2));
        assert_eq!(latents[1], wanted(2.2, 5, 2..3));
        assert_eq!(latents[2], wanted(0.0, 0, 3..6));
    }
    let mut refused = caches
        .latent
        .context(&batch, &latent, &key, 0, Visibility::CAUSAL);
    assert!(refused.next().expect("an error").is_err());
    assert!(refused.next().is_none());
}

#[test]
fn an_output_over_a_context_is_the_whole_answer_rounded() {
    let mut caches = Pair::<Paged<3>, f64>::new(4, 3);
    let batch = |cached: usize, new: usize| {
        let request = Sequence {
            cached,
            new,
            blocks: &[3, 0, 2],
        };
        Batch::new(&[request]).expect("a batch")
    };
    caches.step(&batch(0, 6));
    let batch = batch(6, 2);
    let (latent, key) = (rows::<C>(values(2 * C, 0.4)), key(values(2 * R, 0.5)));
    let q = heads::<{ N + R }>(values(2 * H * (N + R), 0.6));
    let expand = |latent: &Rows<B, C>| {
        let seed = latent.to_vec()?.iter().sum();
        Ok(heads::<{ N + V }>(values(
            latent.rows() * H * (N + V),
            seed,
        )))
    };
    // Six chunks, two, and one
    for chunk in [1, 3, 6] {
        let context = || {
            caches
                .latent
                .context(&batch, &latent, &key, chunk, Visibility::CAUSAL)
        };
        let whole: Attended<B, H, V> =
            attention::over_context(&q, context(), SCALE, expand).expect("attended");
        let found: Heads<B, H, V> =
            attention::over_context(&q, context(), SCALE, expand).expect("attended");
        let wanted = whole.into_out().expect("rounded").to_vec();
        assert_eq!(found.to_vec().expect("values"), wanted.expect("values"));
    }
    let nothing = caches
        .latent
        .context(&batch, &latent, &key, 6, Visibility::CAUSAL)
        .take(0);
    let refused: Result<Heads<B, H, V>, Error> =
        attention::over_context(&q, nothing, SCALE, expand);
    assert!(refused.is_err());
}

#[test]
fn padding_of_a_slot_mapping_is_not_written_and_sees_nothing() {
    let mut cache = Latent::<Paged<4>>::paged(&DEVICE, 3).expect("cache");
    KvCache::<B>::fill(&mut cache, f64::NAN).expect("filled");
    let batch = Batch::new(&[Sequence {
        cached: 0,
        new: 3,
        blocks: &[1],
    }])
    .expect("batch");
    let padded = batch
        .clone()
        .with_slot_mapping(vec![4, 5, -1])
        .expect("mapping");
    cache.check(&padded, 3).expect("fits");
    cache
        .write(
            &padded,
            rows::<C>(values(15, 0.2)).view(),
            &key(values(6, 0.1)),
        )
        .expect("written");
    let (latent, _) = cache.entries(&[1], 4).expect("entries");
    let latent = latent.to_vec().expect("values");
    assert_eq!(latent[..2 * C], values(15, 0.2)[..2 * C]);
    assert!(latent[2 * C..].iter().all(|value| value.is_nan()));
    let attended: Attended<B, H, C> = cache
        .attend(
            &padded,
            &heads::<C>(values(3 * H * C, 0.0)),
            heads::<R>(values(3 * H * R, 0.0)).view(),
            Visibility::CAUSAL,
            SCALE,
        )
        .expect("attended");
    let out = attended.to_vec().expect("values");
    assert!(out.iter().all(|x| x.is_finite()));
    assert!(out[2 * H * C..].iter().all(|&x| x == 0.0));
    assert!(batch.clone().with_slot_mapping(vec![4, -1, 6]).is_err());
    let elsewhere = batch.with_slot_mapping(vec![4, 5, 9]).expect("mapping");
    assert!(cache.check(&elsewhere, 3).is_err());
}

#[test]
fn positions_may_differ_from_cache_indices() {
    let batch = Batch::new(&[
        Sequence {
            cached: 3,
            new: 2,
            blocks: &[0],
        },
        Sequence {
            cached: 0,
            new: 1,
            blocks: &[1],
        },
    ])
    .expect("batch");
    assert_eq!(batch.positions(), [3, 4, 0]);
    let batch = batch
        .with_positions(vec![1_000_000, 7, 7])
        .expect("positions");
    assert_eq!(batch.positions(), [1_000_000, 7, 7]);
    assert!(batch.with_positions(vec![0]).is_err());
}

#[test]
fn the_empty_batch_is_a_batch() {
    let mut caches = Pair::<Paged<4>, f64>::new(3, 4);
    let nobody = Batch::new(&[]).expect("batch");
    let (absorbed, expanded) = caches.step(&nobody);
    assert!(absorbed.is_empty() && expanded.is_empty());
    let (latent, key) = (rows::<C>(Vec::new()), key(Vec::new()));
    let mut context = caches
        .latent
        .context(&nobody, &latent, &key, 4, Visibility::CAUSAL);
    // So that there is a result
    let none = context.next().expect("a chunk of nothing");
    assert_eq!(none.expect("no failure").latent.rows(), 0);
    assert!(context.next().is_none());
}

proptest! {
    #[test]
    fn any_batch_is_refused_or_works(
        requests in prop::collection::vec((0..9_usize, 0..6_usize, prop::collection::vec(0..5_u32, 0..4)), 0..4),
        slots in prop::option::of(prop::collection::vec(-1..20_i64, 0..8)),
    ) {
        let sequences: Vec<Sequence<'_>> =
            requests.iter().map(|(cached, new, blocks)| Sequence { cached: *cached, new: *new, blocks }).collect();
        let mut batch = Batch::new(&sequences).expect("batch");
        if let Some(slots) = slots
            && let Ok(mapped) = batch.clone().with_slot_mapping(slots)
        {
            batch = mapped;
        }
        let mut cache = Latent::<Paged<4>>::paged(&DEVICE, 4).expect("cache");
        let n = batch.tokens();
        let fits = cache.check(&batch, n).is_ok();
        let written = cache.write(&batch, rows::<C>(values(n * C, 0.0)).view(), &key(values(n * R, 0.0)));
        let attended: Result<Attended<B, H, C>, Error> = cache.attend(&batch, &heads::<C>(values(n * H * C, 0.0)), heads::<R>(values(n * H * R, 0.0)).view(), Visibility::CAUSAL, SCALE);
        let (own, own_key) = (rows::<C>(vec![0.0; batch.tokens() * C]), key(vec![0.0; batch.tokens() * R]));
        let context = cache.context(&batch, &own, &own_key, 3, Visibility::CAUSAL).collect::<mla_runtime::Result<Vec<_>>>();
        if fits {
            prop_assert!(written.is_ok() && context.is_ok());
            let out = attended.expect("attended").to_vec().expect("values");
            prop_assert!(out.iter().all(|x| x.to_f64().is_finite()));
        }
    }
}
