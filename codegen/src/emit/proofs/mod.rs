//! `tests.rs`: generated code compared with generated code.
//!
//! The layer itself runs a few tokens at its real size. The heavy equivalences are proved in f64 on a [`twin`], printed by the
//! same printer with the same modules and forms, against the twin's [`siblings`].

mod handed;
mod siblings;
mod twin;

use mla_spec::{Checked, MaskKind, Phase};
use serde::Serialize;

use super::rust::{self, Look, Style};
use super::{KernelTexts, Options, ProofsOn};
use crate::plan::{self, Argument, CacheContent, Family, Program};
use siblings::Siblings;

/// Most weights that a test at real size draws and holds: 2 GiB in f32.
const MOST_WEIGHTS: u64 = 1 << 29;

/// Items of a twin's modules, one level in.
const INSIDE: Look = Look {
    documented: false,
    visibility: "pub(super) ",
    level: 1,
};

/// What `tests.rs.tera` prints.
#[derive(Serialize)]
struct TestsFile<'a> {
    header: Vec<String>,
    name: &'a str,
    runtime: &'a str,
    /// What they run on.
    backend: &'static str,
    /// The proof that runs at real size; `None` where the weights are too many.
    real: Option<&'static str>,
    /// Proofs about the twin alone, by their names in the runtime.
    proofs: Vec<&'static str>,
    pairs: Vec<Pair>,
    /// Phases in which the twin is handed what other layers made, and where that comes from; `None` where it is handed nothing.
    handed: Option<Handed>,
    /// Whether the twin attends to a context.
    across: bool,
    /// Phases in which the twin, picking more keys than there are, is a dense layer; empty where it picks none.
    covered: Vec<&'static str>,
    /// Proofs of the twin's training; `None` where it is not trained, or not with hidden states alone.
    training: Option<Training>,
    imports: String,
    constants: String,
    tensors: String,
    modules: Vec<Module>,
}

/// Proofs of a twin's training.
#[derive(Serialize)]
struct Training {
    /// Whether there is another form.
    forms: bool,
    /// Whether an indexer learns.
    learns: bool,
    /// Whether anything but an indexer is trained.
    whole: bool,
    /// Whether QK-clip bounds its logits.
    clips: bool,
}

/// Proofs of a twin that is handed what other layers made.
#[derive(Serialize)]
struct Handed {
    phases: Vec<&'static str>,
    /// Module of the layer whose cache holds its latents.
    source: &'static str,
}

/// The twin against a sibling.
#[derive(Serialize)]
struct Pair {
    /// Name of the test.
    test: &'static str,
    /// Module of the sibling.
    module: &'static str,
    /// What is equal.
    what: &'static str,
    phases: Vec<&'static str>,
}

/// One way of computing the twin.
#[derive(Serialize)]
struct Module {
    name: &'static str,
    doc: &'static str,
    text: String,
}

/// The text of `tests.rs`.
pub(super) fn tests(checked: &Checked, options: &Options, header: Vec<String>) -> String {
    let siblings = siblings::of(checked, &twin::of(checked));
    let modules = modules(&siblings, options);
    let runtime = &*options.runtime;
    let tensors = rust::tensors(&siblings.planned, INSIDE);
    let texts = modules.iter().map(|module| module.text.as_str());
    let needed: String = texts.chain([tensors.as_str()]).collect();
    let constants = rust::constants(&all_constants(&siblings), &needed, INSIDE);
    let file = TestsFile {
        header,
        name: &checked.layer.name,
        runtime,
        backend: match options.proofs {
            ProofsOn::Cpu => "Cpu",
            ProofsOn::Cuda => "Cuda",
        },
        real: real_size_proof(checked),
        proofs: proofs(checked, &siblings),
        pairs: pairs(&siblings),
        handed: siblings.own.as_ref().map(|_| handed(&siblings)),
        across: siblings.planned.family == Family::Cross,
        covered: covered(&siblings),
        training: training(&siblings),
        imports: rust::imports(
            &[tensors.as_str(), &constants].concat(),
            runtime,
            INSIDE.level,
        ),
        constants,
        tensors,
        modules,
    };
    rust::render("tests", &file)
}

