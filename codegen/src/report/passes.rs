//! What the passes did, op by op.

use std::collections::BTreeMap;

use mla_spec::Phase;

use crate::plan::{Op, Plan, Program, print};

/// What a pass changed in a phase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The pass.
    pub pass: &'static str,
    /// The phase.
    pub phase: Phase,
    /// Ops that are no longer there, by name.
    pub gone: Vec<String>,
    /// Ops that are new, by name.
    pub new: Vec<String>,
}

/// What each pass changed; probes, which every build drops, are left out.
pub(super) fn changes(stages: &[(&'static str, Program)]) -> Vec<Change> {
    let mut changes = Vec::new();
    for pair in stages.windows(2) {
        let [(_, before), (pass, after)] = pair else {
            continue;
        };
        for (before, after) in before.plans.iter().zip(&after.plans) {
            let (old, new) = (names(before), names(after));
            let change = Change {
                pass,
                phase: after.phase,
                gone: beyond(&old, &new),
                new: beyond(&new, &old),
            };
            if !(change.gone.is_empty() && change.new.is_empty()) {
                changes.push(change);
            }
        }
    }
    changes
}

/// How often each op stands in a plan, by itself or with others in one pass.
fn names(plan: &Plan) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for (step, op) in plan
        .steps
        .iter()
        .flat_map(|step| step.ops.iter().map(move |op| (step, op)))
    {
        let name = match op {
            Op::Probe { .. } => continue,
            Op::Columns { .. } => print::name(op),
            _ if step.fused => format!("{} in one pass", print::name(op)),
            _ => print::name(op),
        };
        *names.entry(name).or_default() += 1;
    }
    names
}

/// What is in `all` more often than in `other`.
fn beyond(all: &BTreeMap<String, usize>, other: &BTreeMap<String, usize>) -> Vec<String> {
    let more = all
        .iter()
        .filter(|(name, count)| other.get(*name).is_none_or(|also| also < count));
    more.map(|(name, _)| name.clone()).collect()
}
