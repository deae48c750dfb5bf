//! Reverse mode: the adjoint of every op, the last one first.
//!
//! What a value's readers have to say of its gradient is gathered until the op that defines it is reached; parts of rows and of heads are
//! assembled then, and what remains is added up.

mod attention;

use std::collections::{BTreeMap, BTreeSet};

use mla_spec::LossStage;

use super::Gradient;
use super::normal::Learner;
use crate::plan::{
    Adjoint, Dim, Offset, Op, Piece, Plan, PositionScale, Program, Step, Ty, Value, ValueId,
};

/// A backward pass that reads the forward pass's values as if they were all there.
pub(super) struct Reversed {
    /// The forward plan's values, then the gradients.
    pub(super) values: Vec<Value>,
    pub(super) steps: Vec<Step>,
    pub(super) outputs: Vec<(Gradient, ValueId)>,
    /// Slots of the modules whose gradients it adds to.
    pub(super) trained: Vec<&'static str>,
}

/// Reverses a normal forward plan. `stage` says what an indexer's loss covers, where there is one.
pub(super) fn reverse(
    program: &Program,
    forward: &Plan,
    learner: Option<Learner>,
    stage: Option<LossStage>,
) -> Reversed {
    let mut tape = Tape {
        program,
        forward,
        values: forward.values.clone(),
        told: BTreeMap::new(),
        ops: Vec::new(),
        results: Vec::new(),
        attended: BTreeMap::new(),
        outer: BTreeSet::new(),
    };
    tape.outer = tape.outside_the_indexer();
    let mut steps = vec![tape.given(stage)];
    if let (Some(learner), Some(stage)) = (learner, stage) {
        steps.extend(tape.loss(learner, stage));
    }
    for step in forward.steps.iter().rev() {
        for op in step.ops.iter().rev() {
            tape.op(op);
        }
        let ops = std::mem::take(&mut tape.ops);
        if !ops.is_empty() {
            steps.push(Step::new(step.formula.clone(), ops));
        }
    }
    let mut outputs = tape.results;
    outputs.sort_unstable();
    let mut trained = Vec::new();
    for module in &program.modules {
        let is_trained = |op: &Op| adds_to(op) == Some(module.slot);
        if steps.iter().flat_map(|step| &step.ops).any(is_trained) {
            trained.push(module.slot);
        }
    }
    Reversed {
        values: tape.values,
        steps,
        outputs,
        trained,
    }
}

/// The module whose parameters' gradients an op adds to.
fn adds_to(op: &Op) -> Option<&'static str> {
    let Op::Adjoint(adjoint) = op else {
        return None;
    };
    match adjoint {
        Adjoint::Norm { slot, .. }
        | Adjoint::NormWeight { slot, .. }
        | Adjoint::HeadNorm { slot, .. }
        | Adjoint::LearnedScale { slot, .. }
        | Adjoint::Sink { slot, .. } => Some(slot),
        other => other.weight_of(),
    }
}

struct Tape<'a> {
    program: &'a Program,
    forward: &'a Plan,
    values: Vec<Value>,
    /// What readers have said of the gradient of a value: of all of it, or of a piece.
    told: BTreeMap<ValueId, Vec<(Option<Piece>, ValueId)>>,
    /// The ops of the step being written.
    ops: Vec<Op>,
    results: Vec<(Gradient, ValueId)>,
    /// Of an attention whose op is still to come: its output, log-sum-exp, and the output's gradient.
    attended: BTreeMap<ValueId, [ValueId; 3]>,
    /// Values that an indexer only looks at: no gradient passes to them from its side (features M-04).
    outer: BTreeSet<ValueId>,
}

