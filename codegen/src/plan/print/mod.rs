//! Programs as text: what `--emit plan` prints. One line per op.

mod adjoint;
mod facts;
mod ops;

use std::fmt;

use mla_spec::{Form, NormKind, Phase, RopeLayout};

use super::{
    CachePlan, LinearParams, MhaFrom, Module, ModuleKind, NormParams, Numeral, Op, Plan, Program,
    Rows, Ty, ValueId,
};
use facts::{cache, indexer, mask, rotary, softmax};
use ops::{DisplayOp, detail, linear_of, norm_of};

pub(crate) use ops::words;

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "layer {}", self.name)?;
        writeln!(f)?;
        for constant in &self.constants {
            let formula = constant
                .formula
                .as_ref()
                .map(|formula| format!(" = {formula}"))
                .unwrap_or_default();
            writeln!(f, "const {}{formula} = {}", constant.name, constant.value)?;
        }
        for fact in facts(self) {
            writeln!(f, "{fact}")?;
        }
        writeln!(f)?;
        for module in &self.modules {
            writeln!(f, "module {}", DisplayModule(module))?;
        }
        for plan in &self.plans {
            writeln!(f)?;
            plan.fmt(f)?;
        }
        if let Some(training) = &self.training {
            writeln!(f)?;
            training.forward.fmt(f)?;
            writeln!(f, "\nbackward:")?;
            body(&training.backward, f)?;
            writeln!(f, "\nbackward_input:")?;
            body(&training.backward_input, f)?;
            for part in &training.weights {
                writeln!(f, "\nbackward_{}:", part.name)?;
                body(&part.plan, f)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {}",
            phase(self.phase),
            choice(self.form, &self.form_reason)
        )?;
        body(self, f)
    }
}

/// A function's arguments, steps and results.
fn body(plan: &Plan, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for argument in &plan.arguments {
        writeln!(f, "  argument {argument:?}")?;
    }
    for step in &plan.steps {
        if !step.formula.is_empty() {
            let part = step
                .part
                .map_or(String::new(), |part| format!("({}) ", form(part)));
            writeln!(f, "  # {part}{}", step.formula)?;
        }
        for op in &step.ops {
            writeln!(f, "  {}", line(plan, op))?;
        }
    }
    let outputs: Vec<String> = plan.outputs.iter().map(|output| id(*output)).collect();
    writeln!(f, "  return {}", outputs.join(", "))
}

/// What a program knows besides its sizes, its modules and its ops, a line each.
pub(crate) fn facts(program: &Program) -> Vec<String> {
    let scale = &program.softmax_scale;
    let mut facts = vec![format!("softmax scale {}: {}", scale.value, scale.doc)];
    for number in &program.numbers {
        let value = match number.value {
            Numeral::Real(value) => format!("{value:?}"),
            Numeral::Position(value) => value.to_string(),
        };
        facts.push(format!("number {} = {value}", number.name));
    }
    facts.extend(softmax(&program.softmax).map(|text| format!("softmax {text}")));
    facts.push(format!("mask {}", mask(program.mask)));
    facts.extend(program.mha_from.as_ref().map(mha_from));
    facts.extend(program.rotary.as_ref().map(rotary));
    facts.extend(program.indexer.as_ref().map(indexer));
    let caches = [("cache", &program.cache), ("source cache", &program.source)];
    for (what, plan) in caches {
        facts.extend(plan.as_ref().map(|plan| format!("{what} {}", cache(plan))));
    }
    facts
}

/// From where on a request takes the expanded form.
fn mha_from(table: &MhaFrom) -> String {
    let pair = |(cached, new): &(u64, Option<u64>)| match new {
        Some(new) => format!("{new} with {cached}"),
        None => format!("none with {cached}"),
    };
    let pairs: Vec<String> = table.from.iter().map(pair).collect();
    format!(
        "MHA from new tokens, with cached ones: {}",
        pairs.join(", ")
    )
}

/// An op with what it defines.
pub(crate) fn line(plan: &Plan, op: &Op) -> String {
    let defined: Vec<String> = op
        .defines()
        .into_iter()
        .map(|out| {
            let value = &plan.values[out.0];
            format!("{} {}: {}", id(out), value.name, DisplayTy(&value.ty))
        })
        .collect();
    match defined.is_empty() {
        true => DisplayOp(op).to_string(),
        false => format!("{} = {}", defined.join(", "), DisplayOp(op)),
    }
}

/// What an op is called, and the module that it uses; values are left out.
pub(crate) fn name(op: &Op) -> String {
    let slot = match op {
        Op::Linear { slot, part, .. }
        | Op::AbsorbQueries { slot, part, .. }
        | Op::AbsorbValues { slot, part, .. }
        | Op::AttendContext { slot, part, .. } => Some(linear_of(slot, *part)),
        Op::Norm { slot, part, .. } => Some(norm_of(slot, *part)),
        Op::HeadNorm { slot, .. } => Some((*slot).to_owned()),
        _ => None,
    };
    match slot {
        Some(slot) => format!("{} {slot}", words(op)),
        None => words(op),
    }
}

