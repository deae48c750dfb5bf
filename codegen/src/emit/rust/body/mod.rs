//! The statements of a function: one per op, under the formula of their step.

mod attend;
mod inputs;
mod rows;
mod select;

use super::layout::{Call, Lines};
use crate::plan::{CacheContent, LinearPart, Offset, Op, Plan, Program, Step, Ty, ValueId};

/// How functions are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// The formula of each step above its statements.
    pub(crate) formulas: bool,
    /// Whether they take a probe.
    pub(crate) probes: bool,
}

/// Writes the body of a phase's function.
pub(crate) fn write(program: &Program, plan: &Plan, style: Style, lines: &mut Lines) {
    let mut body = Body {
        program,
        plan,
        style,
        lines,
    };
    let tail = body.tail();
    body.softmax_binding();
    let mut first = true;
    for step in &plan.steps {
        let prints_nothing = |op: &Op| matches!(op, Op::Hidden { .. } | Op::Context { .. });
        if step.ops.iter().all(prints_nothing) {
            continue;
        }
        if style.formulas {
            if !first {
                body.lines.line("");
            }
            body.formula(step);
        }
        first = false;
        body.step(step, tail);
    }
    if tail.is_none() {
        let output = body.name(plan.output);
        body.lines.line(&format!("Ok({output})"));
    }
}

struct Body<'a> {
    program: &'a Program,
    plan: &'a Plan,
    style: Style,
    lines: &'a mut Lines,
}

