//! The indexer's scores and selections against plain `f64` loops and a full sort.

use mla_runtime::{
    Batch, CacheFormat, CacheLayout, Contiguous, Cpu, CpuDevice, CpuElement, Heads, IndexCache,
    Mask, Padding, Paged, PerHead, Rows, Scalar, Selecting, Selection, Sequence, Visibility, bf16,
    f16, indexer,
};

const DEVICE: CpuDevice = CpuDevice::new();
const HI: usize = 3;
const DI: usize = 8;
const PLAIN: Selecting = Selecting {
    scale: 0.2,
    relu: true,
    initial: 0,
    local: 0,
};

/// Small integers: every product is exact in every type, and there are many ties.
fn numbers(len: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % 5) as f64 - 2.0
        })
        .collect()
}

struct Inputs<T: CpuElement> {
    q: Heads<Cpu<T>, HI, DI>,
    weights: PerHead<Cpu<T>, HI>,
    k: Rows<Cpu<T>, DI>,
}

fn inputs<T: CpuElement>(rows: usize) -> Inputs<T> {
    let weights: Rows<Cpu<T>, HI> = Rows::from_f64(&DEVICE, &numbers(rows * HI, 2)).unwrap();
    let q: Rows<Cpu<T>, { HI * DI }> =
        Rows::from_f64(&DEVICE, &numbers(rows * HI * DI, 1)).unwrap();
    Inputs {
        q: q.into_heads(),
        weights: weights.view().to_per_head().unwrap(),
        k: Rows::from_f64(&DEVICE, &numbers(rows * DI, 3)).unwrap(),
    }
}

/// `scale · Σ w relu(q·k)` of inputs' rows `t` and `u`.
fn score(rows: usize, t: usize, u: usize, selecting: &Selecting) -> f64 {
    let (q, w, k) = (
        numbers(rows * HI * DI, 1),
        numbers(rows * HI, 2),
        numbers(rows * DI, 3),
    );
    let head = |j: usize| {
        let q = &q[(t * HI + j) * DI..][..DI];
        let product: f64 = q.iter().zip(&k[u * DI..]).map(|(q, k)| q * k).sum();
        let product = if selecting.relu {
            product.max(0.0)
        } else {
            product
        };
        w[t * HI + j] * product
    };
    selecting.scale * (0..HI).map(head).sum::<f64>()
}

/// The positions that query `t` of a causal sequence that starts at row `first` selects, by sorting everything.
fn wanted(rows: usize, first: usize, t: usize, most: usize, selecting: &Selecting) -> Vec<i32> {
    let visible: Vec<usize> = (first..=t).collect();
    let mut positions = chosen(rows, t, &visible, most, selecting);
    for position in positions.iter_mut().filter(|position| **position >= 0) {
        *position -= first as i32;
    }
    positions
}

fn packed<T: CpuElement, const K: usize>(selecting: Selecting) {
    let ends = [0, 1, 40, 40, 100];
    let input = inputs::<T>(100);
    let segments = Mask::cu_seqlens(&ends.map(|end| end as u32))
        .segments(100, Visibility::CAUSAL, Padding::Refused)
        .unwrap();
    let selection: Selection<Cpu<T>, K> =
        indexer::select(&input.q, &input.k, &input.weights, &segments, &selecting).unwrap();
    let scores =
        indexer::scores(&input.q, &input.k, &input.weights, &segments, &selecting).unwrap();
    assert_eq!((scores.rows(), scores.width()), (100, 60));
    let (found, scores) = (selection.to_vec().unwrap(), scores.to_vec().unwrap());
    for t in 0..100 {
        let first = *ends.iter().rfind(|&&end| end <= t).unwrap();
        assert_eq!(
            found[t * K..(t + 1) * K],
            wanted(100, first, t, K, &selecting),
            "query {t}"
        );
        for u in 0..60 {
            let score_found = scores[t * 60 + u].to_f64();
            if u <= t - first {
                let wanted = score(100, t, first + u, &selecting);
                assert!((score_found - wanted).abs() <= 1e-5 * (1.0 + wanted.abs()));
            } else {
                assert_eq!(score_found, f64::NEG_INFINITY);
            }
        }
    }
}

#[test]
fn packed_sequences_select_their_own_best_keys() {
    packed::<f64, 7>(PLAIN);
    packed::<f32, 7>(PLAIN);
    packed::<bf16, 7>(PLAIN);
    packed::<f32, 1>(PLAIN);
    packed::<f32, 64>(PLAIN);
    packed::<f32, 7>(Selecting {
        relu: false,
        ..PLAIN
    });
}

