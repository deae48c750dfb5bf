//! An indexer's loss against its formula, and its gradients against differences of that.

use mla_runtime::{
    Attended, Cpu, IndexerGradients, IndexerLoss, LossEpsilon, LossReduction, Mask, Padding,
    Selecting, Visibility, attention, bf16, indexer,
};
use proptest::prelude::*;

use super::asked::wide;
use super::index_case::{Case, D, DI, FORMS, HI};
use crate::plain::Rule;
use crate::problem::{Dice, H, K, Problem, assert_close, heads, rows};

/// Random problems, with every reduction and epsilon; a third of them over selected keys.
#[test]
fn any_problem() {
    for seed in 0..60 {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 5);
        for form in FORMS {
            Case::new(&problem, form, dice).check();
        }
    }
}

#[test]
fn every_reduction_and_epsilon_in_both_stages() {
    let dice = &mut Dice(61);
    for selects in [false, true] {
        let mut problem = Problem::plain_sequences(&[(6, 6), (3, 3)]);
        problem.rule.causal = true;
        for sequence in &mut problem.sequences {
            let len = sequence.queries;
            sequence.selected = selects.then(|| crate::problem::selected(dice, len, len));
        }
        for form in FORMS {
            for reduction in [
                LossReduction::MeanValid,
                LossReduction::MeanAll,
                LossReduction::Sum,
            ] {
                for epsilon in [LossEpsilon::Add, LossEpsilon::Clamp] {
                    let mut case = Case::new(&problem, form, dice);
                    case.loss.reduction = reduction;
                    case.loss.epsilon = epsilon;
                    case.check();
                }
            }
        }
    }
}

/// Padding counts where the mean is over all rows, and nowhere else; its rows have no gradients, whatever stands in them.
#[test]
fn padded_rows() {
    let problem = Problem::plain_sequences(&[(14, 14)]);
    let mut real = [true; 14];
    real[..3].fill(false);
    real[12..].fill(false);
    for form in FORMS {
        let mut losses = Vec::new();
        for reduction in [
            LossReduction::Sum,
            LossReduction::MeanValid,
            LossReduction::MeanAll,
        ] {
            let mut case = Case::new(&problem, form, &mut Dice(71));
            case.segments = Mask::padded(2, 7, &real)
                .segments(14, Visibility::CAUSAL, Padding::Allowed)
                .expect("segments");
            case.loss.reduction = reduction;
            case.check();
            let (clean, _) = case.run::<f64>(1.0);
            losses.push(clean.loss);
            for row in (0..14).filter(|&row| !real[row]) {
                case.q[row * H * D..(row + 1) * H * D].fill(f64::NAN);
                for (values, width) in case.index.iter_mut().zip([HI * DI, DI, HI]) {
                    values[row * width..(row + 1) * width].fill(f64::NAN);
                }
            }
            let (dirty, _) = case.run::<f64>(1.0);
            assert_eq!(dirty.loss, clean.loss);
            assert_eq!(dirty.q.to_vec().expect("q"), clean.q.to_vec().expect("q"));
            assert_eq!(dirty.k.to_vec().expect("k"), clean.k.to_vec().expect("k"));
            let weights = dirty.weights.to_vec().expect("weights");
            assert_eq!(weights, clean.weights.to_vec().expect("weights"));
            assert!(weights[..3 * HI].iter().all(|&x| x == 0.0));
        }
        assert_close(&[losses[0] / 9.0, losses[0] / 14.0], &losses[1..], 1e-13);
    }
}

