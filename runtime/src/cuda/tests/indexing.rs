//! Indexers: scores, selections, pooled keys.

use super::in_each_type;

in_each_type! { selections scores pools rows_of_all_kinds }

mod cases {
    use std::ops::Range;

    use super::super::topk::sorted;
    use super::super::*;
    use crate::backend::{Indexing, Pages, Pooling, Sight};
    use crate::element::Real;

    /// One sequence's queries, and what they see of its keys.
    struct Sequence {
        queries: Range<usize>,
        first_row: usize,
        first_position: usize,
        visible: Vec<Range<usize>>,
        /// A line of the mask for each query, or none.
        given: Vec<Vec<bool>>,
    }

    /// Some sequences' queries and keys.
    struct Case {
        rows: usize,
        key_rows: usize,
        sequences: Vec<Sequence>,
        pages: Option<Pages>,
        /// Rows of keys that somebody sees.
        written: Vec<bool>,
    }

    impl Case {
        /// Sequences with some queries each, rows of nobody between them; keys as rows or in pages.
        fn random(dice: &mut Dice, sequences: usize, queries: usize, most_keys: usize) -> Self {
            let (paged, masked) = (dice.below(2) == 1, dice.below(3) == 0);
            let page = 1 + dice.below(5);
            let mut case = Self {
                rows: 0,
                key_rows: 0,
                sequences: Vec::new(),
                pages: None,
                written: Vec::new(),
            };
            let mut tables = Vec::new();
            let blocks = sequences * (most_keys.div_ceil(page) + 2);
            for sequence in 0..sequences {
                case.rows += dice.below(2);
                let count = dice.below(queries + 1);
                let own = case.rows..case.rows + count;
                case.rows = own.end;
                let visible: Vec<Range<usize>> = (0..count)
                    .map(|_| {
                        let end = dice.below(most_keys + 1);
                        dice.below(end / 2 + 1)..end
                    })
                    .collect();
                let keys = visible.iter().map(|range| range.end).max().unwrap_or(0);
                let lines = if masked { count } else { 0 };
                let line = |_| (0..most_keys).map(|_| dice.below(4) > 0).collect();
                let given = (0..lines).map(line).collect();
                let first_row = case.key_rows + dice.below(3);
                if paged {
                    // Blocks of the sequence's own, in no order, and behind those that are needed nothing that may be read
                    let needed = keys.div_ceil(page);
                    let mut list: Vec<u32> = (0..needed)
                        .map(|i| ((needed - 1 - i) * sequences + sequence) as u32)
                        .collect();
                    list.extend([u32::MAX; 2]);
                    tables.push(list);
                } else {
                    case.key_rows = first_row + keys;
                }
                case.sequences.push(Sequence {
                    queries: own,
                    first_row: if paged { 0 } else { first_row },
                    first_position: dice.below(4),
                    visible,
                    given,
                });
            }
            case.rows += dice.below(2);
            if paged {
                case.key_rows = blocks * page;
                case.pages = Some(Pages::new(page, tables));
            }
            case.written = vec![false; case.key_rows];
            for (i, sequence) in case.sequences.iter().enumerate() {
                // What lies between two ranges is read too
                let all = sequence.visible.iter().filter(|range| !range.is_empty());
                let all = all
                    .cloned()
                    .reduce(|a, b| a.start.min(b.start)..a.end.max(b.end));
                for key in all.unwrap_or(0..0) {
                    let row = match &case.pages {
                        Some(pages) => pages.slot(i, key),
                        None => sequence.first_row + key,
                    };
                    case.written[row] = true;
                }
            }
            case
        }