#[test]
fn forced_keys_are_in_and_count() {
    let forced = |initial, local| Selecting {
        initial,
        local,
        ..PLAIN
    };
    packed::<f32, 7>(forced(2, 3));
    packed::<f32, 7>(forced(0, 7));
    packed::<f64, 7>(forced(7, 0));
    let input = inputs::<f32>(4);
    let segments = Mask::dense(1, 4)
        .segments(4, Visibility::CAUSAL, Padding::Refused)
        .unwrap();
    let select = |selecting: &Selecting| {
        indexer::select::<_, HI, DI, 7>(&input.q, &input.k, &input.weights, &segments, selecting)
    };
    assert!(select(&forced(4, 4)).is_err());
    assert!(select(&forced(usize::MAX, 1)).is_err());
    assert!(
        select(&Selecting {
            scale: f64::NAN,
            ..PLAIN
        })
        .is_err()
    );
}

#[test]
fn rows_have_to_agree() {
    let (input, other) = (inputs::<f32>(4), inputs::<f32>(3));
    let segments = Mask::dense(1, 4)
        .segments(4, Visibility::CAUSAL, Padding::Refused)
        .unwrap();
    let select = |q, k, weights| {
        indexer::select::<Cpu, HI, DI, 2>(q, k, weights, &segments, &PLAIN).is_err()
    };
    assert!(!select(&input.q, &input.k, &input.weights));
    assert!(select(&other.q, &input.k, &input.weights));
    assert!(select(&input.q, &other.k, &input.weights));
    assert!(select(&input.q, &input.k, &other.weights));
}

#[test]
fn padding_selects_nothing() {
    let input = inputs::<f32>(4);
    let segments = Mask::padded(1, 4, &[false, true, true, false])
        .segments(4, Visibility::CAUSAL, Padding::Allowed)
        .unwrap();
    let selection: Selection<Cpu, 2> =
        indexer::select(&input.q, &input.k, &input.weights, &segments, &PLAIN).unwrap();
    assert_eq!(selection.to_vec().unwrap(), [-1, -1, 0, -1, 0, 1, -1, -1]);
}

/// What the visible positions of one query come to: forced ones, then the best of the others.
fn chosen(
    rows: usize,
    t: usize,
    visible: &[usize],
    most: usize,
    selecting: &Selecting,
) -> Vec<i32> {
    let mut order: Vec<usize> = (0..visible.len()).collect();
    if visible.len() > most {
        let forced = |i: usize| i < selecting.initial || i + selecting.local >= visible.len();
        let rank = |i: usize| (!forced(i), -score(rows, t, visible[i], selecting));
        order.sort_by(|&a, &b| rank(a).partial_cmp(&rank(b)).unwrap().then(a.cmp(&b)));
        order.truncate(most);
        order.sort_unstable();
    }
    let mut positions: Vec<i32> = order.into_iter().map(|i| visible[i] as i32).collect();
    positions.resize(most, -1);
    positions
}

#[test]
fn windows_and_given_masks_hide_keys_from_the_selection() {
    const ROWS: usize = 40;
    const K: usize = 5;
    let input = inputs::<f32>(ROWS);
    let forced = Selecting {
        initial: 2,
        local: 1,
        ..PLAIN
    };
    let bits: Vec<bool> = numbers(ROWS * ROWS, 9).iter().map(|&x| x > -1.0).collect();
    let window = Visibility::CAUSAL.window(Some(11), None);
    for selecting in [PLAIN, forced] {
        let cases = [
            (Mask::dense(1, ROWS), window),
            (Mask::visible(1, ROWS, &bits), Visibility::GIVEN),
        ];
        for (mask, visibility) in cases {
            let segments = mask.segments(ROWS, visibility, Padding::Refused).unwrap();
            let selection: Selection<Cpu, K> =
                indexer::select(&input.q, &input.k, &input.weights, &segments, &selecting).unwrap();
            let scores =
                indexer::scores(&input.q, &input.k, &input.weights, &segments, &selecting).unwrap();
            let (found, scores) = (selection.to_vec().unwrap(), scores.to_vec().unwrap());
            for t in 0..ROWS {
                let sees = |u: &usize| match visibility {
                    Visibility::GIVEN => bits[t * ROWS + u],
                    _ => (t.saturating_sub(11)..=t).contains(u),
                };
                let visible: Vec<usize> = (0..ROWS).filter(sees).collect();
                let wanted = chosen(ROWS, t, &visible, K, &selecting);
                assert_eq!(found[t * K..(t + 1) * K], wanted, "query {t}");
                for u in 0..ROWS {
                    let hidden = scores[t * ROWS + u] == f32::NEG_INFINITY;
                    assert_eq!(hidden, !sees(&u), "query {t}, key {u}");
                }
            }
        }
    }
}

