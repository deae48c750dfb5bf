//! Gradients against central differences of the forward function in `f64`.

use mla_runtime::{Mask, Padding, Visibility};
use proptest::prelude::*;

use super::asked::{Asked, Sized, forms};
use crate::problem::{Dice, Problem, assert_close};

const STEP: f64 = 1e-5;

/// `Σ out · d_out`.
fn loss((form, ..): Sized, asked: &Asked, operands: &[Vec<f64>], d_out: &[f64]) -> f64 {
    let out = form(asked, operands, None).out;
    out.iter().zip(d_out).map(|(out, d)| out * d).sum()
}

/// The derivative when operands move along `direction`.
fn along(
    form: Sized,
    asked: &Asked,
    operands: &[Vec<f64>],
    d_out: &[f64],
    which: usize,
    direction: &[f64],
) -> f64 {
    let moved = |step: f64| {
        let mut moved = operands.to_vec();
        for (x, d) in moved[which].iter_mut().zip(direction) {
            *x += step * d;
        }
        loss(form, asked, &moved, d_out)
    };
    (moved(STEP) - moved(-STEP)) / (2.0 * STEP)
}

fn gradients(
    form: Sized,
    asked: &Asked,
    dice: &mut Dice,
) -> (Vec<Vec<f64>>, Vec<f64>, Vec<Vec<f64>>) {
    let operands = asked.operands(dice, form.1, form.2);
    let width = form.0(asked, &operands, None).out.len();
    let d_out = dice.values(width);
    let gradients = form.0(asked, &operands, Some(&d_out)).gradients;
    assert_eq!(gradients.len(), operands.len());
    (operands, d_out, gradients)
}

/// Every value of every operand.
fn value_by_value(form: Sized, asked: &Asked, dice: &mut Dice) {
    let (operands, d_out, gradients) = gradients(form, asked, dice);
    for (which, gradient) in gradients.iter().enumerate() {
        let wanted: Vec<f64> = (0..gradient.len())
            .map(|i| {
                let mut direction = vec![0.0; gradient.len()];
                direction[i] = 1.0;
                along(form, asked, &operands, &d_out, which, &direction)
            })
            .collect();
        assert_close(gradient, &wanted, 1e-6);
    }
}

/// Each operand along a direction that moves all its values.
fn operand_by_operand(form: Sized, asked: &Asked, dice: &mut Dice) {
    let (operands, d_out, gradients) = gradients(form, asked, dice);
    for (which, gradient) in gradients.iter().enumerate() {
        let direction: Vec<f64> = (0..gradient.len())
            .map(|_| if dice.chance(2) { 0.1 } else { -0.1 })
            .collect();
        let wanted = along(form, asked, &operands, &d_out, which, &direction);
        let found: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d).sum();
        assert_close(&[found], &[wanted], 1e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_problem_value_by_value(seed in any::<u64>()) {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 5);
        for form in forms::<f64>() {
            value_by_value(form, &Asked::new(&problem), dice);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_problem_operand_by_operand(seed in any::<u64>()) {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 13);
        for form in forms::<f64>() {
            operand_by_operand(form, &Asked::new(&problem), dice);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_problem_over_several_blocks(seed in any::<u64>()) {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 600);
        for form in forms::<f64>() {
            operand_by_operand(form, &Asked::new(&problem), dice);
        }
    }
}

/// Padded rows have no gradients, whatever stands in them.
#[test]
fn padding_on_either_side() {
    let problem = Problem::plain_sequences(&[(14, 14)]);
    let mut real = [true; 14];
    real[..3].fill(false);
    real[12..].fill(false);
    let dice = &mut Dice(5);
    for visibility in [Visibility::CAUSAL, Visibility::FULL] {
        let asked = Asked {
            problem: &problem,
            segments: Mask::padded(2, 7, &real)
                .segments(14, visibility, Padding::Allowed)
                .expect("segments"),
        };
        for form in forms::<f64>() {
            value_by_value(form, &asked, dice);
            let (mut operands, d_out, clean) = gradients(form, &asked, dice);
            for operand in &mut operands {
                let width = operand.len() / 14;
                for row in (0..14).filter(|&row| !real[row]) {
                    operand[row * width..(row + 1) * width].fill(f64::NAN);
                }
            }
            let poisoned = form.0(&asked, &operands, Some(&d_out)).gradients;
            assert_eq!(poisoned, clean);
        }
    }
}

/// Queries of one tensor against keys of another, more or fewer of them.
#[test]
fn queries_that_see_another_sequence() {
    let problem = Problem::plain_sequences(&[(9, 9)]);
    let dice = &mut Dice(11);
    for visibility in [Visibility::CAUSAL, Visibility::FULL] {
        let asked = Asked {
            problem: &problem,
            segments: Mask::cu_seqlens(&[0, 3, 8, 9])
                .across(
                    9,
                    &Mask::cu_seqlens(&[0, 7, 9, 10]),
                    10,
                    visibility,
                    Padding::Refused,
                )
                .expect("segments"),
        };
        for form in forms::<f64>() {
            value_by_value(form, &asked, dice);
        }
    }
}
