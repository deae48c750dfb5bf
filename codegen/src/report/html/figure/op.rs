//! An op as a box: what it is called, what it makes, what is to be known about it.

use mla_spec::{DType, NormKind, RopeLayout};

use super::super::super::work::{Counter, Group, Work, is_view};
use super::{Box, Chip, ChipKind, Made};
use crate::plan::{
    GroupPart, LinearPart, Module, ModuleKind, Op, Plan, Program, Rows, Turn, Ty, ValueId, print,
};

/// A longer name than this is cut where its second word begins.
const LONG: usize = 20;

/// The box of an op, and what the op is for.
pub(super) fn boxed(
    program: &Program,
    plan: &Plan,
    counter: &Counter,
    at: usize,
    op: &Op,
) -> (Box, Group) {
    let parts = counter.work(op);
    let mut work = Work::default();
    parts.iter().for_each(|(_, part)| work += *part);
    let group = parts.iter().max_by_key(|(_, work)| work.flops);
    let (title, about) = names(op);
    let made = op.defines();
    let mut chips = layouts(program, plan, op);
    chips.extend(fused(program, op));
    let found = Box {
        op: Some(at),
        title,
        about,
        results: made
            .iter()
            .map(|id| made_by(program, plan, counter, *id))
            .collect(),
        chips,
        makes: made.iter().map(|id| id.0).collect(),
        reads: op.reads().iter().map(|id| id.0).collect(),
        is_view: is_view(op),
        work,
        line: print::line(plan, op),
        key: key(plan, op),
    };
    (found, group.map_or(Group::Projections, |(group, _)| *group))
}

/// What an op is called, and what it uses.
fn names(op: &Op) -> (String, Option<String>) {
    let words = print::words(op);
    let about = print::about(op);
    match words.split_once(' ') {
        Some((first, rest)) if about.is_none() && words.len() > LONG => {
            (first.to_owned(), Some(rest.to_owned()))
        }
        _ => (words, about),
    }
}

/// What makes an op the same in two plans: what it does, with which module, and what its results are called.
fn key(plan: &Plan, op: &Op) -> String {
    let made = op.defines().into_iter();
    let names: Vec<&str> = made.map(|id| &*plan.values[id.0].name).collect();
    format!("{} {}", print::name(op), names.join(" "))
}

fn made_by(program: &Program, plan: &Plan, counter: &Counter, id: ValueId) -> Made {
    let value = &plan.values[id.0];
    let rows = if counter.is_of_context(id) { "C" } else { "T" };
    Made {
        name: value.name.to_string(),
        shape: shape(&value.ty, rows),
        dtype: dtype(&value.ty, program.build.dtype),
    }
}

/// A value's shape; `rows` stands for its tokens.
fn shape(ty: &Ty, rows: &str) -> String {
    match ty {
        Ty::Rows(width) | Ty::Columns(width) | Ty::RopeKey(width, _) => {
            format!("{rows}×{}", width.size)
        }
        Ty::Heads(heads, dim) | Ty::HeadPart(heads, dim) | Ty::Attended(heads, dim) => {
            format!("{rows}×{}×{}", heads.size, dim.size)
        }
        Ty::PerHead(heads) => format!("{rows}×{}", heads.size),
        Ty::Angles(width) => format!("2×{rows}×{}", width.size / 2),
        Ty::SharedKv(latent, rope) => format!("{rows}×({}+{})", latent.size, rope.size),
        Ty::Selection(keys) => format!("{rows}×{} keys", keys.size),
        Ty::Segments | Ty::Forms | Ty::Bias | Ty::Number => String::new(),
    }
}

