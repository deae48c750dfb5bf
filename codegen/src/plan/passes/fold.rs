//! `fold`: weights that are combined when they are loaded, as `build.fold` lists them.

use mla_spec::{Checked, Fold};

use crate::plan::lower::derived;
use crate::plan::{
    Dim, LinearParams, LinearPart, Module, ModuleKind, Offset, Op, Plan, Program, Rows, Step, Ty,
    ValueId,
};

/// The module that holds all joined projections.
const SLOT: &str = "linear_in_proj";
const WIDTH: &str = "IN_PROJ_WIDTH";

pub(super) fn run(checked: &Checked, program: &mut Program) {
    for fold in &checked.build.fold {
        match fold {
            Fold::InputProjections => join_input_projections(program),
        }
    }
}

/// `[W_1; W_2] x = [W_1 x; W_2 x]`: what reads the layer's input becomes one product, and each reader has its columns of the result.
fn join_input_projections(program: &mut Program) {
    let joined: Vec<Module> = program
        .modules
        .iter()
        .filter(|module| is_joined(module, program))
        .cloned()
        .collect();
    let (Some(first), true) = (joined.first(), joined.len() > 1) else {
        return;
    };
    let Some(matrix) = Matrix::of(&joined) else {
        return;
    };
    let at = program.modules.iter().position(|module| module == first);
    program.modules.retain(|module| !joined.contains(module));
    program.modules.insert(at.unwrap_or(0), matrix.module());
    program.constants.push(derived(
        matrix.width,
        matrix.formula(),
        false,
        "Rows of `linear_in_proj`: those of every projection of the input, one below the other.",
    ));
    for plan in &mut program.plans {
        matrix.write(plan);
    }
}

/// Whether a module reads the layer's input in every plan, and its result is read where it lies.
fn is_joined(module: &Module, program: &Program) -> bool {
    let ModuleKind::Linear(LinearParams {
        rows: Rows::Stacked(_),
        bias: false,
        ..
    }) = module.kind
    else {
        return false;
    };
    program.plans.iter().all(|plan| {
        projection(plan, module.slot)
            .is_some_and(|(x, out)| Some(x) == input(plan) && is_read_in_place(plan, out))
    })
}

/// What a module's one product reads and makes in a plan.
fn projection(plan: &Plan, slot: &str) -> Option<(ValueId, ValueId)> {
    plan.ops().find_map(|op| match *op {
        Op::Linear {
            x,
            slot: of,
            part: LinearPart::Whole,
            out,
        } if of == slot => Some((x, out)),
        _ => None,
    })
}

/// What a plan's projections read: the layer's input, normed where the layer does that.
fn input(plan: &Plan) -> Option<ValueId> {
    let hidden = plan.ops().find_map(|op| match op {
        Op::Hidden { out } => Some(*out),
        _ => None,
    })?;
    let normed = plan.ops().find_map(|op| match op {
        Op::Norm {
            x,
            slot: "input_layernorm",
            out,
            ..
        } if *x == hidden => Some(*out),
        _ => None,
    });
    Some(normed.unwrap_or(hidden))
}

/// Whether all readers of rows take borrowed columns as well.
fn is_read_in_place(plan: &Plan, value: ValueId) -> bool {
    let mut readers = plan.ops().filter(|op| op.reads().contains(&value));
    !plan.outputs.contains(&value)
        && readers.all(|op| {
            matches!(
                op,
                Op::Norm { .. }
                    | Op::Linear { .. }
                    | Op::Columns { .. }
                    | Op::Scale { .. }
                    | Op::IntoPerHead { .. }
                    | Op::Probe { .. }
            )
        })
}

/// Projections one below the other.
struct Matrix {
    /// Slots and widths, from the top.
    parts: Vec<(&'static str, Dim)>,
    sources: Vec<(&'static str, Dim)>,
    input: Dim,
    width: Dim,
    symbols: String,
}

impl Matrix {
    fn of(joined: &[Module]) -> Option<Self> {
        let linears: Vec<&LinearParams> = joined.iter().filter_map(Module::linear).collect();
        let parts: Vec<_> = joined
            .iter()
            .zip(&linears)
            .map(|(module, linear)| (module.slot, linear.output))
            .collect();
        Some(Self {
            sources: linears.iter().flat_map(|linear| linear.sources()).collect(),
            input: linears.first()?.input,
            width: Dim {
                name: WIDTH,
                size: parts.iter().map(|(_, width)| width.size).sum(),
            },
            symbols: symbols(joined),
            parts,
        })
    }

    /// The width, as Rust.
    fn formula(&self) -> String {
        let names: Vec<&str> = self.parts.iter().map(|(_, width)| width.name).collect();
        names.join(" + ")
    }

    fn module(&self) -> Module {
        let sources: Vec<String> = self
            .sources
            .iter()
            .map(|(source, _)| format!("`{source}`"))
            .collect();
        Module {
            slot: SLOT,
            kind: ModuleKind::Linear(LinearParams {
                input: self.input,
                output: self.width,
                rows: Rows::Stacked(self.sources.clone()),
                bias: false,
            }),
            doc: format!(
                "{}, one below the other, HF {}.",
                self.symbols,
                sources.join(", ")
            ),
        }
    }

    /// Has a plan make all at once, before the first of them was made.
    fn write(&self, plan: &mut Plan) {
        let Some(x) = input(plan) else { return };
        let first = |step: &Step| step.ops.iter().any(|op| self.is_part(op));
        let Some(at) = plan.steps.iter().position(first) else {
            return;
        };
        let all = plan.define("projected", Ty::Rows(self.width));
        let mut offset = Vec::new();
        for &(slot, width) in &self.parts {
            let Some((_, out)) = projection(plan, slot) else {
                continue;
            };
            plan.values[out.0].ty = Ty::Columns(width);
            let columns = Op::Columns {
                x: all,
                offset: Offset(offset.clone()),
                width,
                out,
            };
            for op in plan.steps.iter_mut().flat_map(|step| &mut step.ops) {
                if op.makes(out) {
                    *op = columns.clone();
                }
            }
            offset.push(width);
        }
        let product = Op::Linear {
            x,
            slot: SLOT,
            part: LinearPart::Whole,
            out: all,
        };
        let formula = format!("Projections of the input, at once: [{}] · x", self.symbols);
        plan.steps.insert(at, Step::new(formula, vec![product]));
        super::compact(plan);
    }

    fn is_part(&self, op: &Op) -> bool {
        matches!(op, Op::Linear { slot, .. } if self.parts.iter().any(|(part, _)| part == slot))
    }
}

/// The matrices' names in formulas: what their docs begin with.
fn symbols(modules: &[Module]) -> String {
    let symbols: Vec<&str> = modules
        .iter()
        .filter_map(|module| module.doc.split(',').next())
        .collect();
    symbols.join("; ")
}