impl Tape<'_> {
    /// Values that no module of the indexer makes.
    fn outside_the_indexer(&self) -> BTreeSet<ValueId> {
        let mut inside = BTreeSet::new();
        let mut outside = BTreeSet::new();
        for op in self.forward.ops() {
            let from_inside = op.reads().first().is_some_and(|x| inside.contains(x));
            let all = if is_indexers(op) || from_inside {
                &mut inside
            } else {
                &mut outside
            };
            all.extend(op.defines());
        }
        outside
    }

    fn define(&mut self, name: String, ty: Ty) -> ValueId {
        self.values.push(Value {
            name: name.into(),
            ty,
        });
        ValueId(self.values.len() - 1)
    }

    /// A value of the type of a gradient of `of`, named after it.
    fn gradient(&mut self, of: ValueId) -> ValueId {
        let Value { name, ty } = self.values[of.0].clone();
        let base = name.trim_end_matches("_rows");
        self.define(format!("d_{base}"), owned(&ty))
    }

    fn push(&mut self, adjoint: Adjoint) {
        self.ops.push(Op::Adjoint(adjoint));
    }

    /// Notes that `d` is a summand of the gradient of `x`.
    fn tell(&mut self, x: ValueId, d: ValueId) {
        self.told.entry(x).or_default().push((None, d));
    }

    /// Notes that `d` is a summand of the gradient of a piece of `x`.
    fn tell_piece(&mut self, x: ValueId, piece: Piece, d: ValueId) {
        self.told.entry(x).or_default().push((Some(piece), d));
    }

    /// What the function is given, and the first gradient.
    fn given(&mut self, stage: Option<LossStage>) -> Step {
        if let (Some(&output), true) = (
            self.forward.outputs.first(),
            stage != Some(LossStage::Dense),
        ) {
            let out = self.gradient(output);
            self.push(Adjoint::OutputGradient { out });
            self.tell(output, out);
        }
        Step::new("", std::mem::take(&mut self.ops))
    }

    /// The gradient of `value`, all of it; `None` where nobody has said anything.
    fn take(&mut self, value: ValueId) -> Option<ValueId> {
        let told = self.told.remove(&value)?;
        let (pieces, mut wholes) = (
            told.iter()
                .filter_map(|(piece, d)| piece.clone().map(|piece| (piece, *d)))
                .collect::<Vec<_>>(),
            told.iter()
                .filter(|(piece, _)| piece.is_none())
                .map(|(_, d)| *d)
                .collect::<Vec<_>>(),
        );
        if !pieces.is_empty() {
            let out = self.gradient(value);
            self.push(Adjoint::Assemble { parts: pieces, out });
            wholes.insert(0, out);
        }
        // A sum grows in place, so it begins with a value that is nobody else's
        let is_view =
            |d: &ValueId| matches!(self.values[d.0].ty, Ty::Columns(_) | Ty::HeadPart(..));
        let at = wholes.iter().position(|d| !is_view(d)).unwrap_or(0);
        let mut sum = wholes.remove(at);
        if !wholes.is_empty() && is_view(&sum) {
            let out = self.gradient(value);
            self.ops.push(Op::Copy { x: sum, out });
            sum = out;
        }
        for x in wholes {
            let name = self.values[sum.0].name.to_string();
            let out = self.define(name, owned(&self.values[sum.0].ty.clone()));
            self.push(Adjoint::Add { into: sum, x, out });
            sum = out;
        }
        Some(sum)
    }

    /// The op's adjoint.
    fn op(&mut self, op: &Op) {
        if self.of_attention(op) {
            return;
        }
        let [out] = op.defines()[..] else {
            self.effect(op);
            return;
        };
        let Some(dy) = self.take(out) else {
            return;
        };
        match *op {
            Op::Hidden { .. } => self.results.push((Gradient::Hidden, dy)),
            Op::Context { .. } => self.results.push((Gradient::Context, dy)),
            Op::TakenLatent { .. } => self.results.push((Gradient::Latent, dy)),
            Op::TakenKey { .. } => self.results.push((Gradient::RopeKey, dy)),
            Op::Linear { x, slot, part, .. } => {
                self.push(Adjoint::LinearWeight { x, dy, slot, part });
                if self.passes(op, x) {
                    let out = self.gradient(x);
                    self.push(Adjoint::LinearInput {
                        dy,
                        slot,
                        part,
                        out,
                    });
                    self.tell(x, out);
                }
            }
            Op::Norm { x, slot, part, .. } => {
                if self.passes(op, x) {
                    let out = self.gradient(x);
                    self.push(Adjoint::Norm {
                        x,
                        dy,
                        slot,
                        part,
                        out,
                    });
                    self.tell(x, out);
                } else {
                    self.push(Adjoint::NormWeight { x, dy, slot, part });
                }
            }
            Op::HeadNorm { x, slot, .. } => {
                self.map(x, |out| Adjoint::HeadNorm { x, dy, slot, out })
            }
            Op::L2Norm { x, eps, .. } => self.map(x, |out| Adjoint::L2Norm { x, dy, eps, out }),
            Op::AbsorbQueries {
                q_nope, slot, part, ..
            } => {
                self.push(Adjoint::AbsorbQueriesWeight {
                    q_nope,
                    dy,
                    slot,
                    part,
                });
                self.map(q_nope, |out| Adjoint::AbsorbQueries {
                    dy,
                    slot,
                    part,
                    out,
                });
            }
            Op::AbsorbValues { z, slot, part, .. } => {
                self.push(Adjoint::AbsorbValuesWeight { z, dy, slot, part });
                self.map(z, |out| Adjoint::AbsorbValues {
                    dy,
                    slot,
                    part,
                    out,
                });
            }
            Op::RotateHeads {
                x, angles, turn, ..
            } => self.map(x, |out| Adjoint::RotateHeads {
                dy,
                angles,
                turn,
                out,
            }),
            Op::RotateRows {
                x, angles, turn, ..
            } => self.map(x, |out| Adjoint::RotateRows {
                dy,
                angles,
                turn,
                out,
            }),
            Op::RotateKey { x, angles, .. } => {
                self.map(x, |out| Adjoint::RotateKey { dy, angles, out })
            }
            Op::Gate {
                x,
                gate,
                granularity,
                ..
            } => {
                let (d_x, d_gate) = (self.gradient(x), self.gradient(gate));
                self.push(Adjoint::Gate {
                    x,
                    gate,
                    dy,
                    granularity,
                    d_x,
                    d_gate,
                });
                self.tell(x, d_x);
                self.tell(gate, d_gate);
            }
            Op::ScaleByPosition { x, scale, .. } => match scale {
                PositionScale::Learned { slot } => {
                    self.map(x, |out| Adjoint::LearnedScale { x, dy, slot, out });
                }
                PositionScale::Llama4 { .. } => {
                    self.turn(x, |out| Op::ScaleByPosition { x: dy, scale, out });
                }
            },
            _ => self.moved(op, dy),
        }
    }

    /// Whether the gradient goes on to what `op` reads: never from an indexer to what it only looks at.
    fn passes(&self, op: &Op, x: ValueId) -> bool {
        !(is_indexers(op) && self.outer.contains(&x))
    }

    /// Tells `x` of the gradient that an adjoint makes.
    fn map(&mut self, x: ValueId, adjoint: impl FnOnce(ValueId) -> Adjoint) {
        self.turn(x, |out| Op::Adjoint(adjoint(out)));
    }

    /// Tells `x` of the gradient that an op makes.
    fn turn(&mut self, x: ValueId, op: impl FnOnce(ValueId) -> Op) {
        let out = self.gradient(x);
        self.ops.push(op(out));
        self.tell(x, out);
    }

    /// Ops that are their own adjoints, and those that move values about.
    fn moved(&mut self, op: &Op, dy: ValueId) {
        match *op {
            Op::Scale { x, by, .. } => self.turn(x, |out| Op::Scale { x: dy, by, out }),
            Op::Hadamard { x, .. } => self.turn(x, |out| Op::Hadamard { x: dy, out }),
            Op::Columns {
                x,
                ref offset,
                width,
                ..
            } => self.tell_piece(x, Piece::Columns(offset.clone(), width), dy),
            Op::HeadPart {
                x,
                ref offset,
                width,
                ..
            } => self.tell_piece(x, Piece::Head(offset.clone(), width), dy),
            Op::GroupPart { x, part, .. } => self.tell_piece(x, Piece::Group(part), dy),
            Op::CutHeads { x, .. }
            | Op::UnrotatedKey {
                x, absent: false, ..
            } => self.tell(x, dy),
            Op::IntoHeads { x, .. } => {
                if let Ty::Rows(width) = self.values[x.0].ty {
                    self.turn(x, |out| Op::IntoRows { x: dy, width, out });
                }
            }
            Op::AsRows { x, .. } | Op::IntoRows { x, .. } => {
                if let Ty::Heads(heads, dim) = self.values[x.0].ty {
                    self.turn(x, |out| Op::IntoHeads {
                        x: dy,
                        heads,
                        dim,
                        out,
                    });
                }
            }
            Op::IntoPerHead { x, .. } => self.map(x, |out| Adjoint::Narrow { x: dy, out }),
            Op::Concat { left, right, .. } => {
                let width = |value: ValueId| match self.values[value.0].ty {
                    Ty::Rows(width) | Ty::Columns(width) => Some(width),
                    _ => None,
                };
                if let (Some(first), Some(second)) = (width(left), width(right)) {
                    self.cut(dy, left, Offset(vec![]), first);
                    self.cut(dy, right, Offset(vec![first]), second);
                }
            }
            _ => {}
        }
    }

    /// Tells `x` of some columns of `dy`.
    fn cut(&mut self, dy: ValueId, x: ValueId, offset: Offset, width: Dim) {
        let out = self.gradient(x);
        self.values[out.0].ty = Ty::Columns(width);
        self.ops.push(Op::Columns {
            x: dy,
            offset,
            width,
            out,
        });
        self.tell(x, out);
    }

    /// What is handed to others comes back as gradients.
    fn effect(&mut self, op: &Op) {
        if let Op::GiveKv { latent, k_rope } = *op {
            let (d_latent, d_k_rope) = (self.gradient(latent), self.gradient(k_rope));
            for d in [d_latent, d_k_rope] {
                if let Ty::Rows(width) = self.values[d.0].ty {
                    self.values[d.0].ty = Ty::Columns(width);
                }
            }
            self.push(Adjoint::GivenKvGradient {
                latent: d_latent,
                k_rope: d_k_rope,
            });
            self.tell(latent, d_latent);
            self.tell(k_rope, d_k_rope);
        }
    }
}

/// Whether an op uses a module of the indexer.
fn is_indexers(op: &Op) -> bool {
    let slot = match op {
        Op::Linear { slot, .. } | Op::Norm { slot, .. } | Op::PoolGates { slot, .. } => slot,
        Op::ScaleByPosition {
            scale: PositionScale::Learned { slot },
            ..
        } => slot,
        _ => return false,
    };
    slot.starts_with("indexer_")
}

/// The type of a gradient: what it is of, owned.
fn owned(ty: &Ty) -> Ty {
    match ty {
        Ty::Columns(width) | Ty::RopeKey(width, _) => Ty::Rows(*width),
        Ty::HeadPart(heads, dim) => Ty::Heads(*heads, *dim),
        other => other.clone(),
    }
}
