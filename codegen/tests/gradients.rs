//! The backward plans against finite differences of the forward plans, over the whole language; and what must not change a gradient.

mod trained;

use mla_codegen::plan::interpret::{Error, Forwarded, Gradients, Incoming, Lent};
use mla_codegen::plan::{Gradient, ProbeMode, program, program_with};
use mla_spec::{
    Activation, Checked, Core, Indexer, IndexerLoss, LossEpsilon, LossReduction, LossStage, Phase,
};

use trained::sample::random_spec::Dice;
use trained::step::{How, ROWS, Step, VALID_ROWS, Variables, of_variables};
use trained::{forms, in_form, is_warm_up, layer, loss};

const SEEDS: std::ops::Range<u64> = 0..240;

/// How many layers may be passed over because a selection changes under every step that was tried.
const UNCLEAR: usize = 4;

/// What a finite difference says.
enum Slope {
    /// The slope, and how large the function is.
    Found { slope: f64, size: f64 },
    /// A selection changed on the way.
    Jumps,
}

/// A function of the variables with the selection that it was computed under.
type Function<'a> = &'a dyn Fn(&Variables) -> (f64, Vec<f64>);

/// The derivative along a direction: the central difference of four points, exact up to the fifth power of the step.
fn slope(function: Function<'_>, at: &Variables, direction: &Variables, step: f64) -> Slope {
    let (value, selection) = function(at);
    let mut sum = 0.0;
    for (steps, weight) in [(1.0, 8.0), (-1.0, -8.0), (2.0, -1.0), (-2.0, 1.0)] {
        let mut moved = at.clone();
        for (name, direction) in direction {
            let values = moved.get_mut(name).expect("a variable");
            let pairs = values.iter_mut().zip(direction);
            pairs.for_each(|(value, d)| *value += steps * step * d);
        }
        let (value, now) = function(&moved);
        if now != selection {
            return Slope::Jumps;
        }
        sum += weight * value;
    }
    Slope::Found {
        slope: sum / (12.0 * step),
        size: value.abs(),
    }
}

/// A random direction over some of the variables.
fn direction<'a>(
    of: impl Iterator<Item = (&'a String, &'a Vec<f64>)>,
    dice: &mut Dice,
) -> Variables {
    of.map(|(name, values)| {
        let any = values.iter().map(|_| dice.signed()).collect();
        (name.clone(), any)
    })
    .collect()
}

/// Whether the gradients along a direction are the function's slope. `None` where the selection changes whatever the step.
fn agrees(
    what: &str,
    function: Function<'_>,
    at: &Variables,
    gradients: &Variables,
    direction: &Variables,
) -> Option<()> {
    let (mut wanted, mut length) = (0.0, 0.0);
    for (name, direction) in direction {
        let pairs = || gradients[name].iter().zip(direction);
        wanted += pairs().map(|(g, d)| g * d).sum::<f64>();
        length += pairs().map(|(g, d)| (g * d).powi(2)).sum::<f64>();
    }
    let mut said = Vec::new();
    for step in [1e-4, 1e-5, 1e-3, 1e-6] {
        if let Slope::Found { slope, size } = slope(function, at, direction, step) {
            let rounding = 1e-15 * (1.0 + size) / step;
            let tolerance = 1e-6 * (wanted.abs() + length.sqrt()) + 10.0 * rounding;
            if (slope - wanted).abs() <= tolerance {
                return Some(());
            }
            said.push((step, slope));
        }
    }
    assert!(
        said.is_empty(),
        "{what}: the gradients say {wanted}, differences say {said:?}"
    );
    None
}

/// The selection that a run attended to.
fn selection(made: &Forwarded) -> Vec<f64> {
    let picked = made.run.probes.get("indexer.selection");
    picked.cloned().unwrap_or_default()
}

/// Compares the gradients of a layer, all together and one by one, with slopes of its forward pass; what was unclear.
fn compare(what: &str, layer: &Checked, seed: u64) -> Vec<String> {
    let mut unclear = Vec::new();
    let step = Step::new(layer, seed);
    let mut dice = Dice::new(seed);
    for &form in forms(layer) {
        let layer = in_form(layer, form);
        let plain = program(&layer);
        let probed = program_with(&layer, ProbeMode::Keep);
        let incoming = step.incoming(true, 0.0);
        let found = step.backward(&plain, &step.variables, &incoming, How::Whole);
        let gradients = of_variables(&found, &step.variables);
        let function = |variables: &Variables| {
            let made = step.forward(&probed, variables);
            (step.objective(&made), selection(&made))
        };
        let mut directions = vec![("all", direction(step.variables.iter(), &mut dice))];
        directions.extend(step.variables.iter().map(|(name, values)| {
            let one = std::iter::once((name, values));
            (name.as_str(), direction(one, &mut dice))
        }));
        for (name, direction) in &directions {
            let what = format!("{what}, {form:?}, {name}");
            let at = &step.variables;
            if agrees(&what, &function, at, &gradients, direction).is_none() {
                unclear.push(what);
            }
        }
    }
    unclear
}

