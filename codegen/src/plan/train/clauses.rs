//! The mathematics of a backward pass's steps, in the names of its values and the symbols of its modules.

use crate::plan::{Adjoint, Op, Plan, Program, ValueId};

/// Writes each step's formula: the title of the forward step that it reverses, then what its ops do.
pub(super) fn write(program: &Program, plan: &mut Plan) {
    let formulas: Vec<String> = plan
        .steps
        .iter()
        .map(|step| {
            let words = Words { program, plan };
            let clauses: Vec<String> = step.ops.iter().filter_map(|op| words.clause(op)).collect();
            let title = step.formula.split(':').next().unwrap_or_default();
            match (title, clauses.is_empty()) {
                (title, true) => title.to_owned(),
                ("", false) => clauses.join(";  "),
                ("Indexer's loss", false) => format!("Indexer's loss: {}", clauses.join(";  ")),
                (title, false) => format!("{title}, backwards: {}", clauses.join(";  ")),
            }
        })
        .collect();
    for (step, formula) in plan.steps.iter_mut().zip(formulas) {
        step.formula = formula;
    }
}

struct Words<'a> {
    program: &'a Program,
    plan: &'a Plan,
}

impl Words<'_> {
    fn name(&self, value: ValueId) -> &str {
        &self.plan.values[value.0].name
    }

    /// A module's symbol: what its documentation begins with.
    fn symbol(&self, slot: &str) -> String {
        let module = self
            .program
            .modules
            .iter()
            .find(|module| module.slot == slot);
        let doc = module.map_or("", |module| &*module.doc);
        let symbol = doc
            .split([',', ' '])
            .find(|word| word.starts_with("W_"))
            .unwrap_or("W");
        symbol.to_owned()
    }

    fn clause(&self, op: &Op) -> Option<String> {
        let Op::Adjoint(adjoint) = op else {
            return None;
        };
        let name = |value: &ValueId| self.name(*value);
        let clause = match adjoint {
            Adjoint::LinearInput { dy, slot, out, .. } => {
                format!("{} = {} · {}", name(out), name(dy), self.symbol(slot))
            }
            Adjoint::LinearWeight { x, dy, slot, .. } => {
                format!("d{} += {}ᵀ · {}", self.symbol(slot), name(dy), name(x))
            }
            Adjoint::AbsorbQueries { dy, out, .. } => {
                format!("{}_h = W_UK,h · {}_h", name(out), name(dy))
            }
            Adjoint::AbsorbQueriesWeight { q_nope, dy, .. } => {
                format!("dW_UK,h += {}_h · {}_hᵀ", name(q_nope), name(dy))
            }
            Adjoint::AbsorbValues { dy, out, .. } => {
                format!("{}_h = W_UV,hᵀ · {}_h", name(out), name(dy))
            }
            Adjoint::AbsorbValuesWeight { z, dy, .. } => {
                format!("dW_UV,h += {}_h · {}_hᵀ", name(dy), name(z))
            }
            Adjoint::Sink { .. } => "ds_h -= Σ e^(s_h - l) do·o".to_owned(),
            Adjoint::Expanded { .. } | Adjoint::Groups { .. } => {
                "p = e^(s - l);  ds = p ⊙ (do·v - do·o);  dq = τ Σ ds k;  dk = τ Σ ds q;  dv = Σ p do"
                    .to_owned()
            }
            Adjoint::Absorbed { .. } => {
                "p = e^(s - l);  ds = p ⊙ (dz·ĉ - dz·z);  dq̃ = τ Σ ds ĉ;  dĉ = Σ p dz + τ Σ ds q̃"
                    .to_owned()
            }
            Adjoint::IndexerLoss { .. } => {
                "P = Σ_h e^(s_h - l_h) / Σ;  L = Σ KL(P ‖ softmax(I));  dI = softmax(I) - P".to_owned()
            }
            Adjoint::RotateHeads { out, .. }
            | Adjoint::RotateKey { out, .. }
            | Adjoint::RotateRows { out, .. } => format!("{0} ← Rᵀ {0}", name(out)),
            Adjoint::Gate { d_x, .. } => {
                format!("{} = σ(g) dy;  dg = σ(g) (1 - σ(g)) dy·o", name(d_x))
            }
            Adjoint::Norm { out, .. } | Adjoint::HeadNorm { out, .. } | Adjoint::L2Norm { out, .. } => {
                format!("{} through the norm", name(out))
            }
            _ => return None,
        };
        Some(clause)
    }
}
