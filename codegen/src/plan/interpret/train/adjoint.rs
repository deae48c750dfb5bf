//! Adjoints of ops in which no token looks at another, and of those that move values about.

use mla_spec::{GateGranularity, RopeLayout};

use super::super::Error;
use super::super::array::{Array, dot};
use super::super::params::{Linear, Params};
use super::super::pointwise::sigmoid;
use super::super::rotate::places;
use super::super::run::{Machine, Value};
use super::Reverse;
use super::modules::through_rms;
use crate::plan::{Adjoint, Dim, GroupPart, NormPart, Offset, Piece, Turn, Turned, Ty, ValueId};

impl<'a> Machine<'a> {
    /// The values that the op of a backward pass defines.
    pub(in crate::plan::interpret) fn adjoint(
        &mut self,
        adjoint: &Adjoint,
    ) -> Result<Vec<Value>, Error> {
        let array = match adjoint {
            Adjoint::Saved { out } | Adjoint::Deferred { out } => return self.kept(out),
            Adjoint::GivenKvGradient { .. } => return self.given_kv_gradient(),
            Adjoint::Gate {
                x,
                gate,
                dy,
                granularity,
                ..
            } => {
                let read = [*x, *gate, *dy].map(|id| self.array(id));
                let [x, gate, dy] = read;
                let pair = gate_backward(x?, gate?, dy?, *granularity);
                return Ok(pair.map(Value::Array).into());
            }
            Adjoint::Drop { x } => {
                self.forget(*x)?;
                return Ok(Vec::new());
            }
            Adjoint::Expanded { .. } | Adjoint::Absorbed { .. } | Adjoint::Groups { .. } => {
                let all = self.attention_backward(adjoint)?;
                return Ok(all.into_iter().map(Value::Array).collect());
            }
            Adjoint::IndexerLoss { .. } => {
                let all = self.indexer_loss(adjoint)?;
                return Ok(all.map(Value::Array).into());
            }
            Adjoint::LinearWeight { .. }
            | Adjoint::NormWeight { .. }
            | Adjoint::AbsorbQueriesWeight { .. }
            | Adjoint::AbsorbValuesWeight { .. }
            | Adjoint::Sink { .. } => {
                self.learn(adjoint)?;
                return Ok(Vec::new());
            }
            Adjoint::OutputGradient { .. } => {
                let output = self.reverse()?.incoming.output;
                self.rows("the output's gradient", output, "HIDDEN_SIZE")?
            }
            Adjoint::LinearInput { dy, slot, part, .. } => {
                self.inner(slot, *part)?.back(self.array(*dy)?)
            }
            Adjoint::Norm {
                x, dy, slot, part, ..
            } => self.norm_backward((slot, *part), *x, *dy)?,
            Adjoint::HeadNorm { x, dy, slot, .. } => {
                let heads = self.array(*x)?.heads;
                let (x, dy) = (self.vectors(*x)?, self.vectors(*dy)?);
                let norm = self.params.norm(slot)?;
                norm.back(&x, &dy, self.gradients()?.norm_mut(slot)?)
                    .grouped(heads)
            }
            Adjoint::L2Norm { x, dy, eps, .. } => {
                let eps = self.number(eps)?;
                let (x, dy) = (self.array(*x)?, self.array(*dy)?);
                Array::build((x.rows, x.heads, x.dim), |row, head| {
                    through_rms(x.at(row, head), eps, dy.at(row, head))
                })
            }
            Adjoint::LearnedScale { x, dy, slot, .. } => self.learned_scale(*x, *dy, slot)?,
            Adjoint::AbsorbQueries { dy, slot, part, .. } => {
                let keys = KeyRows::of(self)?;
                keys.queries_back(self.inner(slot, *part)?, self.array(*dy)?)
            }
            Adjoint::AbsorbValues { dy, slot, part, .. } => {
                let keys = KeyRows::of(self)?;
                keys.values_back(self.inner(slot, *part)?, self.array(*dy)?)
            }
            Adjoint::RotateHeads {
                dy, angles, turn, ..
            }
            | Adjoint::RotateRows {
                dy, angles, turn, ..
            } => self.turned_back(*dy, *angles, *turn)?,
            Adjoint::RotateKey { dy, angles, .. } => self.turned_back(*dy, *angles, Turn::LAST)?,
            Adjoint::Narrow { x, .. } => self.array(*x)?.clone().cut(1),
            Adjoint::Assemble { parts, out } => self.assembled(parts, *out)?,
            Adjoint::Add { into, x, .. } => {
                let (mut sum, x) = (self.array(*into)?.clone(), self.array(*x)?);
                if sum.data.len() != x.data.len() {
                    return Err(Error::BadPlan("gradients of two shapes are added"));
                }
                sum.data.iter_mut().zip(&x.data).for_each(|(a, b)| *a += b);
                sum
            }
        };
        Ok(vec![Value::Array(array)])
    }

