//! Writing a plan, op by op.

use mla_spec::{Layer, NormKind, Phase};

use super::Common;
use crate::plan::{
    Argument, Aspect, Dim, LinearPart, NormPart, Offset, Op, Plan, RotaryTable, Step, Ty, Value,
    ValueId,
};

/// The plan written so far, and what every family's lowering looks at.
pub(super) struct Writer<'a> {
    pub(super) layer: &'a Layer,
    pub(super) common: Common,
    pub(super) rotary: Option<&'a RotaryTable>,
    pub(super) phase: Phase,
    values: Vec<Value>,
    steps: Vec<Step>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        layer: &'a Layer,
        common: Common,
        rotary: Option<&'a RotaryTable>,
        phase: Phase,
    ) -> Self {
        Self {
            layer,
            common,
            rotary,
            phase,
            values: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// The plan, whose form is still to be chosen.
    pub(super) fn finish(self, arguments: Vec<Argument>, output: ValueId) -> Plan {
        Plan {
            phase: self.phase,
            form: Some(mla_spec::Form::Mha),
            form_reason: "not chosen yet".to_owned(),
            arguments,
            values: self.values,
            steps: self.steps,
            outputs: vec![output],
        }
    }

    /// Whether the function has a cache.
    pub(super) fn is_cached(&self) -> bool {
        self.phase.is_cached()
    }

    pub(super) fn step(&mut self, formula: impl Into<String>) {
        self.steps.push(Step::new(formula, Vec::new()));
    }

    /// Adds an op to the last step.
    pub(super) fn push(&mut self, op: Op) {
        if self.steps.is_empty() {
            self.step("");
        }
        if let Some(step) = self.steps.last_mut() {
            step.ops.push(op);
        }
    }

    pub(super) fn define(
        &mut self,
        name: &'static str,
        ty: Ty,
        op: impl FnOnce(ValueId) -> Op,
    ) -> ValueId {
        let out = ValueId(self.values.len());
        self.values.push(Value {
            name: name.into(),
            ty,
        });
        self.push(op(out));
        out
    }

    /// The type of a value.
    pub(super) fn ty(&self, id: ValueId) -> Ty {
        self.values[id.0].ty.clone()
    }

    pub(super) fn probe(&mut self, name: &'static str, value: ValueId, aspect: Aspect) {
        self.push(Op::Probe {
            name,
            value,
            aspect,
        });
    }

    pub(super) fn linear(
        &mut self,
        name: &'static str,
        x: ValueId,
        slot: &'static str,
        width: Dim,
    ) -> ValueId {
        let part = LinearPart::Whole;
        self.define(name, Ty::Rows(width), |out| Op::Linear {
            x,
            slot,
            part,
            out,
        })
    }

    /// A linear in the accumulation type.
    pub(super) fn accum_linear(
        &mut self,
        name: &'static str,
        x: ValueId,
        slot: &'static str,
        heads: Dim,
    ) -> ValueId {
        let part = LinearPart::Whole;
        self.define(name, Ty::PerHead(heads), |out| Op::Linear {
            x,
            slot,
            part,
            out,
        })
    }

    pub(super) fn columns(
        &mut self,
        name: &'static str,
        x: ValueId,
        offset: Vec<Dim>,
        width: Dim,
    ) -> ValueId {
        let offset = Offset(offset);
        self.define(name, Ty::Columns(width), |out| Op::Columns {
            x,
            offset,
            width,
            out,
        })
    }

    /// A norm in a slot of its own.
    pub(super) fn norm(
        &mut self,
        name: &'static str,
        x: ValueId,
        slot: &'static str,
        width: Dim,
    ) -> ValueId {
        let part = NormPart::Whole;
        self.define(name, Ty::Rows(width), |out| Op::Norm { x, slot, part, out })
    }

    pub(super) fn heads(
        &mut self,
        name: &'static str,
        x: ValueId,
        heads: Dim,
        dim: Dim,
    ) -> ValueId {
        self.define(name, Ty::Heads(heads, dim), |out| Op::IntoHeads {
            x,
            heads,
            dim,
            out,
        })
    }

    /// A value of the same type and name as `x`, which `op` consumes.
    pub(super) fn turned(&mut self, x: ValueId, op: impl FnOnce(ValueId) -> Op) -> ValueId {
        let out = ValueId(self.values.len());
        self.values.push(self.values[x.0].clone());
        self.push(op(out));
        out
    }
}

/// A gated norm's rank as a dimension; `None` for other norms.
pub(super) fn rank(kind: NormKind, name: &'static str) -> Option<Dim> {
    match kind {
        NormKind::GatedRmsNorm { rank } => Some(Dim { name, size: rank }),
        NormKind::RmsNorm | NormKind::LayerNorm => None,
    }
}
