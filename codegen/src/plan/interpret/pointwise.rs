//! Ops in which no token looks at another: inputs, linears, norms, scales, rotations, layouts.

use super::Error;
use super::array::{Array, dot};
use super::params::Linear;
use super::rotate::{angles, rotate};
use super::run::{Machine, Value};
use crate::plan::{
    Dim, GroupPart, Handed, LinearPart, NormPart, Op, PositionScale, RotaryTable, Turn, Ty, ValueId,
};
use mla_spec::{GateGranularity, RopeLayout};

impl Machine<'_> {
    /// The value of an op that only looks at its own token.
    pub(super) fn pointwise(&mut self, op: &Op) -> Result<Value, Error> {
        let array = match op {
            Op::Hidden { .. } => self.rows("hidden", self.call.hidden, "HIDDEN_SIZE")?,
            Op::Context { .. } => {
                let context = self.call.extras.context;
                let rows = context.ok_or(Error::MissingExtra("context"))?.rows;
                let width = self.size("CONTEXT_HIDDEN_SIZE")?;
                self.cut(rows, rows.len() / width.max(1), width, "context")?
            }
            Op::Angles { .. } => {
                let (cos, sin) = angles(self.rotary()?, &self.call.positions);
                return Ok(Value::Angles(cos, sin));
            }
            Op::TakeKv { from, .. } => return self.take_kv(*from),
            Op::TakenLatent { x, .. } => self.shared_kv(*x)?.0.clone(),
            Op::TakenKey { x, .. } => self.shared_kv(*x)?.1.clone(),
            Op::Linear { x, slot, part, .. } => self.linear(*x, slot, *part)?,
            Op::Norm { x, slot, part, .. } => self.norm(*x, slot, *part)?,
            Op::PoolGates { x, slot, .. } => self.params.linear(slot)?.apply(self.array(*x)?),
            Op::HeadNorm { x, slot, .. } => {
                let x = self.array(*x)?;
                let vectors = x.clone().vectors();
                self.params.norm(slot)?.apply(&vectors).grouped(x.heads)
            }
            Op::L2Norm { x, eps, .. } => {
                let eps = self.number(eps)?;
                self.array(*x)?.map(|vector| {
                    let mean = dot(vector, vector) / vector.len() as f64;
                    let root = (mean + eps).sqrt();
                    vector.iter().map(|x| x / root).collect()
                })
            }
            Op::Scale { x, by, .. } => {
                let by = self.number(by)?;
                self.array(*x)?
                    .map(|vector| vector.iter().map(|x| by * x).collect())
            }
            Op::ScaleByPosition { x, scale, .. } => self.scaled_by_position(*x, *scale)?,
            Op::Hadamard { x, .. } => self.array(*x)?.map(hadamard),
            Op::Concat { left, right, .. } => {
                let (left, right) = (self.array(*left)?, self.array(*right)?);
                Array::build(
                    (left.rows, 1, left.row(0).len() + right.row(0).len()),
                    |row, _| [left.row(row), right.row(row)].concat(),
                )
            }
            Op::Columns {
                x, offset, width, ..
            }
            | Op::HeadPart {
                x, offset, width, ..
            } => {
                let start = offset.elements() as usize;
                self.array(*x)?.part(start..start + width.size as usize)
            }
            Op::IntoHeads { x, heads, .. } => self.array(*x)?.clone().cut(heads.size as usize),
            Op::IntoRows { x, .. } | Op::AsRows { x, .. } => self.array(*x)?.clone().cut(1),
            Op::CutHeads { x, .. } | Op::IntoPerHead { x, .. } => self.array(*x)?.clone(),
            Op::GroupPart { x, part, out } => self.group_part(*x, *part, *out)?,
            Op::RotateHeads {
                x, angles, turn, ..
            }
            | Op::RotateRows {
                x, angles, turn, ..
            } => self.rotated(*x, *angles, *turn)?,
            Op::RotateKey { x, angles, .. } => self.rotated(*x, *angles, Turn::LAST)?,
            Op::UnrotatedKey {
                x, absent: false, ..
            } => self.array(*x)?.clone(),
            Op::UnrotatedKey {
                x, absent: true, ..
            } => Array::zeros(self.array(*x)?.rows, 1, 0),
            Op::Gate {
                x,
                gate,
                granularity,
                ..
            } => gated(self.array(*x)?, self.array(*gate)?, *granularity),
            Op::AbsorbQueries {
                q_nope, slot, part, ..
            } => self.absorb_queries(*q_nope, self.inner(slot, *part)?)?,
            Op::AbsorbValues { z, slot, part, .. } => {
                self.absorb_values(self.array(*z)?, self.inner(slot, *part)?)?
            }
            Op::AttendedOut { x, .. } => self.attended(*x)?.out.clone(),
            _ => return Err(Error::BadPlan("an op where it can't stand")),
        };
        Ok(Value::Array(array))
    }

    pub(super) fn rows(&self, what: &str, values: &[f64], width: &str) -> Result<Array, Error> {
        self.cut(values, self.call.positions.len(), self.size(width)?, what)
    }

    pub(super) fn cut(
        &self,
        values: &[f64],
        rows: usize,
        dim: usize,
        what: &str,
    ) -> Result<Array, Error> {
        let (found, wanted) = (values.len(), rows * dim);
        if found != wanted {
            return Err(Error::WrongLength {
                what: what.to_owned(),
                found,
                wanted,
            });
        }
        Ok(Array {
            rows,
            heads: 1,
            dim,
            data: values.to_vec(),
        })
    }

    pub(super) fn rotary(&self) -> Result<&RotaryTable, Error> {
        self.program
            .rotary
            .as_ref()
            .ok_or(Error::BadPlan("a rotation without frequencies"))
    }

    /// Latents and rotated keys of the call's tokens, as another layer hands them over or has cached them.
    fn take_kv(&self, from: Handed) -> Result<Value, Error> {
        let (latent, rope) = (self.size("KV_LORA_RANK")?, self.size("QK_ROPE_HEAD_DIM")?);
        let rows = self.call.positions.len();
        match from {
            Handed::Over => {
                let shared = self.call.extras.shared_kv;
                let shared = shared.ok_or(Error::MissingExtra("shared_kv"))?;
                Ok(Value::SharedKv(
                    self.cut(&shared.latent, rows, latent, "shared_kv.latent")?,
                    self.cut(&shared.k_rope, rows, rope, "shared_kv.k_rope")?,
                ))
            }
            Handed::Cached => {
                let source = self.call.extras.source;
                let source = source.ok_or(Error::MissingExtra("source"))?;
                let new = |piece: usize| {
                    let start = self.call.cached[piece];
                    start..start + self.call.pieces[piece].tokens
                };
                let (latent, k_rope, _) = source.gather(self.call.pieces, new);
                Ok(Value::SharedKv(latent, k_rope))
            }
        }
    }

    /// The linear of a module, where `part` says that its norm is left aside if it has one.
    pub(super) fn inner(&self, slot: &str, part: LinearPart) -> Result<&Linear, Error> {
        if self.params.is_norm_linear(slot) != (part == LinearPart::Inner) {
            return Err(Error::BadPlan(
                "an inner linear of a module that is not a norm-linear, or the reverse",
            ));
        }
        self.params.linear(slot)
    }

    /// A linear module, its norm included if it is a norm-linear and taken whole.
    fn linear(&self, x: ValueId, slot: &str, part: LinearPart) -> Result<Array, Error> {
        let x = self.array(x)?;
        if part == LinearPart::Whole && self.params.is_norm_linear(slot) {
            let normed = self.params.norm(slot)?.apply(x);
            return Ok(self.params.linear(slot)?.apply(&normed));
        }
        Ok(self.inner(slot, part)?.apply(x))
    }

    fn norm(&self, x: ValueId, slot: &str, part: NormPart) -> Result<Array, Error> {
        if self.params.is_norm_linear(slot) != (part == NormPart::Inner) {
            return Err(Error::BadPlan(
                "an inner norm of a module that is not a norm-linear, or the reverse",
            ));
        }
        Ok(self.params.norm(slot)?.apply(self.array(x)?))
    }

    /// `q (1 + β ln(1 + ⌊(pos + offset) / L_0⌋))` (E-02), or `q_h (a_h ln(pos + 1) + b_h)` (S-14).
    fn scaled_by_position(&self, x: ValueId, scale: PositionScale) -> Result<Array, Error> {
        let x = self.array(x)?;
        let factor: Box<dyn Fn(u32, usize) -> f64> = match scale {
            PositionScale::Llama4 {
                beta,
                original_max_position_embeddings,
                position_offset,
            } => {
                let beta = self.number(beta)?;
                let (length, offset) = (original_max_position_embeddings, position_offset);
                Box::new(move |position, _| {
                    let shifted = f64::from(position) + f64::from(offset.size);
                    1.0 + beta * (1.0 + (shifted / f64::from(length.size)).floor()).ln()
                })
            }
            PositionScale::Learned { slot } => {
                let (a, b) = self.params.log_position_scale(slot)?;
                Box::new(move |position, head| a[head] * (f64::from(position) + 1.0).ln() + b[head])
            }
        };
        Ok(Array::build((x.rows, x.heads, x.dim), |row, head| {
            let by = factor(self.call.positions[row], head);
            x.at(row, head).iter().map(|x| by * x).collect()
        }))
    }

    /// A part of rows that hold, group by group, query heads, (their gates,) a key head, a value head; or the last two alone.
    fn group_part(&self, x: ValueId, part: GroupPart, out: ValueId) -> Result<Array, Error> {
        let x = self.array(x)?;
        let heads = self.size("NUM_ATTENTION_HEADS")?;
        let groups = self.program.groups().size as usize;
        let (dim, width) = (self.size("HEAD_DIM")?, x.row_width() / groups);
        let (queries, gates) = if width == 2 * dim {
            (0, 0)
        } else {
            let queries = heads / groups * dim;
            let gates = width.checked_sub(queries + 2 * dim);
            (
                queries,
                gates.ok_or(Error::BadPlan("groups that are too narrow"))?,
            )
        };
        let (start, length) = match part {
            GroupPart::Query => (0, queries),
            GroupPart::Gate => (queries, gates),
            GroupPart::Key => (queries + gates, dim),
            GroupPart::Value => (queries + gates + dim, dim),
        };
        let all = Array::build((x.rows, 1, groups * length), |row, _| {
            let of_group = |group: usize| &x.row(row)[group * width..][start..start + length];
            (0..groups).map(of_group).collect::<Vec<_>>().concat()
        });
        match self.plan.values.get(out.0).map(|value| &value.ty) {
            Some(Ty::Heads(Dim { size, .. }, _)) => Ok(all.cut(*size as usize)),
            _ => Ok(all),
        }
    }

    pub(super) fn rotated(&self, x: ValueId, by: ValueId, turn: Turn) -> Result<Array, Error> {
        let layouts = self.layouts(turn)?;
        Ok(rotate(self.array(x)?, self.angles(by)?, turn.part, layouts))
    }

    /// How pairs stand before and after a rotation.
    pub(super) fn layouts(&self, turn: Turn) -> Result<(RopeLayout, RopeLayout), Error> {
        let table = self.rotary()?;
        if !turn.indexer {
            return Ok((table.input, table.output));
        }
        let rope = self.program.indexer.as_ref().and_then(|plan| plan.rope);
        let rope = rope.ok_or(Error::BadPlan("an indexer that has no rotation"))?;
        Ok((rope.layout, rope.layout))
    }

    /// `q̃_h = W_UK,hᵀ q_n,h`: the key rows of head `h`, weighted by the query.
    fn absorb_queries(&self, q_nope: ValueId, up: &Linear) -> Result<Array, Error> {
        let q = self.array(q_nope)?;
        let (rank, width) = (self.size("KV_LORA_RANK")?, self.size("KV_HEAD_WIDTH")?);
        Ok(Array::build((q.rows, q.heads, rank), |row, head| {
            let weighted = |column: usize| {
                let products = q
                    .at(row, head)
                    .iter()
                    .enumerate()
                    .map(|(i, q)| q * up.row(head * width + i)[column]);
                products.sum()
            };
            (0..rank).map(weighted).collect()
        }))
    }

    /// `o_h = W_UV,h z_h`: the value rows of head `h` times the attended latent.
    fn absorb_values(&self, z: &Array, up: &Linear) -> Result<Array, Error> {
        let (nope, width) = (self.size("QK_NOPE_HEAD_DIM")?, self.size("KV_HEAD_WIDTH")?);
        Ok(Array::build(
            (z.rows, z.heads, width - nope),
            |row, head| {
                (nope..width)
                    .map(|i| dot(up.row(head * width + i), z.at(row, head)))
                    .collect()
            },
        ))
    }
}

/// `H x / sqrt(n)` with Sylvester's Hadamard matrix: its element (i, j) is -1 where `i & j` has an odd number of ones (L-05).
fn hadamard(vector: &[f64]) -> Vec<f64> {
    let root = (vector.len() as f64).sqrt();
    let element = |i: usize| {
        let signed = vector.iter().enumerate().map(|(j, x)| {
            if (i & j).count_ones().is_multiple_of(2) {
                *x
            } else {
                -x
            }
        });
        signed.sum::<f64>() / root
    };
    (0..vector.len()).map(element).collect()
}

/// `x σ(gate)` (B-09).
fn gated(x: &Array, gate: &Array, granularity: GateGranularity) -> Array {
    Array::build((x.rows, x.heads, x.dim), |row, head| {
        let vector = x.at(row, head).iter().enumerate();
        let open = |element: usize| {
            let logit = match granularity {
                GateGranularity::PerHead => gate.row(row)[head],
                GateGranularity::PerElement => gate.row(row)[head * x.dim + element],
            };
            sigmoid(logit)
        };
        vector.map(|(element, x)| x * open(element)).collect()
    })
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}
