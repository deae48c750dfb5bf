//! Which kernels a layer asks of a GPU: bodies of `kernels/`, and the sizes that they are made for.
//!
//! The runtime asks by the same names and sizes. A layer of every option of the language is run with these kernels and no others
//! in `tests/tests/language.rs`.

use std::collections::BTreeSet;

use mla_spec::RopeLayout;

use super::{Adjoint, ModuleKind, Op, Plan, Program, Turned, Ty, ValueId};

/// A body, and the sizes it is made for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelUnit {
    /// The body.
    pub unit: &'static str,
    /// The sizes, in the body's order.
    pub dims: Vec<usize>,
}

/// Bodies that any layer asks for, whatever its sizes.
const ALWAYS: [&str; 4] = ["copy", "entries", "pointwise", "product"];
/// Bodies that any trained layer asks for.
const TRAINED: [&str; 2] = ["gradients", "parameters"];

/// What a layer's functions ask for.
pub fn kernels(program: &Program) -> Vec<KernelUnit> {
    let mut needs = Needs {
        program,
        units: BTreeSet::new(),
    };
    ALWAYS.iter().for_each(|unit| needs.add(unit, &[]));
    needs.norms();
    for plan in &program.plans {
        needs.plan(plan);
    }
    if let Some(training) = &program.training {
        TRAINED.iter().for_each(|unit| needs.add(unit, &[]));
        needs.plan(&training.forward);
        needs.plan(&training.backward);
    }
    needs.units.into_iter().collect()
}

struct Needs<'a> {
    program: &'a Program,
    units: BTreeSet<KernelUnit>,
}

impl Needs<'_> {
    fn add(&mut self, unit: &'static str, dims: &[usize]) {
        self.units.insert(KernelUnit {
            unit,
            dims: dims.to_vec(),
        });
    }

    /// Those of modules, whichever op uses them.
    fn norms(&mut self) {
        let trained = self.program.training.is_some();
        for module in &self.program.modules {
            let width = match &module.kind {
                ModuleKind::Norm(norm) | ModuleKind::NormLinear(norm, _) => norm.width,
                _ => continue,
            };
            self.norm(width.size, trained);
        }
    }

    fn norm(&mut self, width: u32, trained: bool) {
        self.add("norm", &[width as usize]);
        if trained {
            self.add("norm_backward", &[width as usize]);
        }
    }

    fn plan(&mut self, plan: &Plan) {
        for op in plan.ops() {
            self.op(plan, op);
        }
    }

    fn op(&mut self, plan: &Plan, op: &Op) {
        let width = |id: &ValueId| width(&plan.values[id.0].ty);
        match op {
            Op::L2Norm { x, .. } => self.norm(width(x), self.program.training.is_some()),
            Op::Hadamard { x, .. } => self.add("hadamard", &[width(x) as usize]),
            Op::RotateHeads { x, turn, .. } | Op::RotateRows { x, turn, .. } => {
                self.rotation(width(x), turn.part, turn.indexer, false);
            }
            Op::RotateKey { x, .. } => self.rotation(width(x), Turned::First, false, false),
            Op::FlashDecode { q, k, .. } => {
                self.rotation(width(q), Turned::First, false, false);
                self.rotation(width(k), Turned::First, false, false);
            }
            Op::Adjoint(adjoint) => self.adjoint(plan, adjoint),
            _ => {}
        }
    }

    fn adjoint(&mut self, plan: &Plan, adjoint: &Adjoint) {
        let width = |id: &ValueId| width(&plan.values[id.0].ty);
        match adjoint {
            Adjoint::RotateHeads { dy, turn, .. } | Adjoint::RotateRows { dy, turn, .. } => {
                self.rotation(width(dy), turn.part, turn.indexer, true);
            }
            Adjoint::RotateKey { dy, .. } => self.rotation(width(dy), Turned::First, false, true),
            _ => {}
        }
    }

    /// Rotations of a part of heads that are `width` wide.
    fn rotation(&mut self, width: u32, part: Turned, indexer: bool, backward: bool) {
        let Some(table) = &self.program.rotary else {
            return;
        };
        let own = self.program.indexer.as_ref().and_then(|plan| plan.rope);
        let (input, output) = match own.filter(|_| indexer) {
            Some(rope) => (rope.layout, rope.layout),
            None => (table.input, table.output),
        };
        let (input, output) = if backward {
            (output, input)
        } else {
            (input, output)
        };
        let rotated = table.width.size;
        let start = match part {
            Turned::First => 0,
            Turned::Last => width.saturating_sub(rotated),
        };
        let half = |layout| usize::from(layout == RopeLayout::Half);
        let sizes = [width, start, rotated / 2].map(|size| size as usize);
        self.add(
            "rotate",
            &[&sizes[..], &[half(input), half(output)]].concat(),
        );
    }
}

/// The last axis of a value.
fn width(ty: &Ty) -> u32 {
    match ty {
        Ty::Rows(dim)
        | Ty::Columns(dim)
        | Ty::Heads(_, dim)
        | Ty::HeadPart(_, dim)
        | Ty::Attended(_, dim)
        | Ty::RopeKey(dim, _) => dim.size,
        _ => 0,
    }
}
