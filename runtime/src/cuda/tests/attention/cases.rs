//! What is attended to in each number type.

use std::sync::Arc;

use half::{bf16, f16};

use super::super::{
    Accum, Both, CPU, Cpu, Cuda, Dice, Number, assert_same, batch_invariant_device, device,
};
use super::{Question, SMALL, segment, sequences};
use crate::backend::{Backend, Parts, PartsMut};
use crate::cuda::CudaGraph;
use crate::element::Scalar;
use crate::segments::Segments;
use crate::softmax::Dropout;
use crate::visibility::Visibility;

pub(super) fn visibilities<T: Number>() {
    let dice = &mut Dice::new();
    let (list, queries, keys) = sequences();
    for visibility in [
        Visibility::FULL,
        Visibility::CAUSAL,
        Visibility::CAUSAL.window(Some(3), Some(0)),
        Visibility::FULL.window(Some(2), Some(1)),
        Visibility::CAUSAL.chunk(4),
        Visibility::CAUSAL.blocks(),
    ] {
        let ids = [0, 1, 1, 1, 0, 2, 2, 0, 9, 5, 5, 0, 0, 3, 3, 3, 0, 0, 0];
        let segments = Segments::new(list.clone(), visibility, queries, keys)
            .with_input(visibility.has_blocks().then_some(&ids), None)
            .expect("neighbours");
        let live = |row| list.iter().any(|segment| segment.keys.contains(&row));
        let question = Question::<T, T>::new(dice, SMALL, segments).poisoned(live);
        let parts = question.check(&format!("{visibility:?}"));
        assert_eq!(
            parts.lse[0].to_f64(),
            f64::NEG_INFINITY,
            "row 0 is nobody's"
        );
    }
    // A dense mask; one row of it sees nothing
    let mut lines = 0;
    let mut list = list;
    for segment in &mut list {
        segment.line = (lines, segment.keys.len());
        lines += segment.queries.len() * segment.keys.len();
    }
    let mut given: Vec<bool> = (0..lines).map(|_| dice.below(3) > 0).collect();
    given[7..14].fill(false);
    let given: Arc<[bool]> = given.into();
    let segments = Segments::new(list, Visibility::GIVEN, queries, keys)
        .with_input(None, Some(&given))
        .expect("a mask");
    let mut question = Question::<T, T>::new(dice, SMALL, segments);
    let parts = question.check("given");
    assert_eq!(parts.max_logit[2 * 4].to_f64(), f64::NEG_INFINITY);
    question.cap = Some(0.7);
    question.bias = Some([4, 7, 71]);
    question.check("given, capped, biased");
}

pub(super) fn adjustments<T: Number>() {
    let dice = &mut Dice::new();
    let (mut list, queries, keys) = sequences();
    // As if something stood before in each sequence
    list[1].first_key = 4;
    list[1].first_query = 68;
    list[1].shift = 4;
    let dropout = Some(Dropout {
        probability: 0.3,
        seed: 0xdead_beef_0123_4567,
    });
    for (cap, bias, dropout) in [
        (Some(0.5), None, None),
        (None, Some([1, 71, 75]), None),
        (None, Some([4, 80, 77]), None),
        (None, None, dropout),
        (Some(1.5), Some([4, 71, 75]), dropout),
    ] {
        let segments = Segments::new(list.clone(), Visibility::CAUSAL, queries, keys);
        let mut question = Question::<T, T>::new(dice, SMALL, segments);
        (question.cap, question.bias, question.dropout) = (cap, bias, dropout);
        question.check(&format!("{cap:?} {bias:?} {dropout:?}"));
    }
}

pub(super) fn shapes<T: Number>() {
    let dice = &mut Dice::new();
    for sizes in [
        // A single head; many that share one; as many of keys; groups; odd everything
        [1, 1, 1, 1, 16, 0, 16],
        [20, 1, 1, 1, 37, 4, 130],
        [3, 3, 1, 3, 12, 8, 9],
        [12, 2, 1, 4, 33, 2, 1],
        [2, 1, 2, 1, 0, 3, 2],
    ] {
        let list = vec![segment(0, 0..5, 0..5), segment(1, 5..7, 5..140)];
        let segments = Segments::new(list, Visibility::CAUSAL, 7, 140);
        Question::<T, T>::new(dice, sizes, segments).check(&format!("{sizes:?}"));
    }
    let nobody = Segments::new(Vec::new(), Visibility::CAUSAL, 2, 0);
    let parts = Question::<T, T>::new(dice, SMALL, nobody).check("nobody");
    assert!(parts.out.iter().all(|&out| out.to_f64() == 0.0));
    let no_rows = Segments::new(Vec::new(), Visibility::CAUSAL, 0, 3);
    Question::<T, T>::new(dice, SMALL, no_rows).check("no rows");
}

