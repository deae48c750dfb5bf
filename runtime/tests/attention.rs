//! Blockwise attention against plain softmax in `f64`, in both forms, and the algebra of merging.

use mla_runtime::{
    Attended, Cpu, CpuDevice, CpuElement, Heads, Mask, Padding, RopeKey, Rows, Scalar, Segments,
    Unrotated, Visibility, attention, bf16,
};
use proptest::prelude::*;

const DEVICE: CpuDevice = CpuDevice::new();
const SCALE: f64 = 0.4;

fn values<T: Scalar>(len: usize, seed: f64) -> Vec<T> {
    (0..len)
        .map(|i| T::from_f64(bf16::from_f64((i as f64 * 0.731 + seed).sin() * 1.5).to_f64()))
        .collect()
}

fn wide<T: Scalar>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

fn heads<T: CpuElement, const H: usize, const D: usize>(
    rows: usize,
    seed: f64,
) -> Heads<Cpu<T>, H, D> {
    let tensor: mla_runtime::Tensor<Cpu<T>> =
        mla_runtime::Tensor::from_vec(&DEVICE, values(rows * H * D, seed), H * D)
            .expect("whole rows");
    Heads::try_from(tensor).expect("whole heads")
}

/// Per row and head: output, log-sum-exp, largest logit.
struct Plain {
    out: Vec<f64>,
    lse: Vec<f64>,
    max: Vec<f64>,
}

/// `logit(query, head, key)` and `value(key, head)` give the problem.
fn plain(
    segments: &Segments,
    h: usize,
    v: usize,
    logit: impl Fn(usize, usize, usize) -> f64,
    value: impl Fn(usize, usize, usize) -> f64,
) -> Plain {
    let rows = segments.queries();
    let mut plain = Plain {
        out: vec![0.0; rows * h * v],
        lse: vec![f64::NEG_INFINITY; rows * h],
        max: vec![f64::NEG_INFINITY; rows * h],
    };
    for segment in segments.list() {
        for (i, query) in segment.queries.clone().enumerate() {
            let seen: Vec<usize> = (0..segment.keys.len())
                .filter(|&key| segments.sees(segment, i, key))
                .map(|key| segment.keys.start + key)
                .collect();
            for head in 0..h {
                let logits: Vec<f64> = seen.iter().map(|&key| logit(query, head, key)).collect();
                let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
                let at = query * h + head;
                if !seen.is_empty() {
                    plain.max[at] = max;
                    plain.lse[at] = max + sum.ln();
                }
                for (l, &key) in logits.iter().zip(&seen) {
                    for d in 0..v {
                        plain.out[at * v + d] += (l - max).exp() / sum * value(key, head, d);
                    }
                }
            }
        }
    }
    plain
}

fn assert_attended<T: CpuElement, const H: usize, const V: usize>(
    found: &Attended<Cpu<T>, H, V>,
    wanted: &Plain,
    tolerance: f64,
) {
    let all = [
        ("out", wide(&found.to_vec().expect("values")), &wanted.out),
        (
            "lse",
            wide(&found.lse().to_vec().expect("values")),
            &wanted.lse,
        ),
        (
            "max logit",
            wide(&found.max_logit().to_vec().expect("values")),
            &wanted.max,
        ),
    ];
    for (name, found, wanted) in all {
        assert_eq!(found.len(), wanted.len());
        for (i, (x, y)) in found.iter().zip(wanted).enumerate() {
            assert!(
                x == y || (x - y).abs() <= tolerance * (1.0 + y.abs()),
                "{name} at {i}: {x} is not {y}"
            );
        }
    }
}

fn rope_key<T: CpuElement, const R: usize>(keys: usize) -> RopeKey<Cpu<T>, Unrotated, R> {
    RopeKey::unrotated(
        Rows::<Cpu<T>, R>::from_vec(&DEVICE, values(keys * R, 0.9))
            .expect("rows")
            .view(),
    )
    .expect("key")
}

fn expanded<
    T: CpuElement,
    const H: usize,
    const N: usize,
    const R: usize,
    const QK: usize,
    const V: usize,
    const KV: usize,
