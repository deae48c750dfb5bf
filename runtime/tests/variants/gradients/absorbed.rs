//! The absorbed form's gradients are the expanded form's.

use mla_runtime::{Attended, Cpu, Heads, RopeKey, Softmax, Unrotated, attention};

use super::asked::wide;
use crate::problem::{Dice, H, K, Problem, assert_close, heads, rows};

const N: usize = 4;
const R: usize = 2;
const V: usize = 3;
const C: usize = 5;

/// `x [rows, H, from]` times a matrix `[from, to]` for each head.
fn each_head(
    x: &[f64],
    from: usize,
    to: usize,
    w: impl Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let lines = x.chunks_exact(from).enumerate();
    lines
        .flat_map(|(i, x)| {
            let w = &w;
            (0..to).map(move |t| (0..from).map(|f| x[f] * w(i % H, f, t)).sum::<f64>())
        })
        .collect()
}

/// Sums over the heads.
fn over_heads(x: &[f64], width: usize) -> Vec<f64> {
    x.chunks_exact(H * width)
        .flat_map(|row| (0..width).map(|d| row[d..].iter().step_by(width).sum()))
        .collect()
}

/// `kv = W ĉ`, so that `q̃ = Wkᵀ q`, `z` gives `o = Wv z`, and gradients follow by the chain rule.
#[test]
fn absorbed_equals_expanded() {
    let dice = &mut Dice(31);
    for selects in [false, true] {
        let mut problem = Problem::plain_sequences(&[(70, 70), (9, 9)]);
        problem.rule.causal = true;
        problem.softening.cap = Some(5.0);
        for sequence in &mut problem.sequences {
            let len = sequence.queries;
            sequence.selected = selects.then(|| crate::problem::selected(dice, len, len));
        }
        let count = problem.rows();
        let w = dice.values(H * (N + V) * C);
        let w = |h: usize, row: usize, c: usize| w[(h * (N + V) + row) * C + c];
        let [q, latent, rope, d_out] =
            [H * (N + R), C, R, H * V].map(|width| dice.values(count * width));
        let for_heads: Vec<f64> = latent.chunks_exact(C).flat_map(|c| c.repeat(H)).collect();
        let kv = each_head(&for_heads, C, N + V, |h, c, row| w(h, row, c));
        let part = |x: &[f64], width: usize, from: usize, to: usize| -> Vec<f64> {
            x.chunks_exact(width)
                .flat_map(|x| x[from..to].to_vec())
                .collect()
        };
        let q_nope = part(&q, N + R, 0, N);
        let q_latent = each_head(&q_nope, N, C, w);
        let q_rope = part(&q, N + R, N, N + R);
        let d_z = each_head(&d_out, V, C, |h, row, c| w(h, N + row, c));

        let segments = problem.segments();
        let chosen = problem.selection::<f64>();
        let softmax: Softmax<'_, Cpu<f64>> = Softmax::scaled(0.5).soft_cap(5.0);
        let key: RopeKey<Cpu<f64>, Unrotated, R> =
            RopeKey::unrotated(&rows::<f64, R>(&rope)).expect("key");
        let (q, kv) = (
            heads::<f64, H, { N + R }>(&q),
            heads::<f64, H, { N + V }>(&kv),
        );
        let attended: Attended<Cpu<f64>, H, V> = match &chosen {
            Some(chosen) => attention::expanded_selected(&q, &kv, &key, &segments, chosen, softmax),
            None => attention::expanded(&q, &kv, &key, &segments, softmax),
        }
        .expect("attended");
        let (out, lse, _) = attended.into_parts().expect("parts");
        let d_out: Heads<Cpu<f64>, H, V> = heads(&d_out);
        let (d_q, d_kv, d_rope) = match &chosen {
            Some(chosen) => attention::expanded_selected_backward::<_, _, H, _, _, R, V, K>(
                &q, &kv, &key, &segments, chosen, softmax, &out, &lse, &d_out,
            ),
            None => {
                attention::expanded_backward(&q, &kv, &key, &segments, softmax, &out, &lse, &d_out)
            }
        }
        .expect("gradients");

        let (ql, qr) = (heads::<f64, H, C>(&q_latent), heads::<f64, H, R>(&q_rope));
        let c = rows::<f64, C>(&latent);
        let attended: mla_runtime::Result<Attended<Cpu<f64>, H, C>> = match &chosen {
            Some(chosen) => {
                attention::absorbed_selected(&ql, qr.view(), &c, &key, &segments, chosen, softmax)
            }
            None => attention::absorbed(&ql, qr.view(), &c, &key, &segments, softmax),
        };
        let (z, lse, _) = attended.expect("attended").into_parts().expect("parts");
        let d_z = heads::<f64, H, C>(&d_z);
        let (d_ql, d_qr, d_c, d_key) = match &chosen {
            Some(chosen) => attention::absorbed_selected_backward(
                &ql,
                qr.view(),
                &c,
                &key,
                &segments,
                chosen,
                softmax,
                &z,
                &lse,
                &d_z,
            ),
            None => attention::absorbed_backward(
                &ql,
                qr.view(),
                &c,
                &key,
                &segments,
                softmax,
                &z,
                &lse,
                &d_z,
            ),
        }
        .expect("gradients");

        let d_q = wide(&d_q.to_vec().expect("values"));
        let d_nope = each_head(&d_ql.to_vec().expect("values"), C, N, |h, c, row| {
            w(h, row, c)
        });
        assert_close(&d_nope, &part(&d_q, N + R, 0, N), 1e-11);
        let d_qr = d_qr.to_vec().expect("values");
        assert_close(&d_qr, &part(&d_q, N + R, N, N + R), 1e-11);
        let d_kv = d_kv.to_vec().expect("values");
        let wanted = each_head(&d_kv, N + V, C, w);
        assert_close(
            &d_c.to_vec().expect("values"),
            &over_heads(&wanted, C),
            1e-11,
        );
        let wanted = wide(&d_rope.to_vec().expect("values"));
        assert_close(&d_key.to_vec().expect("values"), &wanted, 1e-11);
    }
}
