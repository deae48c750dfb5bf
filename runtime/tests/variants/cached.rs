//! Caches: what was written in pieces is attended to as if it had come at once.

use std::ops::Range;

use mla_runtime::{
    Attended, Batch, CacheElement, CacheLayout, Contiguous, Cpu, Half, Heads, KvCache, LatentCache,
    NaiveCache, Paged, RopeKey, Rotary, Rows, Selection, Sequence as Request, Unrotated,
    Visibility, attention, bf16, f16,
};
use proptest::prelude::*;

use crate::plain::{Plain, Sequence};
use crate::problem::{DEVICE, Dice, H, K, Problem, assert_close, columns, heads, rows};

type B = Cpu<f64>;
const C: usize = 5;
const R: usize = 2;
const G: usize = 2;
const D: usize = 6;
const V: usize = 3;
/// Blocks of each request, shuffled.
const TABLES: [&[u32]; 3] = [&[7, 1, 12, 3, 9], &[0, 14, 2, 5, 11], &[8, 6, 4, 13, 10]];

/// The rows of every sequence of a problem, in one tensor of `[rows, width]`.
struct Whole {
    values: Vec<f64>,
    width: usize,
}

impl Whole {
    fn new(problem: &Problem, width: usize, dice: &mut Dice) -> Self {
        Self {
            values: dice.values(problem.rows() * width),
            width,
        }
    }

    /// Some tokens of each sequence, one after another.
    fn tokens(&self, problem: &Problem, pieces: &[Range<usize>]) -> Vec<f64> {
        picked(&self.values, self.width, problem, pieces)
    }
}

/// Rows of some tokens of each sequence.
fn picked(values: &[f64], width: usize, problem: &Problem, pieces: &[Range<usize>]) -> Vec<f64> {
    let (mut out, mut first) = (Vec::new(), 0);
    for (sequence, piece) in problem.sequences.iter().zip(pieces) {
        out.extend(&values[(first + piece.start) * width..(first + piece.end) * width]);
        first += sequence.queries;
    }
    out
}

impl Plain {
    /// What it says of some tokens of each sequence.
    fn of(&self, problem: &Problem, width: usize, pieces: &[Range<usize>]) -> Self {
        Self {
            out: picked(&self.out, H * width, problem, pieces),
            lse: picked(&self.lse, H, problem, pieces),
            max: picked(&self.max, H, problem, pieces),
        }
    }
}

/// Steps that feed a problem's sequences in ragged pieces, none of which cuts a block.
fn steps(problem: &Problem, dice: &mut Dice) -> Vec<Vec<Range<usize>>> {
    let whole = |sequence: &Sequence, end: usize| {
        let ids = &sequence.blocks;
        !problem.rule.blocks
            || end == 0
            || end == sequence.queries
            || ids[end] == 0
            || ids[end] != ids[end - 1]
    };
    let mut done = vec![0; problem.sequences.len()];
    let mut steps = Vec::new();
    while problem
        .sequences
        .iter()
        .zip(&done)
        .any(|(s, &done)| done < s.queries)
    {
        let step = problem
            .sequences
            .iter()
            .zip(&mut done)
            .map(|(sequence, done)| {
                let start = *done;
                *done = (start + dice.below(5)).min(sequence.queries);
                while !whole(sequence, *done) {
                    *done += 1;
                }
                start..*done
            });
        steps.push(step.collect());
    }
    steps
}

fn batch(problem: &Problem, pieces: &[Range<usize>]) -> Batch {
    let requests: Vec<Request<'_>> = pieces
        .iter()
        .zip(TABLES)
        .map(|(piece, blocks)| Request {
            cached: piece.start,
            new: piece.len(),
            blocks,
        })
        .collect();
    let mut batch = Batch::new(&requests).expect("a batch");
    let own = || problem.sequences.iter().zip(pieces);
    if problem.rule.blocks {
        let ids = own().flat_map(|(sequence, piece)| sequence.blocks[piece.clone()].to_vec());
        batch = batch.with_blocks(ids.collect()).expect("blocks");
    }
    if problem.rule.given {
        let bits: Vec<bool> = own()
            .flat_map(|(sequence, piece)| {
                let line = |q: usize| sequence.bits[q * sequence.keys..][..piece.end].to_vec();
                piece.clone().flat_map(line).collect::<Vec<_>>()
            })
            .collect();
        batch = batch.with_visible(&bits).expect("bits");
    }
    batch
}