>(
    segments: &Segments,
    rope: &RopeKey<Cpu<T>, Unrotated, R>,
    tolerance: f64,
) {
    let (q, kv) = (
        heads::<T, H, QK>(segments.queries(), 0.1),
        heads::<T, H, KV>(segments.keys(), 0.5),
    );
    let [qs, kvs, ropes] =
        [q.to_vec(), kv.to_vec(), rope.to_vec()].map(|x| wide(&x.expect("values")));
    let logit = |i: usize, h: usize, j: usize| {
        let q = &qs[(i * H + h) * QK..][..QK];
        let nope: f64 = (0..N).map(|d| q[d] * kvs[(j * H + h) * KV + d]).sum();
        let rope: f64 = (0..R).map(|d| q[N + d] * ropes[j * R + d]).sum();
        SCALE * (nope + rope)
    };
    let wanted = plain(segments, H, V, logit, |j, h, d| {
        kvs[(j * H + h) * KV + N + d]
    });
    let found: Attended<Cpu<T>, H, V> =
        attention::expanded(&q, &kv, rope, segments, SCALE).expect("attended");
    assert_attended(&found, &wanted, tolerance);
}

fn absorbed<T: CpuElement, const H: usize, const C: usize, const R: usize>(
    segments: &Segments,
    tolerance: f64,
) {
    let (rows, keys) = (segments.queries(), segments.keys());
    let (q, q_rope) = (heads::<T, H, C>(rows, 0.1), heads::<T, H, R>(rows, 0.2));
    let latent: Rows<Cpu<T>, C> = Rows::from_vec(&DEVICE, values(keys * C, 0.5)).expect("rows");
    let rope = Rows::<Cpu<T>, R>::from_vec(&DEVICE, values(keys * R, 0.9)).expect("rows");
    let rope: RopeKey<Cpu<T>, Unrotated, R> = RopeKey::unrotated(rope.view()).expect("key");
    let [qs, qrs, cs, rs] = [q.to_vec(), q_rope.to_vec(), latent.to_vec(), rope.to_vec()]
        .map(|x| wide(&x.expect("values")));
    let logit = |i: usize, h: usize, j: usize| {
        let nope: f64 = (0..C)
            .map(|d| qs[(i * H + h) * C + d] * cs[j * C + d])
            .sum();
        let rope: f64 = (0..R)
            .map(|d| qrs[(i * H + h) * R + d] * rs[j * R + d])
            .sum();
        SCALE * (nope + rope)
    };
    let wanted = plain(segments, H, C, logit, |j, _, d| cs[j * C + d]);
    let found =
        attention::absorbed(&q, q_rope.view(), &latent, &rope, segments, SCALE).expect("attended");
    assert_attended(&found, &wanted, tolerance);
}

fn masks() -> Vec<(usize, Mask)> {
    let mut real = vec![true; 26];
    real[..5].fill(false);
    real[24..].fill(false);
    vec![
        (1, Mask::dense(1, 1)),
        (12, Mask::dense(3, 4)),
        (26, Mask::padded(2, 13, &real)),
        (
            10,
            Mask::segment_ids(1, 10, &[0, 2, 2, 2, 7, 0, 1, 1, 1, 1]),
        ),
        (9, Mask::cu_seqlens(&[0, 3, 3, 8])),
        (0, Mask::dense(0, 5)),
    ]
}

fn segments(rows: usize, mask: &Mask, visibility: Visibility) -> Segments {
    mask.segments(rows, visibility, Padding::Allowed)
        .expect("segments")
}

#[test]
fn every_mask_in_both_forms() {
    for (rows, mask) in masks() {
        for visibility in [Visibility::CAUSAL, Visibility::FULL] {
            let segments = segments(rows, &mask, visibility);
            expanded::<f64, 3, 5, 4, 9, 7, 12>(&segments, &rope_key(rows), 1e-12);
            expanded::<f32, 3, 5, 4, 9, 7, 12>(&segments, &rope_key(rows), 3e-6);
            expanded::<bf16, 2, 4, 2, 6, 3, 7>(&segments, &rope_key(rows), 1e-2);
            absorbed::<f64, 3, 11, 4>(&segments, 1e-12);
            absorbed::<f32, 3, 11, 4>(&segments, 3e-6);
        }
    }
}

