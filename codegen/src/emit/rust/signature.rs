//! The functions' names and parameters.

use mla_spec::Phase;

use super::cache::formats;
use super::parts::Look;
use crate::plan::{Argument, Op, Plan, Program};

/// The function of a phase.
pub(super) fn function_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
        Phase::Train => "forward_train",
        Phase::Mixed => "mixed",
    }
}

/// A phase's function up to its parameters, and these.
pub(super) fn signature(
    program: &Program,
    plan: &Plan,
    probes: bool,
    look: Look,
) -> (String, Vec<String>) {
    let mut parameters = vec!["&self".to_owned()];
    let hidden = "hidden: &Rows<B, HIDDEN_SIZE>".to_owned();
    match plan.phase {
        Phase::Forward | Phase::Train => {
            let positions = if reads_positions(plan) {
                "positions: &[u32]"
            } else {
                "_positions: &[u32]"
            };
            parameters.extend([hidden, positions.to_owned(), "mask: &Mask".to_owned()]);
        }
        Phase::Prefill | Phase::Decode | Phase::Mixed => {
            parameters.extend(
                program
                    .cache
                    .as_ref()
                    .map(|cache| format!("cache: &mut Cache<B, {}>", names(&formats(cache)))),
            );
            parameters.extend(["batch: &Batch".to_owned(), hidden]);
        }
    }
    parameters.extend(
        plan.arguments
            .iter()
            .map(|&argument| parameter(program, argument)),
    );
    parameters.extend(probes.then(|| "probe: &mut dyn Probe".to_owned()));
    let visibility = if look.documented { look.visibility } else { "" };
    let name = function_name(plan.phase);
    let head = match plan.phase {
        Phase::Forward | Phase::Train => format!("{visibility}fn {name}"),
        Phase::Prefill | Phase::Decode | Phase::Mixed => {
            format!("{visibility}fn {name}<{}>", format_bounds(program))
        }
    };
    (head, parameters)
}

/// The generic parameters of a cached phase.
fn format_bounds(program: &Program) -> String {
    let own = program.cache.iter().chain(&program.source);
    let mut all: Vec<&str> = own
        .flat_map(formats)
        .map(|(parameter, _)| parameter)
        .collect();
    all.sort_unstable();
    let bounds = all
        .into_iter()
        .map(|parameter| format!("{parameter}: CacheFormat"));
    bounds.collect::<Vec<String>>().join(", ")
}

fn names(formats: &[(&str, &str)]) -> String {
    let names: Vec<&str> = formats.iter().map(|(parameter, _)| *parameter).collect();
    names.join(", ")
}

/// The parameter that an argument is.
pub(super) fn parameter(program: &Program, argument: Argument) -> String {
    let selected = program.selected.map_or("", |keys| keys.name);
    let shared = {
        let rope = program.rotary.as_ref().map(|table| table.output);
        let rope = super::parts::layout(rope);
        format!("SharedKv<B, {rope}, KV_LORA_RANK, QK_ROPE_HEAD_DIM>")
    };
    match argument {
        Argument::Context => "context: &Rows<B, CONTEXT_HIDDEN_SIZE>".to_owned(),
        Argument::ContextMask => "context_mask: &Mask".to_owned(),
        Argument::GivesKv => format!("shared_kv: &mut {shared}"),
        Argument::TakesKv => format!("shared_kv: &{shared}"),
        Argument::Source => "source: &SourceCache<B, F>".to_owned(),
        Argument::GivesSelection => format!("topk: &mut TopK<B, {selected}>"),
        Argument::TakesSelection => format!("topk: &TopK<B, {selected}>"),
        Argument::Bias => "bias: &AttentionBias<B>".to_owned(),
        Argument::Dropout => "dropout: Option<Dropout>".to_owned(),
    }
}

/// The line that implements the runtime's traits: which phases there are, what they take, and what the cache is.
pub(crate) fn traits(program: &Program, name: &str, runtime: &str, probes: bool) -> String {
    let mut phases: Vec<String> = program.plans.iter().map(phase).collect();
    if phases.is_empty() {
        phases.push("load".to_owned());
    }
    let probed = if probes { "probed " } else { "" };
    let cache = match (&program.cache, &program.source) {
        (None, Some(_)) => "no_cache ",
        (Some(_), Some(_)) => "index_only ",
        (Some(cache), None) if cache.index.is_some() => "indexed ",
        _ => "",
    };
    format!(
        "{runtime}::layer_traits!({name}: {probed}{cache}{});",
        phases.join(", ")
    )
}

/// A phase and what only some layers' functions take, as the traits' macro lists it.
fn phase(plan: &Plan) -> String {
    let arguments: Vec<&str> = plan
        .arguments
        .iter()
        .map(|argument| listed(*argument))
        .collect();
    let name = function_name(plan.phase);
    match arguments.as_slice() {
        [] => name.to_owned(),
        arguments => format!("{name}({})", arguments.join(", ")),
    }
}

/// Whether a phase has any use for positions.
pub(super) fn reads_positions(plan: &Plan) -> bool {
    let mut ops = plan.steps.iter().flat_map(|step| &step.ops);
    ops.any(|op| matches!(op, Op::Angles { .. } | Op::ScaleByPosition { .. }))
}

/// An argument as the traits' macros list it.
pub(super) fn listed(argument: Argument) -> &'static str {
    match argument {
        Argument::Context => "context",
        Argument::ContextMask => "context_mask",
        Argument::GivesKv => "shared_kv: write",
        Argument::TakesKv => "shared_kv: read",
        Argument::Source => "source",
        Argument::GivesSelection => "topk: write",
        Argument::TakesSelection => "topk: read",
        Argument::Bias => "bias",
        Argument::Dropout => "dropout",
    }
}
