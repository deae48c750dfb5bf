//! Multi-head latent attention in plain `f64` loops, after features.md 0.1: no blocks, no caches, no cleverness.

use std::ops::Range;

use mla_runtime::Weights;

use crate::sample::{
    HIDDEN_SIZE, INV_FREQ, KV_LORA_RANK, NUM_ATTENTION_HEADS, Q_LORA_RANK, QK_HEAD_DIM,
    QK_NOPE_HEAD_DIM, QK_ROPE_HEAD_DIM, SOFTMAX_SCALE, TENSORS, V_HEAD_DIM,
};

fn matvec(w: &[f64], x: &[f64]) -> Vec<f64> {
    w.chunks_exact(x.len())
        .map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
        .collect()
}

fn rms_norm(x: &[f64], gamma: &[f64]) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter()
        .zip(gamma)
        .map(|(x, g)| g * x / (mean + 1e-6).sqrt())
        .collect()
}

fn rotated(x: &[f64], position: usize) -> Vec<f64> {
    (0..x.len())
        .map(|i| {
            let (sin, cos) = (position as f64 * INV_FREQ[i / 2]).sin_cos();
            if i % 2 == 0 {
                x[i] * cos - x[i + 1] * sin
            } else {
                x[i - 1] * sin + x[i] * cos
            }
        })
        .collect()
}

/// The layer's output where each range of rows is a sequence, positions counted within it.
pub(crate) fn forward(weights: &Weights, hidden: &[f64], sequences: &[Range<usize>]) -> Vec<f64> {
    let weights = weights.exactly("l", &TENSORS).expect("the layer's tensors");
    let w = |name: &str| weights.read::<f64>(name).expect("a tensor").1;
    let (q_a, q_norm, q_b) = (
        w("q_a_proj.weight"),
        w("q_a_layernorm.weight"),
        w("q_b_proj.weight"),
    );
    let (kv_a, kv_norm, kv_b) = (
        w("kv_a_proj_with_mqa.weight"),
        w("kv_a_layernorm.weight"),
        w("kv_b_proj.weight"),
    );
    let o = w("o_proj.weight");
    assert_eq!(q_norm.len(), Q_LORA_RANK);
    let mut out = Vec::new();
    for sequence in sequences {
        let tokens: Vec<&[f64]> = hidden
            .chunks_exact(HIDDEN_SIZE)
            .skip(sequence.start)
            .take(sequence.len())
            .collect();
        let down: Vec<Vec<f64>> = tokens.iter().map(|x| matvec(&kv_a, x)).collect();
        let kv: Vec<Vec<f64>> = down
            .iter()
            .map(|c| matvec(&kv_b, &rms_norm(&c[..KV_LORA_RANK], &kv_norm)))
            .collect();
        let k_rope: Vec<Vec<f64>> = down
            .iter()
            .enumerate()
            .map(|(t, c)| rotated(&c[KV_LORA_RANK..], t))
            .collect();
        for (t, x) in tokens.iter().enumerate() {
            let q = matvec(&q_b, &rms_norm(&matvec(&q_a, x), &q_norm));
            let mut heads = Vec::new();
            for h in 0..NUM_ATTENTION_HEADS {
                let q = &q[h * QK_HEAD_DIM..(h + 1) * QK_HEAD_DIM];
                let q_rope = rotated(&q[QK_NOPE_HEAD_DIM..], t);
                assert_eq!(q_rope.len(), QK_ROPE_HEAD_DIM);
                let width = QK_NOPE_HEAD_DIM + V_HEAD_DIM;
                let logits: Vec<f64> = (0..=t)
                    .map(|u| {
                        let k = &kv[u][h * width..h * width + QK_NOPE_HEAD_DIM];
                        let nope: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                        let rope: f64 = q_rope.iter().zip(&k_rope[u]).map(|(q, k)| q * k).sum();
                        SOFTMAX_SCALE * (nope + rope)
                    })
                    .collect();
                let sum: f64 = logits.iter().map(|l| l.exp()).sum();
                for d in 0..V_HEAD_DIM {
                    let at = h * width + QK_NOPE_HEAD_DIM + d;
                    heads.push(
                        (0..=t)
                            .map(|u| logits[u].exp() / sum * kv[u][at])
                            .sum::<f64>(),
                    );
                }
            }
            out.extend(matvec(&o, &heads));
        }
    }
    out
}