    pub(super) fn reverse(&self) -> Result<&Reverse<'a>, Error> {
        let missing = Error::BadPlan("an op of a backward pass outside of one");
        self.reverse.as_ref().ok_or(missing)
    }

    fn gradients(&mut self) -> Result<&mut Params, Error> {
        let missing = Error::BadPlan("an op of a backward pass outside of one");
        let reverse = self.reverse.as_mut().ok_or(missing)?;
        Ok(reverse.gradients)
    }

    /// What was kept under the names of these values.
    fn kept(&self, out: &[ValueId]) -> Result<Vec<Value>, Error> {
        let kept = self.reverse()?.kept;
        let of = |id: &ValueId| {
            let name: &str = &self.plan.values[id.0].name;
            let missing = Error::BadPlan("nothing is kept under a value's name");
            kept.get(name).cloned().ok_or(missing)
        };
        out.iter().map(of).collect()
    }

    fn given_kv_gradient(&self) -> Result<Vec<Value>, Error> {
        let given = self.reverse()?.incoming.shared_kv;
        let given = given.ok_or(Error::MissingExtra("the gradients of shared_kv"))?;
        let latent = self.rows("the latents' gradient", &given.latent, "KV_LORA_RANK")?;
        let k_rope = self.rows("the rope keys' gradient", &given.k_rope, "QK_ROPE_HEAD_DIM")?;
        Ok([latent, k_rope].map(Value::Array).into())
    }

    /// Every head's vector as a row.
    fn vectors(&self, id: ValueId) -> Result<Array, Error> {
        Ok(self.array(id)?.clone().vectors())
    }

    /// Adds to parameters' gradients and does nothing else.
    fn learn(&mut self, adjoint: &Adjoint) -> Result<(), Error> {
        match adjoint {
            Adjoint::LinearWeight { x, dy, slot, part } => {
                self.inner(slot, *part)?;
                let (x, dy) = (self.array(*x)?.clone(), self.array(*dy)?.clone());
                self.gradients()?.linear_mut(slot)?.learn(&x, &dy);
            }
            Adjoint::NormWeight { x, dy, slot, part } => {
                self.norm_backward((slot, *part), *x, *dy)?;
            }
            Adjoint::AbsorbQueriesWeight {
                q_nope,
                dy,
                slot,
                part,
            } => {
                self.inner(slot, *part)?;
                let keys = KeyRows::of(self)?;
                let (q, dy) = (self.array(*q_nope)?.clone(), self.array(*dy)?.clone());
                keys.learn(self.gradients()?.linear_mut(slot)?, (0, &q), &dy);
            }
            Adjoint::AbsorbValuesWeight { z, dy, slot, part } => {
                self.inner(slot, *part)?;
                let keys = KeyRows::of(self)?;
                let (z, dy) = (self.array(*z)?.clone(), self.array(*dy)?.clone());
                keys.learn(self.gradients()?.linear_mut(slot)?, (keys.nope, &dy), &z);
            }
            Adjoint::Sink {
                attended,
                lse,
                dy,
                slot,
            } => {
                let logits = self.params.sinks(slot)?;
                let read = [*attended, *lse, *dy].map(|id| self.array(id).cloned());
                let [attended, lse, dy] = read;
                let (attended, lse, dy) = (attended?, lse?, dy?);
                let sinks = self.gradients()?.sinks_mut(slot)?;
                for row in 0..dy.rows {
                    for (head, sink) in sinks.iter_mut().enumerate() {
                        let probability = (logits[head] - lse.row(row)[head]).exp();
                        *sink -= probability * dot(dy.at(row, head), attended.at(row, head));
                    }
                }
            }
            _ => return Err(Error::BadPlan("an op that learns was wanted")),
        }
        Ok(())
    }

    fn norm_backward(
        &mut self,
        (slot, part): (&str, NormPart),
        x: ValueId,
        dy: ValueId,
    ) -> Result<Array, Error> {
        if self.params.is_norm_linear(slot) != (part == NormPart::Inner) {
            return Err(Error::BadPlan(
                "an inner norm of a module that is not a norm-linear, or the reverse",
            ));
        }
        let norm = self.params.norm(slot)?;
        let (x, dy) = (self.array(x)?.clone(), self.array(dy)?.clone());
        Ok(norm.back(&x, &dy, self.gradients()?.norm_mut(slot)?))
    }

    /// `q' = (a_h ln(pos + 1) + b_h) q`.
    fn learned_scale(&mut self, x: ValueId, dy: ValueId, slot: &str) -> Result<Array, Error> {
        let (a, b) = self.params.log_position_scale(slot)?;
        let (x, dy) = (self.array(x)?.clone(), self.array(dy)?.clone());
        let positions = self.call.positions.iter();
        let logs: Vec<f64> = positions.map(|&p| (f64::from(p) + 1.0).ln()).collect();
        let (d_a, d_b) = self.gradients()?.scale_mut(slot)?;
        for (row, log) in logs.iter().enumerate() {
            for head in 0..x.heads {
                let d_factor = dot(x.at(row, head), dy.at(row, head));
                d_a[head] += d_factor * log;
                d_b[head] += d_factor;
            }
        }
        Ok(Array::build((x.rows, x.heads, x.dim), |row, head| {
            let factor = a[head] * logs[row] + b[head];
            dy.at(row, head).iter().map(|dy| factor * dy).collect()
        }))
    }

    /// The transposed rotation, from the pairs of the result to those of what was rotated.
    fn turned_back(&self, dy: ValueId, angles: ValueId, turn: Turn) -> Result<Array, Error> {
        let (input, output) = self.layouts(turn)?;
        let (cos, sin) = self.angles(angles)?;
        Ok(transposed(
            self.array(dy)?,
            (cos, sin),
            turn.part,
            (input, output),
        ))
    }

    /// Zeros, and each part added where it was taken from.
    fn assembled(&self, parts: &[(Piece, ValueId)], out: ValueId) -> Result<Array, Error> {
        let Some((_, first)) = parts.first() else {
            return Err(Error::BadPlan("a gradient of no parts"));
        };
        let rows = self.array(*first)?.rows;
        let mut whole = match self.plan.values[out.0].ty {
            Ty::Rows(width) => Array::zeros(rows, 1, width.size as usize),
            Ty::Heads(heads, dim) => Array::zeros(rows, heads.size as usize, dim.size as usize),
            _ => return Err(Error::BadPlan("parts of something that has none")),
        };
        for (piece, part) in parts {
            let part = self.array(*part)?;
            match piece {
                Piece::Columns(offset, width) | Piece::Head(offset, width) => {
                    add_part(&mut whole, part, offset, *width);
                }
                Piece::Group(group) => self.add_group(&mut whole, part, *group)?,
            }
        }
        Ok(whole)
    }

    /// Adds heads of one kind to rows that hold, group by group, queries, (gates,) a key and a value; or the last two alone.
    fn add_group(&self, whole: &mut Array, part: &Array, kind: GroupPart) -> Result<(), Error> {
        let groups = self.program.groups().size as usize;
        let dim = self.size("HEAD_DIM")?;
        let width = whole.dim / groups;
        let share = part.row_width() / groups;
        let start = match kind {
            GroupPart::Query => 0,
            GroupPart::Gate => self.size("NUM_ATTENTION_HEADS")? / groups * dim,
            GroupPart::Key => width - 2 * dim,
            GroupPart::Value => width - dim,
        };
        for row in 0..whole.rows {
            for group in 0..groups {
                let place = &mut whole.at_mut(row, 0)[group * width + start..][..share];
                let own = &part.row(row)[group * share..][..share];
                place.iter_mut().zip(own).for_each(|(sum, d)| *sum += d);
            }
        }
        Ok(())
    }
}

