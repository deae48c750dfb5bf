//! `mla-gen run SPEC`

mod grad;

use std::path::Path;

use mla_spec::{Checked, Form, IndexStore, Indexer, KvSource, Projections};

use super::refuse_mqa_over_naive;
use crate::args::{self, Run};
use crate::driver::job::{
    Against, Cache, Grad, Input, Job, Layout, Mode, Phase, Report, Rope, Stored, Weights,
};
use crate::driver::{CacheChoice, Compiled, Program, Variant};
use crate::failure::Failure;
use crate::source::{self, Spec};
use crate::verify::Manifest;
use crate::{talk, tensors};

/// Compiles the generated layer, feeds it, and prints what came of it.
pub(crate) fn run(args: &Run) -> Result<(), Failure> {
    if args.grad {
        return grad::run(args);
    }
    let spec = source::spec(&args.spec, &args.config)?;
    let input = input(args)?;
    cached_only(args)?;
    refuse_consumer(&spec, args.io.as_deref())?;
    let checked = variant(args, &spec)?.of(&spec.checked, is_padded(args)?);
    let modes = modes(args, &checked)?;
    let mut program = Program::on(args.backend);
    let layer = program.add(&checked);
    let job = Job {
        name: checked.layer.name.clone(),
        layer: layer.key,
        weights: weights(args, &spec)?,
        input,
        modes,
        chunks: args
            .chunks
            .as_ref()
            .map(|chunks| chunks.iter().map(|&chunk| chunk as usize).collect()),
        cache: stored(&spec.checked),
        rope: Rope {
            found: layer.rope,
            wanted: written_layout(args, layer.rope),
        },
        grad: Grad::default(),
        bench: Vec::new(),
        out: args.out.clone(),
    };
    tell(&checked, &done(&program.compile()?, job)?)
}

/// Lets a program do one job.
pub(super) fn done(program: &Compiled, job: Job) -> Result<Report, Failure> {
    let (reports, failure) =
        program.run(std::slice::from_ref(&job), format!("running {}", job.name));
    match (reports.into_iter().next(), failure) {
        (_, Some(failure)) => Err(failure),
        (
            Some(Report {
                error: Some(error),
                file_at_fault,
                ..
            }),
            _,
        ) => Err(match file_at_fault {
            true => Failure::File(error),
            false => refused_by_layer(error),
        }),
        (Some(report), _) => Ok(report),
        (None, None) => Err(refused_by_layer("the program did no job".to_owned())),
    }
}

/// A layer that is given more than hidden states has nothing to attend to when it runs alone.
pub(super) fn refuse_consumer(spec: &Spec, io: Option<&Path>) -> Result<(), Failure> {
    let layer = &spec.checked.layer;
    let name = &layer.name;
    let missing = match &layer.projections {
        Projections::Cross(_) => Some("attends to another sequence"),
        _ if layer.logits.bias => Some("adds a bias to its logits"),
        _ => None,
    };
    if let Some(missing) = missing {
        return Err(Failure::Usage(format!(
            "`{name}` {missing}, which there is no file for here; `mla-gen build` writes the layer, to be called from Rust"
        )));
    }
    let takes_kv = layer
        .latent()
        .is_some_and(|latent| latent.kv_source == KvSource::Other);
    let what = match layer.indexer() {
        _ if io.is_some() => return Ok(()),
        _ if takes_kv => "the latents of another layer",
        Some(Indexer::Shared { .. }) => "the keys that another layer picked",
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!(
        "`{name}` attends to {what}, and runs alone only on a file (`--io`) that holds them"
    )))
}

/// What the compiled layer, or its loader, said no to.
fn refused_by_layer(error: String) -> Failure {
    Failure::Program {
        message: error,
        stderr: String::new(),
    }
}

fn variant(args: &Run, spec: &Spec) -> Result<Variant, Failure> {
    let form = args.form.map(Form::from);
    refuse_mqa_over_naive(&spec.checked, form)?;
    let cache = args.page.map(|page| CacheChoice {
        kind: None,
        page_size: (page > 0).then_some(page),
    });
    Ok(Variant {
        form,
        cache,
        dtype: args.dtype.map(Into::into),
    })
}

