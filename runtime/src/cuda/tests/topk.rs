//! The best of scores that there are: rows of all kinds, by each way to spread them over blocks.

use super::super::ops::{Spread, choose_spread};
use super::super::{CudaGraph, Scores};
use super::{Accum, CudaElement, Dice, device, in_each_type};
use crate::backend::Pages;
use crate::element::{Real, Scalar};
use crate::error::Result;

in_each_type! { rows_of_all_kinds_however_they_are_spread slots_of_a_paged_cache the_same_bytes_in_every_run }

/// The best keys of scores that are given, by a sort.
pub(super) fn sorted<A: Real>(scores: &[A], most: usize) -> Vec<i32> {
    let mut keys: Vec<usize> = (0..scores.len()).collect();
    if scores.len() > most {
        keys.retain(|&key| scores[key] != A::NEG_INFINITY);
        keys.sort_by(|&a, &b| {
            let (x, y) = (scores[a], scores[b]);
            let by_score = y.partial_cmp(&x);
            by_score
                .unwrap_or_else(|| x.is_nan().cmp(&y.is_nan()))
                .then_with(|| a.cmp(&b))
        });
        keys.truncate(most);
        keys.sort_unstable();
    }
    let mut keys: Vec<i32> = keys.into_iter().map(|key| key as i32).collect();
    keys.resize(most, -1);
    keys
}

const MANY: Spread = Spread {
    few: false,
    split: 1,
    room: 512,
};
const FEW: Spread = Spread { few: true, ..MANY };
const SPLIT: Spread = Spread { split: 5, ..FEW };

/// Rows of scores, `stride` apart, of which each has another number.
struct Rows {
    scores: Vec<f64>,
    stride: usize,
    ends: Vec<usize>,
}

impl Rows {
    /// Two rows; `make` is told which score of how many it makes. What is behind them would be chosen, if it were read.
    fn of(keys: usize, mut make: impl FnMut(usize, usize) -> f64) -> Self {
        let (stride, ends) = (keys + 3, vec![keys, keys - 7]);
        let mut scores = vec![f64::INFINITY; 2 * stride];
        for (row, &end) in ends.iter().enumerate() {
            for (i, score) in scores[row * stride..][..end].iter_mut().enumerate() {
                *score = make(i, end);
            }
        }
        Self {
            scores,
            stride,
            ends,
        }
    }

    fn as_type<A: Scalar>(&self) -> Vec<A> {
        self.scores
            .iter()
            .map(|&score| A::from_f64(score))
            .collect()
    }

    fn wanted<T: CudaElement>(&self, most: usize) -> Vec<i32> {
        let scores = self.as_type::<Accum<T>>();
        let rows = self.ends.iter().enumerate();
        rows.flat_map(|(row, &end)| sorted(&scores[row * self.stride..][..end], most))
            .collect()
    }

    fn found<T: CudaElement>(
        &self,
        most: usize,
        pages: Option<&Pages>,
        spread: Option<Spread>,
    ) -> Vec<i32> {
        let device = device();
        let scores = device.upload(&self.as_type::<Accum<T>>()).expect("room");
        let out = device
            .upload(&vec![7; self.ends.len() * most])
            .expect("room");
        let given = Scores::<T> {
            scores: &scores,
            width: self.stride,
            ends: &self.ends,
            pages,
        };
        choose_spread(&device, &given, &out, most, spread).expect("runs");
        device.download(&out).expect("values")
    }

    #[track_caller]
    fn check<T: CudaElement>(&self, what: &str, most: usize) {
        let wanted = self.wanted::<T>(most);
        for spread in [None, Some(MANY), Some(FEW), Some(SPLIT)] {
            let found = self.found::<T>(most, None, spread);
            assert_eq!(found, wanted, "{what}, {most}: {spread:?}");
        }
    }
}

/// About a normal distribution.
fn normal(dice: &mut Dice) -> f64 {
    (0..6).map(|_| dice.real()).sum()
}

/// The quads that `topk_sample.cuh` samples of a row that has so many, with so many threads.
fn sampled(quads: usize, threads: usize) -> Vec<usize> {
    let pairs = threads / 2;
    let pair = |i: usize| {
        let (first, next) = (i * quads / pairs, (i + 1) * quads / pairs);
        let spare = (next - first).saturating_sub(2) as u64;
        let hash = u64::from((i as u32).wrapping_mul(2_654_435_761));
        first + ((hash * (spare + 1)) >> 32) as usize
    };
    (0..pairs).flat_map(|i| [pair(i), pair(i) + 1]).collect()
}

mod cases {
    use super::*;