fn add_part(whole: &mut Array, part: &Array, offset: &Offset, width: Dim) {
    let (start, width) = (offset.elements() as usize, width.size as usize);
    for row in 0..whole.rows {
        for head in 0..whole.heads {
            let place = &mut whole.at_mut(row, head)[start..start + width];
            let part = &part.row(row)[head * width..][..width];
            place.iter_mut().zip(part).for_each(|(sum, d)| *sum += d);
        }
    }
}

/// `y = x σ(g)`: `d_x = dy σ(g)`, and `d_g = σ'(g) dy x`, of all elements that the gate is for.
fn gate_backward(x: &Array, gate: &Array, dy: &Array, granularity: GateGranularity) -> [Array; 2] {
    let (mut d_x, mut d_gate) = (dy.clone(), gate.clone());
    d_gate.data.fill(0.0);
    for row in 0..x.rows {
        for head in 0..x.heads {
            for element in 0..x.dim {
                let logit = match granularity {
                    GateGranularity::PerHead => head,
                    GateGranularity::PerElement => head * x.dim + element,
                };
                let open = sigmoid(gate.row(row)[logit]);
                let dy = dy.at(row, head)[element];
                d_x.at_mut(row, head)[element] = dy * open;
                let place = row * gate.row_width() + logit;
                d_gate.data[place] += open * (1.0 - open) * dy * x.at(row, head)[element];
            }
        }
    }
    [d_x, d_gate]
}