/// What the cache stores: what the spec says, unless that makes cached steps pick other keys than `forward` does.
fn stored(checked: &Checked) -> Stored {
    let picks = matches!(checked.layer.indexer(), Some(Indexer::Lightning(_)));
    let rounded = !matches!(checked.build.cache.index, IndexStore::Plain(_));
    if picks && rounded {
        talk::note(
            "an indexer that reads rounded keys picks others: the cache is run exact here, so that cached steps can be held against `forward`",
        );
        return Stored::Exact;
    }
    Stored::Spec
}

/// Whether the input marks padding.
fn is_padded(args: &Run) -> Result<bool, Failure> {
    let Some(path) = &args.io else {
        return Ok(false);
    };
    let file = tensors::TensorFile::open(path).map_err(|problem| Failure::read(path, problem))?;
    Ok(file.get("attention_mask").is_some())
}

fn modes(args: &Run, checked: &Checked) -> Result<Vec<Mode>, Failure> {
    let causal = checked.layer.mask.is_causal();
    match args.mode {
        Some(args::Mode::Cached) if !causal => Err(Failure::Usage(
            "`--mode cached` needs a causal mask: this layer's queries see keys that are not cached yet".to_owned(),
        )),
        Some(args::Mode::Cached) => Ok(vec![Mode::Cached]),
        Some(args::Mode::Forward) => Ok(vec![Mode::Forward]),
        None if !causal => Ok(vec![Mode::Forward]),
        None => Ok(vec![Mode::Forward, Mode::Cached]),
    }
}

fn input(args: &Run) -> Result<Input, Failure> {
    if let Some(path) = &args.io {
        return Ok(Input::Io { path: path.clone() });
    }
    let chunked: Option<usize> = args
        .chunks
        .as_ref()
        .map(|chunks| chunks.iter().map(|&chunk| chunk as usize).sum());
    let (prompt, steps) = match (args.prompt, args.steps, chunked) {
        (prompt, _, _) if args.grad => (prompt.unwrap_or(128) as usize, 0),
        (None, None, Some(tokens)) => (tokens, 0),
        (prompt, steps, _) => (prompt.unwrap_or(128) as usize, steps.unwrap_or(16) as usize),
    };
    let refused = |message: String| Err(Failure::Usage(message));
    match chunked {
        _ if prompt + steps == 0 => refused(format!(
            "`--prompt 0{}` leaves no token to run",
            if args.grad { "" } else { " --steps 0" }
        )),
        Some(tokens) if tokens != prompt + steps => refused(format!(
            "`--chunks` add up to {tokens} tokens, but `--prompt` and `--steps` make {}",
            prompt + steps
        )),
        _ => Ok(Input::Random {
            batch: args.batch as usize,
            prompt,
            steps,
            seed: args.seed,
        }),
    }
}