/// What holds of every layer with the twin's phases and mask.
fn proofs(checked: &Checked, siblings: &Siblings) -> Vec<&'static str> {
    if asks_for_more(&siblings.planned) {
        return Vec::new();
    }
    let padding = if checked.layer.mask.allows_padding() {
        "padded_equals_unpadded"
    } else {
        "padding_is_refused"
    };
    let mut proofs = vec![
        "forward_is_deterministic",
        "packed_equals_separate",
        padding,
    ];
    if is_cached(siblings) {
        proofs.extend([
            "stepwise_equals_forward",
            "prefill_equals_forward",
            "chunked_equals_one_shot",
            "decode_equals_prefill",
            "ragged_prefill_equals_alone",
            "ragged_decode_equals_alone",
            "prefill_reads_only_what_was_written",
            "decode_reads_only_what_was_written",
        ]);
    }
    if is_mixed(siblings) {
        proofs.extend([
            "mixed_equals_prefill_alone",
            "mixed_equals_decode_alone",
            "mixed_reads_only_what_was_written",
        ]);
    }
    proofs
}

/// Whether the twin has cached phases.
fn is_cached(siblings: &Siblings) -> bool {
    siblings.planned.plans.len() > 1
}

/// Whether one of them attends to each request in its own form.
fn is_mixed(siblings: &Siblings) -> bool {
    siblings.planned.mha_from.is_some()
}

/// The twin's phases with a cache, by name.
fn cached_phases(siblings: &Siblings) -> Vec<&'static str> {
    let mixed = is_mixed(siblings).then_some("mixed");
    ["prefill", "decode"].into_iter().chain(mixed).collect()
}

/// Whether a layer's functions can't be called with hidden states alone: it attends to what other layers or sequences made.
fn asks_for_more(program: &Program) -> bool {
    let mut arguments = program.plans.iter().flat_map(|plan| &plan.arguments);
    arguments.any(|argument| {
        matches!(
            argument,
            Argument::Context
                | Argument::ContextMask
                | Argument::TakesKv
                | Argument::Source
                | Argument::TakesSelection
                | Argument::Bias
        )
    })
}

fn pairs(siblings: &Siblings) -> Vec<Pair> {
    if asks_for_more(&siblings.planned) {
        return Vec::new();
    }
    let all_phases = || {
        let cached = is_cached(siblings).then(|| cached_phases(siblings));
        let cached = cached.into_iter().flatten();
        std::iter::once("forward").chain(cached).collect()
    };
    let mut pairs = Vec::new();
    if let Some(other) = &siblings.other_form {
        let phases = other.plans.iter().map(|plan| match plan.phase {
            Phase::Forward => "forward",
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
            Phase::Train => "train",
            Phase::Mixed => "mixed",
        });
        pairs.push(Pair {
            test: "absorbed_equals_expanded",
            module: "other_form",
            what: "absorbed = expanded",
            phases: phases.collect(),
        });
    }
    if siblings
        .other_parts
        .as_ref()
        .is_some_and(|other| other.fusion)
    {
        let (test, what) = ("fused_equals_unfused", "fused = unfused");
        pairs.push(Pair {
            test,
            what,
            module: "other_parts",
            phases: all_phases(),
        });
    }
    if is_cached(siblings) {
        let (test, what) = ("paged_equals_contiguous", "paged = contiguous");
        pairs.push(Pair {
            test,
            what,
            module: "other_parts",
            phases: cached_phases(siblings),
        });
    }
    if siblings.other_cache.is_some() {
        let (test, what) = ("latent_cache_equals_naive_cache", "latent = naive");
        pairs.push(Pair {
            test,
            what,
            module: "other_cache",
            phases: vec!["prefill", "decode"],
        });
    }
    pairs
}

fn covered(siblings: &Siblings) -> Vec<&'static str> {
    match siblings.covering {
        Some(_) if !asks_for_more(&siblings.planned) && is_cached(siblings) => {
            vec!["forward", "prefill", "decode"]
        }
        Some(_) if !asks_for_more(&siblings.planned) => vec!["forward"],
        _ => Vec::new(),
    }
}