#[test]
fn a_nan_is_selected_only_when_no_number_is_left() {
    let mut input = inputs::<f32>(6);
    let mut keys = vec![1.0; 6 * DI];
    keys[DI] = f32::NAN;
    keys[4 * DI] = f32::NEG_INFINITY;
    input.k = Rows::from_vec(&DEVICE, keys).unwrap();
    input.q = Rows::<Cpu, { HI * DI }>::from_vec(&DEVICE, vec![1.0; 6 * HI * DI])
        .unwrap()
        .into_heads();
    input.weights = Rows::<Cpu, HI>::from_vec(&DEVICE, vec![1.0; 6 * HI])
        .unwrap()
        .view()
        .to_per_head()
        .unwrap();
    let segments = Mask::dense(1, 6)
        .segments(6, Visibility::FULL, Padding::Refused)
        .unwrap();
    let without_relu = Selecting {
        relu: false,
        ..PLAIN
    };
    let four: Selection<Cpu, 4> =
        indexer::select(&input.q, &input.k, &input.weights, &segments, &without_relu).unwrap();
    assert_eq!(four.to_vec().unwrap()[..4], [0, 2, 3, 5]);
    // Position 4 scores -∞ and stays out though there is room
    let five: Selection<Cpu, 5> =
        indexer::select(&input.q, &input.k, &input.weights, &segments, &without_relu).unwrap();
    assert_eq!(five.to_vec().unwrap()[..5], [0, 1, 2, 3, 5]);
}

/// A sequence fed to a cache in steps selects what it selects as a whole, whatever lies in other blocks.
fn cached<T: CpuElement, F: CacheFormat, P: CacheLayout>(
    page: usize,
    blocks: &[u32],
    steps: &[usize],
    selecting: Selecting,
) {
    const K: usize = 9;
    let rows = steps.iter().sum();
    let input = inputs::<T>(rows);
    let mut cache: IndexCache<Cpu<T>, F, P, DI> =
        IndexCache::with_blocks(&DEVICE, 40, page).unwrap();
    let (q, k) = (input.q.to_vec().unwrap(), input.k.to_vec().unwrap());
    let weights = numbers(rows * HI, 2);
    let mut at = 0;
    for &new in steps {
        let part = at..at + new;
        let batch = Batch::new(&[Sequence {
            cached: at,
            new,
            blocks,
        }])
        .unwrap();
        cache.check(&batch, new).unwrap();
        let own =
            |values: &[T], width: usize| values[part.start * width..part.end * width].to_vec();
        let k: Rows<Cpu<T>, DI> = Rows::from_vec(&DEVICE, own(&k, DI)).unwrap();
        cache.write(&batch, &k).unwrap();
        let q: Rows<Cpu<T>, { HI * DI }> = Rows::from_vec(&DEVICE, own(&q, HI * DI)).unwrap();
        let w: Rows<Cpu<T>, HI> =
            Rows::from_f64(&DEVICE, &weights[part.start * HI..part.end * HI]).unwrap();
        let (q, w) = (q.into_heads::<HI, DI>(), w.view().to_per_head().unwrap());
        let selection: Selection<Cpu<T>, K> = cache
            .select(&batch, &q, &w, Visibility::CAUSAL, &selecting)
            .unwrap();
        let scores = cache
            .scores(&batch, &q, &w, Visibility::CAUSAL, &selecting)
            .unwrap();
        assert_eq!(scores.width(), part.end);
        let scores = scores.to_vec().unwrap();
        for (row, t) in part.clone().enumerate() {
            assert_eq!(
                selection.to_vec().unwrap()[row * K..(row + 1) * K],
                wanted(rows, 0, t, K, &selecting),
                "query {t}"
            );
            let first = scores[row * part.end].to_f64();
            assert!((first - score(rows, t, 0, &selecting)).abs() < 1e-5);
        }
        at += new;
    }
    let held = cache.entries(blocks, at).unwrap().to_vec().unwrap();
    assert_eq!(held, k);
}

