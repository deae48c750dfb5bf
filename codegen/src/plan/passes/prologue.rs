//! `prologue`: what stands between the down projections and attention over a latent cache becomes one step, which a device does in one pass over
//! rows.
//!
//! The norm of the queries' latent, the norm of the key-value latent, the rotation of the shared key and what the cache keeps; of an indexer's
//! key the same. Each op stays what it is, and computes what it computed: the oracle runs them one after the other.

use mla_spec::{Checked, NormKind};

use crate::plan::prologue::is_of_queries;
use crate::plan::{Module, Op, Plan, Program, Step, ValueId, formulas};

pub(super) fn run(_: &Checked, program: &mut Program) {
    for plan in &mut program.plans {
        if let Some(prologue) = Prologue::of(plan, &program.modules) {
            prologue.write(plan, &program.modules);
            super::compact(plan);
        }
    }
}

/// The ops of the step, in its order, and what they do, as formulas.
struct Prologue {
    ops: Vec<Op>,
    formulas: Vec<String>,
    kept: &'static str,
}

impl Prologue {
    /// The prologue of a plan that writes latents, where it is one that a pass can do.
    fn of(plan: &Plan, modules: &[Module]) -> Option<Self> {
        let write = plan.ops().find(|op| matches!(op, Op::WriteLatent { .. }))?;
        let Op::WriteLatent { latent, k_rope } = *write else {
            return None;
        };
        let (norm, named) = normed(plan, modules, latent)?;
        let turn = plan.definition(k_rope)?;
        if !matches!(turn, Op::RotateKey { .. }) {
            return None;
        }
        let mut prologue = Self {
            ops: vec![norm.clone(), turn.clone()],
            formulas: vec![format!("ĉ = {named}(c), rope on k_r")],
            kept: "ĉ and k_r",
        };
        let mut writes = vec![write.clone()];
        // Where others read the entries as well, the layers that there are have no indexer
        let is_kept = plan.uses(latent) > 1 || plan.uses(k_rope) > 1;
        if let Some(key) = Key::of(plan, modules).filter(|_| !is_kept) {
            prologue.ops.extend(key.ops);
            prologue.formulas.push(key.formula);
            prologue.kept = "ĉ, k_r and K";
            writes.push(key.write);
        }
        if let Some((norm, formula)) = queries(plan, modules) {
            prologue.ops.insert(0, norm);
            prologue.formulas.insert(0, formula);
        }
        prologue.ops.extend(writes);
        prologue.is_for_all(plan).then_some(prologue)
    }

    /// Whether its ops are for the whole call.
    fn is_for_all(&self, plan: &Plan) -> bool {
        let mut apart = plan.steps.iter().filter(|step| step.part.is_some());
        !apart.any(|step| step.ops.iter().any(|op| self.ops.contains(op)))
    }

    /// Has a plan do it, ahead of everything that stood between its ops: first what they read, then all of them.
    fn write(self, plan: &mut Plan, modules: &[Module]) {
        let is_own = |step: &Step| step.ops.iter().any(|op| self.ops.contains(op));
        let Some(at) = plan.steps.iter().position(is_own) else {
            return;
        };
        let read = self.read_from(plan, at);
        for step in &mut plan.steps[at..] {
            step.ops
                .retain(|op| !read.contains(op) && !self.ops.contains(op));
        }
        let (made, views) = apart(read);
        let formula = format!(
            "Prologue, in one pass: {};  the cache keeps {}",
            self.formulas.join(";  "),
            self.kept
        );
        let fused = Step {
            fused: true,
            ..Step::new(formula, [views, self.ops].concat())
        };
        plan.steps.insert(at, fused);
        if !made.is_empty() {
            plan.steps
                .insert(at, Step::new(projections(&made, modules), made));
        }
    }