fn selection(problem: &Problem, pieces: &[Range<usize>]) -> Option<Selection<B, K>> {
    let mut lists = Vec::new();
    for (sequence, piece) in problem.sequences.iter().zip(pieces) {
        lists.extend_from_slice(&sequence.selected.as_ref()?[piece.clone()]);
    }
    Some(Selection::from_lists(&DEVICE, &lists).expect("a selection"))
}

/// A problem whose tokens see nothing that comes in a later call.
fn cacheable(dice: &mut Dice, longest: usize) -> Problem {
    let mut problem = Problem::random(dice, longest);
    problem.rule.causal = !problem.rule.given;
    for sequence in &mut problem.sequences {
        let keys = sequence.keys;
        for (i, bit) in sequence.bits.iter_mut().enumerate() {
            *bit &= i % keys <= i / keys;
        }
        if problem.rule.given {
            sequence.blocks.fill(0);
        }
    }
    problem
}

fn key(values: &[f64]) -> RopeKey<B, Unrotated, R> {
    RopeKey::unrotated(&rows::<f64, R>(values)).expect("key")
}

/// A latent cache, attended to in both forms.
fn latent<P: CacheLayout, E: CacheElement>(problem: &Problem, dice: &mut Dice, tolerance: f64) {
    const N: usize = 3;
    let (q, entries) = (
        Whole::new(problem, H * (C + R), dice),
        Whole::new(problem, C + R, dice),
    );
    let latents = columns(&entries.values, C + R, 0..C);
    let wanted = problem.plain(&q.values, &entries.values, &latents, [H, 1, C + R, C]);
    // Expanded: a head's keys are the first N of the latent, its values the others, so that latents alone say what to expand
    let q_expanded = Whole::new(problem, H * (N + R), dice);
    let keys: Vec<f64> = entries
        .values
        .chunks_exact(C + R)
        .flat_map(|entry| [&entry[..N], &entry[C..]].concat())
        .collect();
    let values = columns(&latents, C, N..C);
    let wanted_expanded = problem.plain(&q_expanded.values, &keys, &values, [H, 1, N + R, C - N]);
    let expand = |latent: &Rows<B, C>| -> Heads<B, H, C> {
        let latents = latent.to_vec().expect("values");
        let repeated: Vec<f64> = latents.chunks_exact(C).flat_map(|l| l.repeat(H)).collect();
        heads(&repeated)
    };

    let mut cache = LatentCache::<B, E, Unrotated, P, C, R>::with_blocks(&DEVICE, 15, block::<P>())
        .expect("a cache");
    KvCache::<B>::fill(&mut cache, f64::NAN).expect("filled");
    for pieces in steps(problem, dice) {
        let (batch, visibility) = (batch(problem, &pieces), problem.rule.visibility());
        let entries = entries.tokens(problem, &pieces);
        let latent = rows::<f64, C>(&columns(&entries, C + R, 0..C));
        let k_rope = key(&columns(&entries, C + R, C..C + R));
        if problem.sequences[0].selected.is_none() {
            let q = heads::<f64, H, { N + R }>(&q_expanded.tokens(problem, &pieces));
            let wanted = wanted_expanded.of(problem, C - N, &pieces);
            problem.check::<f64, { C - N }>(&wanted, tolerance, |softmax| {
                let context = cache.context(&batch, &latent, &k_rope, 3, visibility);
                attention::over_context(&q, context, softmax, |latent| Ok(expand(latent)))
            });
        }
        cache.write(&batch, &latent, &k_rope).expect("written");
        let (read, _) = cache.latents(&batch).expect("read");
        assert_close(
            &read.to_vec().expect("values"),
            &latent.to_vec().expect("values"),
            0.01,
        );
        let q = heads::<f64, H, { C + R }>(&q.tokens(problem, &pieces));
        let q_latent = q.part::<0, C>().to_heads().expect("a copy");
        let (q_rope, wanted) = (q.part::<C, R>(), wanted.of(problem, C, &pieces));
        problem.check(&wanted, tolerance, |softmax| {
            match selection(problem, &pieces) {
                Some(selection) => cache
                    .attend_selected(&batch, &q_latent, q_rope, &selection, visibility, softmax),
                None => cache.attend(&batch, &q_latent, q_rope, visibility, softmax),
            }
        });
    }
}

