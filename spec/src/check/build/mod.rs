//! The `build` section: how the layer is computed.

mod activations;
mod by_module;
mod fold;
mod lengths;
mod phases;
mod weights;

use super::About;
use super::cache::Cache;
use super::codes;
use super::foreign::Place;
use super::value::Table;
use super::words::{Others, Words};
use crate::build::{Build, CacheKind, DType, Form, FormChoice, Phase, Target};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{Core, Layer};
use crate::node::Node;
use crate::span::Spanned;
use phases::{CACHED, Phases};

/// Largest length and chunk, in tokens.
const LONGEST: u32 = 1 << 30;

pub(super) const DTYPES: Words<'static, DType> = Words {
    choices: &[
        ("f32", DType::F32),
        ("bf16", DType::Bf16),
        ("f64", DType::F64),
    ],
    aliases: &[
        ("float32", "f32"),
        ("fp32", "f32"),
        ("float", "f32"),
        ("bfloat16", "bf16"),
        ("float64", "f64"),
        ("fp64", "f64"),
        ("double", "f64"),
    ],
    others: Some(&Others {
        code: codes::DTYPE_LATER,
        verdict: "is not in this release",
        label: "known, but not yet a type of arithmetic",
        words: &[
            (
                "f16",
                "use `f32` or `bf16`; weights in f16 load into either, and a cache may be `latent_f16`",
            ),
            (
                "fp16",
                "use `f32` or `bf16`; weights in f16 load into either, and a cache may be `latent_f16`",
            ),
            (
                "float16",
                "use `f32` or `bf16`; weights in f16 load into either, and a cache may be `latent_f16`",
            ),
            (
                "half",
                "use `f32` or `bf16`; weights in f16 load into either, and a cache may be `latent_f16`",
            ),
            (
                "fp8",
                "use `f32` or `bf16`, or wait: quantised arithmetic is not in this release; `weights: fp8_blocks` keeps weights as codes",
            ),
            (
                "fp8_e4m3",
                "use `f32` or `bf16`, or wait: quantised arithmetic is not in this release; `weights: fp8_blocks` keeps weights as codes",
            ),
            (
                "int8",
                "use `f32` or `bf16`, or wait: quantised arithmetic is not in this release",
            ),
        ],
    }),
};

const FORMS: Words<'static, FormChoice> = Words {
    choices: &[
        ("auto", FormChoice::Auto),
        ("mha", FormChoice::Forced(Form::Mha)),
        ("mqa", FormChoice::Forced(Form::Mqa)),
    ],
    aliases: &[
        ("absorbed", "mqa"),
        ("absorb", "mqa"),
        ("expanded", "mha"),
        ("naive", "mha"),
    ],
    others: None,
};

const TARGETS: Words<'static, Target> = Words {
    choices: &[
        ("cpu", Target::Cpu),
        ("sm_80", Target::Sm80),
        ("sm_86", Target::Sm86),
        ("sm_89", Target::Sm89),
        ("sm_90a", Target::Sm90a),
        ("sm_100", Target::Sm100),
        ("sm_120", Target::Sm120),
    ],
    aliases: &[
        ("x86_64", "cpu"),
        ("aarch64", "cpu"),
        ("sm_90", "sm_90a"),
        ("sm_100a", "sm_100"),
        ("sm_100f", "sm_100"),
        ("a100", "sm_80"),
        ("h100", "sm_90a"),
        ("h200", "sm_90a"),
    ],
    others: Some(&Others {
        code: codes::TARGET_LATER,
        verdict: "is no target",
        label: "known, but not a target",
        words: &[
            (
                "cuda",
                "name the architecture: `sm_90a` is that of an H100 or H200",
            ),
            (
                "gpu",
                "name the architecture: `sm_90a` is that of an H100 or H200",
            ),
            (
                "sm_70",
                "use `sm_80` or later: CUDA 13 compiles for nothing older than sm_75",
            ),
            (
                "tpu",
                "use `cpu` or a GPU of NVIDIA's: TPUs are not supported",
            ),
            (
                "rocm",
                "use `cpu` or a GPU of NVIDIA's: AMD's are not supported",
            ),
        ],
    }),
};

