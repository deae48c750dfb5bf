//! What has to hold of a training's plans before they are printed, whatever the layer and its schedule.

#[allow(dead_code)] // this file runs nothing
mod trained;

use std::collections::{BTreeMap, BTreeSet};

use mla_codegen::plan::{Adjoint, Op, Plan, Program, Training, Ty, ValueId, program};
use mla_spec::{Activation, Checked, Phase};

use trained::sample::random_spec::{Dice, checked};
use trained::{forms, in_form, layer};

const SEEDS: std::ops::Range<u64> = 0..300;

/// Random layers in every form: without a schedule, with a random one, and with everything computed again.
fn programs() -> impl Iterator<Item = (String, Program)> {
    let own = SEEDS.flat_map(|seed| {
        let layer = layer(seed);
        let forms = forms(&layer).iter();
        forms.flat_map(move |&form| schedules(seed, &in_form(&layer, form)))
    });
    let drawn = SEEDS.map(|seed| (seed, checked(seed)));
    let drawn = drawn
        .filter(|(_, layer)| layer.build.phases.contains(&Phase::Train))
        .map(|(seed, layer)| (format!("drawn seed {seed}"), program(&layer)));
    own.chain(drawn)
}

fn schedules(seed: u64, layer: &Checked) -> Vec<(String, Program)> {
    let made = Activation::ALL.into_iter();
    let made: Vec<Activation> = made.filter(|part| part.is_made_by(&layer.layer)).collect();
    let mut dice = Dice::new(seed);
    let (mut recompute, mut offload) = (Vec::new(), Vec::new());
    for &part in &made {
        match dice.within(0, 2) {
            0 => recompute.push(part),
            1 => offload.push(part),
            _ => {}
        }
    }
    let all = [(vec![], vec![]), (recompute, offload), (made, vec![])];
    all.map(|(recompute, offload)| {
        let mut layer = layer.clone();
        (layer.build.recompute, layer.build.offload) = (recompute, offload);
        let what = format!(
            "seed {seed}, {:?}, {:?}",
            layer.build.form, layer.build.recompute
        );
        (what, program(&layer))
    })
    .into()
}

fn training(program: &Program) -> &Training {
    program.training.as_ref().expect("the layer is trained")
}

/// All plans, with what each is called.
fn plans(training: &Training) -> Vec<(&str, &Plan)> {
    let mut all = vec![
        ("forward_train", &training.forward),
        ("backward", &training.backward),
        ("backward_input", &training.backward_input),
    ];
    all.extend(training.weights.iter().map(|part| (part.name, &part.plan)));
    all
}

/// Does something with every plan of every program.
fn each(look: impl Fn(&str, &Plan)) {
    for (what, program) in programs() {
        for (name, plan) in plans(training(&program)) {
            look(&format!("{what}: {name}"), plan);
        }
    }
}

#[test]
fn values_are_defined_once_and_before_they_are_read() {
    each(|what, plan| {
        let mut defined = BTreeSet::new();
        for op in plan.ops() {
            for read in op.reads() {
                assert!(
                    defined.contains(&read),
                    "{what}: {read:?} is read too early in\n{plan}"
                );
            }
            for out in op.defines() {
                assert!(
                    defined.insert(out),
                    "{what}: {out:?} is defined twice in\n{plan}"
                );
            }
        }
        let all: BTreeSet<ValueId> = (0..plan.values.len()).map(ValueId).collect();
        assert_eq!(
            defined, all,
            "{what}: values and definitions differ in\n{plan}"
        );
        assert!(
            plan.outputs.iter().all(|output| defined.contains(output)),
            "{what}"
        );
        assert!(
            plan.steps.iter().all(|step| !step.ops.is_empty()),
            "{what}: an empty step in\n{plan}"
        );
    });
}

