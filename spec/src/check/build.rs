//! The `build` section: how the layer is computed.

use super::cache::Cache;
use super::codes;
use super::foreign::Place;
use super::value::{Field, Later, Table, Words, listed, one_of};
use crate::build::{Build, CacheKind, DType, Expect, Form, FormChoice, Phase, Target};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::layer::{AttnMask, Rope};
use crate::node::Node;
use crate::span::{Span, Spanned};

/// Largest length and chunk, in tokens.
const LONGEST: u32 = 1 << 30;

const PHASES: Words<'static, Phase> = Words {
    choices: &[
        ("forward", Phase::Forward),
        ("prefill", Phase::Prefill),
        ("decode", Phase::Decode),
    ],
    aliases: &[
        ("autoregressive", "decode"),
        ("generate", "decode"),
        ("inference", "forward"),
        ("extend", "prefill"),
    ],
    later: Some(&Later {
        code: codes::PHASE_LATER,
        what: "a phase",
        words: &[
            (
                "train",
                "use `forward`, or wait: training is not in this release",
            ),
            (
                "training",
                "use `forward`, or wait: training is not in this release",
            ),
            (
                "backward",
                "use `forward`, or wait: training is not in this release",
            ),
        ],
    }),
};

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
    later: Some(&Later {
        code: codes::DTYPE_LATER,
        what: "a type of arithmetic",
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
                "use `f32` or `bf16`, or wait: quantised arithmetic is not in this release",
            ),
            (
                "fp8_e4m3",
                "use `f32` or `bf16`, or wait: quantised arithmetic is not in this release",
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
    later: None,
};

const TARGETS: Words<'static, Target> = Words {
    choices: &[("cpu", Target::Cpu)],
    aliases: &[("x86_64", "cpu"), ("aarch64", "cpu")],
    later: Some(&Later {
        code: codes::TARGET_LATER,
        what: "a target",
        words: &[
            ("cuda", "use `cpu`, or wait: GPUs are not in this release"),
            ("gpu", "use `cpu`, or wait: GPUs are not in this release"),
            ("sm_80", "use `cpu`, or wait: GPUs are not in this release"),
            ("sm_86", "use `cpu`, or wait: GPUs are not in this release"),
            ("sm_89", "use `cpu`, or wait: GPUs are not in this release"),
            ("sm_90", "use `cpu`, or wait: GPUs are not in this release"),
            ("sm_90a", "use `cpu`, or wait: GPUs are not in this release"),
            ("sm_100", "use `cpu`, or wait: GPUs are not in this release"),
            (
                "sm_100a",
                "use `cpu`, or wait: GPUs are not in this release",
            ),
            (
                "sm_100f",
                "use `cpu`, or wait: GPUs are not in this release",
            ),
            ("sm_120", "use `cpu`, or wait: GPUs are not in this release"),
            ("tpu", "use `cpu`: TPUs are not supported"),
            ("rocm", "use `cpu`: AMD GPUs are not supported"),
        ],
    }),
};

/// What the build must agree with; absent where it was refused.
pub(super) struct About<'a> {
    pub(super) mask: Option<Spanned<AttnMask>>,
    /// The rope and where it, or what decides on it, was written.
    pub(super) rope: Option<(&'a Rope, Span)>,
}