/// Checks the section; an absent one means [`Build::default`]. `layer` is what it builds, where nothing of that was refused.
pub(super) fn check(
    node: Option<&Node>,
    about: &About,
    layer: Option<&Layer>,
    out: &mut Diagnostics,
) -> Option<Build> {
    let Some(node) = node else {
        let phases = Phases::defaults();
        phases::agree(&phases, about, out);
        return Some(Build {
            cache: Cache::default_for(None, about),
            ..Build::default()
        });
    };
    let mut table = Table::map("build", None, node, node.span, Place::Build, out)?;
    let errors_before = errors(out);
    let defaults = Build::default();
    by_module::refuse_keys_of_latents(&mut table, about, out);
    let phases = Phases::read(&mut table, out);
    phases::agree(&phases, about, out);
    let dtype = table
        .stated("dtype", |field| field.word(&DTYPES, out))
        .or(Spanned::unplaced(defaults.dtype));
    let form = table
        .stated("form", |field| field.word(&FORMS, out))
        .or(Spanned::unplaced(defaults.form));
    if let Some(form) = form {
        refuse_expanded_selection(form, &phases, about, out);
    }
    let cache = cache(&mut table, &phases, dtype, about, out);
    if let (Some(cache), Some(form)) = (&cache, form) {
        cache.agrees_with(form, about, out);
    }
    refuse_one_form(&phases, form, cache.as_ref(), about, out);
    let expect = lengths::expect(&mut table, &phases, form, out);
    let context_chunk =
        lengths::context_chunk(&mut table, &phases, form, cache.as_ref(), about, out);
    let flash_decode = by_module::flash_decode(&mut table, &phases, about, out);
    let kept = activations::read(&mut table, &phases, about, layer, out);
    let fold = fold::read(&mut table, &phases, about, layer, out);
    let weights = weights::read(&mut table, &phases, about, out);
    let targets = table
        .take("targets")
        .map(|field| field.words(&TARGETS, out));
    table.finish(out);
    if errors(out) > errors_before {
        return None;
    }
    Some(Build {
        phases: phases.list.iter().map(|phase| phase.value).collect(),
        dtype: dtype?.value,
        cache: cache?.spec,
        form: form?.value,
        expect: expect?,
        context_chunk: context_chunk?,
        flash_decode: flash_decode?,
        recompute: kept.recompute,
        offload: kept.offload,
        fold,
        weights: weights?,
        targets: targets.map_or(defaults.targets, |list| {
            list.iter().map(|target| target.value).collect()
        }),
    })
}

fn errors(out: &Diagnostics) -> usize {
    out.iter()
        .filter(|diagnostic| diagnostic.severity == crate::diagnostic::Severity::Error)
        .count()
}

fn cache(
    table: &mut Table<'_>,
    phases: &Phases,
    dtype: Option<Spanned<DType>>,
    about: &About,
    out: &mut Diagnostics,
) -> Option<Cache> {
    let Some(field) = table.take("cache") else {
        return Some(Cache {
            kind: None,
            spec: Cache::default_for(dtype, about),
        });
    };
    phases.refuse_unless(&CACHED, &field, out);
    Cache::read(&field, dtype, about, out)
}

/// `mixed` chooses between two forms, request by request, and wants a layer and a cache that have both.
fn refuse_one_form(
    phases: &Phases,
    form: Option<Spanned<FormChoice>>,
    cache: Option<&Cache>,
    about: &About,
    out: &mut Diagnostics,
) {
    let Some(mixed) = phases.find(&[Phase::Mixed]) else {
        return;
    };
    let no_latents = about
        .attention
        .filter(|(module, _)| module.has_no_latents())
        .map(|(_, span)| (span, "makes no latents, and has one form"));
    let sparse = match &about.core {
        Some((Core::Sparse(_), core)) => {
            Some((*core, "attends to picked latents, always absorbed"))
        }
        _ => None,
    };
    let naive = cache
        .filter(|cache| cache.spec.kind == CacheKind::Naive)
        .and_then(|cache| cache.kind)
        .map(|span| (span, "holds expanded keys and values alone"));
    let forced = form
        .filter(|form| form.value != FormChoice::Auto)
        .map(|form| (form.span, "one form for every request"));
    let Some((span, because)) = no_latents.or(sparse).or(naive).or(forced) else {
        return;
    };
    let message = "`mixed` attends to each request in the form that is the cheaper for it, and there is one form alone";
    let label = "nothing to choose between";
    let alone = Diagnostic::error(codes::NOTHING_TO_MIX, message, mixed.span, label);
    out.push(alone.and(span, because).help(
        "remove `mixed` from `phases`: `prefill` and `decode` take a batch of any lengths too",
    ));
}

/// Cached phases of sparse attention are absorbed: what was picked differs from query to query, so that every latent would be
/// expanded once per query.
fn refuse_expanded_selection(
    form: Spanned<FormChoice>,
    phases: &Phases,
    about: &About,
    out: &mut Diagnostics,
) {
    let (FormChoice::Forced(Form::Mha), Some((Core::Sparse(_), core))) = (form.value, &about.core)
    else {
        return;
    };
    let Some(cached) = phases.find(&CACHED) else {
        return;
    };
    let message = format!(
        "sparse attention over a cache reads the picked latents themselves, which `{}` does",
        phases::PHASES.name_of(cached.value)
    );
    let expanded = Diagnostic::error(
        codes::SPARSE_EXPANDED,
        message,
        form.span,
        "would expand them for every query anew",
    );
    out.push(
        expanded
            .and(*core, "attends to picked tokens")
            .help(format!(
                "write `form: auto` or `form: mqa`, or `{}`",
                phases.uncached()
            )),
    );
}