#[test]
fn heads_without_a_position_part() {
    for (rows, mask) in masks() {
        let absent = RopeKey::absent(&DEVICE, rows).expect("key");
        expanded::<f64, 3, 5, 0, 5, 7, 12>(
            &segments(rows, &mask, Visibility::CAUSAL),
            &absent,
            1e-12,
        );
    }
}

#[test]
fn heads_that_are_all_position_part() {
    expanded::<f64, 2, 0, 4, 4, 3, 3>(
        &segments(7, &Mask::dense(1, 7), Visibility::CAUSAL),
        &rope_key(7),
        1e-12,
    );
}

#[test]
fn several_blocks_of_queries_and_keys() {
    for visibility in [Visibility::CAUSAL, Visibility::FULL] {
        let segments = segments(601, &Mask::cu_seqlens(&[0, 13, 590, 601]), visibility);
        expanded::<f32, 2, 5, 2, 7, 3, 8>(&segments, &rope_key(601), 5e-6);
        absorbed::<f64, 2, 5, 2>(&segments, 1e-12);
        absorbed::<bf16, 2, 5, 2>(&segments, 2e-2);
    }
}

#[test]
fn far_apart_logits_neither_overflow_nor_vanish() {
    let segments = segments(4, &Mask::dense(1, 4), Visibility::CAUSAL);
    let q: Heads<Cpu, 1, 1> = heads_of(vec![1.0; 4]);
    let kv: Heads<Cpu, 1, 2> = heads_of(vec![1e30, 1.0, -1e30, 2.0, 1e30, 4.0, 0.0, 8.0]);
    let rope = RopeKey::absent(&DEVICE, 4).expect("key");
    let attended: Attended<Cpu, 1, 1> =
        attention::expanded(&q, &kv, &rope, &segments, 1.0).expect("attended");
    assert_eq!(attended.to_vec().expect("values"), [1.0, 1.0, 2.5, 2.5]);
    assert_eq!(attended.max_logit().to_vec().expect("values"), [1e30; 4]);
}

fn heads_of<const H: usize, const D: usize>(values: Vec<f32>) -> Heads<Cpu, H, D> {
    Heads::try_from(mla_runtime::Tensor::from_vec(&DEVICE, values, H * D).expect("rows"))
        .expect("heads")
}

#[test]
fn wrong_row_counts_and_scales_are_errors() {
    let segments = segments(3, &Mask::dense(1, 3), Visibility::CAUSAL);
    let rope = RopeKey::absent(&DEVICE, 3).expect("key");
    let few = RopeKey::absent(&DEVICE, 2).expect("key");
    let run = |q: usize, kv: usize, rope: &RopeKey<Cpu, Unrotated, 0>, scale: f64| {
        let attended: mla_runtime::Result<Attended<Cpu, 1, 1>> = attention::expanded(
            &heads::<f32, 1, 1>(q, 0.0),
            &heads::<f32, 1, 2>(kv, 0.0),
            rope,
            &segments,
            scale,
        );
        attended.is_ok()
    };
    assert!(run(3, 3, &rope, 1.0));
    assert!(!run(2, 3, &rope, 1.0));
    assert!(!run(3, 2, &rope, 1.0));
    assert!(!run(3, 3, &few, 1.0));
    assert!(!run(3, 3, &rope, f64::NAN));
}

fn assert_rounded<T: CpuElement, const H: usize, const V: usize>(
    whole: Attended<Cpu<T>, H, V>,
    found: &Heads<Cpu<T>, H, V>,
) {
    let wanted = whole.into_out().expect("rounded").to_vec();
    assert_eq!(
        found.to_vec().expect("values"),
        wanted.expect("values"),
        "the same bits"
    );
}

/// The output alone is what the whole answer is rounded to.
fn rounded<T: CpuElement>() {
    const LEN: usize = 9;
    let mask = Mask::segment_ids(1, LEN, &[1, 1, 1, 1, 2, 2, 2, 2, 2]);
    let segments = segments(LEN, &mask, Visibility::CAUSAL);
    let (q, kv) = (heads::<T, 2, 5>(LEN, 0.1), heads::<T, 2, 7>(LEN, 0.2));
    let rope = RopeKey::absent(&DEVICE, LEN).expect("key");
    assert_rounded::<T, 2, 2>(
        attention::expanded(&q, &kv, &rope, &segments, SCALE).expect("attended"),
        &attention::expanded(&q, &kv, &rope, &segments, SCALE).expect("attended"),
    );
    let latent = heads::<T, 1, 5>(LEN, 0.3).into_rows::<5>();
    let none = q.part::<0, 0>();
    assert_rounded::<T, 2, 5>(
        attention::absorbed(&q, none, &latent, &rope, &segments, SCALE).expect("attended"),
        &attention::absorbed(&q, none, &latent, &rope, &segments, SCALE).expect("attended"),
    );
    assert_rounded::<T, 2, 7>(
        attention::grouped(&q, &q, &kv, &segments, SCALE).expect("attended"),
        &attention::grouped(&q, &q, &kv, &segments, SCALE).expect("attended"),
    );
}

