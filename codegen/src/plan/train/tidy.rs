//! What has to hold of a plan before it is printed: nothing is read after it was consumed or hidden by another of its name, and what nobody
//! reads any more is freed.

use std::collections::BTreeMap;

use super::normal::consumed;
use crate::plan::{Adjoint, Op, Plan, Role, Ty, ValueId};

/// Copies what an op would consume while it is still read later, or returned. The copy takes the value's name, the value itself becomes
/// `…_raw`.
pub(super) fn copies(plan: &mut Plan) {
    while let Some((step, at, x)) = clash(plan) {
        let value = plan.values[x.0].clone();
        let out = plan.define(value.name.clone(), value.ty);
        if !value.name.ends_with("_raw") {
            plan.values[x.0].name = format!("{}_raw", value.name).into();
        } else {
            let name = value.name.trim_end_matches("_raw").to_owned();
            plan.values[out.0].name = name.into();
        }
        let ops = &mut plan.steps[step].ops;
        ops[at].visit_values(|role, read| {
            if role == Role::Reads && *read == x {
                *read = out;
            }
        });
        ops.insert(at, Op::Copy { x, out });
    }
}

/// The first op that consumes what is read again.
fn clash(plan: &Plan) -> Option<(usize, usize, ValueId)> {
    let last = last_reads(plan);
    let mut place = 0;
    for (s, step) in plan.steps.iter().enumerate() {
        for (at, op) in step.ops.iter().enumerate() {
            if let Some(x) = consumed(plan, op)
                && last.get(&x).is_some_and(|&last| last > place)
            {
                return Some((s, at, x));
            }
            place += 1;
        }
    }
    None
}

/// For each value the place of the last op that reads it, or a view of it; the end for what is returned.
fn last_reads(plan: &Plan) -> BTreeMap<ValueId, usize> {
    let ops: Vec<&Op> = plan.ops().collect();
    let mut last: BTreeMap<ValueId, usize> = BTreeMap::new();
    for &output in &plan.outputs {
        last.insert(output, usize::MAX);
    }
    for (place, op) in ops.iter().enumerate().rev() {
        // Who reads a view reads what it is a view of
        let through = match op {
            Op::Columns { out, .. } | Op::HeadPart { out, .. } | Op::AsRows { out, .. } => {
                last.get(out).copied()
            }
            _ => None,
        };
        let place = through.unwrap_or(place).max(place);
        for read in op.reads() {
            let known = last.entry(read).or_insert(place);
            *known = (*known).max(place);
        }
    }
    last
}

/// Renames values that are hidden by a later one of their name while they are still read; where two of one name are added up, the second
/// one.
pub(super) fn names(plan: &mut Plan) {
    while let Some(clashing) = clashing(plan) {
        let name = plan.values[clashing.0].name.to_string();
        let taken = |name: &str| plan.values.iter().any(|value| value.name == name);
        let free = (2..)
            .map(|number| format!("{name}_{number}"))
            .find(|name| !taken(name));
        let free = free.unwrap_or(name);
        for value in grown(plan, clashing) {
            plan.values[value.0].name = free.clone().into();
        }
    }
}

/// The values that are one variable: a sum, as it grows.
fn grown(plan: &Plan, value: ValueId) -> Vec<ValueId> {
    let mut all = vec![value];
    loop {
        let more = plan.ops().find_map(|op| match op {
            Op::Adjoint(Adjoint::Add { into, out, .. }) => {
                match (all.contains(into), all.contains(out)) {
                    (true, false) => Some(*out),
                    (false, true) => Some(*into),
                    _ => None,
                }
            }
            _ => None,
        });
        match more {
            Some(value) => all.push(value),
            None => return all,
        }
    }
}

fn clashing(plan: &Plan) -> Option<ValueId> {
    let mut bound: BTreeMap<&str, ValueId> = BTreeMap::new();
    for op in plan.ops() {
        // What is added to grows in place, and keeps its name
        if let Op::Adjoint(Adjoint::Add { into, x, out }) = op {
            let name: &str = &plan.values[into.0].name;
            if plan.values[x.0].name == name {
                return Some(*x);
            }
            if bound.get(name) == Some(into) && plan.values[out.0].name == name {
                bound.insert(name, *out);
                continue;
            }
        }
        for read in op.reads() {
            let name: &str = &plan.values[read.0].name;
            if let Some(&last) = bound.get(name).filter(|last| **last != read) {
                // A sum keeps its name
                let sums = grown(plan, read).len() > 1 && grown(plan, last).len() == 1;
                return Some(if sums { last } else { read });
            }
        }
        for out in op.defines() {
            bound.insert(&plan.values[out.0].name, out);
        }
    }
    let is_hidden = |output: &&ValueId| {
        let name: &str = &plan.values[output.0].name;
        bound.get(name).is_some_and(|last| last != *output)
    };
    plan.outputs.iter().find(is_hidden).copied()
}

/// Frees owned values wider than `hidden` behind their last reader, where that is not the last op.
pub(super) fn drops(plan: &mut Plan, hidden: u32) {
    let last = last_reads(plan);
    let count = plan.ops().count();
    let mut freed: BTreeMap<usize, Vec<ValueId>> = BTreeMap::new();
    let mut place = 0;
    for op in plan.ops() {
        for out in op.defines() {
            let is_wide = match plan.values[out.0].ty {
                Ty::Heads(..) => true,
                Ty::Rows(width) => width.size > hidden,
                _ => false,
            };
            let given = matches!(
                op,
                Op::Hidden { .. }
                    | Op::Context { .. }
                    | Op::TakenLatent { .. }
                    | Op::TakenKey { .. }
                    | Op::Adjoint(Adjoint::OutputGradient { .. } | Adjoint::Deferred { .. })
            );
            if let Some(&end) = last.get(&out).filter(|_| is_wide && !given)
                && end < count.saturating_sub(1)
                && !plan.ops().any(|op| consumed(plan, op) == Some(out))
                && !rebound_at(plan, end, out)
            {
                freed.entry(end).or_default().push(out);
            }
        }
        place += 1;
    }
    debug_assert!(place == count);
    place = 0;
    for step in &mut plan.steps {
        let mut ops = Vec::new();
        for op in step.ops.drain(..) {
            ops.push(op);
            let drops = freed.remove(&place).into_iter().flatten();
            ops.extend(drops.map(|x| Op::Adjoint(Adjoint::Drop { x })));
            place += 1;
        }
        step.ops = ops;
    }
}

/// Whether the op at a place gives another value the name of `value`.
fn rebound_at(plan: &Plan, place: usize, value: ValueId) -> bool {
    let name = &plan.values[value.0].name;
    let op = plan.ops().nth(place);
    op.is_some_and(|op| {
        let mut outs = op.defines().into_iter();
        outs.any(|out| plan.values[out.0].name == *name)
    })
}
