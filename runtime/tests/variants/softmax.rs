//! The softmax: what is no number, merging, sinks, dropout, and what is refused.

use mla_runtime::{
    Attended, AttentionBias, Cpu, Dropout, Mask, Padding, Result, Selection, Sinks, Softmax,
    TensorShape, Visibility, Weights, attention, bf16,
};

use crate::plain::Rule;
use crate::problem::{DEVICE, Dice, H, K, Problem, assert_close, heads};

/// What is no number stays with those who see it.
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
    for len in [9, 300] {
        for (rule, selects) in [
            (&window, false),
            (&given, false),
            (&Rule::default(), true),
            (&given, true),
        ] {
            for poisoned in [0, 3, len - 1] {
                poison(len, rule, selects, poisoned, f64::NAN);
                poison(len, rule, selects, poisoned, f64::INFINITY);
            }
        }
    }
}

fn poison(len: usize, rule: &Rule, selects: bool, poisoned: usize, poison: f64) {
    const D: usize = 4;
    let mut problem = Problem::plain_sequences(&[(len, len)]);
    problem.rule = rule.clone();
    let sequence = &mut problem.sequences[0];
    sequence.bits = (0..len * len).map(|i| i % 5 < 3).collect();
    sequence.selected = selects.then(|| {
        let far = len as u32 - 1;
        [vec![1, 3, 4], vec![0, 2, 5, far], vec![0, 3], vec![far]]
            .into_iter()
            .cycle()
            .take(len)
            .collect()
    });
    let (segments, selection) = (problem.segments(), problem.selection());
    let dice = &mut Dice(len as u64);
    let [q, mut k, mut v] = [0, 1, 2].map(|_| dice.values(len * H * D));
    let mut run = |poison: Option<f64>| {
        if let Some(poison) = poison {
            k[poisoned * H * D..][..H * D].fill(poison);
            v[poisoned * H * D..][..H * D].fill(poison);
        }
        let (q, k, v) = (
            heads::<f64, H, D>(&q),
            heads::<f64, H, D>(&k),
            heads::<f64, H, D>(&v),
        );
        let attended: Result<Attended<Cpu<f64>, H, D>> = match &selection {
            Some(selection) => attention::grouped_selected(&q, &k, &v, &segments, selection, 0.5),
            None => attention::grouped(&q, &k, &v, &segments, 0.5),
        };
        attended.expect("attended").to_vec().expect("values")
    };
    let (clean, dirty) = (run(None), run(Some(poison)));
    let sequence = &problem.sequences[0];
    for query in 0..len {
        let own = query * H * D..(query + 1) * H * D;
        let lists = sequence.selected.as_ref();
        let selected = lists.is_none_or(|lists| lists[query].contains(&(poisoned as u32)));
        if rule.sees(sequence, query, poisoned) && selected {
            assert!(dirty[own].iter().any(|x| !x.is_finite()));
        } else {
            assert_close(&dirty[own.clone()], &clean[own], 1e-14);
        }
    }
}

/// Rounding happens once, however many parts the keys come in.
#[test]
fn a_long_context_in_many_parts_is_rounded_once() {
    const PARTS: usize = 600;
    let dice = &mut Dice(3);
    let v: Vec<f64> = (0..PARTS)
        .map(|_| 1.0 + dice.below(64) as f64 / 64.0)
        .collect();
    let mean = v.iter().sum::<f64>() / PARTS as f64;
    let segments = Mask::dense(1, 1)
        .segments(1, Visibility::FULL, Padding::Refused)
        .expect("segments");
    let one = |v: f64| -> Attended<Cpu<bf16>, 1, 1> {
        let (q, v) = (heads::<bf16, 1, 1>(&[0.0]), heads::<bf16, 1, 1>(&[v]));
        attention::grouped(&q, &q, &v, &segments, 1.0).expect("attended")
    };
    let mut whole = one(v[0]);
    for &v in &v[1..] {
        whole.merge(&one(v)).expect("merged");
    }
    let exact = whole.to_vec().expect("values")[0];
    assert!((f64::from(exact) / mean - 1.0).abs() < 1e-5);
    let out = whole.into_out().expect("rounded").to_vec().expect("values");
    assert_eq!(out, [bf16::from_f64(mean)]);
}

