//! What must not change a gradient: threads, other runs, a narrower number type.

use mla_runtime::bf16;
use rayon::ThreadPoolBuilder;

use super::asked::{Asked, Sized, forms};
use crate::problem::{Dice, Problem, assert_close};

fn in_pool(
    threads: usize,
    form: Sized,
    asked: &Asked,
    operands: &[Vec<f64>],
    d_out: &[f64],
) -> Vec<Vec<f64>> {
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads)
        .build()
        .expect("a pool");
    pool.install(|| form.0(asked, operands, Some(d_out)).gradients)
}

fn given(form: Sized, asked: &Asked, dice: &mut Dice) -> (Vec<Vec<f64>>, Vec<f64>) {
    let operands = asked.operands(dice, form.1, form.2);
    let len = form.0(asked, &operands, None).out.len();
    (operands, dice.values(len))
}

#[test]
fn two_runs_give_the_same_bits_and_threads_change_rounding_only() {
    let dice = &mut Dice(17);
    for lengths in [&[(700, 700)][..], &[(90, 90), (1, 1), (300, 300)]] {
        let mut problem = Problem::plain_sequences(lengths);
        problem.rule.causal = true;
        let asked = Asked::new(&problem);
        for form in forms::<f64>() {
            let (operands, d_out) = given(form, &asked, dice);
            let alone = in_pool(1, form, &asked, &operands, &d_out);
            for threads in [2, 3, 5] {
                let first = in_pool(threads, form, &asked, &operands, &d_out);
                for (first, alone) in first.iter().zip(&alone) {
                    assert_close(first, alone, 1e-11);
                }
                let second = in_pool(threads, form, &asked, &operands, &d_out);
                assert_eq!(first, second);
            }
        }
    }
}

/// Distance by the root mean square.
fn apart(found: &[f64], wanted: &[f64]) -> f64 {
    let square = |x: f64| x * x;
    let missed: f64 = found.iter().zip(wanted).map(|(x, y)| square(x - y)).sum();
    (missed / wanted.iter().copied().map(square).sum::<f64>()).sqrt()
}

#[test]
fn narrower_numbers_are_near() {
    let dice = &mut Dice(23);
    let mut problem = Problem::plain_sequences(&[(60, 60), (300, 300)]);
    problem.rule.causal = true;
    problem.softening.cap = Some(6.0);
    let asked = Asked::new(&problem);
    let (exact, single, half) = (forms::<f64>(), forms::<f32>(), forms::<bf16>());
    for ((exact, single), half) in exact.into_iter().zip(single).zip(half) {
        let (operands, d_out) = given(exact, &asked, dice);
        let run = |form: Sized| form.0(&asked, &operands, Some(&d_out)).gradients;
        let exact = run(exact);
        for (found, most) in [(run(single), 3e-6), (run(half), 2e-2)] {
            for (found, exact) in found.iter().zip(&exact) {
                let apart = apart(found, exact);
                assert!(apart < most, "{apart}");
            }
        }
    }
}
