//! Whole sequences, without a cache.

use mla_runtime::{
    Cpu, CpuElement, Mask, Padding, RopeKey, Unrotated, Visibility, attention, bf16,
};
use proptest::prelude::*;

use crate::problem::{Dice, H, Problem, columns, heads, rows};

fn grouped<T: CpuElement, const G: usize>(problem: &Problem, dice: &mut Dice, tolerance: f64) {
    const D: usize = 6;
    const V: usize = 3;
    let count = problem.rows();
    let [q, k, v] = [H * D, G * D, G * V].map(|width| dice.values(count * width));
    let wanted = problem.plain(&q, &k, &v, [H, G, D, V]);
    let (q, k, v) = (
        heads::<T, H, D>(&q),
        heads::<T, G, D>(&k),
        heads::<T, G, V>(&v),
    );
    let segments = problem.segments();
    problem.check(&wanted, tolerance, |softmax| match problem.selection() {
        Some(selection) => attention::grouped_selected(&q, &k, &v, &segments, &selection, softmax),
        None => attention::grouped(&q, &k, &v, &segments, softmax),
    });
}

fn expanded<T: CpuElement>(problem: &Problem, dice: &mut Dice, tolerance: f64) {
    const N: usize = 4;
    const R: usize = 2;
    const V: usize = 3;
    let count = problem.rows();
    let [q, kv, k_rope] = [H * (N + R), H * (N + V), R].map(|width| dice.values(count * width));
    let keys: Vec<f64> = (0..count * H)
        .flat_map(|i| {
            let own = &kv[i * (N + V)..][..N];
            [own, &k_rope[i / H * R..][..R]].concat()
        })
        .collect();
    let values = columns(&kv, N + V, N..N + V);
    let wanted = problem.plain(&q, &keys, &values, [H, H, N + R, V]);
    let (q, kv) = (heads::<T, H, { N + R }>(&q), heads::<T, H, { N + V }>(&kv));
    let k_rope: RopeKey<Cpu<T>, Unrotated, R> =
        RopeKey::unrotated(&rows::<T, R>(&k_rope)).expect("key");
    let segments = problem.segments();
    problem.check::<T, V>(&wanted, tolerance, |softmax| match problem.selection() {
        Some(selection) => {
            attention::expanded_selected(&q, &kv, &k_rope, &segments, &selection, softmax)
        }
        None => attention::expanded(&q, &kv, &k_rope, &segments, softmax),
    });
}

fn absorbed<T: CpuElement>(problem: &Problem, dice: &mut Dice, tolerance: f64) {
    const C: usize = 5;
    const R: usize = 2;
    let count = problem.rows();
    let [q, keys] = [H * (C + R), C + R].map(|width| dice.values(count * width));
    let latents = columns(&keys, C + R, 0..C);
    let wanted = problem.plain(&q, &keys, &latents, [H, 1, C + R, C]);
    let q = heads::<T, H, { C + R }>(&q);
    let q_latent = q.part::<0, C>().to_heads().expect("a copy");
    let q_rope = q.part::<C, R>();
    let latent = rows::<T, C>(&latents);
    let k_rope = rows::<T, R>(&columns(&keys, C + R, C..C + R));
    let k_rope: RopeKey<Cpu<T>, Unrotated, R> = RopeKey::unrotated(&k_rope).expect("key");
    let segments = problem.segments();
    problem.check(&wanted, tolerance, |softmax| match problem.selection() {
        Some(selection) => attention::absorbed_selected(
            &q_latent, q_rope, &latent, &k_rope, &segments, &selection, softmax,
        ),
        None => attention::absorbed(&q_latent, q_rope, &latent, &k_rope, &segments, softmax),
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_problem_in_every_form(seed in any::<u64>()) {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 13);
        grouped::<f64, 1>(&problem, dice, 1e-12);
        grouped::<f64, 2>(&problem, dice, 1e-12);
        grouped::<f64, 4>(&problem, dice, 1e-12);
        expanded::<f64>(&problem, dice, 1e-12);
        absorbed::<f64>(&problem, dice, 1e-12);
        grouped::<f32, 2>(&problem, dice, 2e-5);
        absorbed::<bf16>(&problem, dice, 2e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_problem_over_several_blocks(seed in any::<u64>()) {
        let dice = &mut Dice(seed);
        let problem = Problem::random(dice, 700);
        grouped::<f64, 2>(&problem, dice, 1e-11);
        expanded::<f32>(&problem, dice, 1e-4);
        absorbed::<f64>(&problem, dice, 1e-11);
    }
}

/// Queries of one tensor against keys of another, sequence by sequence.
#[test]
fn queries_see_another_sequence() {
    const D: usize = 4;
    let lengths = [(3, 7), (5, 2), (1, 1), (4, 4), (2, 9)];
    for causal in [false, true] {
        let mut problem = Problem::plain_sequences(&lengths);
        problem.rule.causal = causal;
        let (queries, keys) = (15, 23);
        let dice = &mut Dice(7);
        let q = dice.values(queries * H * D);
        let [k, v] = [0, 1].map(|_| dice.values(keys * H * D));
        let wanted = problem.plain(&q, &k, &v, [H, H, D, D]);
        let segments = Mask::cu_seqlens(&[0, 3, 8, 9, 13, 15])
            .across(
                queries,
                &Mask::cu_seqlens(&[0, 7, 9, 10, 14, 23]),
                keys,
                problem.rule.visibility(),
                Padding::Refused,
            )
            .expect("segments");
        let (q, k, v) = (
            heads::<f64, H, D>(&q),
            heads::<f64, H, D>(&k),
            heads::<f64, H, D>(&v),
        );
        problem.check(&wanted, 1e-12, |softmax| {
            attention::grouped(&q, &k, &v, &segments, softmax)
        });
    }
}

#[test]
fn masks_of_different_sequences_do_not_pair() {
    let (two, three) = (Mask::dense(2, 3), Mask::dense(3, 2));
    assert!(
        two.across(6, &three, 6, Visibility::FULL, Padding::Refused)
            .is_err()
    );
    // A sequence that is all padding keeps its number
    let real = [true, true, false, false, true, false];
    let padded = Mask::padded(3, 2, &real);
    let segments = padded
        .across(6, &three, 6, Visibility::FULL, Padding::Allowed)
        .expect("three sequences each");
    let pairs: Vec<_> = segments
        .list()
        .iter()
        .map(|segment| {
            (
                segment.queries.clone(),
                segment.keys.clone(),
                segment.sequence,
            )
        })
        .collect();
    assert_eq!(pairs, [(0..2, 0..2, 0), (4..5, 4..6, 2)]);
}