#[test]
fn cached_steps_select_as_the_whole_does() {
    let blocks: Vec<u32> = (0..20).map(|i| (i * 7 + 3) % 40).collect();
    let forced = Selecting {
        initial: 1,
        local: 4,
        ..PLAIN
    };
    for steps in [vec![50], vec![1; 30], vec![17, 1, 1, 20]] {
        for selecting in [PLAIN, forced] {
            cached::<f64, f64, Paged<4>>(4, &blocks, &steps, selecting);
            cached::<f32, f32, Paged<4>>(4, &blocks, &steps, selecting);
            cached::<f32, bf16, Paged<16>>(16, &blocks, &steps, selecting);
            cached::<bf16, f16, Paged<16>>(16, &blocks, &steps, selecting);
            cached::<f32, f32, Contiguous>(64, &[5], &steps, selecting);
        }
    }
}

#[test]
fn many_keys_are_cut_among_threads_without_a_difference() {
    const K: usize = 100;
    let rows = 9000;
    let input = inputs::<f32>(rows);
    let blocks: Vec<u32> = (0..141).rev().collect();
    let mut cache: IndexCache<Cpu, f32, Paged<64>, DI> = IndexCache::paged(&DEVICE, 141).unwrap();
    let whole = Batch::new(&[Sequence {
        cached: 0,
        new: rows,
        blocks: &blocks,
    }])
    .unwrap();
    cache.write(&whole, &input.k).unwrap();
    let last = Batch::new(&[Sequence {
        cached: rows - 1,
        new: 1,
        blocks: &blocks,
    }])
    .unwrap();
    let q: Rows<Cpu, { HI * DI }> = Rows::from_vec(
        &DEVICE,
        input.q.to_vec().unwrap()[(rows - 1) * HI * DI..].to_vec(),
    )
    .unwrap();
    let w: Rows<Cpu, HI> =
        Rows::from_f64(&DEVICE, &numbers(rows * HI, 2)[(rows - 1) * HI..]).unwrap();
    let (q, w) = (q.into_heads(), w.view().to_per_head().unwrap());
    let select = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let selection: Selection<Cpu, K> = pool
            .install(|| cache.select(&last, &q, &w, Visibility::CAUSAL, &PLAIN))
            .unwrap();
        selection.to_vec().unwrap()
    };
    let scores = scores_of(&q, &w, &input.k);
    let mut sorted: Vec<usize> = (0..rows).collect();
    sorted.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    sorted.truncate(K);
    sorted.sort_unstable();
    let sorted: Vec<i32> = sorted.into_iter().map(|u| u as i32).collect();
    for threads in [1, 2, 3, 16] {
        assert_eq!(select(threads), sorted);
    }
}

/// One query's scores, exact since all numbers are small integers; adding 0 makes -0 a 0.
fn scores_of(q: &Heads<Cpu, HI, DI>, w: &PerHead<Cpu, HI>, k: &Rows<Cpu, DI>) -> Vec<f32> {
    let (q, w, k) = (
        q.to_vec().unwrap(),
        w.to_vec().unwrap(),
        k.to_vec().unwrap(),
    );
    let score = |k: &[f32]| {
        let head = |(q, w): (&[f32], &f32)| {
            let product: f32 = q.iter().zip(k).map(|(q, k)| q * k).sum();
            w * product.max(0.0)
        };
        q.chunks_exact(DI).zip(&w).map(head).sum::<f32>() + 0.0
    };
    k.chunks_exact(DI).map(score).collect()
}

#[test]
fn what_does_not_fit_the_cache_is_refused_before_anything_is_written() {
    let mut cache: IndexCache<Cpu, f32, Paged<4>, DI> = IndexCache::paged(&DEVICE, 2).unwrap();
    let input = inputs::<f32>(9);
    let long = Batch::new(&[Sequence {
        cached: 0,
        new: 9,
        blocks: &[0, 1],
    }])
    .unwrap();
    assert!(cache.check(&long, 9).is_err());
    assert!(cache.write(&long, &input.k).is_err());
    assert_eq!(
        cache.entries(&[0, 1], 8).unwrap().to_vec().unwrap(),
        [0.0; 8 * DI]
    );
    let other = Batch::new(&[Sequence {
        cached: 0,
        new: 8,
        blocks: &[0, 1],
    }])
    .unwrap();
    assert!(cache.write(&other, &input.k).is_err());
    assert!(cache.entries(&[2], 1).is_err());
    assert!(IndexCache::<Cpu, f32, Paged<4>, DI>::with_blocks(&DEVICE, 1, 5).is_err());
}