    pub(super) fn rows_of_all_kinds_however_they_are_spread<T: CudaElement>() {
        let dice = &mut Dice::new();
        let keys = 6000;
        type Make = fn(&mut Dice, usize, usize) -> f64;
        let kinds: [(&str, Make); 18] = [
            ("normal", |dice, _, _| normal(dice)),
            ("all equal", |_, _, _| 0.3),
            ("two values", |dice, _, _| [1.5, -2.5][dice.below(9).min(1)]),
            ("zeros", |dice, _, _| [0.0, -0.0][dice.below(2)]),
            ("zeros and below", |dice, i, _| match i % 3 {
                0 => 0.0,
                1 => -0.0,
                _ => -1e-30 * dice.real().abs(),
            }),
            ("half zeros", |dice, _, _| normal(dice).max(0.0)),
            ("mostly zeros", |dice, _, _| match dice.below(100) {
                0 => normal(dice),
                _ => 0.0,
            }),
            ("no number", |_, _, _| f64::NAN),
            ("few numbers", |dice, _, _| match dice.below(50) {
                0 => normal(dice),
                _ => f64::NAN,
            }),
            ("nothing", |_, _, _| f64::NEG_INFINITY),
            ("few", |dice, _, _| match dice.below(200) {
                0 => normal(dice),
                1 => f64::NAN,
                _ => f64::NEG_INFINITY,
            }),
            ("infinities", |dice, _, _| match dice.below(20) {
                0 => f64::INFINITY,
                1 => f64::NEG_INFINITY,
                _ => normal(dice),
            }),
            ("ascending", |_, i, _| i as f64),
            ("descending", |_, i, _| -(i as f64)),
            ("coarse", |dice, _, _| normal(dice).round()),
            ("one bin", |dice, _, _| 1.0 + dice.real() * 1e-6),
            ("best at the end", |dice, i, end| {
                normal(dice) + if i + 300 > end { 9.0 } else { 0.0 }
            }),
            ("repeated", |dice, i, _| {
                normal(dice) + if i % 128 < 8 { 5.0 } else { 0.0 }
            }),
        ];
        for (what, make) in kinds {
            let rows = Rows::of(keys, |i, end| make(dice, i, end));
            for most in [1, 200] {
                rows.check::<T>(what, most);
            }
        }
        // As many as there is room for, and more; hardly more keys than are wanted, and no more
        let rows = Rows::of(1200, |_, _| normal(dice));
        for most in [511, 512, 513, 1192, 1193, 1199, 1200, 1300] {
            rows.check::<T>("normal", most);
        }
    }

    pub(super) fn slots_of_a_paged_cache<T: CudaElement>() {
        let dice = &mut Dice::new();
        let (most, page) = (50, 48);
        for keys in [2000, 55] {
            let rows = Rows::of(keys, |_, _| normal(dice));
            let blocks = keys.div_ceil(page);
            let lists = [0, 1].map(|_| (0..blocks).map(|_| dice.below(1000) as u32).collect());
            let pages = Pages::new(page, lists.to_vec());
            let wanted = rows.wanted::<T>(most);
            let slot = |(at, &key): (usize, &i32)| match usize::try_from(key) {
                Ok(key) => pages.slot(at / most, key) as i32,
                Err(_) => -1,
            };
            let wanted: Vec<i32> = wanted.iter().enumerate().map(slot).collect();
            for spread in [MANY, FEW, SPLIT] {
                let found = rows.found::<T>(most, Some(&pages), Some(spread));
                assert_eq!(found, wanted, "{keys} {spread:?}");
            }
        }
    }

    pub(super) fn the_same_bytes_in_every_run<T: CudaElement>() {
        let dice = &mut Dice::new();
        let rows = Rows::of(3000, |_, _| normal(dice).round());
        let wanted = rows.wanted::<T>(100);
        for run in 0..20 {
            let spread = [MANY, SPLIT][run % 2];
            assert_eq!(rows.found::<T>(100, None, Some(spread)), wanted, "{run}");
        }
    }
}

/// What is sampled says nothing of the others, or the contrary.
#[test]
fn guesses_that_mislead() {
    let dice = &mut Dice::new();
    let keys = 8192;
    for (spread, threads) in [(MANY, 512), (FEW, 1024), (SPLIT, 1024)] {
        let sample = sampled(keys / 4, threads);
        for by in [50.0, -50.0] {
            // The first row begins at a multiple of 16 bytes, and so do its quads
            let mut rows = Rows::of(keys, |i, _| {
                normal(dice) + if sample.contains(&(i / 4)) { by } else { 0.0 }
            });
            rows.ends[1] = 0;
            for most in [3, 300] {
                let found = rows.found::<f32>(most, None, Some(spread));
                assert_eq!(found, rows.wanted::<f32>(most), "{spread:?} {by} {most}");
            }
        }
    }
}

/// What blocks count is as it was when the last has come.
#[test]
fn a_graph_of_rows_in_parts_runs_again() -> Result<()> {
    let dice = &mut Dice::new();
    let rows = Rows::of(4000, |_, _| normal(dice));
    let (device, most) = (device(), 100);
    let scores = device.upload(&rows.as_type::<f32>())?;
    let out = device.upload(&vec![7; 2 * most])?;
    let given = Scores::<f32> {
        scores: &scores,
        width: rows.stride,
        ends: &rows.ends,
        pages: None,
    };
    let mut graph = CudaGraph::new(&device);
    graph.run(|| choose_spread(&device, &given, &out, most, Some(SPLIT)))?;
    for _ in 0..3 {
        device.fill(&out, 0)?;
        graph.launch()?;
        assert_eq!(device.download(&out)?, rows.wanted::<f32>(most));
    }
    Ok(())
}

#[test]
fn rows_are_spread_by_how_many_they_are_and_how_long() {
    let spread = |rows, width, most| {
        let Spread { few, split, room } = Spread::of(rows, width, most, 132);
        (few, split, room)
    };
    assert_eq!(spread(4096, 32768, 2048), (false, 1, 4096));
    assert_eq!(spread(128, 32768, 2048), (true, 1, 4096));
    assert_eq!(spread(8, 131_072, 2048), (true, 4, 8192));
    assert_eq!(spread(8, 1 << 20, 2048), (true, 16, 8192));
    assert_eq!(spread(1, 1 << 20, 2048), (true, 32, 8192));
    assert_eq!(spread(4096, 1 << 20, 2048), (true, 1, 8192));
    assert_eq!(spread(8, 8192, 2048), (false, 1, 4096));
    assert_eq!(spread(300, 32768, 4096), (false, 1, 8192));
}