/// Tables over a cache of `blocks` blocks, shuffled, for segments of these lengths; each goes on behind what its segment needs, to
/// blocks of others and to none. And the slots in use.
fn tables(
    dice: &mut Dice,
    page: usize,
    blocks: usize,
    lengths: &[usize],
) -> (Vec<Vec<u32>>, Vec<usize>) {
    let mut free: Vec<u32> = (0..blocks as u32).collect();
    let mut slots = Vec::new();
    let table = |&length: &usize| {
        let mut table: Vec<u32> = (0..length.div_ceil(page))
            .map(|_| free.swap_remove(dice.below(free.len())))
            .collect();
        slots.extend((0..length).map(|i| table[i / page] as usize * page + i % page));
        table.extend([0, u32::MAX, blocks as u32]);
        table
    };
    (lengths.iter().map(table).collect(), slots)
}

/// Requests in a cache of `slots` slots: their lengths, and how many of their tokens are new.
fn requests(list: &[(usize, usize)], slots: usize, visibility: Visibility) -> Segments {
    let mut row = 0;
    let segments = list.iter().enumerate().map(|(i, &(length, new))| {
        let mut segment = segment(i, row..row + new, 0..length);
        (segment.first_query, segment.shift) = (length - new, 0);
        row += new;
        segment
    });
    let segments = segments.collect();
    Segments::new(segments, visibility, row, slots)
}

pub(super) fn absorbed_pages<T: Number>() {
    let dice = &mut Dice::new();
    let lengths = [(70, 2), (1, 1), (129, 1), (3, 3)];
    for page in [1, 16, 64] {
        let blocks = 230_usize.div_ceil(page) + 4;
        let segments = requests(&lengths, blocks * page, Visibility::CAUSAL);
        let (tables, live) = tables(dice, page, blocks, &lengths.map(|(length, _)| length));
        let sizes = [20, 40, 9];
        let mut question = Question::<T, T>::absorbed(dice, sizes, blocks * page, segments)
            .in_pages(page, tables)
            .poisoned(|slot| live.contains(&slot));
        let parts = question.check(&format!("pages of {page}"));
        assert!(parts.out.iter().all(|out| out.to_f64().is_finite()));
        question.bias = Some([1, 129, 129]);
        question.dropout = Some(Dropout {
            probability: 0.6,
            seed: 7,
        });
        question.check(&format!("pages of {page}, biased, dropped"));
    }
}

pub(super) fn key_types<T: Number>() {
    of_type::<T, f64>();
    of_type::<T, f32>();
    of_type::<T, bf16>();
    of_type::<T, f16>();
}

fn of_type<T: Number, E: Scalar>() {
    let dice = &mut Dice::new();
    let (list, queries, keys) = sequences();
    let segments = Segments::new(list, Visibility::CAUSAL, queries, keys);
    Question::<T, E>::new(dice, SMALL, segments).check(E::NAME);
}

/// Chosen keys of rows, ascending, some of which no row sees; every third row has none.
fn choices(dice: &mut Dice, rows: usize, keys: usize, width: usize) -> Vec<i32> {
    let mut indices = Vec::new();
    for row in 0..rows {
        let mut chosen: Vec<i32> = (0..width).map(|_| dice.below(keys) as i32).collect();
        chosen.sort_unstable();
        chosen.dedup();
        if row % 3 == 1 {
            chosen.clear();
        }
        chosen.resize(width, -1);
        indices.extend(chosen);
    }
    indices
}

pub(super) fn selections<T: Number>() {
    let dice = &mut Dice::new();
    let (mut list, queries, keys) = sequences();
    list[1].first_key = 4;
    list[1].first_query = 68;
    list[1].shift = 4;
    for (width, blank) in [(1, false), (17, false), (90, false), (17, true)] {
        let segments = Segments::new(list.clone(), Visibility::CAUSAL, queries, keys);
        let mut chosen = choices(dice, queries, 85, width);
        if blank {
            chosen.fill(-1);
        }
        let live = |row| list.iter().any(|segment| segment.keys.contains(&row));
        let mut question = Question::<T, T>::new(dice, SMALL, segments)
            .poisoned(live)
            .choosing(chosen, width);
        question.check(&format!("{width} chosen"));
        question.bias = Some([4, 71, 75]);
        question.dropout = Some(Dropout {
            probability: 0.25,
            seed: 1,
        });
        question.check(&format!("{width} chosen, biased, dropped"));
    }
    let lengths = [(70, 2), (40, 1)];
    let segments = requests(&lengths, 144, Visibility::CAUSAL);
    let (tables, live) = tables(dice, 16, 9, &[70, 40]);
    let chosen = choices(dice, 3, 90, 30);
    Question::<T, T>::absorbed(dice, [20, 40, 9], 144, segments)
        .in_pages(16, tables)
        .poisoned(|slot| live.contains(&slot))
        .choosing(chosen, 30)
        .check("chosen from pages");
}

