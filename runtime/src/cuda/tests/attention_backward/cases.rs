//! Forms, sights, softmaxes and selections.

use super::*;

fn check<T: Number>(what: &str, segments: &Segments, form: Form, options: Options) {
    Pass::<T>::random(&mut Dice::new(), segments, form, options).check(what);
}

fn packed(visibility: Visibility) -> Segments {
    // Three sequences, and two rows that belong to none
    Mask::cu_seqlens(&[0, 37, 38, 45])
        .segments(47, visibility, Padding::Allowed)
        .expect("segments")
}

fn rows(mask: &Mask, rows: usize, visibility: Visibility) -> Segments {
    mask.segments(rows, visibility, Padding::Allowed)
        .expect("segments")
}

/// Queries at the end of longer sequences, whose keys two of them share.
fn prefixed() -> Segments {
    let list = [(0..4, 3..21, 14), (4..9, 12..40, 23)]
        .into_iter()
        .enumerate()
        .map(|(i, (queries, keys, first_query))| Segment {
            queries,
            keys,
            first_query,
            first_key: 5 * i,
            sequence: i,
            shift: 5 * i as i64,
            line: (0, 0),
        });
    Segments::new(list.collect(), Visibility::CAUSAL, 9, 41)
}

pub(super) fn forms<T: Number>() {
    for &form in of_type::<T, _>(2, &[ABSORBED, GROUPED, EXPANDED, WIDE]) {
        for visibility in [Visibility::CAUSAL, Visibility::FULL] {
            check::<T>("packed", &packed(visibility), form, Options::default());
        }
        let empty = rows(&Mask::dense(0, 0), 0, Visibility::CAUSAL);
        check::<T>("nothing", &empty, form, Options::default());
    }
}

pub(super) fn sights<T: Number>() {
    let dice = &mut Dice::new();
    let windows = Visibility::CAUSAL.window(Some(3), None);
    let blocks = Mask::dense(2, 20).with_blocks(
        &(0..40)
            .map(|i: u32| [0, 1, 1, 1, 0, 2, 2, 0, 3, 3][i as usize / 2 % 10])
            .collect::<Vec<u32>>(),
    );
    let bits: Vec<bool> = (0..2 * 18 * 18).map(|_| dice.below(3) > 0).collect();
    let across = Mask::dense(2, 3).across(
        6,
        &Mask::cu_seqlens(&[0, 35, 37]),
        37,
        Visibility::CAUSAL,
        Padding::Allowed,
    );
    for (what, segments) in [
        ("window", packed(windows)),
        (
            "both sides",
            packed(Visibility::FULL.window(Some(2), Some(5))),
        ),
        ("chunks", packed(Visibility::CAUSAL.chunk(7))),
        ("blocks", rows(&blocks, 40, windows.blocks())),
        (
            "given",
            rows(&Mask::visible(2, 18, &bits), 36, Visibility::GIVEN),
        ),
        ("across", across.expect("segments")),
        ("prefixed", prefixed()),
    ] {
        for form in [EXPANDED, GROUPED] {
            check::<T>(what, &segments, form, Options::default());
        }
    }
    check::<T>("prefixed", &prefixed(), ABSORBED, Options::default());
}

const DROPOUT: Option<Dropout> = Some(Dropout {
    probability: 0.4,
    seed: 17,
});

pub(super) fn softmaxes<T: Number>() {
    let cap = Some(1.5);
    for form in [EXPANDED, GROUPED] {
        for options in [
            Options {
                cap,
                ..Options::default()
            },
            Options {
                bias: Some(1),
                ..Options::default()
            },
            Options {
                bias: Some(form.heads),
                ..Options::default()
            },
            Options {
                dropout: DROPOUT,
                ..Options::default()
            },
            Options {
                sunk: true,
                ..Options::default()
            },
        ] {
            check::<T>("packed", &packed(Visibility::CAUSAL), form, options);
        }
    }
    for &form in of_type::<T, _>(1, &[ABSORBED, EXPANDED, GROUPED]) {
        for heads in [1, form.heads] {
            let all = Options {
                cap,
                bias: Some(heads),
                dropout: DROPOUT,
                sunk: true,
                ..Options::default()
            };
            check::<T>("prefixed", &prefixed(), form, all);
        }
    }
}

