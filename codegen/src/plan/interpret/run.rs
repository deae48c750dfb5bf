//! Executing one plan.

use std::collections::BTreeMap;

use mla_spec::RopeLayout;

use super::array::{Array, dot};
use super::attend::{Attended, Segment, attend, merge};
use super::cache::{Cache, Piece};
use super::params::{Linear, Params};
use super::{Error, Run};
use crate::plan::{Aspect, LinearPart, NormPart, Op, Plan, Program, RotaryTable, Turn, ValueId};

/// A call's arguments.
pub(super) struct Call<'a> {
    pub(super) hidden: &'a [f64],
    pub(super) positions: Vec<u32>,
    /// The call's own tokens among themselves.
    pub(super) segments: Vec<Segment>,
    pub(super) pieces: &'a [Piece],
    /// Tokens that each piece's request had cached before.
    pub(super) cached: Vec<usize>,
    pub(super) cache: &'a mut Cache,
}

#[derive(Debug, Clone)]
enum Value {
    Array(Array),
    /// cos and sin, `[tokens, 1, d_r / 2]` each.
    Angles(Array, Array),
    Segments(Vec<Segment>),
    Attended(Attended),
}

/// Runs `plan` on `call`.
pub(super) fn execute(
    program: &Program,
    params: &Params,
    plan: &Plan,
    call: Call<'_>,
) -> Result<Run, Error> {
    let mut machine = Machine {
        program,
        params,
        call,
        values: BTreeMap::new(),
        probes: BTreeMap::new(),
    };
    for op in plan.ops() {
        if let (Some(value), Some(out)) = (machine.step(op)?, op.defines()) {
            machine.values.insert(out, value);
        }
    }
    let output = machine.array(plan.output)?.data.clone();
    Ok(Run {
        output,
        probes: machine.probes,
    })
}

struct Machine<'a> {
    program: &'a Program,
    params: &'a Params,
    call: Call<'a>,
    values: BTreeMap<ValueId, Value>,
    probes: BTreeMap<&'static str, Vec<f64>>,
}

