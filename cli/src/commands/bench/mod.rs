//! `mla-gen bench SPEC`

mod shape;
mod table;
pub(crate) mod work;

use mla_spec::{Checked, Form, Phase};

use crate::args::{self, Backend};
use crate::driver::job::{self, Input, Job, Rope, Stored, Weights};
use crate::driver::{Added, Program, Training, Variant};
use crate::failure::Failure;
use crate::source::{self, Spec};
use crate::{folder, talk};

pub(crate) use shape::Shape;

use super::refuse_mqa_over_naive;
use super::run::{done, refuse_consumer};

/// Seed of weights.
const SEED: u64 = 0;

/// Times the generated layer, and prints how long it and its kernels take.
pub(crate) fn bench(args: &args::Bench) -> Result<(), Failure> {
    let spec = source::spec(&args.spec, &args.config)?;
    refuse_consumer(&spec, None)?;
    let wanted = wanted(args, &spec.checked)?;
    let mut program = Program::on(args.backend).timed();
    let mut jobs = Vec::new();
    for trained in [false, true] {
        let of_kind = |bench: &&job::Bench| bench.phase.is_training() == trained;
        let benches: Vec<job::Bench> = wanted.iter().filter(of_kind).copied().collect();
        if !benches.is_empty() {
            let checked = built(args, &spec, trained)?;
            let layer = program.add(&checked);
            jobs.push((job(&checked, layer, benches), checked));
        }
    }
    let compiled = program.compile()?;
    if let Some(file) = &args.compile_to {
        return compiled.copy_to(file);
    }
    let mut reports = Vec::new();
    for (job, checked) in jobs {
        let report = done(&compiled, job)?;
        talk::data(&table::text(&checked, &report))?;
        reports.push(report);
    }
    match &args.json {
        Some(path) => {
            let text =
                serde_json::to_vec_pretty(&reports).map_err(|error| Failure::write(path, error))?;
            folder::write_file(path, &text)
        }
        None => Ok(()),
    }
}

fn job(checked: &Checked, layer: Added, bench: Vec<job::Bench>) -> Job {
    Job {
        name: checked.layer.name.clone(),
        layer: layer.key,
        weights: Weights::Random { seed: SEED },
        // Each bench makes its own
        input: Input::Random {
            batch: 0,
            prompt: 0,
            steps: 0,
            seed: SEED,
        },
        modes: Vec::new(),
        chunks: None,
        cache: Stored::Spec,
        rope: Rope {
            found: layer.rope,
            wanted: layer.rope,
        },
        grad: job::Grad::default(),
        bench,
        out: None,
    }
}

/// The layer with the phases that are timed.
fn built(args: &args::Bench, spec: &Spec, trained: bool) -> Result<Checked, Failure> {
    let form = args.form.map(Form::from);
    refuse_mqa_over_naive(&spec.checked, form)?;
    if trained {
        let training = Training {
            form,
            dtype: args.dtype.map(Into::into),
            recompute: None,
        };
        return Ok(training.of(&spec.checked, false));
    }
    let variant = Variant {
        form,
        cache: None,
        dtype: args.dtype.map(Into::into),
    };
    Ok(variant.of(&spec.checked, false))
}

/// What is timed: what was asked for, or else the phases that the spec lists, at lengths that the backend can bear.
fn wanted(args: &args::Bench, checked: &Checked) -> Result<Vec<job::Bench>, Failure> {
    let asked = [
        (job::Phase::Forward, &args.forward),
        (job::Phase::Prefill, &args.prefill),
        (job::Phase::Decode, &args.decode),
        (job::Phase::ForwardTrain, &args.train),
    ];
    let mut wanted = Vec::new();
    for (phase, shapes) in asked {
        for shape in shapes {
            push(phase, *shape, checked, &mut wanted)?;
        }
    }
    if !wanted.is_empty() {
        return Ok(wanted);
    }
    for phase in &checked.build.phases {
        let shape = Shape::usual(*phase, args.backend == Backend::Cuda);
        let phase = match phase {
            // Prefill does the same work, and more
            Phase::Forward if checked.build.phases.contains(&Phase::Prefill) => continue,
            Phase::Forward => job::Phase::Forward,
            Phase::Prefill => job::Phase::Prefill,
            Phase::Decode => job::Phase::Decode,
            // One shape is one form, which prefill or decode has
            Phase::Mixed => continue,
            Phase::Train => job::Phase::ForwardTrain,
        };
        push(phase, shape, checked, &mut wanted)?;
    }
    Ok(wanted)
}

fn push(
    phase: job::Phase,
    shape: Shape,
    checked: &Checked,
    wanted: &mut Vec<job::Bench>,
) -> Result<(), Failure> {
    let cached = matches!(phase, job::Phase::Prefill | job::Phase::Decode);
    if cached && !checked.layer.mask.is_causal() {
        return Err(Failure::Usage(format!(
            "`{}` has no cached phases: its queries see keys that are not cached yet; time it with `--forward`",
            checked.layer.name
        )));
    }
    if !cached && shape.cached > 0 {
        return Err(Failure::Usage(format!(
            "`{shape}` has {} cached tokens, and only `--prefill` and `--decode` have a cache",
            shape.cached
        )));
    }
    let mut push = |phase| {
        wanted.push(job::Bench {
            phase,
            requests: shape.requests,
            new: shape.new,
            cached: shape.cached,
        });
    };
    push(phase);
    if phase == job::Phase::ForwardTrain {
        push(job::Phase::Backward);
    }
    Ok(())
}