/// A row that is no number spoils the loss, and the gradients of those that see it, but no others.
#[test]
fn a_poisoned_row_stays_with_those_who_see_it() {
    for len in [9, 300] {
        let mut problem = Problem::plain_sequences(&[(len, len)]);
        problem.rule = Rule {
            causal: true,
            left: Some(2),
            ..Rule::default()
        };
        for form in FORMS {
            let mut case = Case::new(&problem, form, &mut Dice(73));
            let (clean, _) = case.run::<f64>(1.0);
            // The query sees keys 3, 4 and 5
            case.index[0][5 * HI * DI..6 * HI * DI].fill(f64::NAN);
            let (dirty, _) = case.run::<f64>(1.0);
            assert!(dirty.loss.is_nan());
            let of = |found: &IndexerGradients<Cpu<f64>, HI, DI>| {
                let (q, k) = (found.q.to_vec(), found.k.to_vec());
                (q.expect("values"), k.expect("values"))
            };
            let ((q, k), (clean_q, clean_k)) = (of(&dirty), of(&clean));
            for row in 0..len {
                let (own_q, own_k) = (row * HI * DI..(row + 1) * HI * DI, row * DI..(row + 1) * DI);
                if row == 5 {
                    assert!(q[own_q].iter().any(|x| x.is_nan()));
                } else {
                    assert_close(&q[own_q.clone()], &clean_q[own_q], 1e-13);
                }
                if (3..=5).contains(&row) {
                    assert!(k[own_k].iter().any(|x| x.is_nan()));
                } else {
                    assert_close(&k[own_k.clone()], &clean_k[own_k], 1e-13);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Many tiles and blocks: the loss is the formula's, two runs and any threads agree, and narrower numbers are near.
    #[test]
    fn any_problem_over_several_blocks(seed in any::<u64>()) {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 600);
        for form in FORMS {
            let case = Case::new(&problem, form, dice);
            let (found, lse) = case.run::<f64>(1.0);
            let wanted = case.plain(&case.index, &lse);
            assert_close(&[found.loss], &[wanted], 1e-10);
            let k = found.k.to_vec().expect("values");
            let again = case.run::<f64>(1.0).0.k.to_vec().expect("values");
            prop_assert_eq!(&k, &again);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
            let (other, _) = pool.install(|| case.run::<f64>(1.0));
            assert_close(&other.k.to_vec().expect("values"), &k, 1e-11);
            let single = case.run::<f32>(1.0).0;
            prop_assert!((single.loss - wanted).abs() < 1e-3 * (1.0 + wanted.abs()));
            let near = |found: Vec<f64>, wanted: &[f64], most: f64| {
                let square = |x: f64| x * x;
                let norm: f64 = wanted.iter().copied().map(square).sum();
                let missed: f64 = found.iter().zip(wanted).map(|(x, y)| square(x - y)).sum();
                missed <= most * most * norm + 1e-20
            };
            prop_assert!(near(wide(&single.k.to_vec().expect("values")), &k, 1e-3));
            let half = case.run::<bf16>(1.0).0;
            prop_assert!(near(wide(&half.k.to_vec().expect("values")), &k, 2e-2));
        }
    }
}

#[test]
fn wrong_rows_and_constants_are_refused() {
    let problem = Problem::plain_sequences(&[(3, 3)]);
    let segments = problem.segments();
    let (q, few) = (
        heads::<f64, H, D>(&[0.5; 3 * H * D]),
        heads::<f64, H, D>(&[0.5; 2 * H * D]),
    );
    let attended: Attended<Cpu<f64>, H, D> =
        attention::grouped(&q, &q, &q, &segments, 0.5).expect("attended");
    let lse = attended.into_parts().expect("parts").1;
    let (iq, ik) = (
        heads::<f64, HI, DI>(&[0.5; 3 * HI * DI]),
        rows::<f64, DI>(&[0.5; 3 * DI]),
    );
    let few_k = rows::<f64, DI>(&[0.5; 2 * DI]);
    let weights = |count: usize| {
        let rows = rows::<f64, HI>(&vec![0.5; count * HI]);
        rows.view().to_per_head().expect("a copy")
    };
    let (w, few_w) = (weights(3), weights(2));
    let selecting = Selecting {
        scale: 1.0,
        relu: true,
        initial: 0,
        local: 0,
    };
    let loss = IndexerLoss {
        coeff: 1.0,
        reduction: LossReduction::Sum,
        epsilon: LossEpsilon::Add,
    };
    let run = |k, ik, w, loss: IndexerLoss, scale: f64| {
        indexer::loss_grouped(
            &q,
            k,
            &lse,
            &segments,
            0.5,
            None::<&mla_runtime::Selection<Cpu<f64>, K>>,
            &iq,
            ik,
            w,
            &selecting,
            &loss,
            scale,
        )
        .is_ok()
    };
    assert!(run(&q, &ik, &w, loss, 1.0));
    assert!(!run(&few, &ik, &w, loss, 1.0));
    assert!(!run(&q, &few_k, &w, loss, 1.0));
    assert!(!run(&q, &ik, &few_w, loss, 1.0));
    assert!(!run(&q, &ik, &w, loss, f64::NAN));
    let coeff = f64::INFINITY;
    assert!(!run(&q, &ik, &w, IndexerLoss { coeff, ..loss }, 1.0));
}
