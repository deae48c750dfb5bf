//! Proofs about training: gradients are those of finite differences, and the same whichever way they are computed.

use super::ProofBackend;
use super::difference::{
    Failure, Verdict, expect_close, expect_within, root_mean_square, tolerance,
};
use super::sample::Sample;
use crate::weights::generator::Recipe;
use crate::{
    ClipQk, ErasedGradients, Error, Extras, Forward, Mask, NoProbe, ParameterSet, Result, Scalar,
    Tensor, Train,
};

/// The requests of a sample packed into one call, and the gradient of its output.
struct Case {
    hidden: Vec<f64>,
    positions: Vec<u32>,
    ends: Vec<u32>,
    d_output: Vec<f64>,
}

impl Case {
    fn of(sample: &Sample, hidden_size: usize) -> Self {
        let (mut hidden, mut positions, mut ends) = (Vec::new(), Vec::new(), vec![0]);
        for request in sample.requests(hidden_size, None) {
            hidden.extend_from_slice(&request.hidden);
            positions.extend_from_slice(&request.positions);
            ends.push(positions.len() as u32);
        }
        let d_output = direction("output", hidden.len());
        Self {
            hidden,
            positions,
            ends,
            d_output,
        }
    }

    fn mask(&self) -> Mask {
        Mask::cu_seqlens(&self.ends)
    }
}

/// Values that the name alone decides.
fn direction(name: &str, len: usize) -> Vec<f64> {
    let values = Recipe::for_hidden_states(7).values(name, len);
    values.into_iter().map(f64::from).collect()
}

fn tensor<B: ProofBackend>(values: &[f64], width: usize) -> Result<Tensor<B>> {
    let values = values.iter().map(|&value| B::Elem::from_f64(value));
    Tensor::from_vec(&B::Device::default(), values.collect(), width)
}

fn host<B: ProofBackend>(tensor: Option<Tensor<B>>) -> Result<Vec<f64>> {
    match tensor {
        None => Ok(Vec::new()),
        Some(tensor) => Ok(tensor.to_vec()?.into_iter().map(Scalar::to_f64).collect()),
    }
}

/// What a forward and a backward pass give.
struct Pass<P> {
    output: Vec<f64>,
    hidden: Vec<f64>,
    indexer_loss: Option<f64>,
    max_logits: Vec<f64>,
    gradients: P,
}

/// How a backward pass is called.
#[derive(Clone, Copy)]
struct How {
    /// What the gradient of the output is multiplied by.
    output: f64,
    /// What the gradients of an indexer's loss are multiplied by.
    loss: f64,
    /// The weights' gradients apart.
    split: bool,
}

const WHOLE: How = How {
    output: 1.0,
    loss: 1.0,
    split: false,
};

fn pass<L: Train<B>, B: ProofBackend>(
    layer: &L,
    case: &Case,
    how: How,
) -> Result<Pass<L::Parameters>> {
    let device = B::Device::default();
    let hidden = tensor::<B>(&case.hidden, L::HIDDEN_SIZE)?;
    let scaled: Vec<f64> = case.d_output.iter().map(|d| d * how.output).collect();
    let d_output = tensor::<B>(&scaled, L::HIDDEN_SIZE)?;
    let mut extras = Extras {
        loss_scale: how.loss,
        ..Extras::default()
    };
    let (output, saved) =
        layer.forward_train_erased(&hidden, &case.positions, &case.mask(), &mut extras)?;
    let max_logits = L::max_logits(&saved).to_vec();
    let mut gradients = L::Parameters::zeros(&device)?;
    let found: ErasedGradients<B> = if how.split {
        let (found, deferred) =
            layer.backward_input_erased(saved, &hidden, &d_output, &mut extras, &mut gradients)?;
        layer.backward_dw_erased(deferred, &hidden, &d_output, &mut extras, &mut gradients)?;
        found
    } else {
        layer.backward_erased(saved, &hidden, &d_output, &mut extras, &mut gradients)?
    };
    Ok(Pass {
        output: host(Some(output))?,
        hidden: host(found.hidden)?,
        indexer_loss: found.indexer_loss,
        max_logits,
        gradients,
    })
}

/// All gradients, one list each.
fn lists<P: ParameterSet<B>, B: ProofBackend>(pass: &Pass<P>) -> Result<Vec<Vec<f64>>> {
    let tensors = pass.gradients.tensors()?;
    let parameters = tensors.into_iter().map(|tensor| tensor.values);
    Ok(std::iter::once(pass.hidden.clone())
        .chain(parameters)
        .collect())
}

