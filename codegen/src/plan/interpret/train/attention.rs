//! The adjoint of attention: softmax by its definition, one query, head and key at a time.

use super::super::Error;
use super::super::array::{Array, dot};
use super::super::attend::Softmax;
use super::super::call::{Keys, Queries};
use super::super::run::Machine;
use crate::plan::{Adjoint, Over, ValueId};

/// Who meets whom: queries, keys, and in which row of the keys' values each key stands.
pub(super) struct Sides {
    pub(super) queries: Queries,
    pub(super) keys: Keys,
    pub(super) rows: Vec<usize>,
}

/// What one query meeting one key in one head does to gradients.
struct Met {
    query: usize,
    head: usize,
    /// The row of the key.
    row: usize,
    /// The gradient of their dot product.
    product: f64,
    /// The probability with which the value went into the output, dropout counted.
    share: f64,
}

/// Everything that met, and the gradient of the bias.
struct Meetings {
    all: Vec<Met>,
    d_bias: Option<Array>,
}

impl Softmax<'_> {
    /// The logit of a dot product, at (head, query, key), and the logit's derivative by the scaled product.
    pub(super) fn logit_and_slope(&self, product: f64, at: (usize, usize, usize)) -> (f64, f64) {
        let scaled = self.scale * product;
        let bias = self.bias.map_or(0.0, |bias| bias.at(at));
        match self.plan.soft_cap {
            None => (scaled + bias, 1.0),
            Some(cap) => {
                let squashed = (scaled / cap).tanh();
                (cap * squashed + bias, 1.0 - squashed * squashed)
            }
        }
    }
}

