//! Random layers with random weights and inputs, for the tests of plans.

#[path = "../../../tests/src/random_spec/mod.rs"]
#[allow(
    unreachable_pub,
    reason = "a library's file, of which a test crate reads a copy"
)]
pub(crate) mod random_spec;

use mla_codegen::plan::Program;
use mla_codegen::plan::interpret::Weights;
use mla_spec::{Checked, Norm, NormKind, Phase};

use random_spec::Dice;

/// Weights of about unit gain: norms near 1, linears scaled by the root of their input width.
pub(crate) fn weights(program: &Program, dice: &mut Dice) -> Weights {
    let tensors = program.tensors().into_iter().map(|tensor| {
        let count: u32 = tensor.shape.iter().map(|dim| dim.size).product();
        let (base, amplitude) = match (tensor.shape.get(1), tensor.name.contains("norm.weight")) {
            (Some(input), _) => (0.0, (3.0 / f64::from(input.size)).sqrt()),
            (None, true) => (1.0, 0.3),
            (None, false) => (0.0, 0.3),
        };
        (
            tensor.name,
            (0..count)
                .map(|_| base + amplitude * dice.signed())
                .collect(),
        )
    });
    tensors.collect()
}

/// `count` numbers between -1.7 and 1.7.
pub(crate) fn numbers(count: usize, dice: &mut Dice) -> Vec<f64> {
    (0..count).map(|_| 1.7 * dice.signed()).collect()
}

/// The random layers that can be cached, with all three phases.
pub(crate) fn cacheable(seeds: std::ops::Range<u64>) -> impl Iterator<Item = (u64, Checked)> {
    let all = seeds.map(|seed| (seed, random_spec::checked(seed)));
    all.filter(|(_, checked)| checked.layer.mask.is_causal())
        .map(|(seed, mut checked)| {
            checked.build.phases = vec![Phase::Forward, Phase::Prefill, Phase::Decode];
            (seed, checked)
        })
}

/// The norm as its own module where it is inside a linear, and the reverse. A gated one is never inside.
pub(crate) fn moved(norm: &Norm) -> Norm {
    match norm {
        Norm::Identity => Norm::Identity,
        Norm::Separate(params) if matches!(params.kind, NormKind::GatedRmsNorm { .. }) => {
            norm.clone()
        }
        Norm::Separate(params) => Norm::FusedIntoLinear(*params),
        Norm::FusedIntoLinear(params) => Norm::Separate(*params),
    }
}

/// Whether two results agree to `1e-12` of the larger one's largest element. Infinities have to be equal.
#[track_caller]
pub(crate) fn assert_close(what: &str, found: &[f64], wanted: &[f64]) {
    assert_eq!(found.len(), wanted.len(), "{what}: lengths");
    let largest = wanted
        .iter()
        .filter(|value| value.is_finite())
        .fold(1.0, |largest: f64, value| largest.max(value.abs()));
    for (i, (found, wanted)) in found.iter().zip(wanted).enumerate() {
        let equal = found == wanted || (found - wanted).abs() <= 1e-12 * largest;
        assert!(equal, "{what}: element {i}: found {found}, wanted {wanted}");
    }
}