/// `forward_train` gives what `forward` gives, to a few roundings: a norm that is kept for the backward pass is no longer
/// part of the projection after it.
///
/// # Errors
/// It does not.
pub fn training_forward_equals_forward<L: Train<B>, M: Forward<B>, B: ProofBackend>(
    trained: &L,
    layer: &M,
    sample: &Sample,
) -> Verdict {
    let case = Case::of(sample, L::HIDDEN_SIZE);
    let hidden = tensor::<B>(&case.hidden, L::HIDDEN_SIZE)?;
    let mask = case.mask();
    let (found, _) =
        trained.forward_train_erased(&hidden, &case.positions, &mask, &mut Extras::default())?;
    let wanted = layer.forward_erased(
        &hidden,
        &case.positions,
        &mask,
        &mut Extras::default(),
        &mut NoProbe,
    )?;
    let (found, wanted) = (host(Some(found))?, host(Some(wanted))?);
    let what = "forward_train = forward";
    let relative = tolerance::<B::Elem, B::Elem>(L::HIDDEN_SIZE);
    expect_close(what, &[found], &[wanted], L::HIDDEN_SIZE, relative)
}

/// The gradients along a random direction of all inputs and parameters are what central differences of the output give.
///
/// # Errors
/// They are not.
pub fn gradients_are_finite_differences<L: Train<B>, B: ProofBackend>(
    mut layer: L,
    sample: &Sample,
) -> Verdict {
    let case = Case::of(sample, L::HIDDEN_SIZE);
    // What an indexer learns is no gradient of the output
    let how = How { loss: 0.0, ..WHOLE };
    let objective = |layer: &L, case: &Case| -> Result<f64> {
        let output = pass::<L, B>(layer, case, how)?.output;
        Ok(output.iter().zip(&case.d_output).map(|(y, d)| y * d).sum())
    };
    let found = pass::<L, B>(&layer, &case, how)?;
    if found.hidden.is_empty() {
        return Ok(()); // nothing but an indexer is trained
    }
    let slope = along(&found, &|_| true)?;
    let moved = moved::<L, B>(&mut layer, &case, &|_| true, true, objective)?;
    agree("gradients = finite differences", slope, moved, 2e-6)
}

/// The indexer's gradients along a random direction are what central differences of its loss give.
///
/// # Errors
/// They are not.
pub fn indexer_gradients_are_finite_differences<L: Train<B>, B: ProofBackend>(
    mut layer: L,
    sample: &Sample,
) -> Verdict {
    let case = Case::of(sample, L::HIDDEN_SIZE);
    let objective = |layer: &L, case: &Case| -> Result<f64> {
        let loss = pass::<L, B>(layer, case, WHOLE)?.indexer_loss;
        loss.ok_or_else(|| Error::MissingExtra("the layer reports no indexer's loss".to_owned()))
    };
    let how = How {
        output: 0.0,
        ..WHOLE
    };
    let found = pass::<L, B>(&layer, &case, how)?;
    let indexers = |slot: &str| slot.starts_with("indexer_");
    let slope = along(
        &Pass {
            hidden: Vec::new(),
            ..found
        },
        &indexers,
    )?;
    let moved = moved::<L, B>(&mut layer, &case, &indexers, false, objective)?;
    // Products near 0 may cross it, and relu bends there
    agree(
        "indexer's gradients = finite differences",
        slope,
        moved,
        1e-4,
    )
}

/// No gradient passes between an indexer's loss and the rest of the layer (features M-04), either way: not one bit.
///
/// # Errors
/// One does.
pub fn indexer_is_walled_off<L: Train<B>, B: ProofBackend>(layer: &L, sample: &Sample) -> Verdict {
    let case = Case::of(sample, L::HIDDEN_SIZE);
    let (loss, output) = (
        How {
            output: 0.0,
            ..WHOLE
        },
        How { loss: 0.0, ..WHOLE },
    );
    for (how, of_indexer, what) in [
        (loss, false, "the loss's gradients outside the indexer = 0"),
        (output, true, "the output's gradients in the indexer = 0"),
    ] {
        let found = pass::<L, B>(layer, &case, how)?;
        let mut walled = Vec::new();
        let mut other = 0.0_f64;
        L::Parameters::update([], [&found.gradients], |at, [], [values]| {
            let values = values.iter().map(|value| value.to_f64());
            if at.slot.starts_with("indexer_") == of_indexer {
                walled.extend(values);
            } else {
                other = values.fold(other, |largest, value| largest.max(value.abs()));
            }
        })?;
        if !of_indexer {
            walled.extend(found.hidden);
        }
        let zeros = vec![0.0; walled.len()];
        expect_close(what, &[walled], &[zeros], L::HIDDEN_SIZE, 0.0)?;
        let mut trained = L::TRAINED.iter();
        let any = trained.any(|slot| slot.starts_with("indexer_") != of_indexer);
        if other == 0.0 && any {
            return Err(Failure::Accepted {
                what: "gradients that are all zero",
            });
        }
    }
    Ok(())
}