/// A cache of groups' keys and values.
fn naive<P: CacheLayout, E: CacheElement>(problem: &Problem, dice: &mut Dice, tolerance: f64) {
    let [q, k, v] = [H * D, G * D, G * V].map(|width| Whole::new(problem, width, dice));
    let wanted = problem.plain(&q.values, &k.values, &v.values, [H, G, D, V]);
    let mut cache =
        NaiveCache::<B, E, Unrotated, P, G, D, V>::with_blocks(&DEVICE, 15, block::<P>())
            .expect("a cache");
    KvCache::<B>::fill(&mut cache, f64::NAN).expect("filled");
    for pieces in steps(problem, dice) {
        let (batch, visibility) = (batch(problem, &pieces), problem.rule.visibility());
        let (k, v) = (
            heads::<f64, G, D>(&k.tokens(problem, &pieces)),
            heads::<f64, G, V>(&v.tokens(problem, &pieces)),
        );
        cache.write_heads(&batch, &k, &v).expect("written");
        let q = heads::<f64, H, D>(&q.tokens(problem, &pieces));
        let wanted = wanted.of(problem, V, &pieces);
        problem.check(&wanted, tolerance, |softmax| {
            match selection(problem, &pieces) {
                Some(selection) => {
                    cache.attend_selected(&batch, &q, &selection, visibility, softmax)
                }
                None => cache.attend(&batch, &q, visibility, softmax),
            }
        });
    }
}