pub(super) fn selections<T: Number>() {
    let dice = &mut Dice::new();
    let bits: Vec<bool> = (0..2 * 18 * 18).map(|_| dice.below(3) > 0).collect();
    let given = rows(&Mask::visible(2, 18, &bits), 36, Visibility::GIVEN);
    for &form in of_type::<T, _>(1, &[ABSORBED, EXPANDED, GROUPED]) {
        let chosen = Options {
            chosen: Some(9),
            ..Options::default()
        };
        check::<T>("causal", &packed(Visibility::CAUSAL), form, chosen);
        check::<T>("given", &given, form, chosen);
        let all = Options {
            cap: Some(2.0),
            bias: Some(form.heads),
            dropout: DROPOUT,
            chosen: Some(35),
            ..Options::default()
        };
        check::<T>("prefixed", &prefixed(), form, all);
    }
}

/// Lists so short, and keys that so many chose, that their queries are cut into pieces.
pub(super) fn popular_keys<T: Number>() {
    let segments = rows(
        &Mask::cu_seqlens(&[0, 150, 151, 170]),
        171,
        Visibility::CAUSAL,
    );
    for &form in of_type::<T, _>(1, &[ABSORBED, EXPANDED, GROUPED]) {
        for chosen in [2, 4] {
            let options = Options {
                chosen: Some(chosen),
                popular: true,
                ..Options::default()
            };
            check::<T>("packed", &segments, form, options);
        }
        let all = Options {
            cap: Some(2.0),
            dropout: DROPOUT,
            chosen: Some(7),
            popular: true,
            sunk: true,
            ..Options::default()
        };
        check::<T>("prefixed", &prefixed(), form, all);
        let window = packed(Visibility::CAUSAL.window(Some(9), None));
        check::<T>("window", &window, form, all);
    }
}

pub(super) fn unseen_values_are_never_used<T: Number>() {
    let dice = &mut Dice::new();
    let mut bits: Vec<bool> = (0..2 * 18 * 18).map(|_| dice.below(3) > 0).collect();
    // Keys that no query sees, and queries that see no key
    for (i, sees) in bits.iter_mut().enumerate() {
        *sees &= i % 18 != 4 && i / 18 % 18 != 6;
    }
    let given = rows(&Mask::visible(2, 18, &bits), 36, Visibility::GIVEN);
    let real: Vec<bool> = (0..44).map(|i| i % 11 > 2).collect();
    let padded = rows(&Mask::padded(4, 11, &real), 44, Visibility::CAUSAL);
    for &form in of_type::<T, _>(1, &[ABSORBED, EXPANDED, GROUPED]) {
        for chosen in [None, Some(9)] {
            let options = Options {
                poisoned: true,
                chosen,
                bias: Some(1),
                ..Options::default()
            };
            check::<T>("given", &given, form, options);
            check::<T>("padded", &padded, form, options);
            check::<T>("prefixed", &prefixed(), form, options);
        }
    }
}

pub(super) fn sinks<T: Number>() {
    let dice = &mut Dice::new();
    for (rows, heads, width) in [(3, 2, 5), (150, 3, 40), (0, 2, 3), (1, 1, 0)] {
        let (shape, other) = (
            Shape::random(dice, rows, heads, width),
            Shape::random(dice, rows, heads, width),
        );
        let (out, d_out) = (
            Both::<T>::random(dice, shape.len()),
            Both::<T>::random(dice, other.len()),
        );
        let mut lse: Vec<Accum<T>> = dice.values(rows * heads);
        for lse in lse.iter_mut().step_by(3) {
            *lse = <Accum<T>>::from_f64(f64::NEG_INFINITY);
        }
        let lse = Both::of(lse);
        let sinks = Both::<Accum<T>>::random(dice, heads);
        let mut into = Both::<Accum<T>>::random(dice, heads);
        Cpu::sink_backward(
            &CPU,
            &sinks.cpu,
            shape.of(&out.cpu),
            &lse.cpu,
            other.of(&d_out.cpu),
            &mut into.cpu,
        )
        .expect("runs");
        Cuda::sink_backward(
            &device(),
            &sinks.cuda,
            shape.of(&out.cuda),
            &lse.cuda,
            other.of(&d_out.cuda),
            &mut into.cuda,
        )
        .expect("runs");
        assert_same("sink_backward", &into.cuda, &into.cpu);
    }
}