/// What an op takes by value, as its documentation says.
fn taken(plan: &Plan, op: &Op) -> Option<ValueId> {
    match *op {
        Op::Scale { x, .. } if matches!(plan.values[x.0].ty, Ty::Columns(_)) => None,
        Op::Scale { x, .. }
        | Op::ScaleByPosition { x, .. }
        | Op::Hadamard { x, .. }
        | Op::IntoHeads { x, .. }
        | Op::IntoRows { x, .. }
        | Op::RotateHeads { x, .. }
        | Op::RotateRows { x, .. }
        | Op::Gate { x, .. }
        | Op::Sink { x, .. }
        | Op::AttendedOut { x, .. }
        | Op::AttendedParts { x, .. }
        | Op::GiveSelection { x, .. }
        | Op::Adjoint(
            Adjoint::LearnedScale { dy: x, .. }
            | Adjoint::RotateHeads { dy: x, .. }
            | Adjoint::RotateKey { dy: x, .. }
            | Adjoint::RotateRows { dy: x, .. }
            | Adjoint::Add { into: x, .. }
            | Adjoint::Drop { x },
        ) => Some(x),
        _ => None,
    }
}

/// What a value is a view of.
fn base(plan: &Plan, value: ValueId) -> Option<ValueId> {
    plan.ops().find_map(|op| match *op {
        Op::Columns { x, out, .. } | Op::HeadPart { x, out, .. } | Op::AsRows { x, out, .. }
            if out == value =>
        {
            Some(x)
        }
        _ => None,
    })
}

/// Whether a value belongs to someone else: an argument, or a part of one.
fn is_lent(plan: &Plan, value: ValueId) -> bool {
    plan.ops().any(|op| match op {
        Op::Hidden { out }
        | Op::Context { out }
        | Op::TakeSelection { out }
        | Op::GiveSelection { out, .. }
        | Op::TakenLatent { out, .. }
        | Op::TakenKey { out, .. }
        | Op::Adjoint(Adjoint::OutputGradient { out }) => *out == value,
        Op::Adjoint(Adjoint::GivenKvGradient { latent, k_rope }) => {
            [*latent, *k_rope].contains(&value)
        }
        Op::Adjoint(Adjoint::Deferred { out }) => out.contains(&value),
        _ => false,
    })
}

#[test]
fn nothing_is_read_after_it_was_taken() {
    each(|what, plan| {
        let mut gone = BTreeSet::new();
        let is_gone = |gone: &BTreeSet<ValueId>, value: ValueId| {
            let views = std::iter::successors(Some(value), |&value| base(plan, value));
            views.into_iter().any(|value| gone.contains(&value))
        };
        for op in plan.ops() {
            for read in op.reads() {
                assert!(
                    !is_gone(&gone, read),
                    "{what}: {read:?} is gone in {op:?} of\n{plan}"
                );
            }
            if let Some(x) = taken(plan, op) {
                assert!(
                    base(plan, x).is_none(),
                    "{what}: {op:?} takes a view in\n{plan}"
                );
                assert!(
                    !is_lent(plan, x),
                    "{what}: {op:?} takes what is lent in\n{plan}"
                );
                gone.insert(x);
            }
        }
        for &output in &plan.outputs {
            assert!(
                !is_gone(&gone, output),
                "{what}: {output:?} is gone at the end of\n{plan}"
            );
            let is_owned = base(plan, output).is_none() && !is_lent(plan, output);
            assert!(
                is_owned,
                "{what}: {output:?} is lent, and returned by\n{plan}"
            );
        }
    });
}

/// Names of a function's parameters and of what it binds besides values.
const RESERVED: [&str; 16] = [
    "self",
    "saved",
    "deferred",
    "gradients",
    "positions",
    "mask",
    "context_mask",
    "bias",
    "dropout",
    "softmax",
    "shared_kv",
    "d_shared_kv",
    "topk",
    "loss_scale",
    "probe",
    "max_logits",
];