impl Machine<'_> {
    /// The gradients of what attention was given, in the order of the op's results.
    pub(super) fn attention_backward(&self, adjoint: &Adjoint) -> Result<Vec<Array>, Error> {
        let (mut gradients, d_bias) = match adjoint {
            Adjoint::Expanded {
                q,
                kv,
                k_rope,
                over,
                ..
            } => self.expanded_backward([*q, *kv, *k_rope], *over)?,
            Adjoint::Absorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                over,
                ..
            } => self.absorbed_backward([*q_latent, *q_rope, *latent, *k_rope], *over)?,
            Adjoint::Groups { q, k, v, over, .. } => self.groups_backward([*q, *k, *v], *over)?,
            _ => return Err(Error::BadPlan("the adjoint of an attention was wanted")),
        };
        gradients.extend(d_bias);
        Ok(gradients)
    }

    /// The call's own tokens among themselves.
    pub(super) fn own_sides(&self) -> Sides {
        let (rows, keys) = self.call.own_keys();
        Sides {
            queries: self.call.queries.clone(),
            keys,
            rows,
        }
    }

    /// The call's tokens and those that they attend to: a context's where there is one.
    fn sides(&self) -> Sides {
        let Some(context) = self.call.extras.context else {
            return self.own_sides();
        };
        let lengths = context.sequences.iter().map(ExactSizeIterator::len);
        let (queries, keys) = self.call.among_others(&lengths.collect::<Vec<_>>());
        Sides {
            queries,
            keys,
            rows: context.sequences.iter().cloned().flatten().collect(),
        }
    }

    /// `p = e^(s - l)`, `dp = m do·v`, `ds = p (dp - do·o)`, with `m` dropout's multiplier; then through the bias, the soft cap and
    /// the scale. `product` and `value` are of (query, head, row of the key).
    fn meetings<'v>(
        &self,
        over: Over,
        product: impl Fn(usize, usize, usize) -> f64,
        value: impl Fn(usize, usize) -> &'v [f64],
    ) -> Result<Meetings, Error> {
        let read = [over.attended, over.lse, over.dy].map(|id| self.array(id));
        let [attended, lse, dy] = read;
        let (attended, lse, dy) = (attended?, lse?, dy?);
        let (softmax, sides) = (self.softmax(), self.sides());
        let mut d_bias = match (over.d_bias, softmax.bias) {
            (None, _) => None,
            (Some(_), None) => return Err(Error::MissingExtra("bias")),
            (Some(_), Some(bias)) => Some(Array::zeros(bias.heads, bias.queries, bias.keys)),
        };
        let pairs = self.pairs(&sides.queries, &sides.keys, over.selection)?;
        let mut all = Vec::new();
        for (row, query) in sides.queries.0.iter().enumerate() {
            let Some(query) = query else { continue };
            let keys = pairs.of(row);
            for head in 0..attended.heads {
                let lse = lse.row(row)[head];
                if lse == f64::NEG_INFINITY {
                    continue; // nothing was seen
                }
                let dy = dy.at(row, head);
                let mean = dot(dy, attended.at(row, head));
                for &key in &keys {
                    let index = sides.keys.0[key].index;
                    let at = (head, query.index, index);
                    let key = sides.rows[key];
                    let (logit, slope) = softmax.logit_and_slope(product(row, head, key), at);
                    let p = (logit - lse).exp();
                    let kept = softmax.dropout.map_or(1.0, |dropout| {
                        dropout.multiplier(query.sequence, head, query.index, index)
                    });
                    let d_logit = p * (kept * dot(dy, value(head, key)) - mean);
                    if let Some(d_bias) = &mut d_bias {
                        let head = if d_bias.rows == 1 { 0 } else { head };
                        d_bias.at_mut(head, query.index)[index] += d_logit;
                    }
                    all.push(Met {
                        query: row,
                        head,
                        row: key,
                        product: softmax.scale * slope * d_logit,
                        share: kept * p,
                    });
                }
            }
        }
        Ok(Meetings { all, d_bias })
    }

    fn expanded_backward(
        &self,
        [q, kv, k_rope]: [ValueId; 3],
        over: Over,
    ) -> Result<(Vec<Array>, Option<Array>), Error> {
        let (q, kv, k_rope) = (self.array(q)?, self.array(kv)?, self.array(k_rope)?);
        let dy = self.array(over.dy)?;
        let nope = self.size("QK_NOPE_HEAD_DIM")?;
        let met = self.meetings(
            over,
            |query, head, row| {
                let (q, k) = (q.at(query, head), &kv.at(row, head)[..nope]);
                dot(&q[..nope], k) + dot(&q[nope..], k_rope.at(row, 0))
            },
            |head, row| &kv.at(row, head)[nope..],
        )?;
        let [mut d_q, mut d_kv, mut d_k_rope] = [q, kv, k_rope].map(zeros_like);
        for met in &met.all {
            let (q_nope, q_rope) = q.at(met.query, met.head).split_at(nope);
            let k_nope = &kv.at(met.row, met.head)[..nope];
            let (d_q_nope, d_q_rope) = d_q.at_mut(met.query, met.head).split_at_mut(nope);
            add(d_q_nope, met.product, k_nope);
            add(d_q_rope, met.product, k_rope.at(met.row, 0));
            let (d_k, d_v) = d_kv.at_mut(met.row, met.head).split_at_mut(nope);
            add(d_k, met.product, q_nope);
            add(d_v, met.share, dy.at(met.query, met.head));
            add(d_k_rope.at_mut(met.row, 0), met.product, q_rope);
        }
        Ok((vec![d_q, d_kv, d_k_rope], met.d_bias))
    }

    fn absorbed_backward(
        &self,
        [q_latent, q_rope, latent, k_rope]: [ValueId; 4],
        over: Over,
    ) -> Result<(Vec<Array>, Option<Array>), Error> {
        let (q_latent, q_rope) = (self.array(q_latent)?, self.array(q_rope)?);
        let (latent, k_rope) = (self.array(latent)?, self.array(k_rope)?);
        let dy = self.array(over.dy)?;
        let met = self.meetings(
            over,
            |query, head, row| {
                let content = dot(q_latent.at(query, head), latent.at(row, 0));
                content + dot(q_rope.at(query, head), k_rope.at(row, 0))
            },
            |_, row| latent.at(row, 0),
        )?;
        let [mut d_q_latent, mut d_q_rope] = [q_latent, q_rope].map(zeros_like);
        let [mut d_latent, mut d_k_rope] = [latent, k_rope].map(zeros_like);
        for met in &met.all {
            let (q, row) = ((met.query, met.head), met.row);
            add(d_q_latent.at_mut(q.0, q.1), met.product, latent.at(row, 0));
            add(d_q_rope.at_mut(q.0, q.1), met.product, k_rope.at(row, 0));
            // The latent is met as a key and as a value
            add(d_latent.at_mut(row, 0), met.product, q_latent.at(q.0, q.1));
            add(d_latent.at_mut(row, 0), met.share, dy.at(q.0, q.1));
            add(d_k_rope.at_mut(row, 0), met.product, q_rope.at(q.0, q.1));
        }
        let gradients = vec![d_q_latent, d_q_rope, d_latent, d_k_rope];
        Ok((gradients, met.d_bias))
    }

    fn groups_backward(
        &self,
        [q, k, v]: [ValueId; 3],
        over: Over,
    ) -> Result<(Vec<Array>, Option<Array>), Error> {
        let (q, k, v) = (self.array(q)?, self.array(k)?, self.array(v)?);
        let dy = self.array(over.dy)?;
        let group = |head: usize| head * k.heads / q.heads;
        let met = self.meetings(
            over,
            |query, head, row| dot(q.at(query, head), k.at(row, group(head))),
            |head, row| v.at(row, group(head)),
        )?;
        let [mut d_q, mut d_k, mut d_v] = [q, k, v].map(zeros_like);
        for met in &met.all {
            let (head, group) = (met.head, group(met.head));
            let (query, row) = (met.query, met.row);
            add(d_q.at_mut(query, head), met.product, k.at(row, group));
            add(d_k.at_mut(row, group), met.product, q.at(query, head));
            add(d_v.at_mut(row, group), met.share, dy.at(query, head));
        }
        Ok((vec![d_q, d_k, d_v], met.d_bias))
    }
}

pub(super) fn zeros_like(x: &Array) -> Array {
    Array::zeros(x.rows, x.heads, x.dim)
}

/// `sum += by · x`.
pub(super) fn add(sum: &mut [f64], by: f64, x: &[f64]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += by * x);
}
