//! Attention and its gradients in f64, a query at a time.

use half::bf16;

use super::Question;

/// What a forward pass gives, and what a backward pass does.
pub(super) struct Gradients {
    /// `[rows, heads, value]`.
    pub(super) out: Vec<bf16>,
    /// `[rows, heads]`, natural.
    pub(super) lse: Vec<f32>,
    /// Likewise: products of results and their gradients.
    pub(super) delta: Vec<f64>,
    pub(super) d_q: Vec<f64>,
    pub(super) d_kv: Vec<f64>,
    pub(super) d_k_rope: Vec<f64>,
}

fn dot(x: &[bf16], y: &[bf16]) -> f64 {
    x.iter()
        .zip(y)
        .map(|(x, y)| f64::from(*x) * f64::from(*y))
        .sum()
}

/// `to` += by · `x`.
fn add(to: &mut [f64], by: f64, x: &[bf16]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to += by * f64::from(*x);
    }
}

/// What is asked, computed. Where rows are nobody's, gradients are no numbers; a shared part's are 0.
pub(super) fn gradients(question: &Question) -> Gradients {
    let Question {
        case,
        seen,
        rows,
        keys,
        q,
        kv,
        k_rope,
        d_out,
    } = question;
    let [nope, rope, value] = case.widths;
    let [heads, key_heads, rope_heads] = case.heads;
    let (q_width, kv_width) = (nope + rope, nope + value);
    let mut all = Gradients {
        out: vec![bf16::NAN; rows * heads * value],
        lse: vec![f32::NAN; rows * heads],
        delta: vec![f64::NAN; rows * heads],
        d_q: vec![f64::NAN; q.len()],
        d_kv: vec![f64::NAN; kv.len()],
        d_k_rope: vec![0.0; keys * rope_heads * rope],
    };
    for segment in seen {
        for key in segment.keys.clone() {
            all.d_kv[key * key_heads * kv_width..][..key_heads * kv_width].fill(0.0);
        }
        for (row, limit) in segment.queries.clone().zip(&segment.limits) {
            for head in 0..heads {
                let line = row * heads + head;
                let key_head = head / (heads / key_heads);
                let rope_head = key_head / (key_heads / rope_heads);
                let own = &q[line * q_width..][..q_width];
                let d_own = &d_out[line * value..][..value];
                let of_keys: Vec<(usize, usize)> = limit
                    .clone()
                    .map(|key| {
                        let key = segment.keys.start + key;
                        (
                            (key * key_heads + key_head) * kv_width,
                            (key * rope_heads + rope_head) * rope,
                        )
                    })
                    .collect();
                // Logits and their slopes by products
                let bent = |product: f64| {
                    let logit = product * case.scale();
                    if case.cap == 0.0 {
                        return (logit, 1.0);
                    }
                    let tangent = (logit / case.cap).tanh();
                    (case.cap * tangent, 1.0 - tangent * tangent)
                };
                let logits: Vec<(f64, f64)> = of_keys
                    .iter()
                    .map(|&(k, r)| {
                        bent(
                            dot(&own[..nope], &kv[k..][..nope])
                                + dot(&own[nope..], &k_rope[r..][..rope]),
                        )
                    })
                    .collect();
                let most = logits
                    .iter()
                    .fold(f64::NEG_INFINITY, |most, (logit, _)| most.max(*logit));
                let sum: f64 = logits.iter().map(|(logit, _)| (logit - most).exp()).sum();
                let lse = if logits.is_empty() {
                    f64::NEG_INFINITY
                } else {
                    most + sum.ln()
                };
                let mut out = vec![0.0; value];
                for (&(k, _), (logit, _)) in of_keys.iter().zip(&logits) {
                    add(&mut out, (logit - lse).exp(), &kv[k + nope..][..value]);
                }
                let delta: f64 = out.iter().zip(d_own).map(|(x, y)| x * f64::from(*y)).sum();
                all.lse[line] = lse as f32;
                all.delta[line] = delta;
                for (to, x) in all.out[line * value..].iter_mut().zip(&out) {
                    *to = bf16::from_f64(*x);
                }
                let d_q = &mut all.d_q[line * q_width..][..q_width];
                d_q.fill(0.0);
                for (&(k, r), (logit, slope)) in of_keys.iter().zip(&logits) {
                    let p = (logit - lse).exp();
                    let d_s =
                        p * (dot(d_own, &kv[k + nope..][..value]) - delta) * slope * case.scale();
                    add(&mut d_q[..nope], d_s, &kv[k..][..nope]);
                    add(&mut d_q[nope..], d_s, &k_rope[r..][..rope]);
                    add(&mut all.d_kv[k..][..nope], d_s, &own[..nope]);
                    add(&mut all.d_kv[k + nope..][..value], p, d_own);
                    add(&mut all.d_k_rope[r..][..rope], d_s, &own[nope..]);
                }
            }
        }
    }
    all
}