fn training(siblings: &Siblings) -> Option<Training> {
    if asks_for_more(&siblings.planned) {
        return None;
    }
    let trainings = siblings.training.as_ref()?;
    let program = &trainings.planned;
    let planned = program.training.as_ref()?;
    let learns = planned.gradients.contains(&plan::Gradient::IndexerLoss);
    let whole = planned.gradients.contains(&plan::Gradient::Hidden);
    Some(Training {
        // Where nothing but an indexer is trained, two forms have one backward pass
        forms: trainings.other_form.is_some(),
        learns,
        whole,
        clips: program.qk_clip.is_some(),
    })
}

fn handed(siblings: &Siblings) -> Handed {
    Handed {
        phases: if is_cached(siblings) {
            cached_phases(siblings)
        } else {
            Vec::new()
        },
        source: match siblings.source {
            Some(_) => "source",
            None => "own",
        },
    }
}

fn modules(siblings: &Siblings, options: &Options) -> Vec<Module> {
    let print = |name, doc, program| Module {
        name,
        doc,
        text: module(program, &siblings.planned, options),
    };
    let mut modules = vec![print(
        "planned",
        "The twin in the forms of the layer.",
        &siblings.planned,
    )];
    if asks_for_more(&siblings.planned) {
        modules.extend(siblings.own.as_ref().map(|program| {
            let doc = "The twin, making itself what it is handed, and handing it out.";
            print("own", doc, program)
        }));
        modules.extend(siblings.source.as_ref().map(|program| {
            let doc = "The layer in whose cache the twin finds its latents.";
            print("source", doc, program)
        }));
        return modules;
    }
    if let Some((covering, dense)) = &siblings.covering {
        let doc = "The twin, picking more keys than there are.";
        modules.push(print("covering", doc, covering));
        modules.push(print("dense", "The twin without an indexer.", dense));
    }
    modules.extend(siblings.other_form.as_ref().map(|program| {
        let doc = "The twin with the absorbed form for the expanded one, and the other way round.";
        print("other_form", doc, program)
    }));
    modules.extend(siblings.other_parts.as_ref().map(|other| {
        let doc = match (other.fusion, is_cached(siblings)) {
            (true, true) => "The twin with what is fused separate, what is separate fused, and the cache laid out otherwise.",
            (true, false) => "The twin with what is fused separate, and what is separate fused.",
            (false, _) => "The twin with the cache laid out otherwise.",
        };
        print("other_parts", doc, &other.program)
    }));
    if let Some(trainings) = &siblings.training {
        let doc = "The twin's training.";
        modules.push(print("trained", doc, &trainings.planned));
        let doc = "The twin's training, keeping what it computes again and the other way round.";
        modules.push(print("rescheduled", doc, &trainings.other_schedule));
        modules.extend(trainings.other_form.as_ref().map(|program| {
            let doc = "The twin's training in the other form.";
            print("trained_otherwise", doc, program)
        }));
    }
    let other_cache = siblings.other_cache.as_ref();
    modules.extend(other_cache.map(|program| {
        let doc = match program.cache.as_ref().map(|cache| cache.content) {
            Some(CacheContent::Naive) => "The twin with a cache of every head's keys and values.",
            _ => "The twin with a cache of latents.",
        };
        print("other_cache", doc, program)
    }));
    modules
}