/// Tokens per block.
fn block<P: CacheLayout>() -> usize {
    P::PAGE.unwrap_or(20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_problem_piece_by_piece(seed in any::<u64>()) {
        let dice = &mut Dice(seed);
        let problem = cacheable(dice, 15);
        latent::<Paged<3>, f64>(&problem, dice, 1e-11);
        naive::<Paged<4>, f64>(&problem, dice, 1e-11);
        // Values are exact in bf16, which f16 and f32 hold, too
        latent::<Paged<5>, bf16>(&problem, dice, 1e-11);
        naive::<Paged<3>, f16>(&problem, dice, 1e-11);
    }
}

#[test]
fn a_window_reads_no_context_outside_of_it() {
    let cache =
        LatentCache::<B, f64, Unrotated, Paged<4>, C, R>::paged(&DEVICE, 15).expect("cache");
    let batch = Batch::new(&[
        Request {
            cached: 17,
            new: 2,
            blocks: TABLES[0],
        },
        Request {
            cached: 3,
            new: 1,
            blocks: TABLES[1],
        },
    ])
    .expect("a batch");
    let (latent, k_rope) = (rows::<f64, C>(&[0.0; 3 * C]), key(&[0.0; 3 * R]));
    let read = |visibility: Visibility| -> Vec<(usize, Range<usize>)> {
        let chunks = cache
            .context(&batch, &latent, &k_rope, 4, visibility)
            .map(|chunk| chunk.expect("a chunk"));
        chunks
            .flat_map(|chunk| chunk.segments.list().to_vec())
            .map(|s| (s.sequence, s.first_key..s.first_key + s.keys.len()))
            .collect()
    };
    let window = Visibility::CAUSAL.window(Some(5), Some(0));
    assert_eq!(read(window), [(0, 12..16), (0, 16..19), (1, 0..4)]);
    let chunk = Visibility::CAUSAL.chunk(3);
    assert_eq!(read(chunk), [(0, 15..19), (1, 3..4)]);
    assert_eq!(read(Visibility::CAUSAL).len(), 6);
    // New tokens alone
    let none = Visibility::CAUSAL.window(Some(0), Some(0));
    assert_eq!(read(none), [(0, 17..19), (1, 3..4)]);
}

#[test]
fn a_context_is_written_once_and_attended_to_by_any_number_of_tokens() {
    let lengths = [(3, 7), (0, 2), (2, 15), (1, 0)];
    let problem = Problem::plain_sequences(&lengths);
    let dice = &mut Dice(5);
    let (queries, keys) = (6, 24);
    let (q, k, v) = (
        dice.values(queries * H * D),
        dice.values(keys * H * D),
        dice.values(keys * H * V),
    );
    let wanted = problem.plain(&q, &k, &v, [H, H, D, V]);
    let mut cache =
        NaiveCache::<B, f64, Unrotated, Paged<4>, H, D, V>::paged(&DEVICE, 15).expect("a cache");
    KvCache::<B>::fill(&mut cache, f64::NAN).expect("filled");
    let tables = [TABLES[0], TABLES[1], TABLES[2], &[]];
    let requests = |of: fn((usize, usize)) -> (usize, usize)| -> Batch {
        let requests: Vec<Request<'_>> = lengths
            .iter()
            .zip(tables)
            .map(|(&lengths, blocks)| {
                let (cached, new) = of(lengths);
                Request {
                    cached,
                    new,
                    blocks,
                }
            })
            .collect();
        Batch::new(&requests).expect("a batch")
    };
    let contexts = requests(|(_, keys)| (0, keys));
    cache
        .write_heads(&contexts, &heads(&k), &heads(&v))
        .expect("written");
    let batch = requests(|(queries, keys)| (keys, queries));
    cache.check_context(&batch, queries).expect("fits");
    let q = heads::<f64, H, D>(&q);
    problem.check(&wanted, 1e-12, |softmax| {
        cache.attend_context(&batch, &q, softmax)
    });
    assert!(cache.check_context(&batch, queries + 1).is_err());
    let short = [Request {
        cached: 5,
        new: 1,
        blocks: &[0],
    }];
    let short = Batch::new(&short).expect("a batch");
    assert!(cache.check_context(&short, 1).is_err());
}

#[test]
fn a_decoding_step_rotates_writes_and_attends() {
    const TURNED: usize = 4;
    let rotary: Rotary<B, Half, Half, TURNED> =
        Rotary::new(&DEVICE, &[0.7, 0.1], 1.0).expect("rotary");
    type Cache = NaiveCache<B, f32, Half, Contiguous, G, D, V>;
    let mut caches = [0, 1].map(|_| Cache::contiguous(&DEVICE, 1, 9).expect("a cache"));
    let dice = &mut Dice(9);
    for cached in 0..9 {
        let request = Request {
            cached,
            new: 1,
            blocks: &[0],
        };
        let batch = Batch::new(&[request]).expect("a batch");
        let [q, k, v] = [H * D, G * D, G * V].map(|width| dice.values(width));
        let v = heads::<f64, G, V>(&v);
        let angles = rotary.angles(batch.positions()).expect("angles");
        let turned_q = rotary
            .heads_first(heads::<f64, H, D>(&q), &angles)
            .expect("turned");
        let turned_k = rotary
            .heads_first(heads::<f64, G, D>(&k), &angles)
            .expect("turned");
        caches[0]
            .write_heads(&batch, &turned_k, &v)
            .expect("written");
        let apart: Attended<B, H, V> = caches[0]
            .attend(&batch, &turned_q, Visibility::CAUSAL, 0.5)
            .expect("attended");
        let at_once: Attended<B, H, V> = caches[1]
            .flash_decode(
                &batch,
                heads(&q),
                heads(&k),
                &v,
                &rotary,
                Visibility::CAUSAL,
                0.5,
            )
            .expect("decoded");
        assert_eq!(
            at_once.to_vec().expect("values"),
            apart.to_vec().expect("values")
        );
    }
}
