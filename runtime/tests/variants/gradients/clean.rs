//! What is no number stays with those who see it.

use super::asked::{Asked, Sized, forms};
use crate::plain::Rule;
use crate::problem::{Dice, H, Problem, assert_close};

/// A token, a rule, and what each query selects.
struct Case {
    len: usize,
    rule: Rule,
    bits: fn(usize, usize) -> bool,
    selects: bool,
}

fn problem(case: &Case) -> Problem {
    let len = case.len;
    let mut problem = Problem::plain_sequences(&[(len, len)]);
    problem.rule = case.rule.clone();
    let sequence = &mut problem.sequences[0];
    sequence.bits = (0..len * len)
        .map(|i| (case.bits)(i / len, i % len))
        .collect();
    sequence.selected = case.selects.then(|| {
        let far = len as u32 - 1;
        [vec![1, 3, 4], vec![0, 2, 5, far], vec![0, 3], vec![far]]
            .into_iter()
            .cycle()
            .take(len)
            .collect()
    });
    problem
}

/// Poisons one row of the operands that queries or keys have, and looks where it comes out.
fn poison(case: &Case, form: Sized, token: usize, poison: f64, in_keys: bool) {
    let problem = problem(case);
    let asked = Asked::new(&problem);
    let dice = &mut Dice(case.len as u64);
    let mut operands = asked.operands(dice, form.1, form.2);
    let out = form.0(&asked, &operands, None).out.len();
    let mut d_out = dice.values(out);
    let clean = form.0(&asked, &operands, Some(&d_out)).gradients;
    let of_queries = form.1.len();
    let widths: Vec<usize> = form.1.iter().chain(form.2).copied().collect();
    for (i, operand) in operands.iter_mut().enumerate() {
        if (i >= of_queries) == in_keys {
            operand[token * widths[i]..(token + 1) * widths[i]].fill(poison);
        }
    }
    if !in_keys {
        let width = out / case.len;
        d_out[token * width..(token + 1) * width].fill(poison);
    }
    let dirty = form.0(&asked, &operands, Some(&d_out)).gradients;

    let sequence = &problem.sequences[0];
    let sees = |query: usize, key: usize| {
        let selected = sequence.selected.as_ref();
        problem.rule.sees(sequence, query, key)
            && selected.is_none_or(|lists| lists[query].contains(&(key as u32)))
    };
    // Queries that see a poisoned key are no numbers any more, and poison what else they see
    let bad_query = |query: usize| {
        if in_keys {
            sees(query, token)
        } else {
            query == token
        }
    };
    let bad_key = |key: usize| (0..case.len).any(|query| bad_query(query) && sees(query, key));
    for (i, (dirty, clean)) in dirty.iter().zip(&clean).enumerate() {
        for row in 0..case.len {
            let own = row * widths[i]..(row + 1) * widths[i];
            let bad = if i < of_queries {
                bad_query(row)
            } else {
                bad_key(row)
            };
            if !bad {
                assert_close(&dirty[own.clone()], &clean[own], 1e-12);
            } else if in_keys && i < of_queries {
                assert!(dirty[own].iter().any(|x| !x.is_finite()));
            }
        }
    }
}

#[test]
fn a_poisoned_token_reaches_nobody_who_does_not_see_it() {
    let window = Rule {
        causal: true,
        left: Some(2),
        ..Rule::default()
    };
    let given = Rule {
        given: true,
        ..Rule::default()
    };
    let most = |q: usize, k: usize| (q * 7 + k) % 5 < 3;
    let never = |_: usize, k: usize| k % 3 != 0;
    let all = |_: usize, _: usize| true;
    for len in [9, 300] {
        for (rule, bits, selects) in [
            (&window, all as fn(usize, usize) -> bool, false),
            (&given, most, false),
            (&given, never, false),
            (&Rule::default(), all, true),
            (&given, most, true),
        ] {
            let case = Case {
                len,
                rule: rule.clone(),
                bits,
                selects,
            };
            for form in forms::<f64>() {
                for (token, in_keys) in [
                    (0, true),
                    (3, true),
                    (len - 1, true),
                    (0, false),
                    (4, false),
                ] {
                    poison(&case, form, token, f64::NAN, in_keys);
                    poison(&case, form, token, f64::INFINITY, in_keys);
                }
            }
        }
    }
}

/// Keys that nobody sees and queries that see nothing have gradients of 0, to the bit.
#[test]
fn what_is_not_seen_has_no_gradient() {
    let case = Case {
        len: 9,
        rule: Rule {
            given: true,
            ..Rule::default()
        },
        bits: |q, k| q % 4 != 1 && k % 3 != 0,
        selects: false,
    };
    let problem = problem(&case);
    let asked = Asked::new(&problem);
    let dice = &mut Dice(2);
    for form in forms::<f64>() {
        let operands = asked.operands(dice, form.1, form.2);
        let d_out = dice.values(form.0(&asked, &operands, None).out.len());
        let gradients = form.0(&asked, &operands, Some(&d_out)).gradients;
        let widths = form.1.iter().chain(form.2);
        for (i, (gradient, &width)) in gradients.iter().zip(widths).enumerate() {
            for (row, gradient) in gradient.chunks_exact(width).enumerate() {
                let unseen = if i < form.1.len() {
                    row % 4 == 1
                } else {
                    row % 3 == 0
                };
                assert_eq!(
                    unseen,
                    gradient.iter().all(|&x| x == 0.0),
                    "row {row} of {H} heads"
                );
            }
        }
    }
}
