//! Widths of 0, sinks of 0, and what is refused.

use mla_runtime::{
    Attended, AttentionBias, Cpu, CpuDevice, Heads, Mask, Padding, PerHead, RopeKey, Rows,
    Segments, SinkParameters, Sinks, Softmax, Visibility, attention,
};

use super::asked::wide;
use crate::problem::{DEVICE, Dice, H, assert_close, columns, heads, rows};

const D: usize = 4;
const V: usize = 3;

fn causal(rows: usize) -> Segments {
    Mask::dense(1, rows)
        .segments(rows, Visibility::CAUSAL, Padding::Refused)
        .expect("segments")
}

type Given = (Heads<Cpu<f64>, H, V>, PerHead<Cpu<f64>, H>);

fn parts(attended: mla_runtime::Result<Attended<Cpu<f64>, H, V>>) -> Given {
    let (out, lse, _) = attended.expect("attended").into_parts().expect("parts");
    (out, lse)
}

/// A head of keys and values is a head of keys beside one of values where nothing is rotated.
#[test]
fn expanded_without_a_position_part_is_grouped() {
    let dice = &mut Dice(41);
    let segments = causal(70);
    let [q, kv, d_out] = [H * D, H * (D + V), H * V].map(|width| dice.values(70 * width));
    let k = columns(&kv, D + V, 0..D);
    let v = columns(&kv, D + V, D..D + V);
    let (q, kv, d_out) = (
        heads::<f64, H, D>(&q),
        heads::<f64, H, { D + V }>(&kv),
        heads::<f64, H, V>(&d_out),
    );
    let (k, v) = (heads::<f64, H, D>(&k), heads::<f64, H, V>(&v));
    let absent = RopeKey::absent(&DEVICE, 70).expect("key");
    let (out, lse) = parts(attention::expanded(&q, &kv, &absent, &segments, 0.4));
    let (d_q, d_kv, d_rope) =
        attention::expanded_backward(&q, &kv, &absent, &segments, 0.4, &out, &lse, &d_out)
            .expect("gradients");
    let (out, lse) = parts(attention::grouped(&q, &k, &v, &segments, 0.4));
    let (w_q, w_k, w_v) =
        attention::grouped_backward(&q, &k, &v, &segments, 0.4, &out, &lse, &d_out)
            .expect("gradients");
    assert!(d_rope.to_vec().expect("values").is_empty());
    let d_kv = d_kv.to_vec().expect("values");
    for (found, wanted) in [
        (d_q.to_vec().expect("values"), w_q.to_vec()),
        (columns(&d_kv, D + V, 0..D), w_k.to_vec()),
        (columns(&d_kv, D + V, D..D + V), w_v.to_vec()),
    ] {
        assert_close(&found, &wide(&wanted.expect("values")), 1e-13);
    }
}

/// Heads of rotated values alone: the position-free part of a latent of width 0 changes nothing.
#[test]
fn heads_that_are_all_position_part() {
    let dice = &mut Dice(43);
    let segments = causal(9);
    let [q, rope, v, d_out] = [H * D, D, H * V, H * V].map(|width| dice.values(9 * width));
    let (q, v, d_out) = (
        heads::<f64, H, D>(&q),
        heads::<f64, H, V>(&v),
        heads::<f64, H, V>(&d_out),
    );
    let rope = rows::<f64, D>(&rope);
    let key = RopeKey::unrotated(&rope).expect("key");
    let (out, lse) = parts(attention::expanded(&q, &v, &key, &segments, 0.4));
    let (d_q, d_v, d_rope) =
        attention::expanded_backward(&q, &v, &key, &segments, 0.4, &out, &lse, &d_out)
            .expect("gradients");
    let shared = rope.into_heads::<1, D>();
    let every: Vec<f64> = v.to_vec().expect("values");
    let each_own = heads::<f64, H, D>(
        &shared
            .to_vec()
            .expect("values")
            .chunks_exact(D)
            .flat_map(|key| key.repeat(H))
            .collect::<Vec<f64>>(),
    );
    let v = heads::<f64, H, V>(&every);
    let (out, lse) = parts(attention::grouped(&q, &each_own, &v, &segments, 0.4));
    let (w_q, w_k, w_v) =
        attention::grouped_backward(&q, &each_own, &v, &segments, 0.4, &out, &lse, &d_out)
            .expect("gradients");
    let w_k = w_k.to_vec().expect("values");
    let summed: Vec<f64> = w_k
        .chunks_exact(H * D)
        .flat_map(|row| (0..D).map(|d| row[d..].iter().step_by(D).sum()))
        .collect();
    assert_close(&d_rope.to_vec().expect("values"), &summed, 1e-13);
    let (w_q, w_v) = (w_q.to_vec().expect("values"), w_v.to_vec().expect("values"));
    assert_close(&d_q.to_vec().expect("values"), &w_q, 1e-13);
    assert_close(&d_v.to_vec().expect("values"), &w_v, 1e-13);
}