        fn sights(&self) -> Vec<Sight<'_>> {
            fn sight(sequence: &Sequence) -> Sight<'_> {
                let first = (sequence.first_row, sequence.first_position);
                let given = sequence.given.iter().map(Vec::as_slice).collect();
                Sight::new(
                    sequence.queries.clone(),
                    first,
                    sequence.visible.clone(),
                    given,
                )
            }
            self.sequences.iter().map(sight).collect()
        }
    }

    /// An indexer's operands.
    struct Operands<T: Number, E: Scalar> {
        of_q: Shape,
        q: Both<T>,
        weights: Both<Accum<T>>,
        of_k: Shape,
        k: Both<E>,
    }

    impl<T: Number, E: Scalar> Operands<T, E> {
        fn random(
            dice: &mut Dice,
            case: &Case,
            heads: usize,
            width: usize,
            value: impl Fn(&mut Dice) -> f64,
        ) -> Self {
            let of_q = Shape::random(dice, case.rows, heads, width);
            let of_k = Shape::random(dice, case.key_rows, 1, width);
            let mut values = |len: usize| -> Vec<f64> { (0..len).map(|_| value(dice)).collect() };
            let q = values(of_q.len()).into_iter().map(T::from_f64).collect();
            let weights = values(case.rows * heads).into_iter();
            let weights = weights.map(<Accum<T> as Scalar>::from_f64).collect();
            let mut k: Vec<E> = values(of_k.len()).into_iter().map(E::from_f64).collect();
            for (row, _) in case.written.iter().enumerate().filter(|(_, is)| !**is) {
                let at = of_k.offset + row * of_k.row_stride;
                k[at..at + width].fill(E::from_f64(f64::NAN));
            }
            Self {
                of_q,
                q: Both::of(q),
                weights: Both::of(weights),
                of_k,
                k: Both::of(k),
            }
        }
    }

    macro_rules! indexing {
        ($on:ident, $operands:expr, $case:expr, $sights:expr, $relu:expr, $forced:expr) => {
            Indexing {
                q: $operands.of_q.of(&$operands.q.$on),
                weights: &$operands.weights.$on,
                k: $operands.of_k.of(&$operands.k.$on),
                sights: $sights,
                pages: $case.pages.as_ref(),
                scale: 0.5,
                relu: $relu,
                initial: $forced.0,
                local: $forced.1,
            }
        };
    }

    /// Products of these are the same in every order, and many are equal.
    fn whole(dice: &mut Dice) -> f64 {
        dice.below(5) as f64 - 2.0
    }

    pub(super) fn selections<T: Number>() {
        selections_of::<T, f64>();
        selections_of::<T, f32>();
        selections_of::<T, bf16>();
        selections_of::<T, half::f16>();
    }

    fn selections_of<T: Number, E: Scalar>() {
        let dice = &mut Dice::new();
        // Kernels for other sizes are compiled once for each type, not for each two
        let (large, empty) = if T::NAME == E::NAME {
            ((64, 33), (3, 0))
        } else {
            ((3, 5), (3, 5))
        };
        for (sequences, queries, most_keys, (heads, width), most, forced) in [
            (3, 9, 40, (3, 5), 7, (0, 0)),
            (3, 9, 40, (3, 5), 7, (2, 3)),
            (5, 1, 150, (3, 5), 20, (0, 1)),
            (2, 20, 90, large, 64, (4, 0)),
            (1, 3, 700, (3, 5), 130, (0, 0)),
            (4, 2, 30, empty, 4, (1, 1)),
            (2, 6, 12, (3, 5), 4, (2, 2)),
            (2, 6, 12, (3, 5), 1, (0, 0)),
            (2, 6, 12, (3, 5), 0, (0, 0)),
            (0, 0, 1, (3, 5), 4, (0, 0)),
            (2, 5, 20, (3, 5), 4000, (9, 9)),
        ] {
            for relu in [true, false] {
                for _ in 0..3 {
                    let case = Case::random(dice, sequences, queries, most_keys);
                    let operands = Operands::<T, E>::random(dice, &case, heads, width, whole);
                    let sights = case.sights();
                    let cuda = indexing!(cuda, operands, case, &sights, relu, forced);
                    let found = Cuda::<T>::index_select(&device(), &cuda, most).expect("runs");
                    let cpu = indexing!(cpu, operands, case, &sights, relu, forced);
                    let wanted = Cpu::<T>::index_select(&CPU, &cpu, most).expect("runs");
                    let found = device().download(&found).expect("values");
                    assert_eq!(found, wanted, "{sequences} {queries} {most_keys} {most}");
                    let again = Cuda::<T>::index_select(&device(), &cuda, most).expect("runs");
                    assert_eq!(device().download(&again).expect("values"), found);
                }
            }
        }
    }

    pub(super) fn scores<T: Number>() {
        let dice = &mut Dice::new();
        for (sequences, queries, most_keys, heads, width) in [
            (3, 9, 40, 3, 5),
            (1, 19, 200, 64, 33),
            (4, 2, 70, 64, 33),
            (2, 3, 9, 3, 0),
            (2, 3, 9, 0, 5),
        ] {
            for relu in [true, false] {
                let case = Case::random(dice, sequences, queries, most_keys);
                let operands = Operands::<T, T>::random(dice, &case, heads, width, Dice::real);
                let sights = case.sights();
                let columns = most_keys + 5;
                let cuda = indexing!(cuda, operands, case, &sights, relu, (0, 0));
                let found = Cuda::<T>::index_scores(&device(), &cuda, columns).expect("runs");
                let cpu = indexing!(cpu, operands, case, &sights, relu, (0, 0));
                let wanted = Cpu::<T>::index_scores(&CPU, &cpu, columns).expect("runs");
                assert_same("index_scores", &found, &wanted);
                let again = Cuda::<T>::index_scores(&device(), &cuda, columns).expect("runs");
                let bits = |scores: &CudaBuffer<Accum<T>>| {
                    let scores = device().download(scores).expect("values");
                    let bits = scores.iter().map(|score| score.to_f64().to_bits());
                    bits.collect::<Vec<u64>>()
                };
                assert_eq!(bits(&found), bits(&again));
            }
        }
    }

    pub(super) fn pools<T: Number>() {
        let dice = &mut Dice::new();
        for (tokens, width, size, first_rows) in [
            (13, 5, 4, vec![0, 4, 9, 3]),
            (130, 128, 1, vec![7, 129]),
            (6, 3, 6, vec![0]),
            (6, 3, 2, vec![]),
            (6, 0, 2, vec![1]),
        ] {
            let (of_k, of_gates) = (
                Shape::random(dice, tokens, 1, width),
                Shape::random(dice, tokens, 1, width),
            );
            let (k, gates) = (
                Both::<T>::random(dice, of_k.len()),
                Both::<T>::random(dice, of_gates.len()),
            );
            let positions = Both::<T>::random(dice, size * width);
            let found = Cuda::pool_keys(
                &device(),
                &Pooling {
                    k: of_k.of(&k.cuda),
                    gates: of_gates.of(&gates.cuda),
                    positions: &positions.cuda,
                    size,
                    first_rows: &first_rows,
                },
            );
            let wanted = Cpu::pool_keys(
                &CPU,
                &Pooling {
                    k: of_k.of(&k.cpu),
                    gates: of_gates.of(&gates.cpu),
                    positions: &positions.cpu,
                    size,
                    first_rows: &first_rows,
                },
            );
            assert_same("pool_keys", &found.expect("runs"), &wanted.expect("runs"));
        }
    }

    /// One query, one head, one value: a score is `scale` times a key.
    pub(super) fn rows_of_all_kinds<T: Number>() {
        let dice = &mut Dice::new();
        let keys = 1500;
        // Its square is 0
        let small = if T::NAME == "f64" { 1e-200 } else { 1e-30 };
        type Make = fn(&mut Dice, usize) -> f64;
        let kinds: [(Make, f64); 10] = [
            (|_, _| 1.0, 1.0),
            (|_, _| -1.0, 1.0),
            (|_, i| if i % 2 == 0 { -1.0 } else { 1.0 }, small),
            (|dice, _| dice.real(), 1.0),
            (|dice, _| 1.0 + dice.below(7) as f64 / 128.0, 1.0),
            (|_, i| if i % 3 == 0 { f64::NAN } else { i as f64 }, 1.0),
            (|_, i| if i % 600 == 9 { -2.0 } else { f64::NAN }, 1.0),
            (
                |_, i| {
                    if i % 90 == 9 {
                        f64::INFINITY
                    } else {
                        f64::NEG_INFINITY
                    }
                },
                1.0,
            ),
            (|_, _| f64::NEG_INFINITY, 1.0),
            (
                |dice, _| {
                    [
                        f64::NAN,
                        f64::INFINITY,
                        f64::NEG_INFINITY,
                        0.0,
                        -0.0,
                        f64::MAX,
                        -3e38,
                        1e-40,
                    ][dice.below(8)]
                },
                1.0,
            ),
        ];
        for (make, scale) in kinds {
            let k = (0..keys).map(|i| T::from_f64(make(dice, i) * scale));
            let k: Vec<T> = k.collect();
            let by = <Accum<T> as Scalar>::from_f64(scale);
            let scores = k.iter().map(|&k| Accum::<T>::load(k) * by);
            let scores: Vec<Accum<T>> = scores.collect();
            let (q, k) = (Both::of(vec![T::from_f64(1.0)]), Both::of(k));
            let weights = Both::of(vec![<Accum<T> as Scalar>::from_f64(1.0)]);
            let all = 0..keys;
            let sights = [Sight::new(0..1, (0, 0), vec![all], Vec::new())];
            let one = |rows| Shape {
                rows,
                heads: 1,
                width: 1,
                head_stride: 1,
                row_stride: 1,
                offset: 0,
            };
            for most in [1, 2, 127, 500, keys - 1, keys, keys + 3] {
                let indexing = Indexing {
                    q: one(1).of::<Cuda<T>, T>(&q.cuda),
                    weights: &weights.cuda,
                    k: one(keys).of(&k.cuda),
                    sights: &sights,
                    pages: None,
                    scale,
                    relu: false,
                    initial: 0,
                    local: 0,
                };
                let found = Cuda::<T>::index_select(&device(), &indexing, most).expect("runs");
                let found = device().download(&found).expect("values");
                assert_eq!(found, sorted(&scores, most), "{most} of {:?}", &scores[..9]);
            }
        }
    }
}