/// Which module, elements or number an op uses; `None` where its name says it all.
pub(crate) fn about(op: &Op) -> Option<String> {
    detail(op).map(|detail| detail.trim_start_matches([',', ' ']).to_owned())
}

/// Pairs of a rotated part, as a word.
pub(crate) fn layout(order: Option<RopeLayout>) -> &'static str {
    facts::layout(order)
}

/// A cache's content, format and pages.
pub(crate) fn stored(plan: &CachePlan) -> String {
    cache(plan)
}

pub(crate) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
        Phase::Train => "train",
        Phase::Mixed => "mixed",
    }
}

/// The form of a phase, and why.
pub(crate) fn choice(chosen: Option<Form>, reason: &str) -> String {
    match chosen {
        Some(chosen) => format!("{} form, because {reason}", form(chosen)),
        None => format!("each request's own form: {reason}"),
    }
}

pub(crate) fn form(form: Form) -> &'static str {
    match form {
        Form::Mha => "MHA",
        Form::Mqa => "MQA",
    }
}

fn id(value: ValueId) -> String {
    format!("%{}", value.0)
}

struct DisplayModule<'a>(&'a Module);

impl fmt::Display for DisplayModule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Module { slot, kind, doc } = self.0;
        let kind = match kind {
            ModuleKind::Linear(params) => linear(params),
            ModuleKind::Fp8Linear(params) => format!("{}, in blocks of fp8", linear(params)),
            ModuleKind::AccumLinear(params) => {
                format!("{}, in the accumulation type", linear(params))
            }
            ModuleKind::Norm(params) => norm(params),
            ModuleKind::NormLinear(inner, params) => {
                format!("{} then {}", norm(inner), linear(params))
            }
            ModuleKind::Sinks { heads, source } => format!("sinks {} from {source}", heads.size),
            ModuleKind::LogPositionScale { heads, source } => {
                format!("log-position scale {} from {source}", heads.size)
            }
            ModuleKind::KeyPools {
                input,
                pool,
                width,
                source,
            } => format!(
                "key pools of {}, gates {} -> {}, from {source}",
                pool.size, input.size, width.size
            ),
        };
        write!(f, "{slot}: {kind}  # {doc}")
    }
}

fn linear(params: &LinearParams) -> String {
    let sources: Vec<String> = params
        .sources()
        .iter()
        .map(|(name, rows)| format!("{name}[{}]", rows.size))
        .collect();
    let by_groups = match &params.rows {
        Rows::Grouped { groups, .. } => format!(", in {} groups", groups.size),
        Rows::Stacked(_) => String::new(),
    };
    let bias = if params.bias { " + bias" } else { "" };
    format!(
        "linear {} -> {}{bias} from {}{by_groups}",
        params.input.size,
        params.output.size,
        sources.join(", ")
    )
}

fn norm(params: &NormParams) -> String {
    let kind = match params.kind {
        NormKind::RmsNorm => "RMSNorm",
        NormKind::LayerNorm => "LayerNorm",
        NormKind::GatedRmsNorm { .. } => "GatedRMSNorm",
    };
    format!(
        "{kind} {} (eps {:e}) from {}",
        params.width.size, params.eps, params.source
    )
}

struct DisplayTy<'a>(&'a Ty);

impl fmt::Display for DisplayTy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ty::Rows(width) => write!(f, "rows[{}]", width.size),
            Ty::Columns(width) => write!(f, "columns[{}]", width.size),
            Ty::Heads(heads, dim) => write!(f, "heads[{} x {}]", heads.size, dim.size),
            Ty::HeadPart(heads, dim) => write!(f, "part[{} x {}]", heads.size, dim.size),
            Ty::PerHead(heads) => write!(f, "per_head[{}]", heads.size),
            Ty::SharedKv(latent, rope) => write!(f, "shared_kv[{}, {}]", latent.size, rope.size),
            Ty::Selection(keys) => write!(f, "selection[{}]", keys.size),
            Ty::Bias => write!(f, "bias"),
            Ty::Number => write!(f, "number"),
            Ty::Angles(width) => write!(f, "angles[{}]", width.size / 2),
            Ty::RopeKey(width, order) => {
                write!(f, "rope_key[{}, {}]", width.size, facts::layout(*order))
            }
            Ty::Attended(heads, dim) => write!(f, "attended[{} x {}]", heads.size, dim.size),
            Ty::Segments => write!(f, "segments"),
            Ty::Forms => write!(f, "forms"),
        }
    }
}