/// A sink at 0 is the off-by-one softmax, backward too.
#[test]
fn off_by_one_has_the_gradients_of_a_sink_at_zero() {
    let dice = &mut Dice(47);
    let segments = causal(9);
    let [q, k, v, d_out] = [H * D, D, V, H * V].map(|width| dice.values(9 * width));
    let (q, k, v, d_out) = (
        heads::<f64, H, D>(&q),
        heads::<f64, 1, D>(&k),
        heads::<f64, 1, V>(&v),
        heads::<f64, H, V>(&d_out),
    );
    let attended = || -> Attended<Cpu<f64>, H, V> {
        attention::grouped(&q, &k, &v, &segments, 0.4).expect("attended")
    };
    let sinks = Sinks::from_f64(&DEVICE, &[0.0; H]).expect("sinks");
    let run = |(out, lse): Given| {
        let (q, k, v) = attention::grouped_backward(&q, &k, &v, &segments, 0.4, &out, &lse, &d_out)
            .expect("gradients");
        [q.to_vec(), k.to_vec(), v.to_vec()].map(|x| x.expect("values"))
    };
    let sunk = run(parts(attended().with_sinks(&sinks)));
    assert_eq!(run(parts(attended().off_by_one())), sunk);
    assert_ne!(run(parts(Ok(attended()))), sunk);
}

#[test]
fn wrong_rows_and_biases_are_refused() {
    let segments = causal(3);
    let (x, few) = (
        heads::<f64, H, V>(&[0.5; 3 * H * V]),
        heads::<f64, H, V>(&[0.5; 2 * H * V]),
    );
    let (out, lse) = parts(attention::grouped(&x, &x, &x, &segments, 0.4));
    let (_, few_lse) = parts(attention::grouped(&few, &few, &few, &causal(2), 0.4));
    let bias = |keys: usize| {
        AttentionBias::<Cpu<f64>>::from_f64(&DEVICE, &vec![0.5; 3 * keys], [1, 3, keys])
            .expect("a bias")
    };
    let backward = |q, k, v, out, lse, d_out| {
        attention::grouped_backward(q, k, v, &segments, 0.4, out, lse, d_out).is_ok()
    };
    assert!(backward(&x, &x, &x, &out, &lse, &out));
    assert!(!backward(&few, &x, &x, &out, &lse, &out));
    assert!(!backward(&x, &few, &x, &out, &lse, &out));
    assert!(!backward(&x, &x, &few, &out, &lse, &out));
    assert!(!backward(&x, &x, &x, &few, &lse, &out));
    assert!(!backward(&x, &x, &x, &out, &few_lse, &out));
    assert!(!backward(&x, &x, &x, &out, &lse, &few));
    let with_bias = |softmax: Softmax<'_, Cpu<f64>>, mut into: AttentionBias<Cpu<f64>>| {
        attention::grouped_backward_with_bias(
            &x, &x, &x, &segments, softmax, &out, &lse, &out, &mut into,
        )
        .is_ok()
    };
    let own = bias(3);
    assert!(with_bias(Softmax::scaled(0.4).bias(&own), bias(3)));
    assert!(!with_bias(Softmax::scaled(0.4).bias(&own), bias(4)));
    assert!(!with_bias(Softmax::scaled(0.4), bias(3)));
    let sinks = Sinks::<Cpu<f64>, H>::from_f64(&DEVICE, &[0.0; H]).expect("sinks");
    let mut into = SinkParameters::zeros(&DEVICE, "sinks").expect("room");
    assert!(sinks.backward(&out, &lse, &x, &mut into).is_ok());
    assert!(sinks.backward(&out, &few_lse, &x, &mut into).is_err());
    assert!(sinks.backward(&out, &lse, &few, &mut into).is_err());
}

/// Keys and values that are the same tensor keep their gradients apart.
#[test]
fn one_tensor_as_keys_and_as_values() {
    let dice = &mut Dice(53);
    let segments = causal(9);
    let [q, k, d_out] = [0, 1, 2].map(|_| heads::<f64, H, V>(&dice.values(9 * H * V)));
    let copy = heads::<f64, H, V>(&k.to_vec().expect("values"));
    let run = |v: &Heads<Cpu<f64>, H, V>| {
        let (out, lse) = parts(attention::grouped(&q, &k, v, &segments, 0.4));
        let (q, k, v) = attention::grouped_backward(&q, &k, v, &segments, 0.4, &out, &lse, &d_out)
            .expect("gradients");
        [q.to_vec(), k.to_vec(), v.to_vec()].map(|x| x.expect("values"))
    };
    assert_eq!(run(&k), run(&copy));
}

#[test]
fn the_largest_of_all_rows_is_found_per_head() {
    let of = |values: &[f64]| {
        let rows: Rows<Cpu<f64>, 3> =
            Rows::from_vec(&CpuDevice::new(), values.to_vec()).expect("rows");
        let per_head = rows.view().to_per_head().expect("a copy");
        per_head.max_over_rows().expect("values")
    };
    assert_eq!(of(&[1.0, -2.0, 3.0, 0.5, -1.0, 4.0]), [1.0, -1.0, 4.0]);
    assert_eq!(of(&[]), [f64::NEG_INFINITY; 3]);
    let poisoned = of(&[
        f64::NAN,
        1.0,
        f64::NEG_INFINITY,
        5.0,
        f64::NAN,
        f64::NEG_INFINITY,
    ]);
    assert!(poisoned[0].is_nan() && poisoned[1].is_nan());
    assert_eq!(poisoned[2], f64::NEG_INFINITY);
}