/// Every pair times the transposed matrix `[c s; -s c]`.
fn transposed(
    dy: &Array,
    (cos, sin): (&Array, &Array),
    part: Turned,
    (input, output): (RopeLayout, RopeLayout),
) -> Array {
    let pairs = cos.dim;
    let start = match part {
        Turned::First => 0,
        Turned::Last => dy.dim - 2 * pairs,
    };
    let mut d_x = dy.clone();
    for row in 0..dy.rows {
        for head in 0..dy.heads {
            let (dy, d_x) = (dy.at(row, head), d_x.at_mut(row, head));
            for pair in 0..pairs {
                let (c, s) = (cos.row(row)[pair], sin.row(row)[pair]);
                let (first, second) = places(output, pair, pairs);
                let (da, db) = (dy[start + first], dy[start + second]);
                let (first, second) = places(input, pair, pairs);
                d_x[start + first] = c * da + s * db;
                d_x[start + second] = c * db - s * da;
            }
        }
    }
    d_x
}

/// How the rows of a key-value up projection stand: for every head `nope` key rows, then its value rows.
#[derive(Clone, Copy)]
struct KeyRows {
    nope: usize,
    width: usize,
}

impl KeyRows {
    fn of(machine: &Machine<'_>) -> Result<Self, Error> {
        Ok(Self {
            nope: machine.size("QK_NOPE_HEAD_DIM")?,
            width: machine.size("KV_HEAD_WIDTH")?,
        })
    }

    /// `q̃ = W_UKᵀ q`, so `dq = W_UK dq̃`.
    fn queries_back(self, up: &Linear, dy: &Array) -> Array {
        Array::build((dy.rows, dy.heads, self.nope), |row, head| {
            let rows = (0..self.nope).map(|i| up.row(head * self.width + i));
            rows.map(|key| dot(key, dy.at(row, head))).collect()
        })
    }

    /// `o = W_UV z`, so `dz = W_UVᵀ do`.
    fn values_back(self, up: &Linear, dy: &Array) -> Array {
        Array::build((dy.rows, dy.heads, up.weight.dim), |row, head| {
            let mut d_z = vec![0.0; up.weight.dim];
            for (i, dy) in dy.at(row, head).iter().enumerate() {
                let value = up.row(head * self.width + self.nope + i);
                d_z.iter_mut().zip(value).for_each(|(d, w)| *d += w * dy);
            }
            d_z
        })
    }

    /// Adds `left rightᵀ` of every head to the rows of that head from `start` on.
    fn learn(self, gradient: &mut Linear, (start, left): (usize, &Array), right: &Array) {
        for row in 0..left.rows {
            for head in 0..left.heads {
                for (i, left) in left.at(row, head).iter().enumerate() {
                    let place = head * self.width + start + i;
                    let weight = gradient.weight.at_mut(place, 0).iter_mut();
                    let right = right.at(row, head);
                    weight
                        .zip(right)
                        .for_each(|(dw, right)| *dw += left * right);
                }
            }
        }
    }
}