pub(super) fn splits<T: Number>() {
    let dice = &mut Dice::new();
    // Few rows and many keys; one row sees fewer keys than there are parts
    let list = vec![segment(0, 0..2, 0..1100), segment(1, 2..3, 1100..1102)];
    let segments = Segments::new(list, Visibility::CAUSAL, 4, 1102);
    let mut question = Question::<T, T>::new(dice, SMALL, segments.clone());
    question.check("splits");
    question.cap = Some(0.4);
    question.bias = Some([4, 2, 1100]);
    question.dropout = Some(Dropout {
        probability: 0.5,
        seed: 3,
    });
    question.check("splits, capped, biased, dropped");
    // The first query does not see the last key, which is in the last part
    let parts = Question::<T, T>::new(dice, SMALL, segments)
        .poisoned(|row| row != 1099)
        .check("splits, poisoned");
    assert!(parts.lse[..4].iter().all(|lse| lse.to_f64().is_finite()));
    assert!(parts.lse[4..8].iter().all(|lse| !lse.to_f64().is_finite()));
    let segments = requests(&[(900, 1), (30, 1)], 960, Visibility::CAUSAL);
    let (tables, live) = tables(dice, 16, 60, &[900, 30]);
    let chosen = choices(dice, 2, 900, 700);
    let question = Question::<T, T>::absorbed(dice, [20, 40, 9], 960, segments)
        .in_pages(16, tables)
        .poisoned(|slot| live.contains(&slot));
    question.check("splits of pages");
    question.choosing(chosen, 700).check("splits of choices");
}

/// The output alone, by one block of a row and by several.
pub(super) fn rounded<T: Number>() {
    let dice = &mut Dice::new();
    let (list, queries, keys) = sequences();
    let segments = Segments::new(list, Visibility::CAUSAL, queries, keys);
    Question::<T, f16>::new(dice, SMALL, segments).check_rounded("keys of f16");
    let segments = requests(&[(900, 1), (30, 1)], 960, Visibility::CAUSAL);
    let (tables, _) = tables(dice, 16, 60, &[900, 30]);
    let chosen = choices(dice, 2, 900, 700);
    let question =
        Question::<T, T>::absorbed(dice, [20, 40, 9], 960, segments).in_pages(16, tables);
    question.check_rounded("splits of pages");
    question
        .choosing(chosen, 700)
        .check_rounded("splits of choices");
}

/// With the option for it, what a request gets is the same bits whatever requests are beside it, however large the cache is.
pub(super) fn rows_beside<T: Number>() {
    let dice = &mut Dice::new();
    let invariant = batch_invariant_device();
    // Another device of the same GPU does not wait for this one's uploads
    let uploaded = || device().synchronize().expect("uploads");
    let (page, sizes) = (16, [20, 40, 9]);
    let chosen = choices(dice, 4, 600, 513);
    let lengths = [(600, 1), (30, 1), (1, 1), (601, 1)];
    for width in [None, Some(513)] {
        let segments = requests(&lengths, 1600, Visibility::CAUSAL);
        let (tables, _) = tables(dice, page, 100, &lengths.map(|(length, _)| length));
        let mut question =
            Question::<T, T>::absorbed(dice, sizes, 1600, segments).in_pages(page, tables.clone());
        if let Some(width) = width {
            question = question.choosing(chosen.clone(), width);
        }
        question.check("together");
        uploaded();
        let together = question.on(&invariant).expect("runs");
        let [heads, values, _] = sizes;
        let (out, lse) = (
            invariant.download(&together.out).expect("values"),
            invariant.download(&together.lse).expect("values"),
        );
        let row_strides = [question.q.0.row_stride, question.q_rope.0.row_stride];
        (question.q.0.rows, question.q_rope.0.rows) = (1, 1);
        for (row, &length) in lengths.iter().enumerate() {
            question.segments = requests(&[length], 1600, Visibility::CAUSAL);
            question = question.in_pages(page, vec![tables[row].clone()]);
            if let Some(width) = width {
                question = question.choosing(chosen[row * width..][..width].to_vec(), width);
            }
            uploaded();
            let parts = question.on(&invariant).expect("runs");
            let found = invariant.download(&parts.out).expect("values");
            let line = heads * values;
            assert_eq!(found, out[row * line..][..line], "{length:?}");
            let found = invariant.download(&parts.lse).expect("values");
            assert_eq!(found, lse[row * heads..][..heads], "{length:?}");
            question.q.0.offset += row_strides[0];
            question.q_rope.0.offset += row_strides[1];
        }
    }
}