    /// What the ops read that is made in the steps from the `at`th on, in order.
    fn read_from(&self, plan: &Plan, at: usize) -> Vec<Op> {
        let mut wanted: Vec<ValueId> = self.ops.iter().flat_map(Op::reads).collect();
        let mut found = Vec::new();
        for op in plan.steps[at..].iter().flat_map(|step| &step.ops).rev() {
            let is_wanted = op.defines().iter().any(|out| wanted.contains(out));
            if is_wanted && !self.ops.contains(op) {
                wanted.extend(op.reads());
                found.push(op.clone());
            }
        }
        found.reverse();
        found
    }
}

/// What is computed ahead, with the columns that it reads, and the columns that only the pass reads; both in order.
fn apart(read: Vec<Op>) -> (Vec<Op>, Vec<Op>) {
    let mut wanted: Vec<ValueId> = Vec::new();
    let (mut made, mut views) = (Vec::new(), Vec::new());
    for op in read.into_iter().rev() {
        let is_read = op.defines().iter().any(|out| wanted.contains(out));
        if is_read || !matches!(op, Op::Columns { .. }) {
            wanted.extend(op.reads());
            made.push(op);
        } else {
            views.push(op);
        }
    }
    made.reverse();
    views.reverse();
    (made, views)
}

/// An indexer's key, and how the cache comes to keep it.
struct Key {
    ops: Vec<Op>,
    write: Op,
    formula: String,
}

impl Key {
    fn of(plan: &Plan, modules: &[Module]) -> Option<Self> {
        let write = plan.ops().find(|op| matches!(op, Op::WriteIndex { .. }))?;
        let Op::WriteIndex { k, gates: None } = *write else {
            return None;
        };
        let mut ops = Vec::new();
        let mut words = ", roped";
        let mut last = plan.definition(k)?;
        if let Op::Hadamard { x, .. } = last {
            ops.push(last.clone());
            words = ", roped, times the Hadamard matrix";
            last = plan.definition(*x)?;
        }
        let Op::RotateRows { x, .. } = last else {
            return None;
        };
        ops.push(last.clone());
        let (norm, named) = normed(plan, modules, *x)?;
        ops.push(norm.clone());
        ops.reverse();
        let once = ops
            .iter()
            .flat_map(Op::defines)
            .all(|out| plan.uses(out) == 1);
        once.then(|| Self {
            ops,
            write: write.clone(),
            formula: format!("K = {named}(W_IK · x){words}"),
        })
    }
}

/// The norm of the queries' latent, and its formula.
fn queries(plan: &Plan, modules: &[Module]) -> Option<(Op, String)> {
    let op = plan.ops().find(|op| is_of_queries(op))?;
    let named = name_of(op, modules)?;
    Some((op.clone(), format!("ĉ_q = {named}(c_q)")))
}

/// The norm that makes a value, and its name.
fn normed<'a>(
    plan: &'a Plan,
    modules: &[Module],
    value: ValueId,
) -> Option<(&'a Op, &'static str)> {
    let op = plan.definition(value)?;
    Some((op, name_of(op, modules)?))
}

/// The name of a norm that there is a pass for.
fn name_of(op: &Op, modules: &[Module]) -> Option<&'static str> {
    let Op::Norm { slot, .. } = op else {
        return None;
    };
    let module = modules.iter().find(|module| module.slot == *slot)?;
    match module.norm()?.kind {
        NormKind::GatedRmsNorm { .. } => None,
        kind => Some(formulas::norm_name(kind)),
    }
}

/// What is multiplied ahead, as a formula.
fn projections(ops: &[Op], modules: &[Module]) -> String {
    let module = |slot: &str| modules.iter().find(|module| module.slot == slot);
    let parts: Vec<String> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Linear { slot, .. } => {
                let symbol = module(slot)?.doc.split(',').next()?;
                Some(format!("{symbol} · x"))
            }
            Op::Norm { slot, .. } => {
                let name = formulas::norm_name(module(slot)?.norm()?.kind);
                Some(format!("k_r = {name}(k_r)"))
            }
            _ => None,
        })
        .collect();
    format!("Down projections: {}", parts.join(";  "))
}