/// The type of a value's elements.
fn dtype(ty: &Ty, arithmetic: DType) -> &'static str {
    match ty {
        Ty::Rows(_)
        | Ty::Columns(_)
        | Ty::Heads(..)
        | Ty::HeadPart(..)
        | Ty::RopeKey(..)
        | Ty::SharedKv(..) => element(arithmetic),
        Ty::PerHead(_) | Ty::Angles(_) | Ty::Attended(..) => match arithmetic {
            DType::F64 => "f64",
            DType::F32 | DType::Bf16 => "f32",
        },
        Ty::Selection(_) | Ty::Segments | Ty::Forms | Ty::Bias | Ty::Number => "",
    }
}

/// A type's name.
pub(in super::super) fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::Bf16 => "bf16",
        DType::F64 => "f64",
    }
}

/// How what it makes lies in memory, where that is not one row after the other.
fn layouts(program: &Program, plan: &Plan, op: &Op) -> Vec<Chip> {
    let mut texts: Vec<String> = Vec::new();
    for id in op.defines() {
        match &plan.values[id.0].ty {
            Ty::Columns(_) | Ty::HeadPart(..) => texts.push("view".to_owned()),
            Ty::RopeKey(_, order) => texts.push(print::layout(*order).to_owned()),
            Ty::Attended(..) => texts.push("+ log-sum-exp".to_owned()),
            _ => {}
        }
    }
    texts.extend(pairs(program, op));
    if let Op::GroupPart { part, .. } = op {
        let what = match part {
            GroupPart::Query => "queries",
            GroupPart::Gate => "gates",
            GroupPart::Key => "keys",
            GroupPart::Value => "values",
        };
        texts.push(format!("{what} of every group"));
    }
    texts.dedup();
    let chips = texts.into_iter();
    chips
        .map(|text| Chip::new(ChipKind::Layout, text))
        .collect()
}

/// Which elements of heads or rows are rotated together.
fn pairs(program: &Program, op: &Op) -> Option<String> {
    let (Op::RotateHeads { turn, .. } | Op::RotateRows { turn, .. }) = op else {
        return None;
    };
    let Turn { indexer, .. } = turn;
    if *indexer {
        let rope = program.indexer.as_ref()?.rope?;
        return Some(print::layout(Some(rope.layout)).to_owned());
    }
    let table = program.rotary.as_ref()?;
    let [input, output]: [&str; 2] =
        [table.input, table.output].map(|order: RopeLayout| print::layout(Some(order)));
    Some(match input == output {
        true => input.to_owned(),
        false => format!("{input} → {output}"),
    })
}

/// What an op does at once that would be several.
fn fused(program: &Program, op: &Op) -> Option<Chip> {
    let text = match op {
        Op::Linear { slot, part, .. } => of_module(module(program, slot)?, *part)?,
        Op::AttendContext { .. } => "fused: expand, attend, merge".to_owned(),
        Op::FlashDecode { .. } => "fused: rotate, append, attend".to_owned(),
        _ => return None,
    };
    Some(Chip::new(ChipKind::Fused, text))
}

fn module<'a>(program: &'a Program, slot: &str) -> Option<&'a Module> {
    program.modules.iter().find(|module| module.slot == slot)
}

fn of_module(module: &Module, part: LinearPart) -> Option<String> {
    if let ModuleKind::NormLinear(norm, _) = &module.kind
        && part == LinearPart::Whole
    {
        let norm = match norm.kind {
            NormKind::RmsNorm => "RMSNorm",
            NormKind::LayerNorm => "LayerNorm",
            NormKind::GatedRmsNorm { .. } => "GatedRMSNorm",
        };
        return Some(format!("fused: {norm} + linear"));
    }
    let linear = module.linear()?;
    let count = match &linear.rows {
        Rows::Stacked(sources) => sources.len(),
        Rows::Grouped { pieces, .. } => pieces.len(),
    };
    let sources = linear.sources();
    let short = |name: &str| name.trim_end_matches("_proj").to_owned();
    let names: Vec<String> = sources.iter().map(|(name, _)| short(name)).collect();
    (count > 1).then(|| format!("fused: {}", names.join(" + ")))
}