/// Checks the section; an absent one means [`Build::default`].
pub(super) fn check(
    node: Option<&Node>,
    about: &About<'_>,
    out: &mut Diagnostics,
) -> Option<Build> {
    let Some(node) = node else {
        let build = Build::default();
        mask(&Phases::defaults(), about, out);
        return Some(build);
    };
    let mut table = Table::map("build", None, node, node.span, Place::Build, out)?;
    let errors_before = errors(out);
    let defaults = Build::default();
    let phases = Phases::read(&mut table, out);
    mask(&phases, about, out);
    let dtype = read(
        &mut table,
        "dtype",
        |field, out| field.word(&DTYPES, out),
        out,
    );
    let dtype = dtype.unwrap_or(Some(Spanned::unplaced(defaults.dtype)));
    let form = read(
        &mut table,
        "form",
        |field, out| field.word(&FORMS, out),
        out,
    );
    let form = form.unwrap_or(Some(Spanned::unplaced(defaults.form)));
    let cache = table.take("cache");
    if let Some(field) = cache {
        phases.refuse_unless(&[Phase::Prefill, Phase::Decode], &field, out);
    }
    let cache = match cache {
        Some(field) => Cache::read(&field, dtype, about, out),
        None => Some(Cache {
            kind: None,
            spec: Cache::default_for(dtype),
        }),
    };
    if let (Some(cache), Some(form)) = (&cache, form) {
        cache.agrees_with(form, out);
    }
    let expect = expect(&mut table, &phases, form, out);
    let context_chunk = context_chunk(&mut table, &phases, form, cache.as_ref(), out);
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
        flash_decode: defaults.flash_decode,
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

/// Reads an optional key: `None` where it is absent, `Some(None)` where it was refused.
pub(super) fn read<T>(
    table: &mut Table<'_>,
    key: &'static str,
    reader: impl Fn(Field<'_>, &mut Diagnostics) -> Option<T>,
    out: &mut Diagnostics,
) -> Option<Option<T>> {
    table.take(key).map(|field| reader(field, out))
}

/// The phases, and where they were written.
struct Phases {
    list: Vec<Spanned<Phase>>,
    /// Whether some were refused, so that nothing can be said about those that are not there.
    unclear: bool,
    span: Option<Span>,
}

impl Phases {
    fn defaults() -> Self {
        let list = Build::default()
            .phases
            .into_iter()
            .map(Spanned::unplaced)
            .collect();
        Self {
            list,
            unclear: false,
            span: None,
        }
    }

    fn read(table: &mut Table<'_>, out: &mut Diagnostics) -> Self {
        let Some(field) = table.take("phases") else {
            return Self::defaults();
        };
        let before = errors(out);
        let list = field.words(&PHASES, out);
        Self {
            list,
            unclear: errors(out) > before,
            span: Some(field.value.span),
        }
    }

    fn find(&self, phases: &[Phase]) -> Option<&Spanned<Phase>> {
        self.list.iter().find(|phase| phases.contains(&phase.value))
    }

    /// Refuses a key that only these phases read.
    fn refuse_unless(&self, phases: &[Phase], field: &Field<'_>, out: &mut Diagnostics) -> bool {
        if self.unclear || self.find(phases).is_some() {
            return false;
        }
        let names: Vec<&str> = phases.iter().map(|phase| PHASES.name_of(*phase)).collect();
        let (key, readers) = (field.name(), listed(&names));
        let message = match names.len() {
            1 => format!("only {readers} reads `{key}`, and it is not among the phases"),
            _ => format!("only {readers} read `{key}`, and they are not among the phases"),
        };
        let unused = Diagnostic::error(
            codes::UNUSED_BUILD_KEY,
            message,
            field.key.span,
            "nothing reads this",
        );
        let unused = match self.span {
            Some(span) => unused.and(span, "the phases"),
            None => unused,
        };
        out.push(unused.help(format!(
            "remove `{key}`, or add {} to `phases`",
            one_of(&names)
        )));
        true
    }
}

/// A layer that sees later tokens can't be cached: its past would change with every new token.
fn mask(phases: &Phases, about: &About<'_>, out: &mut Diagnostics) {
    let Some(mask) = about.mask.filter(|mask| !mask.value.is_causal()) else {
        return;
    };
    let Some(cached) = phases.find(&[Phase::Prefill, Phase::Decode]) else {
        return;
    };
    let name = PHASES.name_of(cached.value);
    let message = format!("a mask that sees later tokens can't be cached, which `{name}` does");
    let bidirectional = Diagnostic::error(
        codes::MASK_NOT_CACHEABLE,
        message,
        mask.span,
        "sees the whole sequence",
    );
    let causal = if mask.value.allows_padding() {
        "padding_causal"
    } else {
        "causal"
    };
    out.push(match phases.span {
        Some(_) => bidirectional
            .and(cached.span, "keeps past tokens as they were")
            .help(format!(
                "write `phases: [forward]`, or `attn_mask_type: {causal}`"
            )),
        None => bidirectional
            .note("without `build.phases` a layer has `forward`, `prefill` and `decode`")
            .help(format!(
                "add `phases: [forward]` to `build`, or write `attn_mask_type: {causal}`"
            )),
    });
}

/// The lengths that forms are chosen at; each is read by some phases, and none where the form is forced.
fn expect(
    table: &mut Table<'_>,
    phases: &Phases,
    form: Option<Spanned<FormChoice>>,
    out: &mut Diagnostics,
) -> Option<Expect> {
    let mut expect = Expect::default();
    let Some(field) = table.take("expect") else {
        return Some(expect);
    };
    if let Some(form) = form.filter(|form| form.value != FormChoice::Auto) {
        let message = "`expect` serves to choose a form, and the form is forced";
        let unused = Diagnostic::error(
            codes::UNUSED_BUILD_KEY,
            message,
            field.key.span,
            "nothing reads this",
        );
        out.push(
            unused
                .and(form.span, "forced here")
                .help("remove `expect`, or write `form: auto`"),
        );
    }
    let mut lengths = Table::map(
        "expect",
        None,
        field.value,
        field.key.span,
        Place::Build,
        out,
    )?;
    let readers: [(&'static str, &[Phase], u32, &mut u32); 4] = [
        (
            "prefill_tokens",
            &[Phase::Forward, Phase::Prefill],
            1,
            &mut expect.prefill_tokens,
        ),
        (
            "prefill_context",
            &[Phase::Prefill],
            0,
            &mut expect.prefill_context,
        ),
        (
            "decode_tokens",
            &[Phase::Decode],
            1,
            &mut expect.decode_tokens,
        ),
        (
            "decode_context",
            &[Phase::Decode],
            0,
            &mut expect.decode_context,
        ),
    ];
    for (key, read_by, min, length) in readers {
        let Some(field) = lengths.take(key) else {
            continue;
        };
        phases.refuse_unless(read_by, &field, out);
        if let Some(value) = field.integer(min, LONGEST, out) {
            *length = value.value;
        }
    }
    lengths.finish(out);
    Some(expect)
}

/// The chunk in which a latent cache is expanded: read only where some phase may expand one.
fn context_chunk(
    table: &mut Table<'_>,
    phases: &Phases,
    form: Option<Spanned<FormChoice>>,
    cache: Option<&Cache>,
    out: &mut Diagnostics,
) -> Option<u32> {
    let Some(field) = table.take("context_chunk") else {
        return Some(Build::default().context_chunk);
    };
    if !phases.refuse_unless(&[Phase::Prefill, Phase::Decode], &field, out) {
        let naive = cache
            .filter(|cache| cache.spec.kind == CacheKind::Naive)
            .and_then(|cache| cache.kind);
        let absorbed = form
            .filter(|form| form.value == FormChoice::Forced(Form::Mqa))
            .map(|form| form.span);
        let because = naive
            .map(|span| (span, "already expanded"))
            .or(absorbed.map(|span| (span, "never expands")));
        if let Some((span, label)) = because {
            let message = "`context_chunk` serves to expand a latent cache, and none is expanded";
            let unused = Diagnostic::error(
                codes::UNUSED_BUILD_KEY,
                message,
                field.key.span,
                "nothing reads this",
            );
            out.push(unused.and(span, label).help("remove `context_chunk`"));
        }
    }
    field.integer(1, LONGEST, out).map(|chunk| chunk.value)
}
