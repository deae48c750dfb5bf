//! The gradients of attention over rows with Hopper's tensor cores, against f64 on the same inputs in bf16.

mod launch;
mod reference;
mod tables;

use half::bf16;

use super::{Dice, hopper};
use launch::found;
use reference::{Gradients, gradients};
use tables::Seen;

/// What is asked.
#[derive(Debug, Clone)]
struct Case {
    /// Of both parts of keys, and of values.
    widths: [usize; 3],
    /// Rows of a tile.
    queries: usize,
    /// Of queries, of keys and of keys' second parts.
    heads: [usize; 3],
    /// Queries, keys, and keys that a query sees at most.
    segments: Vec<(usize, usize, usize)>,
    /// 0: none.
    cap: f64,
    deterministic: bool,
}

impl Case {
    fn new(widths: [usize; 3], queries: usize, heads: [usize; 3]) -> Self {
        Self {
            widths,
            queries,
            heads,
            segments: vec![(200, 200, 999), (1, 1, 999), (70, 150, 999)],
            cap: 0.0,
            deterministic: false,
        }
    }

    fn scale(&self) -> f64 {
        1.0 / ((self.widths[0] + self.widths[1]) as f64).sqrt()
    }

    /// The sizes of the kernel.
    fn dims(&self) -> [usize; 6] {
        let [nope, rope, value] = self.widths;
        let cap = usize::from(self.cap > 0.0);
        [
            nope,
            rope,
            value,
            self.queries,
            cap,
            usize::from(self.deterministic),
        ]
    }
}

/// Inputs. Keys and values are columns of one tensor, `[rows, heads, nope + value]`. Rows between segments are nobody's, and no numbers.
struct Question {
    case: Case,
    seen: Vec<Seen>,
    rows: usize,
    keys: usize,
    q: Vec<bf16>,
    kv: Vec<bf16>,
    k_rope: Vec<bf16>,
    d_out: Vec<bf16>,
}

impl Question {
    fn new(dice: &mut Dice, case: Case) -> Self {
        const GAP: usize = 3;
        let (mut rows, mut keys) = (GAP, GAP);
        let mut seen = Vec::new();
        for &(own_rows, own_keys, most) in &case.segments {
            // The last token sees all keys, those before it as many fewer
            let end = |row: usize| (own_keys + row + 1).saturating_sub(own_rows);
            seen.push(Seen {
                queries: rows..rows + own_rows,
                keys: keys..keys + own_keys,
                limits: (0..own_rows)
                    .map(|row| end(row).saturating_sub(most)..end(row))
                    .collect(),
            });
            (rows, keys) = (rows + own_rows + GAP, keys + own_keys + GAP);
        }
        let [nope, rope, value] = case.widths;
        let [heads, key_heads, rope_heads] = case.heads;
        let mut filled =
            |len: usize, width: usize, own: &dyn Fn(&Seen) -> std::ops::Range<usize>| {
                let mut values = vec![bf16::NAN; len * width];
                for segment in &seen {
                    for row in own(segment) {
                        values[row * width..][..width].copy_from_slice(&dice.values::<bf16>(width));
                    }
                }
                values
            };
        let of_rows = |segment: &Seen| segment.queries.clone();
        let of_keys = |segment: &Seen| segment.keys.clone();
        Self {
            q: filled(rows, heads * (nope + rope), &of_rows),
            kv: filled(keys, key_heads * (nope + value), &of_keys),
            k_rope: filled(keys, rope_heads * rope, &of_keys),
            d_out: filled(rows, heads * value, &of_rows),
            case,
            seen,
            rows,
            keys,
        }
    }
}

/// How far values are from those that are wanted, beside these: rows of nobody are left as they were.
#[track_caller]
fn assert_near(what: &str, case: &Case, found: &[f64], wanted: &[f64]) {
    let (mut off, mut all) = (0.0, 0.0);
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found.is_nan(), wanted.is_nan(), "{what} of {case:?}");
        if !wanted.is_nan() {
            off += (found - wanted).powi(2);
            all += wanted.powi(2);
        }
    }
    assert!(
        off <= 4e-3_f64.powi(2) * all,
        "{what} of {case:?}: {:.2e}",
        (off / all).sqrt()
    );
}

fn check(dice: &mut Dice, case: Case) {
    let device = hopper();
    let question = Question::new(dice, case);
    let case = &question.case;
    let wanted = gradients(&question);
    let Gradients {
        delta,
        d_q,
        d_kv,
        d_k_rope,
        ..
    } = found(&device, &question, &wanted, 3);
    assert_near("delta", case, &delta, &wanted.delta);
    assert_near("queries' gradient", case, &d_q, &wanted.d_q);
    assert_near("keys' and values' gradient", case, &d_kv, &wanted.d_kv);
    assert_near("shared keys' gradient", case, &d_k_rope, &wanted.d_k_rope);
    if case.deterministic {
        let other = found(&device, &question, &wanted, 1);
        let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&d_q), bits(&other.d_q), "{case:?}");
        assert_eq!(bits(&d_kv), bits(&other.d_kv), "{case:?}");
        assert_eq!(bits(&d_k_rope), bits(&other.d_k_rope), "{case:?}");
    }
}

#[test]
fn gradients_are_right_for_every_width() {
    let mut dice = Dice::new();
    for (widths, queries) in [
        ([128, 64, 128], 64),
        ([128, 0, 128], 64),
        ([64, 32, 64], 128),
        ([64, 0, 64], 128),
        ([80, 0, 80], 64),
        ([96, 16, 48], 64),
        ([192, 64, 256], 64),
        ([192, 0, 192], 64),
    ] {
        check(&mut dice, Case::new(widths, queries, [2, 2, 1]));
    }
}

#[test]
fn heads_may_share_keys_and_keys_their_second_part() {
    let mut dice = Dice::new();
    for heads in [[6, 2, 1], [4, 4, 2], [2, 1, 1]] {
        for widths in [[128, 64, 128], [192, 64, 256]] {
            check(&mut dice, Case::new(widths, 64, heads));
        }
    }
}

#[test]
fn rows_may_see_a_window_or_nothing_and_logits_may_be_capped() {
    let mut dice = Dice::new();
    let case = Case {
        // Of the last, the first rows see nothing, and of the one before the first keys are seen by nobody
        segments: vec![(300, 300, 100), (40, 400, 64), (200, 130, 999)],
        ..Case::new([128, 64, 128], 64, [2, 2, 1])
    };
    check(&mut dice, case.clone());
    let capped = |widths| Case {
        widths,
        cap: 3.0,
        ..case.clone()
    };
    check(&mut dice, capped([128, 0, 128]));
    check(&mut dice, capped([256, 0, 256]));
}

#[test]
fn blocks_that_add_in_turn_give_the_same_bits() {
    let mut dice = Dice::new();
    for (widths, queries) in [
        ([128, 64, 128], 64),
        ([64, 0, 64], 128),
        ([192, 64, 256], 64),
    ] {
        let case = Case {
            segments: vec![(300, 300, 999), (100, 300, 150)],
            deterministic: true,
            ..Case::new(widths, queries, [4, 4, 1])
        };
        check(&mut dice, case);
    }
}