#[test]
fn gradients_are_the_slopes_of_the_forward_pass() {
    let layers = SEEDS.map(|seed| (format!("seed {seed}"), layer(seed), seed));
    let named = trained::named().into_iter();
    let named = named.map(|(name, layer)| (name, layer, 1));
    // In the dense stage of an indexer's training nothing else has gradients
    let all = layers
        .chain(named)
        .filter(|(_, layer, _)| !is_warm_up(layer));
    let unclear: Vec<String> = all
        .flat_map(|(what, layer, seed)| compare(&what, &layer, seed))
        .collect();
    assert!(unclear.len() <= UNCLEAR, "selections change: {unclear:?}");
}

#[test]
fn a_training_step_computes_what_forward_computes() {
    for seed in SEEDS {
        let mut layer = layer(seed);
        layer.build.phases = vec![Phase::Forward, Phase::Train];
        let step = Step::new(&layer, seed);
        for &form in forms(&layer) {
            let program = program_with(&in_form(&layer, form), ProbeMode::Keep);
            let (made, run) = step.at(&program, &step.variables, |oracle, lent| {
                let made = oracle.forward_train(lent).expect("the forward pass runs");
                let Lent {
                    hidden,
                    positions,
                    sequences,
                    extras,
                } = lent;
                let run = oracle.forward_with(hidden, positions, sequences, extras);
                (made, run.expect("forward runs"))
            });
            let logits = &made.run.probes["mid.max_logit"];
            let heads = made.max_logits.len();
            for (head, found) in made.max_logits.iter().enumerate() {
                let of_rows = logits.iter().skip(head).step_by(heads);
                let wanted = of_rows.copied().fold(f64::NEG_INFINITY, f64::max);
                assert_eq!(*found, wanted, "seed {seed}, head {head}");
            }
            if !is_warm_up(&layer) {
                assert_eq!(made.run, run, "seed {seed}, {form:?}");
            }
        }
    }
}

#[test]
fn what_does_not_come_back_is_asked_for() {
    let (_, gives) = trained::named()
        .into_iter()
        .find(|(name, _)| name == "gives_kv")
        .expect("a layer that hands its latents out");
    let step = Step::new(&gives, 1);
    step.at(&program(&gives), &step.variables, |oracle, lent| {
        let made = oracle.forward_train(lent).expect("the forward pass runs");
        let output = vec![0.0; lent.hidden.len()];
        let incoming = |output| Incoming {
            output,
            shared_kv: None,
            loss_scale: 1.0,
        };
        let refused = |output| oracle.backward(&made.saved, lent, incoming(output)).err();
        let missing = Error::MissingExtra("the gradients of shared_kv");
        assert_eq!(refused(&output), Some(missing));
        let short = refused(&output[1..]);
        assert!(
            matches!(short, Some(Error::WrongLength { .. })),
            "{short:?}"
        );
    });
    let mut untrained = gives;
    untrained.build.phases = vec![Phase::Forward];
    step.at(&program(&untrained), &step.variables, |oracle, lent| {
        let refused = oracle.forward_train(lent).err();
        assert_eq!(refused, Some(Error::NoSuchPhase(Phase::Train)));
    });
}

/// Layers with an indexer that learns.
fn learning() -> impl Iterator<Item = (u64, Checked)> {
    let layers = SEEDS.map(|seed| (seed, layer(seed)));
    layers.filter(|(_, layer)| loss(layer).is_some())
}

fn is_indexers(name: &str) -> bool {
    name.starts_with("indexer.")
}