#[test]
fn names_mean_the_values_that_are_read() {
    each(|what, plan| {
        let name = |value: &ValueId| -> &str { &plan.values[value.0].name };
        let mut bound: BTreeMap<&str, ValueId> = BTreeMap::new();
        for op in plan.ops() {
            for read in op.reads() {
                assert!(
                    bound.get(name(&read)) == Some(&read),
                    "{what}: {} is another value in {op:?} of\n{plan}",
                    name(&read)
                );
            }
            let outs = op.defines();
            let names: BTreeSet<&str> = outs.iter().map(name).collect();
            assert_eq!(
                names.len(),
                outs.len(),
                "{what}: {op:?} binds a name twice in\n{plan}"
            );
            for out in &outs {
                assert!(!RESERVED.contains(&name(out)), "{what}: {}", name(out));
            }
            match op {
                Op::Hidden { out } => assert_eq!(name(out), "hidden", "{what}"),
                Op::Context { out } => assert_eq!(name(out), "context", "{what}"),
                Op::Adjoint(Adjoint::OutputGradient { out }) => {
                    assert_eq!(name(out), "d_output", "{what}");
                }
                // A sum grows under its name
                Op::Adjoint(Adjoint::Add { into, out, .. }) => {
                    assert_eq!(name(into), name(out), "{what}: {op:?} of\n{plan}");
                }
                _ => {}
            }
            bound.extend(outs.iter().map(|out| (name(out), *out)));
        }
        for output in &plan.outputs {
            assert_eq!(
                bound.get(name(output)),
                Some(output),
                "{what}: {} of\n{plan}",
                name(output)
            );
        }
    });
}

#[test]
fn nothing_is_computed_kept_or_deferred_for_nobody() {
    each(|what, plan| {
        let is_drop = |op: &&Op| matches!(op, Op::Adjoint(Adjoint::Drop { .. }));
        let mut read: BTreeSet<ValueId> = plan.outputs.iter().copied().collect();
        read.extend(plan.ops().filter(|op| !is_drop(op)).flat_map(Op::reads));
        for op in plan.ops() {
            let outs = op.defines();
            match op {
                Op::Hidden { .. } | Op::GiveSelection { .. } => {}
                Op::Adjoint(Adjoint::OutputGradient { .. }) => {}
                Op::Adjoint(Adjoint::Saved { out } | Adjoint::Deferred { out }) => {
                    for out in out {
                        assert!(read.contains(out), "{what}: {out:?} is idle in\n{plan}");
                    }
                }
                _ => assert!(
                    outs.is_empty() || outs.iter().any(|out| read.contains(out)),
                    "{what}: {op:?} is idle in\n{plan}"
                ),
            }
        }
    });
}

#[test]
fn what_one_function_leaves_is_what_the_next_one_finds() {
    let typed = |plan: &Plan, id: ValueId| {
        let value = &plan.values[id.0];
        (value.name.to_string(), value.ty.clone())
    };
    let found = |plan: &Plan| -> Vec<(String, Ty)> {
        let lists = plan.ops().filter_map(|op| match op {
            Op::Adjoint(Adjoint::Saved { out } | Adjoint::Deferred { out }) => Some(out.clone()),
            _ => None,
        });
        lists.flatten().map(|id| typed(plan, id)).collect()
    };
    for (what, program) in programs() {
        let training = training(&program);
        let outputs = &training.forward.outputs[1..];
        assert_eq!(outputs.len(), training.kept.len(), "{what}");
        let kept: Vec<(String, Ty)> = training
            .kept
            .iter()
            .zip(outputs)
            .map(|(kept, &id)| (kept.name.clone(), typed(&training.forward, id).1))
            .collect();
        let names: BTreeSet<&String> = kept.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), kept.len(), "{what}: kept twice: {kept:?}");
        assert_eq!(
            found(&training.backward),
            kept,
            "{what}\n{}",
            training.backward
        );
        assert_eq!(
            found(&training.backward_input),
            kept,
            "{what}\n{}",
            training.backward_input
        );
        let plan = &training.backward_input;
        let first = training.gradients.len();
        let deferred = plan.outputs[first..].iter().map(|&id| typed(plan, id));
        let deferred: BTreeMap<String, Ty> = deferred.collect();
        assert_eq!(deferred.len() + first, plan.outputs.len(), "{what}\n{plan}");
        let mut idle: BTreeSet<&String> = deferred.keys().collect();
        for part in &training.weights {
            for (name, ty) in found(&part.plan) {
                assert_eq!(
                    deferred.get(&name),
                    Some(&ty),
                    "{what}: {name} of\n{}",
                    part.plan
                );
                idle.remove(&name);
            }
            assert!(part.plan.outputs.is_empty(), "{what}");
        }
        assert!(idle.is_empty(), "{what}: no part reads {idle:?}");
        assert_eq!(training.backward.outputs.len(), first, "{what}");
        let ids: BTreeSet<ValueId> = training.backward.outputs.iter().copied().collect();
        assert_eq!(ids.len(), first, "{what}: one value is two gradients");
    }
}