#[test]
fn an_output_alone_is_the_whole_answer_rounded() {
    rounded::<bf16>();
    rounded::<f32>();
    rounded::<f64>();
}

/// One query against `keys` keys, or none.
fn part(keys: usize, seed: f64) -> Attended<Cpu<f64>, 2, 3> {
    let total = keys.max(1);
    let ids: Vec<u32> = vec![1; total];
    let mask = if keys == 0 {
        Mask::segment_ids(1, 1, &[0])
    } else {
        Mask::segment_ids(1, total, &ids)
    };
    let segments = segments(total, &mask, Visibility::FULL);
    let rope = RopeKey::absent(&DEVICE, total).expect("key");
    attention::expanded(
        &heads::<f64, 2, 4>(total, seed),
        &heads::<f64, 2, 7>(total, seed + 1.0),
        &rope,
        &segments,
        SCALE,
    )
    .expect("attended")
}

fn bits(attended: &Attended<Cpu<f64>, 2, 3>) -> Vec<u64> {
    let all = [
        attended.to_vec(),
        attended.lse().to_vec(),
        attended.max_logit().to_vec(),
    ];
    all.into_iter()
        .flat_map(|x| x.expect("values"))
        .map(f64::to_bits)
        .collect()
}

#[test]
fn nothing_seen_is_zero_and_minus_infinity() {
    let nothing = part(0, 0.0);
    assert_eq!(nothing.to_vec().expect("values"), [0.0; 6]);
    assert_eq!(
        nothing.lse().to_vec().expect("values"),
        [f64::NEG_INFINITY; 2]
    );
    assert_eq!(
        nothing.max_logit().to_vec().expect("values"),
        [f64::NEG_INFINITY; 2]
    );
}

#[test]
fn nothing_merged_with_nothing_is_nothing() {
    let mut nothing = part(0, 0.0);
    nothing.merge(&part(0, 1.0)).expect("merged");
    assert_eq!(bits(&nothing), bits(&part(0, 0.0)));
}

#[test]
fn only_equal_row_counts_merge() {
    assert!(part(2, 0.0).merge(&part(3, 0.0)).is_err());
}

proptest! {
    #[test]
    fn nothing_is_the_identity_of_merging_to_the_bit(seed in -3.0..3.0_f64) {
        let wanted = bits(&part(1, seed));
        let mut left = part(0, 0.0);
        left.merge(&part(1, seed)).expect("merged");
        prop_assert_eq!(&bits(&left), &wanted);
        let mut right = part(1, seed);
        right.merge(&part(0, 0.0)).expect("merged");
        prop_assert_eq!(&bits(&right), &wanted);
    }

    #[test]
    fn merging_commutes_and_associates(a in -3.0..3.0_f64, b in -3.0..3.0_f64, c in -3.0..3.0_f64) {
        let join = |x: f64, y: f64, z: f64, right: bool| {
            let (mut first, mut second) = (part(4, x), part(4, y));
            if right {
                second.merge(&part(4, z)).expect("merged");
                first.merge(&second).expect("merged");
            } else {
                first.merge(&second).expect("merged");
                first.merge(&part(4, z)).expect("merged");
            }
            bits(&first).into_iter().map(f64::from_bits).collect::<Vec<_>>()
        };
        let wanted = join(a, b, c, false);
        for other in [join(a, b, c, true), join(b, a, c, false), join(c, b, a, true)] {
            for (x, y) in other.iter().zip(&wanted) {
                prop_assert!((x - y).abs() < 1e-13 * (1.0 + y.abs()));
            }
        }
    }
}