/// Lengths and blocks may grow under a recorded graph.
#[test]
fn a_graph_of_a_selection_serves_other_lengths() {
    use super::{Both, CPU, Cpu, Cuda, Dice, Shape, device};
    use crate::backend::{Backend, Indexing, Pages, Sight};

    let dice = &mut Dice::new();
    let (heads, width, page, most) = (3, 5, 16, 12);
    let of_q = Shape::random(dice, 2, heads, width);
    let of_k = Shape::random(dice, 40 * page, 1, width);
    let (q, k) = (
        Both::<f32>::random(dice, of_q.len()),
        Both::<f32>::random(dice, of_k.len()),
    );
    let weights = Both::<f32>::random(dice, 2 * heads);
    let mut graph = crate::cuda::CudaGraph::new(&device());
    for lengths in [[20, 40], [21, 41], [140, 13], [150, 230]] {
        let sights = [0, 1].map(|i| {
            let all = 0..lengths[i];
            Sight::new(i..i + 1, (0, 0), vec![all], Vec::new())
        });
        let tables = [0, 1].map(|i| {
            let blocks = 0..lengths[i].div_ceil(page);
            blocks.map(|block| (2 * block + i) as u32).collect()
        });
        let pages = Pages::new(page, tables.to_vec());
        macro_rules! indexing {
            ($on:ident) => {
                Indexing {
                    q: of_q.of(&q.$on),
                    weights: &weights.$on,
                    k: of_k.of(&k.$on),
                    sights: &sights,
                    pages: Some(&pages),
                    scale: 1.0,
                    relu: true,
                    initial: 0,
                    local: 1,
                }
            };
        }
        let found = graph
            .run(|| Cuda::<f32>::index_select(&device(), &indexing!(cuda), most))
            .expect("runs");
        let wanted = Cpu::<f32>::index_select(&CPU, &indexing!(cpu), most).expect("runs");
        assert_eq!(device().download(&found).expect("values"), wanted);
        assert_eq!(graph.recordings(), 1, "{lengths:?}");
    }
}