/// The modules whose gradients a plan adds to.
fn learns(plan: &Plan) -> Vec<(&'static str, bool)> {
    let slots = plan.ops().filter_map(|op| match op {
        Op::Adjoint(adjoint) => match adjoint {
            Adjoint::LinearWeight { slot, .. }
            | Adjoint::AbsorbQueriesWeight { slot, .. }
            | Adjoint::AbsorbValuesWeight { slot, .. } => Some((*slot, true)),
            Adjoint::Norm { slot, .. }
            | Adjoint::NormWeight { slot, .. }
            | Adjoint::HeadNorm { slot, .. }
            | Adjoint::LearnedScale { slot, .. }
            | Adjoint::Sink { slot, .. } => Some((*slot, false)),
            _ => None,
        },
        _ => None,
    });
    slots.collect()
}

#[test]
fn weights_are_deferred_and_every_trained_module_learns() {
    for (what, program) in programs() {
        let training = training(&program);
        let whole = learns(&training.backward);
        let slots: BTreeSet<&str> = whole.iter().map(|(slot, _)| *slot).collect();
        let trained: BTreeSet<&str> = training.trained.iter().copied().collect();
        assert_eq!(slots, trained, "{what}");
        let input = learns(&training.backward_input);
        assert!(input.iter().all(|(_, weight)| !weight), "{what}");
        let mut parts: Vec<_> = training
            .weights
            .iter()
            .flat_map(|part| learns(&part.plan))
            .chain(input)
            .collect();
        parts.sort_unstable();
        let mut whole = whole;
        whole.sort_unstable();
        assert_eq!(parts, whole, "{what}");
        let loss = program.indexer.as_ref().and_then(|plan| plan.loss);
        let frozen = program.modules.iter().map(|module| module.slot);
        for slot in frozen.filter(|slot| !trained.contains(slot)) {
            let is_dense = loss.is_some_and(|loss| loss.stage == mla_spec::LossStage::Dense);
            let is_indexers = slot.starts_with("indexer_");
            assert!(
                if is_indexers {
                    loss.is_none()
                } else {
                    is_dense
                },
                "{what}: {slot}"
            );
        }
    }
}

/// The name of an op's variant.
fn variant(op: &Op) -> String {
    let text = match op {
        Op::Adjoint(adjoint) => format!("Adjoint::{adjoint:?}"),
        op => format!("{op:?}"),
    };
    text.split([' ', '{']).next().unwrap_or_default().to_owned()
}

#[test]
fn every_adjoint_occurs() {
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for (_, program) in programs() {
        for (_, plan) in plans(training(&program)) {
            for op in plan.ops() {
                *found.entry(variant(op)).or_default() += 1;
            }
        }
    }
    let adjoints = "OutputGradient GivenKvGradient Saved Deferred LinearInput LinearWeight Norm NormWeight HeadNorm L2Norm LearnedScale \
        AbsorbQueries AbsorbQueriesWeight AbsorbValues AbsorbValuesWeight Sink RotateHeads RotateKey RotateRows Gate Narrow Assemble Add \
        Expanded Absorbed Groups IndexerLoss Drop";
    for adjoint in adjoints.split_whitespace() {
        let count = found.get(&format!("Adjoint::{adjoint}")).copied();
        assert!(
            count.is_some_and(|count| count > 9),
            "{adjoint}: {count:?} in {found:?}"
        );
    }
}