/// `backward_input`, then `backward_dw`, give the bits that `backward` gives.
///
/// # Errors
/// They do not.
pub fn split_backward_equals_whole<L: Train<B>, B: ProofBackend>(
    layer: &L,
    sample: &Sample,
) -> Verdict {
    let case = Case::of(sample, L::HIDDEN_SIZE);
    let split = How {
        split: true,
        ..WHOLE
    };
    let found = lists::<_, B>(&pass::<L, B>(layer, &case, split)?)?;
    let wanted = lists::<_, B>(&pass::<L, B>(layer, &case, WHOLE)?)?;
    let what = "backward_input and backward_dw = backward";
    expect_close(what, &found, &wanted, L::HIDDEN_SIZE, 0.0)
}

/// The gradients of two layers are the same to the bit. `what` names the pair.
///
/// # Errors
/// They are not.
pub fn identical_gradients<L: Train<B>, M: Train<B>, B: ProofBackend>(
    what: &str,
    layer: &L,
    sibling: &M,
    sample: &Sample,
) -> Verdict {
    compared::<L, M, B>(what, layer, sibling, sample, 0.0)
}

/// The gradients of two layers are the same. `what` names the pair, e.g. "absorbed = expanded".
///
/// # Errors
/// They are not.
pub fn same_gradients<L: Train<B>, M: Train<B>, B: ProofBackend>(
    what: &str,
    layer: &L,
    sibling: &M,
    sample: &Sample,
) -> Verdict {
    let relative = tolerance::<B::Elem, B::Elem>(L::HIDDEN_SIZE);
    compared::<L, M, B>(what, layer, sibling, sample, relative)
}

fn compared<L: Train<B>, M: Train<B>, B: ProofBackend>(
    what: &str,
    layer: &L,
    sibling: &M,
    sample: &Sample,
    relative: f64,
) -> Verdict {
    let case = Case::of(sample, L::HIDDEN_SIZE);
    let found = lists::<_, B>(&pass::<L, B>(layer, &case, WHOLE)?)?;
    let wanted = lists::<_, B>(&pass::<M, B>(sibling, &case, WHOLE)?)?;
    let what = format!("gradients, {what}");
    // All beside the largest: where a query sees one key, the gradients of both are 0 but for roundings of what cancels
    let largest = wanted
        .iter()
        .map(|wanted| root_mean_square(wanted))
        .fold(0.0, f64::max);
    for (found, wanted) in found.into_iter().zip(wanted) {
        expect_within(
            &what,
            &[found],
            &[wanted],
            L::HIDDEN_SIZE,
            relative * largest,
        )?;
    }
    Ok(())
}

/// QK-clip leaves each head's largest logit exactly `min(1, τ_c / s)` of what it was (features N-04), in the working weights and by way
/// of the master weights, and nothing where no logit is above the threshold.
///
/// # Errors
/// It does not.
pub fn qk_clip_scales_logits<L: ClipQk<B>, B: ProofBackend>(
    mut layer: L,
    sample: &Sample,
) -> Verdict {
    let device = B::Device::default();
    let case = Case::of(sample, L::HIDDEN_SIZE);
    let before = pass::<L, B>(&layer, &case, WHOLE)?.max_logits;
    // As if logits were larger by what brings half of the heads above the threshold
    let mut sorted = before.clone();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted[sorted.len() / 2].max(f64::MIN_POSITIVE);
    let mut master = layer.parameters(&device)?;
    let none = layer.clip_qk_erased(&vec![0.0; before.len()], Some(&mut master))?;
    let ones = vec![1.0; none.len()];
    expect_close("factors below the threshold = 1", &[none], &[ones], 1, 0.0)?;
    let threshold_over = f64::from(1u32 << 20);
    let told: Vec<f64> = before
        .iter()
        .map(|logit| logit / middle * threshold_over)
        .collect();
    let factors = layer.clip_qk_erased(&told, Some(&mut master))?;
    let wanted: Vec<f64> = before
        .iter()
        .enumerate()
        // Heads that share keys share a factor
        .map(|(head, logit)| logit * factors[head * factors.len() / before.len()])
        .collect();
    let relative = tolerance::<B::Elem, B::Elem>(L::HIDDEN_SIZE);
    let after = pass::<L, B>(&layer, &case, WHOLE)?.max_logits;
    let what = "clipped logits = factor times logits";
    expect_close(what, &[after], std::slice::from_ref(&wanted), 1, relative)?;
    layer.assign(&master)?;
    let after = pass::<L, B>(&layer, &case, WHOLE)?.max_logits;
    let what = "logits of clipped master weights = factor times logits";
    expect_close(what, &[after], &[wanted], 1, relative)
}