/// One more logit, of no value: the softmax with it, computed as such.
#[test]
fn off_by_one_is_a_sink_at_zero() {
    let segments = Mask::padded(1, 3, &[true, true, false])
        .segments(3, Visibility::CAUSAL, Padding::Allowed)
        .expect("segments");
    let (q, v) = (
        heads::<f64, 2, 1>(&[1.0; 6]),
        heads::<f64, 2, 1>(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
    );
    let run = || -> Attended<Cpu<f64>, 2, 1> {
        attention::grouped(&q, &q, &v, &segments, 0.5).expect("attended")
    };
    let sunk = run().off_by_one().expect("sunk");
    let e = 0.5_f64.exp();
    let wanted = [
        e / (e + 1.0),
        2.0 * e / (e + 1.0),
        4.0 * e / (2.0 * e + 1.0),
        6.0 * e / (2.0 * e + 1.0),
        0.0,
        0.0,
    ];
    assert_close(&sunk.to_vec().expect("values"), &wanted, 1e-15);
    let (one, two) = ((e + 1.0).ln(), (2.0 * e + 1.0).ln());
    let lse = [one, one, two, two, 0.0, 0.0];
    assert_close(&sunk.lse().to_vec().expect("values"), &lse, 1e-15);
    let zeros = Sinks::from_f64(&DEVICE, &[0.0; 2]).expect("sinks");
    let same = run().with_sinks(&zeros).expect("sunk");
    assert_eq!(
        same.to_vec().expect("values"),
        sunk.to_vec().expect("values")
    );
    assert!(Sinks::<Cpu<f64>, 2>::from_f64(&DEVICE, &[0.0; 3]).is_err());
}

#[test]
fn sinks_are_one_logit_per_head() {
    const SINKS: [TensorShape; 1] = [TensorShape::new("sinks", &[2])];
    let load = |shape: &[usize]| {
        let values = vec![0.5; shape.iter().product()];
        let weights = Weights::from_tensors([("l.sinks", (shape.to_vec(), values))])?;
        Sinks::<Cpu<f64>, 2>::load(&weights.exactly("l", &SINKS)?, "sinks", &DEVICE)
    };
    assert!(load(&[2]).is_ok());
    assert!(load(&[3]).is_err());
    assert!(load(&[2, 1]).is_err());
}

#[test]
fn dropout_drops_as_many_as_it_says_and_keeps_the_mean() {
    let dropout = Dropout {
        probability: 0.3,
        seed: 11,
    };
    let all: Vec<f64> = (0..100_000)
        .map(|i| dropout.multiplier(i % 3, i % 7, i / 300, i % 300))
        .collect();
    let dropped = all.iter().filter(|&&x| x == 0.0).count() as f64 / all.len() as f64;
    assert!((dropped - 0.3).abs() < 0.005, "{dropped}");
    assert!(all.iter().all(|&x| x == 0.0 || x == 1.0 / 0.7));
    let other = Dropout {
        seed: 12,
        ..dropout
    };
    let equal =
        (0..1000).filter(|&k| dropout.multiplier(0, 0, 0, k) == other.multiplier(0, 0, 0, k));
    let equal = equal.count() as f64 / 1000.0;
    assert!((equal - 0.58).abs() < 0.06, "{equal}");
}

#[test]
fn unusable_softmaxes_are_refused() {
    let segments = Mask::dense(1, 3)
        .segments(3, Visibility::CAUSAL, Padding::Refused)
        .expect("segments");
    let x = heads::<f64, 2, 1>(&[1.0; 6]);
    let refused = |softmax: Softmax<'_, Cpu<f64>>| {
        let attended: Result<Attended<_, 2, 1>> =
            attention::grouped(&x, &x, &x, &segments, softmax);
        attended.is_err()
    };
    let plain = Softmax::scaled(1.0);
    assert!(!refused(plain));
    assert!(refused(Softmax::scaled(f64::NAN)));
    for cap in [0.0, -1.0, f64::INFINITY, f64::NAN] {
        assert!(refused(plain.soft_cap(cap)));
    }
    for probability in [-0.1, 1.0, f64::NAN] {
        let dropout = Dropout {
            probability,
            seed: 0,
        };
        assert!(refused(plain.dropout(Some(dropout))));
    }
    for shape in [[3, 3, 3], [1, 2, 3], [2, 3, 2]] {
        let values = vec![0.0; shape.iter().product()];
        let bias = AttentionBias::from_f64(&DEVICE, &values, shape).expect("a bias");
        assert!(refused(plain.bias(&bias)), "{shape:?}");
    }
    assert!(AttentionBias::<Cpu<f64>>::from_f64(&DEVICE, &[0.0; 5], [1, 2, 3]).is_err());
    let selection = Selection::<Cpu<f64>, K>::from_lists(&DEVICE, &[[0]; 2]).expect("lists");
    let attended: Result<Attended<_, 2, 1>> =
        attention::grouped_selected(&x, &x, &x, &segments, &selection, 1.0);
    assert!(attended.is_err());
}

#[test]
fn inputs_say_as_much_as_the_layer_was_told() {
    let ask = |mask: Mask, visibility| mask.segments(4, visibility, Padding::Refused).is_ok();
    let dense = || Mask::dense(2, 2);
    let given = |len| Mask::visible(2, 2, &vec![true; len]);
    assert!(ask(given(8), Visibility::GIVEN));
    assert!(!ask(given(7), Visibility::GIVEN));
    assert!(!ask(given(8), Visibility::CAUSAL));
    assert!(!ask(dense(), Visibility::GIVEN));
    let blocks = Visibility::CAUSAL.blocks();
    assert!(ask(dense(), blocks));
    assert!(ask(dense().with_blocks(&[1, 0, 1, 1]), blocks));
    assert!(!ask(dense().with_blocks(&[1, 0, 1]), blocks));
    assert!(!ask(dense().with_blocks(&[1, 0, 1, 1]), Visibility::CAUSAL));
    let hole = Mask::dense(1, 4).with_blocks(&[2, 0, 2, 2]);
    assert!(hole.segments(4, blocks, Padding::Refused).is_err());
}
