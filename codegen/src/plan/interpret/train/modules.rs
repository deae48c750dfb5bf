//! Adjoints of the modules: linears, norms.

use mla_spec::NormKind;

use super::super::array::{Array, dot};
use super::super::params::{Linear, Norm};
use super::super::pointwise::sigmoid;

impl Linear {
    /// `d_x = dy W`.
    pub(super) fn back(&self, dy: &Array) -> Array {
        let (outs, ins) = (self.weight.rows, self.weight.dim);
        Array::build((dy.rows, 1, ins), |row, _| {
            let of_column = |column: usize| {
                let terms = (0..outs).map(|out| dy.row(row)[out] * self.row(out)[column]);
                terms.sum()
            };
            (0..ins).map(of_column).collect()
        })
    }

    /// `dW += dyᵀ x` and `db += Σ dy`: `self` is the gradient.
    pub(super) fn learn(&mut self, x: &Array, dy: &Array) {
        for row in 0..dy.rows {
            for (out, &dy) in dy.row(row).iter().enumerate() {
                let weight = self.weight.at_mut(out, 0).iter_mut();
                weight.zip(x.row(row)).for_each(|(dw, x)| *dw += dy * x);
                if let Some(bias) = &mut self.bias {
                    bias[out] += dy;
                }
            }
        }
    }
}

impl Norm {
    /// The gradient of what is normed, row by row; adds those of the parameters to `gradient`.
    pub(super) fn back(&self, x: &Array, dy: &Array, gradient: &mut Norm) -> Array {
        let mut d_x = Array::zeros(x.rows, x.heads, x.dim);
        for row in 0..x.rows {
            let normed = self.unweighted(x.row(row));
            let dn = match &self.gate {
                None => dy.row(row).to_vec(),
                Some(gate) => {
                    let weighted: Vec<f64> = product(&normed, &self.weight);
                    through_gate(gate, &weighted, dy.row(row), &mut gradient.gate)
                }
            };
            for (i, dn) in dn.iter().enumerate() {
                gradient.weight[i] += dn * normed[i];
                if let Some(bias) = &mut gradient.bias {
                    bias[i] += dn;
                }
            }
            let dn = product(&dn, &self.weight);
            d_x.at_mut(row, 0)
                .copy_from_slice(&self.through_root(x.row(row), &dn));
        }
        d_x
    }

    /// What is divided by the root: `x`, less its mean in a LayerNorm.
    fn centred(&self, x: &[f64]) -> Vec<f64> {
        let mean = match self.kind {
            NormKind::LayerNorm => x.iter().sum::<f64>() / x.len() as f64,
            NormKind::RmsNorm | NormKind::GatedRmsNorm { .. } => 0.0,
        };
        x.iter().map(|x| x - mean).collect()
    }

    /// The normed vector before its weight.
    fn unweighted(&self, x: &[f64]) -> Vec<f64> {
        let centred = self.centred(x);
        let root = root(&centred, self.eps);
        centred.iter().map(|x| x / root).collect()
    }

    /// From the gradient of the normed vector before its weight to that of `x`.
    fn through_root(&self, x: &[f64], dn: &[f64]) -> Vec<f64> {
        let d_centred = through_rms(&self.centred(x), self.eps, dn);
        self.centred(&d_centred) // the mean is taken out by a symmetric projection, its own adjoint
    }
}

/// `sqrt(mean(x²) + ε)`.
fn root(x: &[f64], eps: f64) -> f64 {
    (dot(x, x) / x.len() as f64 + eps).sqrt()
}

/// The gradient of `x` from that of `x / r`, `r = sqrt(mean(x²) + ε)`: `dy / r - x (dy·x) / (n r³)`.
pub(super) fn through_rms(x: &[f64], eps: f64, dy: &[f64]) -> Vec<f64> {
    let root = root(x, eps);
    let along = dot(dy, x) / (x.len() as f64 * root.powi(3));
    x.iter()
        .zip(dy)
        .map(|(x, dy)| dy / root - x * along)
        .collect()
}

/// The gradient of `n` from that of `n σ(W_2 silu(W_1 n))`; adds the matrices' gradients to `gradient`.
fn through_gate(
    (first, second): &(Linear, Linear),
    normed: &[f64],
    dy: &[f64],
    gradient: &mut Option<(Linear, Linear)>,
) -> Vec<f64> {
    let n = one_row(normed);
    let inner = first.apply(&n);
    let silu = inner.map(|row| row.iter().map(|a| a * sigmoid(*a)).collect());
    let gate = second.apply(&silu);
    let open: Vec<f64> = gate.row(0).iter().map(|gate| sigmoid(*gate)).collect();
    let slope = open.iter().map(|open| open * (1.0 - open));
    let d_gate: Vec<f64> = slope
        .zip(product(dy, normed))
        .map(|(slope, d)| slope * d)
        .collect();
    let d_gate = one_row(&d_gate);
    let d_silu = second.back(&d_gate);
    let d_inner = inner.row(0).iter().zip(d_silu.row(0)).map(|(a, d)| {
        let open = sigmoid(*a);
        d * open * (1.0 + a * (1.0 - open))
    });
    let d_inner = one_row(&d_inner.collect::<Vec<_>>());
    if let Some((d_first, d_second)) = gradient {
        d_first.learn(&n, &d_inner);
        d_second.learn(&silu, &d_gate);
    }
    let through = first.back(&d_inner);
    let direct = product(dy, &open);
    direct
        .iter()
        .zip(through.row(0))
        .map(|(direct, through)| direct + through)
        .collect()
}

fn one_row(values: &[f64]) -> Array {
    Array::stack(&[values], 1, values.len())
}

/// Element by element.
fn product(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}