impl Machine<'_> {
    /// The value that `op` defines, if it defines one.
    fn step(&mut self, op: &Op) -> Result<Option<Value>, Error> {
        let value = match op {
            Op::Hidden { .. } => Value::Array(self.hidden()?),
            Op::MaskSegments { .. } | Op::BatchSegments { .. } => {
                Value::Segments(self.call.segments.clone())
            }
            Op::CheckBatch => return Ok(None),
            Op::Angles { .. } => self.angles()?,
            Op::Linear { x, slot, part, .. } => Value::Array(self.linear(*x, slot, *part)?),
            Op::Norm { x, slot, part, .. } => Value::Array(self.norm(*x, slot, *part)?),
            Op::Columns {
                x, offset, width, ..
            }
            | Op::HeadPart {
                x, offset, width, ..
            } => {
                let start = offset.elements() as usize;
                Value::Array(self.array(*x)?.part(start..start + width.size as usize))
            }
            Op::IntoHeads { x, heads, .. } => {
                Value::Array(self.array(*x)?.clone().cut(heads.size as usize))
            }
            Op::IntoRows { x, .. } => Value::Array(self.array(*x)?.clone().cut(1)),
            Op::RotateHeads {
                x,
                angles,
                turn: Turn::LAST,
                ..
            }
            | Op::RotateKey { x, angles, .. } => Value::Array(self.rotate(*x, *angles)?),
            Op::UnrotatedKey {
                x, absent: false, ..
            } => Value::Array(self.array(*x)?.clone()),
            Op::UnrotatedKey {
                x, absent: true, ..
            } => Value::Array(Array::zeros(self.array(*x)?.rows, 1, 0)),
            Op::AttendExpanded {
                q,
                kv,
                k_rope,
                segments,
                selection: None,
                ..
            } => {
                let (kv, k_rope) = (self.array(*kv)?, self.array(*k_rope)?);
                Value::Attended(self.expanded(*q, kv, k_rope, self.segments(*segments)?)?)
            }
            Op::AttendAbsorbed {
                q_latent,
                q_rope,
                latent,
                k_rope,
                segments,
                selection: None,
                ..
            } => {
                let (latent, k_rope) = (self.array(*latent)?, self.array(*k_rope)?);
                Value::Attended(self.absorbed(
                    *q_latent,
                    *q_rope,
                    latent,
                    k_rope,
                    self.segments(*segments)?,
                )?)
            }
            Op::AttendLatentCache {
                q_latent,
                q_rope,
                selection: None,
                ..
            } => {
                let (latent, k_rope, segments) = self
                    .call
                    .cache
                    .everything(self.call.pieces, &self.call.cached)?;
                Value::Attended(self.absorbed(*q_latent, *q_rope, &latent, &k_rope, &segments)?)
            }
            Op::AttendNaiveCache {
                q, selection: None, ..
            } => {
                let (kv, k_rope, segments) = self
                    .call
                    .cache
                    .everything(self.call.pieces, &self.call.cached)?;
                let heads = self.array(*q)?.heads;
                Value::Attended(self.expanded(*q, &kv.cut(heads), &k_rope, &segments)?)
            }
            Op::MergeContext {
                q,
                slot,
                part,
                chunk,
                into,
                ..
            } => Value::Attended(self.merge_context(
                *q,
                self.inner(slot, *part)?,
                chunk.size as usize,
                *into,
            )?),
            Op::WriteLatent {
                latent: values,
                k_rope,
            }
            | Op::WriteNaive { kv: values, k_rope } => {
                let (values, k_rope) = (self.array(*values)?.clone(), self.array(*k_rope)?.clone());
                self.call.cache.write(self.call.pieces, &values, &k_rope);
                return Ok(None);
            }
            Op::AbsorbQueries {
                q_nope, slot, part, ..
            } => Value::Array(self.absorb_queries(*q_nope, self.inner(slot, *part)?)?),
            Op::AbsorbValues { z, slot, part, .. } => {
                Value::Array(self.absorb_values(*z, self.inner(slot, *part)?)?)
            }
            Op::AttendedOut { x, .. } => Value::Array(self.attended(*x)?.out.clone()),
            Op::Probe {
                name,
                value,
                aspect,
            } => {
                let recorded = match aspect {
                    Aspect::Value => self.array(*value)?,
                    Aspect::Lse => &self.attended(*value)?.lse,
                    Aspect::MaxLogit => &self.attended(*value)?.max_logit,
                };
                let recorded = recorded.data.clone();
                self.probes.insert(name, recorded);
                return Ok(None);
            }
            _ => return Err(Error::BadPlan("an op that the oracle does not know")),
        };
        Ok(Some(value))
    }

    fn array(&self, id: ValueId) -> Result<&Array, Error> {
        match self.values.get(&id) {
            Some(Value::Array(array)) => Ok(array),
            _ => Err(Error::BadPlan("an array was wanted")),
        }
    }

    fn attended(&self, id: ValueId) -> Result<&Attended, Error> {
        match self.values.get(&id) {
            Some(Value::Attended(attended)) => Ok(attended),
            _ => Err(Error::BadPlan("the result of an attention was wanted")),
        }
    }

    fn segments(&self, id: ValueId) -> Result<&[Segment], Error> {
        match self.values.get(&id) {
            Some(Value::Segments(segments)) => Ok(segments),
            _ => Err(Error::BadPlan("segments were wanted")),
        }
    }

    fn size(&self, name: &str) -> Result<usize, Error> {
        let constant = self
            .program
            .constants
            .iter()
            .find(|constant| constant.name == name);
        constant
            .map(|constant| constant.value as usize)
            .ok_or(Error::BadPlan("a size without a constant"))
    }

    fn hidden(&self) -> Result<Array, Error> {
        let (rows, dim) = (self.call.positions.len(), self.size("HIDDEN_SIZE")?);
        let (found, wanted) = (self.call.hidden.len(), rows * dim);
        if found != wanted {
            return Err(Error::WrongLength {
                what: "hidden".to_owned(),
                found,
                wanted,
            });
        }
        Ok(Array {
            rows,
            heads: 1,
            dim,
            data: self.call.hidden.to_vec(),
        })
    }

    fn rotary(&self) -> Result<&RotaryTable, Error> {
        self.program
            .rotary
            .as_ref()
            .ok_or(Error::BadPlan("a rotation without frequencies"))
    }

    fn angles(&self) -> Result<Value, Error> {
        let table = self.rotary()?;
        let of = |function: fn(f64) -> f64| {
            Array::build(
                (self.call.positions.len(), 1, table.inv_freq.len()),
                |row, _| {
                    let position = f64::from(self.call.positions[row]);
                    table
                        .inv_freq
                        .iter()
                        .map(|frequency| table.cos_sin_factor * function(position * frequency))
                        .collect()
                },
            )
        };
        Ok(Value::Angles(of(f64::cos), of(f64::sin)))
    }

    /// Rotates the last `d_r` of every vector, from the layout of the weights to that of the results.
    fn rotate(&self, x: ValueId, angles: ValueId) -> Result<Array, Error> {
        let table = self.rotary()?;
        let Some(Value::Angles(cos, sin)) = self.values.get(&angles) else {
            return Err(Error::BadPlan("angles were wanted"));
        };
        let x = self.array(x)?;
        let pairs = table.inv_freq.len();
        let kept = x.dim - 2 * pairs;
        Ok(Array::build((x.rows, x.heads, x.dim), |row, head| {
            let vector = x.at(row, head);
            let mut rotated = vector.to_vec();
            for pair in 0..pairs {
                let (cos, sin) = (cos.at(row, 0)[pair], sin.at(row, 0)[pair]);
                let (first, second) = places(table.input, pair, pairs);
                let (a, b) = (vector[kept + first], vector[kept + second]);
                let (first, second) = places(table.output, pair, pairs);
                rotated[kept + first] = a * cos - b * sin;
                rotated[kept + second] = a * sin + b * cos;
            }
            rotated
        }))
    }

    /// The linear of a module, where `part` says that its norm is left aside if it has one.
    fn inner(&self, slot: &str, part: LinearPart) -> Result<&Linear, Error> {
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
            return Ok(self
                .params
                .linear(slot)?
                .apply(&self.params.norm(slot)?.apply(x)));
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

    /// `τ (q_n · k_n + q_r · k_r)` and `v`, with `[k_n; v]` per head in `kv`.
    fn expanded(
        &self,
        q: ValueId,
        kv: &Array,
        k_rope: &Array,
        segments: &[Segment],
    ) -> Result<Attended, Error> {
        let q = self.array(q)?;
        let (nope, value) = (self.size("QK_NOPE_HEAD_DIM")?, self.size("V_HEAD_DIM")?);
        let logit = |query: usize, head: usize, key: usize| {
            let (q, k) = (q.at(query, head), &kv.at(key, head)[..nope]);
            self.program.softmax_scale.value
                * (dot(&q[..nope], k) + dot(&q[nope..], k_rope.at(key, 0)))
        };
        Ok(attend(
            segments,
            (q.rows, q.heads, value),
            logit,
            |key, head| &kv.at(key, head)[nope..],
        ))
    }

    /// `τ (q̃ · ĉ + q_r · k_r)` and `ĉ`, the same for every head.
    fn absorbed(
        &self,
        q_latent: ValueId,
        q_rope: ValueId,
        latent: &Array,
        k_rope: &Array,
        segments: &[Segment],
    ) -> Result<Attended, Error> {
        let (q_latent, q_rope) = (self.array(q_latent)?, self.array(q_rope)?);
        let logit = |query: usize, head: usize, key: usize| {
            let content = dot(q_latent.at(query, head), latent.at(key, 0));
            self.program.softmax_scale.value
                * (content + dot(q_rope.at(query, head), k_rope.at(key, 0)))
        };
        Ok(attend(
            segments,
            (q_latent.rows, q_latent.heads, q_latent.dim),
            logit,
            |key, _| latent.at(key, 0),
        ))
    }

    fn merge_context(
        &self,
        q: ValueId,
        up: &Linear,
        chunk: usize,
        into: ValueId,
    ) -> Result<Attended, Error> {
        let heads = self.array(q)?.heads;
        let mut merged = self.attended(into)?.clone();
        for (latent, k_rope, segments) in
            self.call
                .cache
                .context(self.call.pieces, &self.call.cached, chunk)
        {
            let kv = up.apply(&latent).cut(heads);
            merged = merge(&merged, &self.expanded(q, &kv, &k_rope, &segments)?);
        }
        Ok(merged)
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
    fn absorb_values(&self, z: ValueId, up: &Linear) -> Result<Array, Error> {
        let z = &self.attended(z)?.out;
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

/// Where the two elements of a pair stand.
fn places(layout: RopeLayout, pair: usize, pairs: usize) -> (usize, usize) {
    match layout {
        RopeLayout::Interleaved => (2 * pair, 2 * pair + 1),
        RopeLayout::Half => (pair, pair + pairs),
    }
}