#[test]
fn gradients_of_an_indexer_are_the_slopes_of_its_loss() {
    let (mut unclear, mut stages) = (Vec::new(), Vec::new());
    for (seed, layer) in learning() {
        let step = Step::new(&layer, seed);
        let mut dice = Dice::new(seed);
        for &form in forms(&layer) {
            let layer = in_form(&layer, form);
            let plain = program(&layer);
            let probed = program_with(&layer, ProbeMode::Keep);
            let (scale, incoming) = (0.7, step.incoming(false, 0.7));
            let found = step.backward(&plain, &step.variables, &incoming, How::Whole);
            let gradients = of_variables(&found, &step.variables);
            let function = |variables: &Variables| {
                let made = step.forward(&probed, variables);
                let found = step.backward(&plain, variables, &incoming, How::Whole);
                let loss = found.inputs[&Gradient::IndexerLoss][0];
                (scale * loss, selection(&made))
            };
            let own = || step.variables.iter().filter(|(name, _)| is_indexers(name));
            let mut directions = vec![("all of the indexer's", direction(own(), &mut dice))];
            directions.extend(own().map(|(name, values)| {
                let one = std::iter::once((name, values));
                (name.as_str(), direction(one, &mut dice))
            }));
            for (name, direction) in &directions {
                let what = format!("seed {seed}, {form:?}, {name}");
                let at = &step.variables;
                if agrees(&what, &function, at, &gradients, direction).is_none() {
                    unclear.push(what);
                }
            }
        }
        stages.extend(loss(&layer).map(|loss| loss.stage));
    }
    assert!(unclear.len() <= UNCLEAR, "selections change: {unclear:?}");
    for stage in [LossStage::Dense, LossStage::Sparse] {
        let count = stages.iter().filter(|found| **found == stage).count();
        assert!(count > 5, "{count} layers in the stage {stage:?}");
    }
}

/// The layer with another loss in the stage of its own.
fn with_loss(
    layer: &Checked,
    coeff: f64,
    reduction: LossReduction,
    epsilon: LossEpsilon,
) -> Checked {
    let mut changed = layer.clone();
    let Core::Sparse(Indexer::Lightning(own)) = &mut changed.layer.core else {
        panic!("an indexer that learns");
    };
    let stage = own.loss.expect("a loss").stage;
    own.loss = Some(IndexerLoss {
        coeff,
        stage,
        reduction,
        epsilon,
    });
    changed
}

#[test]
fn reductions_coefficients_and_epsilons_are_what_they_say() {
    // Every row of a sequence sees itself
    let shares = [
        (LossReduction::Sum, 1.0),
        (LossReduction::MeanAll, 1.0 / ROWS as f64),
        (LossReduction::MeanValid, 1.0 / VALID_ROWS as f64),
    ];
    for (seed, layer) in learning() {
        let step = Step::new(&layer, seed);
        let found = |coeff, reduction, epsilon, scale| {
            let program = program(&with_loss(&layer, coeff, reduction, epsilon));
            let incoming = step.incoming(false, scale);
            let found = step.backward(&program, &step.variables, &incoming, How::Whole);
            let loss = found.inputs[&Gradient::IndexerLoss][0];
            let gradients = found.parameters.into_values().flatten();
            (loss, gradients.collect::<Vec<f64>>())
        };
        let sum = found(1.0, LossReduction::Sum, LossEpsilon::Add, 1.0);
        let largest = sum.1.iter().fold(1.0, |most: f64, d| most.max(d.abs()));
        let agrees = |what: &str,
                      found: &(f64, Vec<f64>),
                      [of_loss, of_gradients]: [f64; 2],
                      tolerance: f64| {
            let loss = (found.0 - of_loss * sum.0).abs() <= tolerance * (1.0 + sum.0);
            let pairs = found.1.iter().zip(&sum.1);
            let worst = pairs.map(|(found, sum)| (found - of_gradients * sum).abs());
            let worst = worst.fold(0.0, f64::max);
            assert!(
                loss && worst <= tolerance * largest,
                "seed {seed}: {what}, {} and {}, {worst}",
                found.0,
                sum.0
            );
        };
        for (reduction, share) in shares {
            for (epsilon, tolerance) in [(LossEpsilon::Add, 1e-13), (LossEpsilon::Clamp, 1e-5)] {
                let what = format!("{reduction:?}, {epsilon:?}");
                let found = found(0.3, reduction, epsilon, 7.0);
                // The loss is told without the scale of its gradients
                let by = [0.3 * share, 7.0 * 0.3 * share];
                agrees(&what, &found, by, tolerance);
            }
        }
    }
}

