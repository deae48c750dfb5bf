//! The statements of a function: one per op, under the formula of their step.

mod attend;
mod inputs;
mod mixed;
mod one_pass;
mod returns;
mod rows;
mod select;
mod train;

use super::layout::{Call, Lines};
use super::{parts, training};
pub(in crate::emit) use returns::gradient_field;

use mla_spec::Form;

use crate::plan::{
    Adjoint, CacheContent, LinearPart, NormPart, Offset, Op, Plan, Program, Step, Training, Ty,
    ValueId,
};

/// How functions are written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    /// The formula of each step above its statements.
    pub(crate) formulas: bool,
    /// Whether they take a probe.
    pub(crate) probes: bool,
    /// Whether loading hands over kernels.
    pub(crate) kernels: bool,
    /// And what they were compiled to.
    pub(crate) cubins: bool,
}

/// Which function of a layer a plan is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Function<'a> {
    /// That of its phase.
    Phase,
    /// `forward_train`.
    ForwardTrain(&'a Training),
    /// `backward`.
    Backward(&'a Training),
    /// `backward_input`.
    BackwardInput(&'a Training),
    /// The weights' gradients of a part.
    Weights,
}

impl Function<'_> {
    /// Whether it returns the layer's output.
    pub(super) fn is_forward(self) -> bool {
        matches!(self, Function::Phase | Function::ForwardTrain(_))
    }
}

/// Writes the body of a function.
pub(crate) fn write(
    program: &Program,
    plan: &Plan,
    function: Function<'_>,
    style: Style,
    lines: &mut Lines,
) {
    let mut body = Body {
        program,
        plan,
        function,
        style,
        part: None,
        lines,
    };
    let tail = body.tail();
    if !training::unpacks(plan) {
        body.softmax_binding();
    }
    let mut first = true;
    for steps in plan.steps.chunk_by(|a, b| a.part == b.part) {
        match steps[0].part {
            Some(form) => body.part(form, steps),
            None => body.steps(steps, tail, &mut first),
        }
    }
    if tail.is_none() {
        body.returns();
    }
}

struct Body<'a> {
    program: &'a Program,
    plan: &'a Plan,
    function: Function<'a>,
    style: Style,
    /// The form of the requests that are attended to, where they are a part of the batch.
    part: Option<Form>,
    lines: &'a mut Lines,
}

impl<'a> Body<'a> {
    /// Steps, a blank line between any two.
    fn steps(&mut self, steps: &[Step], tail: Option<ValueId>, first: &mut bool) {
        for step in steps {
            let prints_nothing = |op: &Op| {
                matches!(
                    op,
                    Op::Hidden { .. }
                        | Op::Context { .. }
                        | Op::Adjoint(Adjoint::OutputGradient { .. })
                )
            };
            if step.ops.iter().all(prints_nothing) {
                continue;
            }
            if self.style.formulas {
                if !*first {
                    self.lines.line("");
                }
                self.formula(step);
            }
            *first = false;
            if step.fused {
                self.in_one_pass(step);
            } else {
                self.step(step, tail);
            }
        }
    }

    /// The value that the function's last statement is: the output, where the last op printed makes it.
    fn tail(&self) -> Option<ValueId> {
        if !matches!(self.function, Function::Phase) {
            return None;
        }
        let [output] = *self.plan.outputs else {
            return None;
        };
        let last = self.ops().last()?;
        matches!(last, Op::Linear { out, .. } if *out == output).then_some(output)
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

    fn name(&self, id: ValueId) -> &'a str {
        &self.plan.values[id.0].name
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
            Op::Adjoint(Adjoint::OutputGradient { out }) => *out == id,
            Op::Adjoint(Adjoint::Deferred { out }) => out.contains(&id),
            _ => false,
        })
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.plan.steps.iter().flat_map(|step| &step.ops)
    }

    fn bind(&mut self, out: ValueId, call: &Call) {
        let before = format!("let {}{} = ", self.mutable(out), self.name(out));
        self.lines.call(&before, call, ";");
    }

    /// `mut `, where the value grows in place.
    fn mutable(&self, id: ValueId) -> &'static str {
        if self.grows(id) { "mut " } else { "" }
    }

    fn bind_typed(&mut self, out: ValueId, call: &Call) {
        let mutable = self.mutable(out);
        let before = format!("let {mutable}{}: {} = ", self.name(out), self.type_of(out));
        self.lines.call(&before, call, ";");
    }

    /// A value's Rust type.
    fn type_of(&self, id: ValueId) -> String {
        rust_type(self.ty(id))
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
            Op::AttendContext { .. } => self.attend_context(op),
            Op::WriteLatent { .. }
            | Op::WriteNaive { .. }
            | Op::WriteGroups { .. }
            | Op::AbsorbQueries { .. }
            | Op::AbsorbValues { .. }
            | Op::Sink { .. } => self.around_attention(op),
            Op::AttendedParts { .. } | Op::AsRows { .. } | Op::Copy { .. } => self.kept(op),
            Op::Forms { .. } | Op::Pick { .. } | Op::Join { .. } => self.mixed(op),
            Op::Learn { .. } => {}
            Op::Adjoint(adjoint) => self.adjoint(adjoint),
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
            _ if !self.function.is_forward() => "&positions",
            mla_spec::Phase::Forward | mla_spec::Phase::Train => "positions",
            mla_spec::Phase::Prefill | mla_spec::Phase::Decode | mla_spec::Phase::Mixed => {
                "batch.positions()"
            }
        }
    }
}

/// The Rust type of a value.
pub(super) fn rust_type(ty: &Ty) -> String {
    match ty {
        Ty::Rows(width) => format!("Rows<B, {}>", width.name),
        Ty::Heads(heads, dim) => format!("Heads<B, {}, {}>", heads.name, dim.name),
        Ty::Attended(heads, dim) => format!("Attended<B, {}, {}>", heads.name, dim.name),
        Ty::Selection(keys) => format!("Selection<B, {}>", keys.name),
        Ty::PerHead(heads) => format!("PerHead<B, {}>", heads.name),
        Ty::RopeKey(width, layout) => {
            format!("RopeKey<B, {}, {}>", parts::layout(*layout), width.name)
        }
        Ty::Angles(width) => format!("Angles<B, {}>", width.name),
        Ty::Segments => "Segments".to_owned(),
        Ty::Forms => "Forms".to_owned(),
        _ => "_".to_owned(),
    }
}

fn linear(slot: &str, part: LinearPart) -> String {
    match part {
        LinearPart::Whole => format!("self.{slot}"),
        LinearPart::Inner => format!("self.{slot}.linear()"),
    }
}

fn norm(slot: &str, part: NormPart) -> String {
    match part {
        NormPart::Whole => format!("self.{slot}"),
        NormPart::Inner => format!("self.{slot}.norm()"),
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