pub(super) fn poisoned<T: Number>() {
    let dice = &mut Dice::new();
    let list = vec![segment(0, 0..5, 0..9)];
    let segments = Segments::new(list, Visibility::CAUSAL, 5, 9);
    // Keys 6 and 8 are no numbers: the second query is the last that sees neither
    let parts = Question::<T, T>::new(dice, SMALL, segments)
        .poisoned(|row| row != 6 && row != 8)
        .check("poisoned");
    assert!(
        parts.out[..2 * 4 * 7]
            .iter()
            .all(|out| out.to_f64().is_finite())
    );
    assert!(
        parts.out[2 * 4 * 7..]
            .iter()
            .any(|out| !out.to_f64().is_finite())
    );
}

pub(super) fn joins<T: Number>() {
    let dice = &mut Dice::new();
    let heads = 3;
    for (rows, width) in [(4, 5), (3, 200), (0, 4)] {
        let lines = rows * heads;
        let lse = |dice: &mut Dice, nothing: usize| {
            let values = (0..lines).map(|line| match line % 4 {
                of if of == nothing || of == 3 => f64::NEG_INFINITY,
                _ => 3.0 * dice.real(),
            });
            Both::<Accum<T>>::of(values.map(Scalar::from_f64).collect())
        };
        let mut parts = [0, 1].map(|nothing| {
            let out = Both::<Accum<T>>::random(dice, lines * width);
            let (lse, max) = (lse(dice, nothing), lse(dice, nothing));
            (out, lse, max)
        });
        let [(out, sums, max), (other_out, other_sums, other_max)] = &mut parts;
        let into = PartsMut::<Cpu<T>> {
            out: &mut out.cpu,
            lse: &mut sums.cpu,
            max_logit: &mut max.cpu,
        };
        let other = Parts::<Cpu<T>> {
            out: &other_out.cpu,
            lse: &other_sums.cpu,
            max_logit: &other_max.cpu,
        };
        Cpu::<T>::merge(&CPU, into, other, width).expect("runs");
        let into = PartsMut::<Cuda<T>> {
            out: &mut out.cuda,
            lse: &mut sums.cuda,
            max_logit: &mut max.cuda,
        };
        let other = Parts::<Cuda<T>> {
            out: &other_out.cuda,
            lse: &other_sums.cuda,
            max_logit: &other_max.cuda,
        };
        Cuda::<T>::merge(&device(), into, other, width).expect("runs");
        assert_same("merged", &out.cuda, &out.cpu);
        assert_same("merged lse", &sums.cuda, &sums.cpu);
        assert_same("merged max", &max.cuda, &max.cpu);

        let mut sinks = dice.values::<Accum<T>>(heads);
        sinks[1] = Scalar::from_f64(f64::NEG_INFINITY);
        let sinks = Both::of(sinks);
        for given in [true, false] {
            let of_cpu = given.then_some(&sinks.cpu);
            let of_cuda = given.then_some(&sinks.cuda);
            Cpu::<T>::sink(&CPU, &mut out.cpu, &mut sums.cpu, of_cpu, width).expect("runs");
            Cuda::<T>::sink(&device(), &mut out.cuda, &mut sums.cuda, of_cuda, width)
                .expect("runs");
            assert_same("sunk", &out.cuda, &out.cpu);
            assert_same("sunk lse", &sums.cuda, &sums.cpu);
        }
    }
}

pub(super) fn graphs<T: Number>() {
    let dice = &mut Dice::new();
    let segments = requests(&[(1, 1), (1, 1)], 960, Visibility::CAUSAL);
    let mut question = Question::<T, T>::absorbed(dice, [20, 40, 9], 960, segments);
    let mut graph = CudaGraph::new(&device());
    for lengths in [[300, 210], [301, 211], [12, 400]] {
        let requests_now = lengths.map(|length| (length, 1));
        question.segments = requests(&requests_now, 960, Visibility::CAUSAL);
        question = question.in_pages(16, tables(dice, 16, 60, &lengths).0);
        let found = graph.run(|| question.on_cuda()).expect("it runs");
        question.compare(&format!("{lengths:?}"), &found);
    }
    assert_eq!(graph.recordings(), 1, "lengths are in tables");
}