/// The items of a module beside the twin's constants; its tensors where they are not the twin's.
fn module(program: &Program, twin: &Program, options: &Options) -> String {
    let runtime = &options.runtime;
    let texts = match options.proofs {
        ProofsOn::Cpu => KernelTexts::None,
        ProofsOn::Cuda => KernelTexts::Inside,
    };
    let style = Style {
        formulas: false,
        probes: false,
        kernels: texts != KernelTexts::None,
        cubins: false,
    };
    let kernels = rust::kernels(program, texts, &[], INSIDE);
    let differs = program.tensors() != twin.tensors();
    let tensors = differs.then(|| rust::tensors(program, INSIDE));
    let cache = rust::caches(program, INSIDE);
    let layer = rust::layer(program, "Layer", style, INSIDE);
    let traits = rust::all_traits(program, "Layer", runtime, false, INSIDE.level);
    let training = rust::training_structs(program, "Layer", INSIDE);
    let optional = [&tensors, &cache, &training].map(|item| item.as_deref().unwrap_or(""));
    // Their texts are CUDA's, and name nothing of Rust's
    let listed = kernels.as_ref().map_or("", |_| "KernelSource");
    let items = [optional[0], optional[1], optional[2], listed, &layer].join("\n");
    let picks = own_topk(program, twin, &items);
    let imports = rust::imports(&items, runtime, INSIDE.level);
    let parts = [
        Some(format!("{imports}\n\n    use super::twin::*;")),
        picks,
        tensors,
        kernels,
        cache,
        training,
        Some(layer),
        Some(traits),
    ];
    parts
        .into_iter()
        .flatten()
        .collect::<Vec<String>>()
        .join("\n\n")
}

/// How many keys a sibling picks, where that is not what the twin does: the one size that siblings differ in.
fn own_topk(program: &Program, twin: &Program, items: &str) -> Option<String> {
    let (own, other) = (program.selected?, twin.selected?);
    if own == other {
        return None;
    }
    let changed = |constant: &&plan::Constant| {
        items.contains(constant.name)
            && twin
                .constants
                .iter()
                .all(|same| same.name != constant.name || same.value != constant.value)
    };
    let constants = program.constants.iter().filter(changed);
    let lines: Vec<String> = constants
        .map(|constant| format!("    const {}: usize = {};", constant.name, constant.value))
        .collect();
    Some(lines.join("\n"))
}

/// The constants of all siblings, declared once.
fn all_constants(siblings: &Siblings) -> Program {
    // What makes itself what others are handed has all that they have, and more
    let mut all = siblings.own.as_ref().unwrap_or(&siblings.planned).clone();
    if let Some(trainings) = &siblings.training {
        all.training = trainings.planned.training.clone();
        all.qk_clip = trainings.planned.qk_clip.clone();
    }
    let others = [
        Some(&siblings.planned),
        siblings.other_form.as_ref(),
        siblings.other_parts.as_ref().map(|other| &other.program),
        siblings.other_cache.as_ref(),
        siblings.source.as_ref(),
        siblings.training.as_ref().map(|training| &training.planned),
        siblings
            .training
            .as_ref()
            .and_then(|training| training.other_form.as_ref()),
    ];
    for constant in others
        .into_iter()
        .flatten()
        .flat_map(|program| &program.constants)
    {
        if all
            .constants
            .iter()
            .all(|known| known.name != constant.name)
        {
            all.constants.push(constant.clone());
        }
    }
    all
}

/// What the layer proves at its real size, with 8 tokens: as many of its phases as one proof takes in.
fn real_size_proof(checked: &Checked) -> Option<&'static str> {
    let has = |phase| checked.build.phases.contains(&phase);
    let program = plan::program(checked);
    let mask = checked.layer.mask;
    let asks =
        asks_for_more(&program) || mask.kind == MaskKind::Arbitrary || mask.bidirectional_blocks;
    let by_length = matches!(&program.rotary, Some(table) if table.by_length.is_some());
    if weights(&program) > MOST_WEIGHTS || asks || by_length {
        return None;
    }
    let phases = (has(Phase::Forward), has(Phase::Prefill), has(Phase::Decode));
    Some(match phases {
        (true, _, true) => "stepwise_equals_forward",
        (true, true, false) => "prefill_equals_forward",
        (true, false, false) => "packed_equals_separate",
        (false, true, true) => "decode_equals_prefill",
        (false, true, false) => "chunked_equals_one_shot",
        (false, false, true) => "ragged_decode_equals_alone",
        (false, false, false) => "split_backward_equals_whole",
    })
}

/// Elements of all weight matrices.
fn weights(program: &Program) -> u64 {
    let linears = program.modules.iter().filter_map(plan::Module::linear);
    linears
        .map(|linear| u64::from(linear.input.size) * u64::from(linear.output.size))
        .sum()
}