/// `Σ gradient · direction` over the inputs and the slots that `wanted` takes.
fn along<P: ParameterSet<B>, B: ProofBackend>(
    pass: &Pass<P>,
    wanted: &dyn Fn(&str) -> bool,
) -> Result<f64> {
    let toward = direction("hidden", pass.hidden.len());
    let mut sum: f64 = pass.hidden.iter().zip(&toward).map(|(g, d)| g * d).sum();
    let mut index = 0;
    P::update([], [&pass.gradients], |at, [], [values]| {
        index += 1;
        if wanted(at.slot) {
            let toward = direction(&format!("{}.{index}", at.slot), values.len());
            let products = values.iter().zip(&toward).map(|(g, d)| g.to_f64() * d);
            sum += products.sum::<f64>();
        }
    })?;
    Ok(sum)
}

/// The slope of an objective along the same direction, from central differences over a step and over half of it: their
/// errors grow with the step's square, so that four thirds of the one less a third of the other leave its fourth power
/// (Richardson's extrapolation).
fn moved<L: Train<B>, B: ProofBackend>(
    layer: &mut L,
    case: &Case,
    wanted: &dyn Fn(&str) -> bool,
    inputs: bool,
    objective: impl Fn(&L, &Case) -> Result<f64>,
) -> Result<f64> {
    const STEP: f64 = 2e-5;
    let here = layer.parameters(&B::Device::default())?;
    let mut difference = |step: f64| -> Result<f64> {
        let mut side = |step: f64| {
            let moved = step_to::<L, B>(layer, &here, case, wanted, inputs, step)?;
            objective(layer, &moved)
        };
        Ok((side(step)? - side(-step)?) / (2.0 * step))
    };
    let (whole, half) = (difference(STEP)?, difference(STEP / 2.0)?);
    layer.assign(&here)?;
    Ok((4.0 * half - whole) / 3.0)
}

/// Moves the layer's parameters, and the case's inputs where `inputs` says so, by `step` along the direction.
fn step_to<L: Train<B>, B: ProofBackend>(
    layer: &mut L,
    here: &L::Parameters,
    case: &Case,
    wanted: &dyn Fn(&str) -> bool,
    inputs: bool,
    step: f64,
) -> Result<Case> {
    let mut there = L::Parameters::zeros(&B::Device::default())?;
    there.add(here)?;
    let mut index = 0;
    L::Parameters::update([&mut there], [], |at, [values], []| {
        index += 1;
        if wanted(at.slot) {
            let toward = direction(&format!("{}.{index}", at.slot), values.len());
            for (value, d) in values.iter_mut().zip(toward) {
                *value = Scalar::from_f64(value.to_f64() + step * d);
            }
        }
    })?;
    layer.assign(&there)?;
    let toward = direction("hidden", case.hidden.len());
    let by = if inputs { step } else { 0.0 };
    let hidden = case.hidden.iter().zip(toward).map(|(x, d)| x + by * d);
    Ok(Case {
        hidden: hidden.collect(),
        positions: case.positions.clone(),
        ends: case.ends.clone(),
        d_output: case.d_output.clone(),
    })
}

/// Central differences in `f64` are good to about the step's square, relative to what is differentiated.
fn agree(what: &str, slope: f64, moved: f64, relative: f64) -> Verdict {
    let scale = slope.abs().max(moved.abs());
    expect_close(
        what,
        &[vec![slope / scale.max(1e-300)]],
        &[vec![moved / scale.max(1e-300)]],
        1,
        relative,
    )
}