#[test]
fn an_indexer_and_the_layer_learn_apart() {
    let (mut learned, mut all) = (0, 0);
    for (seed, layer) in learning() {
        let step = Step::new(&layer, seed);
        for &form in forms(&layer) {
            let program = program(&in_form(&layer, form));
            let found = |with_output, loss_scale| {
                let incoming = step.incoming(with_output, loss_scale);
                let found = step.backward(&program, &step.variables, &incoming, How::Whole);
                of_variables(&found, &step.variables)
            };
            let (of_loss, of_output, both) =
                (found(false, 0.7), found(true, 0.0), found(true, 0.7));
            for name in step.variables.keys() {
                let what = format!("seed {seed}, {form:?}, {name}");
                let [own, other] = match is_indexers(name) {
                    true => [&of_loss, &of_output],
                    false => [&of_output, &of_loss],
                };
                assert!(other[name].iter().all(|d| *d == 0.0), "{what}");
                assert_eq!(both[name], own[name], "{what}");
            }
            let trains_layer = of_output.values().flatten().any(|d| *d != 0.0);
            assert_eq!(trains_layer, !is_warm_up(&layer), "seed {seed}");
            learned += usize::from(of_loss.values().flatten().any(|d| *d != 0.0));
            all += 1;
        }
    }
    // An indexer that picks one key has nothing to learn
    assert!(4 * learned > 3 * all, "{learned} of {all} indexers learn");
}

#[test]
fn absorbed_gradients_are_expanded_ones() {
    for seed in SEEDS {
        let layer = layer(seed);
        let step = Step::new(&layer, seed);
        let all = forms(&layer).iter().map(|&form| {
            let program = program(&in_form(&layer, form));
            let incoming = step.incoming(true, 0.7);
            step.backward(&program, &step.variables, &incoming, How::Whole)
        });
        let all: Vec<Gradients> = all.collect();
        for (name, wanted) in of_variables(&all[0], &step.variables) {
            for found in &all[1..] {
                let found = &of_variables(found, &step.variables)[&name];
                let largest = wanted
                    .iter()
                    .fold(1e-3, |largest: f64, d| largest.max(d.abs()));
                for (found, wanted) in found.iter().zip(&wanted) {
                    let close = (found - wanted).abs() <= 1e-10 * largest;
                    assert!(close, "seed {seed}, {name}: {found} and {wanted}");
                }
            }
        }
        if let [mha, mqa] = &all[..] {
            let of = |found: &Gradients| found.inputs.get(&Gradient::IndexerLoss).cloned();
            let (mha, mqa) = (of(mha), of(mqa));
            assert_eq!(mha.is_some(), loss(&layer).is_some(), "seed {seed}");
            let pairs = mha.into_iter().flatten().zip(mqa.into_iter().flatten());
            for (mha, mqa) in pairs {
                assert!((mha - mqa).abs() <= 1e-12, "seed {seed}: {mha} and {mqa}");
            }
        }
    }
}

/// All bits of all gradients.
fn bits(found: &Gradients) -> Vec<u64> {
    let numbers = found.inputs.values().chain(found.parameters.values());
    numbers.flatten().map(|number| number.to_bits()).collect()
}

#[test]
fn what_is_computed_again_or_put_aside_changes_no_bit() {
    let mut recomputed = 0;
    for seed in SEEDS {
        let layer = layer(seed);
        let step = Step::new(&layer, seed);
        let made: Vec<Activation> = Activation::ALL
            .into_iter()
            .filter(|part| part.is_made_by(&layer.layer))
            .collect();
        let mut schedules: Vec<Vec<Activation>> = made.iter().map(|&part| vec![part]).collect();
        schedules.push(made);
        for &form in forms(&layer) {
            let layer = in_form(&layer, form);
            let incoming = step.incoming(true, 0.7);
            let gradients = |layer: &Checked| {
                let program = program(layer);
                let found = step.backward(&program, &step.variables, &incoming, How::Whole);
                let split = step.backward(&program, &step.variables, &incoming, How::Split);
                assert_eq!(bits(&split), bits(&found), "seed {seed}: {:?}", layer.build);
                (program.training.expect("training").kept, bits(&found))
            };
            let (kept, wanted) = gradients(&layer);
            for parts in &schedules {
                let mut changed = layer.clone();
                changed.build.recompute = parts.clone();
                let (left, found) = gradients(&changed);
                assert_eq!(found, wanted, "seed {seed}, {form:?}: {parts:?}");
                let names_part =
                    |part: Option<Activation>| part.is_some_and(|part| parts.contains(&part));
                assert!(
                    left.iter().all(|kept| !names_part(kept.part)),
                    "seed {seed}: {parts:?}"
                );
                recomputed += usize::from(left != kept);
                changed.build.recompute.clear();
                changed.build.offload = parts.clone();
                let (aside, found) = gradients(&changed);
                assert_eq!(found, wanted, "seed {seed}, {form:?}: {parts:?} put aside");
                for kept in aside {
                    assert_eq!(
                        kept.offloaded,
                        names_part(kept.part),
                        "seed {seed}: {kept:?}"
                    );
                }
            }
        }
    }
    assert!(recomputed > 500, "only {recomputed} schedules keep less");
}