/// Refuses options that only a cached run reads where there is none.
fn cached_only(args: &Run) -> Result<(), Failure> {
    let given = [
        ("--chunks", args.chunks.is_some()),
        ("--page", args.page.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((option, _)) if args.mode == Some(args::Mode::Forward) => Err(Failure::Usage(
            format!("`{option}` says how a cache is fed, and `--mode forward` has none"),
        )),
        _ => Ok(()),
    }
}

fn weights(args: &Run, spec: &Spec) -> Result<Weights, Failure> {
    let Some(path) = &args.weights else {
        return Ok(Weights::Random { seed: args.seed });
    };
    if !path.exists() {
        return Err(Failure::read(path, "no such file or folder"));
    }
    let imported = || {
        spec.imported
            .as_ref()
            .map(|imported| imported.weight_prefix.clone())
    };
    let prefix = args.prefix.clone().or_else(imported).unwrap_or_default();
    Ok(Weights::File {
        path: path.clone(),
        prefix,
    })
}

/// Where the input belongs to a golden case, rotated parts are written as its manifest says; else as the layer holds them.
fn written_layout(args: &Run, found: Layout) -> Layout {
    let folder = args.io.as_deref().and_then(Path::parent);
    let manifest = folder.and_then(|folder| Manifest::read(folder).ok());
    match manifest.map(|manifest| manifest.rope_layout()) {
        Some(wanted) if found != Layout::None && wanted != Layout::None => wanted,
        _ => found,
    }
}

fn tell(checked: &Checked, report: &Report) -> Result<(), Failure> {
    let mut lines = head(checked, report);
    for phase in [Phase::Forward, Phase::Prefill, Phase::Decode] {
        lines.extend(speed(checked, report, phase));
    }
    if let Some(cache) = &report.cache {
        lines.push(line("cache", cache_words(cache, report)));
    }
    lines.extend(written(report));
    let proof = report.cached_against_forward.as_ref();
    lines.extend(proof.map(|against| line("proof", proof_words(against))));
    talk::data(&(lines.join("\n") + "\n"))?;
    match proof {
        Some(against) if !against.passed => Err(Failure::Check(
            "cached steps and the full forward differ by more than rounding".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// What was run.
fn head(checked: &Checked, report: &Report) -> Vec<String> {
    let shape = format!("[{}, {}, {}]", report.batch, report.seq, report.hidden_size);
    let mut lines = vec![
        line("layer", checked.layer.name.clone()),
        line(
            "shapes",
            format!("hidden {shape} -> output {shape} (batch, tokens, width)"),
        ),
    ];
    if report.requests != report.batch {
        lines.push(line("requests", report.requests.to_string()));
    }
    lines
}

/// What was written, and where; `None` where nothing was.
fn written(report: &Report) -> Option<String> {
    let out = report.out.as_ref()?;
    let tensors = report.tensors.iter();
    let shapes: Vec<String> = tensors
        .map(|(name, shape)| format!("{name} {shape:?}"))
        .collect();
    Some(line(
        "out",
        format!("{}: {}", out.display(), shapes.join(", ")),
    ))
}

fn line(key: &str, value: String) -> String {
    format!("{key:<9} {value}")
}

/// Calls, tokens and speed of one function; `None` where it was not called.
fn speed(checked: &Checked, report: &Report, phase: Phase) -> Option<String> {
    let calls = report
        .runs
        .iter()
        .flat_map(|run| &run.calls)
        .filter(|call| call.phase == phase);
    let (count, tokens, seconds) = calls.fold((0, 0, 0.0), |(count, tokens, seconds), call| {
        (count + 1, tokens + call.tokens, seconds + call.seconds)
    });
    if count == 0 {
        return None;
    }
    let program = mla_codegen::plan::program(checked);
    let planned = |wanted| program.plans.iter().find(|plan| plan.phase == wanted);
    let trained = program.training.as_ref();
    let (name, plan) = match phase {
        Phase::Forward => ("forward", planned(mla_spec::Phase::Forward)),
        Phase::Prefill => ("prefill", planned(mla_spec::Phase::Prefill)),
        Phase::Decode => ("decode", planned(mla_spec::Phase::Decode)),
        Phase::ForwardTrain => ("forward", trained.map(|training| &training.forward)),
        Phase::Backward => ("backward", trained.map(|training| &training.backward)),
    };
    let form = plan.map_or("", |plan| match plan.form {
        Some(Form::Mha) => "MHA form, ",
        Some(Form::Mqa) => "MQA form, ",
        None => "",
    });
    let rate = if seconds > 0.0 {
        tokens as f64 / seconds
    } else {
        0.0
    };
    let (calls, tokens) = (talk::counted(count, "call"), talk::counted(tokens, "token"));
    Some(line(
        name,
        format!(
            "{form}{calls}, {tokens}, {:.1} ms, {rate:.0} tokens/s",
            seconds * 1e3
        ),
    ))
}

fn cache_words(cache: &Cache, report: &Report) -> String {
    let place = match cache.page_size {
        Some(page) => format!("pages of {page}"),
        None => "contiguous".to_owned(),
    };
    let total = cache.bytes_per_token * report.batch * report.seq;
    format!(
        "{} x {} per token, {place}: {} bytes per token, {total} bytes for {} tokens",
        cache.elements_per_token,
        cache.dtype,
        cache.bytes_per_token,
        report.batch * report.seq
    )
}

fn proof_words(against: &Against) -> String {
    let error = against
        .max_error
        .map_or("not finite".to_owned(), |error| format!("{error:.2e}"));
    let verdict = if against.passed { "pass" } else { "FAIL" };
    format!(
        "cached steps equal the full forward: max error {error}, tolerance {:.2e}: {verdict}",
        against.tolerance
    )
}
