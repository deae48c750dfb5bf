//! Calls of a layer that are timed, fed with random numbers.

use super::clock::{Clocked, Times};
use super::error::DriveError;
use super::job::{Bench, Job, Stored};
use super::registry::load;
use super::report::{Phase, Report, Timing};
use crate::proof::ProofBackend;
use crate::weights::generator::Recipe;
use crate::{
    Backend, Batch, CacheFormat, Decode, Error, Extras, Filling, Forward, KernelSource, KvCache,
    Mask, NoProbe, ParameterSet, Prefill, Result, Scalar, Sequence, Tensor, Train,
};

/// What is drawn from.
const SEED: u64 = 0;

/// Does a job that times calls, `timed` timing each. `kernels` measure the device.
pub(super) fn drive<L, B>(
    job: &Job,
    kernels: &[KernelSource],
    report: &mut Report,
    timed: fn(&L, &B::Device, Bench, Stored) -> Result<Times, DriveError>,
) -> Result<(), DriveError>
where
    L: crate::Load<B>,
    B: ProofBackend + Clocked,
{
    report.hidden_size = L::HIDDEN_SIZE;
    eprintln!("{}: weights", job.name);
    let layer = load::<L, B>(&job.weights)?;
    let device = B::Device::default();
    report.device = B::described(&device);
    report.ceilings = B::ceilings(&device, kernels)?;
    for &bench in &job.bench {
        eprintln!(
            "{}: {:?}, {} x {} tokens, {} cached",
            job.name, bench.phase, bench.requests, bench.new, bench.cached
        );
        let times = timed(&layer, &device, bench, job.cache)?;
        report.timings.push(Timing {
            bench,
            call_seconds: times.call_seconds,
            device_seconds: times.device_seconds,
            commands: times.commands,
        });
    }
    Ok(())
}

/// Times a call of a layer that is not trained.
pub(super) fn inference<L: Forward<B> + Prefill<B> + Decode<B>, B: ProofBackend + Clocked>(
    layer: &L,
    device: &B::Device,
    bench: Bench,
    stored: Stored,
) -> Result<Times, DriveError> {
    Ok(match (bench.phase, stored) {
        (Phase::Forward, _) => forward::<L, B>(layer, device, bench)?,
        (Phase::Prefill | Phase::Decode, Stored::Exact) => {
            cached::<L, B, B::Elem, B::Elem>(layer, device, bench)?
        }
        (Phase::Prefill | Phase::Decode, Stored::Spec) => {
            cached::<L, B, L::Stored, L::StoredIndex>(layer, device, bench)?
        }
        (Phase::ForwardTrain | Phase::Backward, _) => return Err(not_built("training")),
    })
}

/// Times a call of a layer without a cache.
pub(super) fn uncached<L: Forward<B>, B: ProofBackend + Clocked>(
    layer: &L,
    device: &B::Device,
    bench: Bench,
    _: Stored,
) -> Result<Times, DriveError> {
    match bench.phase {
        Phase::Forward => Ok(forward::<L, B>(layer, device, bench)?),
        _ => Err(not_built("a cache, or for training")),
    }
}

/// Times a call of a layer that is trained: the forward pass, or that and the backward pass behind it.
pub(super) fn training<L: Train<B>, B: ProofBackend + Clocked>(
    layer: &L,
    device: &B::Device,
    bench: Bench,
    _: Stored,
) -> Result<Times, DriveError> {
    let (positions, mask) = sequences(bench)?;
    let hidden = random::<B>(device, "hidden_states", bench, L::HIDDEN_SIZE)?;
    let mut pass =
        || layer.forward_train_erased(&hidden, &positions, &mask, &mut Extras::default());
    match bench.phase {
        Phase::ForwardTrain => Ok(B::time(device, false, &mut pass)?),
        Phase::Backward => {
            let d_output = random::<B>(device, "grad_output", bench, L::HIDDEN_SIZE)?;
            let mut gradients = L::Parameters::zeros(device)?;
            let mut both = || {
                let (_, saved) = pass()?;
                let extras = &mut Extras::default();
                layer.backward_erased(saved, &hidden, &d_output, extras, &mut gradients)
            };
            Ok(B::time(device, false, &mut both)?)
        }
        _ => Err(not_built("inference")),
    }
}

fn not_built(what: &str) -> DriveError {
    DriveError::Job(format!("the layer is not built for {what}"))
}

fn forward<L: Forward<B>, B: ProofBackend + Clocked>(
    layer: &L,
    device: &B::Device,
    bench: Bench,
) -> Result<Times> {
    let (positions, mask) = sequences(bench)?;
    let hidden = random::<B>(device, "hidden_states", bench, L::HIDDEN_SIZE)?;
    B::time(device, true, &mut || {
        let extras = &mut Extras::default();
        layer.forward_erased(&hidden, &positions, &mask, extras, &mut NoProbe)
    })
}

fn cached<L: Prefill<B> + Decode<B>, B: ProofBackend + Clocked, E: CacheFormat, I: CacheFormat>(
    layer: &L,
    device: &B::Device,
    bench: Bench,
) -> Result<Times> {
    let overflow = Error::Overflow {
        what: "the tokens of a cache",
    };
    let Some(tokens) = bench.cached.checked_add(bench.new) else {
        return Err(overflow);
    };
    let each = match L::Cache::<E, I>::PAGE_SIZE {
        Some(page) => tokens.div_ceil(page.max(1)),
        None => 1,
    };
    let total = each.checked_mul(bench.requests);
    let Some(total) = total.and_then(|total| u32::try_from(total).ok()) else {
        return Err(overflow);
    };
    let mut cache = L::Cache::<E, I>::with_blocks(device, total as usize, tokens)?;
    cache.fill_with(Filling::Random(SEED))?;
    // Neighbouring pages of a request lie far apart
    let blocks: Vec<Vec<u32>> = (0..bench.requests as u32)
        .map(|request| (request..total).step_by(bench.requests.max(1)).collect())
        .collect();
    let sequences: Vec<Sequence<'_>> = blocks
        .iter()
        .map(|blocks| Sequence {
            cached: bench.cached,
            new: bench.new,
            blocks,
        })
        .collect();
    let batch = Batch::new(&sequences)?;
    let hidden = random::<B>(device, "hidden_states", bench, L::HIDDEN_SIZE)?;
    B::time(device, true, &mut || {
        let extras = &mut Extras::default();
        match bench.phase {
            Phase::Decode => layer.decode_erased(&mut cache, &batch, &hidden, extras, &mut NoProbe),
            _ => layer.prefill_erased(&mut cache, &batch, &hidden, extras, &mut NoProbe),
        }
    })
}

/// Positions of all rows, and the mask that keeps requests apart.
fn sequences(bench: Bench) -> Result<(Vec<u32>, Mask)> {
    let new = u32::try_from(bench.new).map_err(|_| Error::Overflow {
        what: "the tokens of a sequence",
    })?;
    let positions = (0..bench.requests).flat_map(|_| 0..new).collect();
    Ok((positions, Mask::dense(bench.requests, bench.new)))
}

fn random<B: Backend>(
    device: &B::Device,
    name: &str,
    bench: Bench,
    width: usize,
) -> Result<Tensor<B>> {
    let rows = crate::error::product("rows", &[bench.requests, bench.new])?;
    let len = crate::error::product("hidden states", &[rows, width])?;
    let values = Recipe::for_hidden_states(SEED).values(name, len);
    let values = values.into_iter().map(Scalar::from_f32).collect();
    Tensor::from_vec(device, values, width)
}