impl Body<'_> {
    /// The value that the function's last statement is: the output, where the last op printed makes it.
    fn tail(&self) -> Option<ValueId> {
        let last = self.ops().last()?;
        matches!(last, Op::Linear { out, .. } if *out == self.plan.output)
            .then_some(self.plan.output)
    }

    fn formula(&mut self, step: &Step) {
        if !step.formula.is_empty() {
            self.lines.clauses(&step.formula);
        }
    }

    fn step(&mut self, step: &Step, tail: Option<ValueId>) {
        let mut ops = step.ops.iter().peekable();
        while let Some(op) = ops.next() {
            match (op, ops.peek()) {
                (
                    Op::AttendedOut { x, out },
                    Some(Op::IntoRows {
                        x: heads,
                        width,
                        out: rows,
                    }),
                ) if out == heads => {
                    let callee =
                        format!("{}.into_out()?.into_rows::<{}>", self.name(*x), width.name);
                    self.bind(*rows, &Call::infallible(callee, &[]));
                    ops.next();
                }
                _ => self.op(op, tail),
            }
        }
    }

    fn name(&self, id: ValueId) -> &'static str {
        self.plan.values[id.0].name
    }

    fn ty(&self, id: ValueId) -> &Ty {
        &self.plan.values[id.0].ty
    }

    /// A value as the argument of a function that reads it.
    fn read(&self, id: ValueId) -> String {
        let name = self.name(id);
        match self.ty(id) {
            Ty::Columns(_) | Ty::HeadPart(..) => name.to_owned(),
            _ if self.is_borrowed(id) => name.to_owned(),
            _ => format!("&{name}"),
        }
    }

    /// Whether a value is a reference: an argument, or a part of one.
    fn is_borrowed(&self, id: ValueId) -> bool {
        self.ops().any(|op| match op {
            Op::Hidden { out }
            | Op::Context { out }
            | Op::TakeSelection { out }
            | Op::GiveSelection { out, .. } => *out == id,
            Op::TakenLatent { x, out } | Op::TakenKey { x, out } => {
                *out == id && self.is_handed_over(*x)
            }
            _ => false,
        })
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.plan.steps.iter().flat_map(|step| &step.ops)
    }

    fn bind(&mut self, out: ValueId, call: &Call) {
        self.lines
            .call(&format!("let {} = ", self.name(out)), call, ";");
    }

    fn bind_typed(&mut self, out: ValueId, call: &Call) {
        let merged = self
            .ops()
            .any(|op| matches!(op, Op::MergeContext { into, .. } if *into == out));
        let mutable = if merged { "mut " } else { "" };
        let before = format!("let {mutable}{}: {} = ", self.name(out), self.type_of(out));
        self.lines.call(&before, call, ";");
    }

    /// A value's Rust type.
    fn type_of(&self, id: ValueId) -> String {
        match self.ty(id) {
            Ty::Rows(width) => format!("Rows<B, {}>", width.name),
            Ty::Heads(heads, dim) => format!("Heads<B, {}, {}>", heads.name, dim.name),
            Ty::Attended(heads, dim) => format!("Attended<B, {}, {}>", heads.name, dim.name),
            Ty::Selection(keys) => format!("Selection<B, {}>", keys.name),
            _ => "_".to_owned(),
        }
    }

    fn op(&mut self, op: &Op, tail: Option<ValueId>) {
        match op {
            Op::Hidden { .. }
            | Op::Context { .. }
            | Op::MaskSegments { .. }
            | Op::BatchSegments { .. }
            | Op::CheckBatch
            | Op::Angles { .. }
            | Op::TakeKv { .. }
            | Op::TakenLatent { .. }
            | Op::TakenKey { .. }
            | Op::GiveKv { .. }
            | Op::TakeSelection { .. }
            | Op::GiveSelection { .. } => self.input(op),
            Op::Linear { .. }
            | Op::Norm { .. }
            | Op::HeadNorm { .. }
            | Op::L2Norm { .. }
            | Op::Scale { .. }
            | Op::ScaleByPosition { .. }
            | Op::Hadamard { .. }
            | Op::Concat { .. }
            | Op::GroupPart { .. }
            | Op::IntoPerHead { .. }
            | Op::RotateHeads { .. }
            | Op::RotateKey { .. }
            | Op::RotateRows { .. }
            | Op::UnrotatedKey { .. }
            | Op::Gate { .. } => self.rows(op, tail),
            Op::Columns { .. }
            | Op::IntoHeads { .. }
            | Op::HeadPart { .. }
            | Op::CutHeads { .. }
            | Op::AttendedOut { .. }
            | Op::IntoRows { .. } => self.reshape(op),
            Op::PoolGates { .. }
            | Op::Select { .. }
            | Op::WriteIndex { .. }
            | Op::SelectCached { .. } => {
                self.selection(op);
            }
            Op::AttendExpanded { .. }
            | Op::AttendAbsorbed { .. }
            | Op::AttendGroups { .. }
            | Op::AttendLatentCache { .. }
            | Op::AttendNaiveCache { .. }
            | Op::AttendGroupCache { .. }
            | Op::FlashDecode { .. } => self.attention(op),
            Op::MergeContext { .. }
            | Op::WriteLatent { .. }
            | Op::WriteNaive { .. }
            | Op::WriteGroups { .. }
            | Op::AbsorbQueries { .. }
            | Op::AbsorbValues { .. }
            | Op::Sink { .. } => self.around_attention(op),
            Op::Probe {
                name,
                value,
                aspect,
            } => self.probe(name, *value, *aspect),
        }
    }

    /// What of the cache holds keys and values.
    fn kv_cache(&self) -> &'static str {
        match (&self.program.source, &self.program.cache) {
            (Some(_), _) => "source",
            (None, Some(cache)) if cache.index.is_some() => "cache.kv",
            (None, _) => "cache",
        }
    }

    /// What of the cache holds an indexer's keys.
    fn index_cache(&self) -> &'static str {
        match &self.program.cache {
            Some(cache) if cache.content == CacheContent::Index => "cache",
            _ => "cache.index",
        }
    }

    /// What the function's positions are.
    fn positions(&self) -> &'static str {
        match self.plan.phase {
            mla_spec::Phase::Forward | mla_spec::Phase::Train => "positions",
            mla_spec::Phase::Prefill | mla_spec::Phase::Decode => "batch.positions()",
        }
    }
}

fn linear(slot: &str, part: LinearPart) -> String {
    match part {
        LinearPart::Whole => format!("self.{slot}"),
        LinearPart::Inner => format!("self.{slot}.linear()"),
    }
}

/// The up projection as an argument.
fn up_projection(slot: &str, part: LinearPart) -> String {
    match part {
        LinearPart::Whole => format!("&self.{slot}"),
        LinearPart::Inner => format!("self.{slot}.linear()"),
    }
}

/// An offset as a generic argument.
fn elements(offset: &Offset) -> String {
    let names: Vec<&str> = offset.0.iter().map(|dim| dim.name).collect();
    match names.as_slice() {
        [] => "0".to_owned(),
        [name] => (*name).to_owned(),
        names => format!("{{ {} }}", names.join(" + ")),
    }
}

/// `arguments` as the references that [`Call`] takes.
fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}
