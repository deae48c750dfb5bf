//! The parts of a module around its functions' bodies: constants, tensors, the struct, loading, signatures.

use mla_spec::{CacheDType, CacheKind, DType, NormKind, Phase, RopeLayout};

use super::imports::occurs;
use super::layout::{Call, Lines};
use crate::plan::{CachePlan, LinearParams, Module, ModuleKind, NormParams, Plan, Program};

/// A constant's item and the text that it stands in.
struct Declared {
    name: String,
    text: String,
    public: bool,
}

/// The constants that `code` needs, and the public ones.
pub(crate) fn constants(program: &Program, code: &str, documented: bool) -> String {
    let mut all: Vec<Declared> = program
        .constants
        .iter()
        .map(|constant| {
            let value = constant
                .formula
                .map_or_else(|| constant.value.to_string(), str::to_owned);
            declared(
                constant.name,
                "usize",
                &value,
                constant.doc,
                constant.public,
                documented,
            )
        })
        .collect();
    let scale = &program.softmax_scale;
    all.push(declared(
        "SOFTMAX_SCALE",
        "f64",
        &float(scale.value),
        &scale.doc,
        true,
        documented,
    ));
    for norm in program.modules.iter().filter_map(norm) {
        let doc = format!("ε of `{}`.", norm.source);
        all.push(declared(
            norm.eps_name,
            "f64",
            &float(norm.eps),
            &doc,
            false,
            documented,
        ));
    }
    if let Some(table) = &program.rotary {
        let values: Vec<String> = table.inv_freq.iter().map(|&value| float(value)).collect();
        let mut lines = Lines::default();
        if documented {
            lines.prose("///", &table.doc);
        }
        if table
            .inv_freq
            .iter()
            .any(|&value| looks_like_a_known_constant(value))
        {
            lines.line(ALLOW_KNOWN);
        }
        lines.array(&format!("const INV_FREQ: [f64; {}]", values.len()), &values);
        all.push(Declared {
            name: "INV_FREQ".to_owned(),
            text: lines.into_text(),
            public: false,
        });
        let (factor, doc) = (
            float(table.cos_sin_factor),
            "What cos and sin are multiplied by.",
        );
        all.push(declared(
            "COS_SIN_FACTOR",
            "f64",
            &factor,
            doc,
            false,
            documented,
        ));
    }
    let mut kept: Vec<String> = Vec::new();
    let mut needed = code.to_owned();
    // Derived constants come after what they derive from
    for constant in all.iter().rev() {
        let exported = constant.public && documented;
        if exported || occurs(&needed, &constant.name, "") {
            needed.push_str(&constant.text);
            kept.push(constant.text.clone());
        }
    }
    kept.reverse();
    kept.join("\n")
}

/// Clippy denies literals that are a constant of std's, also where they are so by chance.
const ALLOW_KNOWN: &str =
    "#[allow(clippy::approx_constant)] // a computed value that happens to be a constant of std's";

fn declared(
    name: &str,
    ty: &str,
    value: &str,
    doc: &str,
    public: bool,
    documented: bool,
) -> Declared {
    let mut lines = Lines::default();
    if documented {
        lines.prose("///", doc);
    }
    if value
        .parse()
        .is_ok_and(|value| ty == "f64" && looks_like_a_known_constant(value))
    {
        lines.line(ALLOW_KNOWN);
    }
    let visibility = if public && documented { "pub " } else { "" };
    lines.assignment(&format!("{visibility}const {name}: {ty}"), value);
    Declared {
        name: name.to_owned(),
        text: lines.into_text(),
        public,
    }
}

/// Whether clippy takes a literal for one of std's constants: they agree in all digits printed.
fn looks_like_a_known_constant(value: f64) -> bool {
    use std::f64::consts as known;
    let known = [
        known::E,
        known::FRAC_1_PI,
        known::FRAC_1_SQRT_2,
        known::FRAC_2_PI,
        known::FRAC_2_SQRT_PI,
        known::FRAC_PI_2,
        known::FRAC_PI_3,
        known::FRAC_PI_4,
        known::FRAC_PI_6,
        known::FRAC_PI_8,
        known::LN_2,
        known::LN_10,
        known::LOG10_2,
        known::LOG10_E,
        known::LOG2_10,
        known::LOG2_E,
        known::PI,
        known::SQRT_2,
        known::TAU,
        1.618_033_988_749_895,
        0.577_215_664_901_532_9,
    ];
    let text = float(value);
    let digits = text.len().saturating_sub(2); // without `0.`, or as clippy counts
    digits >= 2
        && known.iter().any(|known| {
            known.to_string().starts_with(&text) || format!("{known:.digits$}") == text
        })
}

/// The shortest decimal that reads back as `value`.
fn float(value: f64) -> String {
    format!("{value:?}")
}

/// The array of the checkpoint's tensors.
pub(crate) fn tensors(program: &Program, visibility: &str) -> String {
    let mut all: Vec<Call> = Vec::new();
    let mut tensor = |name: String, shape: &[&str]| {
        let arguments = [format!("\"{name}\""), format!("&[{}]", shape.join(", "))];
        all.push(Call::infallible(
            "TensorShape::new",
            &[&arguments[0], &arguments[1]],
        ));
    };
    for module in &program.modules {
        if let Some(norm) = norm(module) {
            tensor(format!("{}.weight", norm.source), &[norm.width.name]);
            if norm.kind == NormKind::LayerNorm {
                tensor(format!("{}.bias", norm.source), &[norm.width.name]);
            }
        }
        if let Some(linear) = linear(module) {
            for (source, rows) in &linear.sources {
                tensor(format!("{source}.weight"), &[rows.name, linear.input.name]);
                if linear.bias {
                    tensor(format!("{source}.bias"), &[rows.name]);
                }
            }
        }
    }
    let mut lines = Lines::default();
    let open = format!(
        "{visibility}const TENSORS: [TensorShape; {}] = [",
        all.len()
    );
    lines.block(&open, "];", |lines| {
        all.iter().for_each(|call| lines.call("", call, ","))
    });
    lines.into_text()
}

/// The cache's alias; `None` where no phase has one.
pub(crate) fn cache(program: &Program, documented: bool) -> Option<String> {
    let cache = program.cache.as_ref()?;
    let layout = layout(cache.rope_layout);
    let pages = cache
        .page_size
        .map_or_else(|| "Contiguous".to_owned(), |page| format!("Paged<{page}>"));
    let ty = match cache.kind {
        CacheKind::Latent => {
            format!("LatentCache<B, E, {layout}, {pages}, KV_LORA_RANK, QK_ROPE_HEAD_DIM>")
        }
        CacheKind::Naive => format!(
            "NaiveCache<B, E, {layout}, {pages}, NUM_ATTENTION_HEADS, QK_HEAD_DIM, V_HEAD_DIM>"
        ),
    };
    let mut lines = Lines::default();
    if documented {
        lines.prose("///", &cache_doc(cache));
    }
    let visibility = if documented { "pub" } else { "pub(super)" };
    lines.assignment(
        &format!(
            "{visibility} type Cache<B, E = {}>",
            cache_element(cache.dtype)
        ),
        &ty,
    );
    Some(lines.into_text())
}

fn cache_doc(cache: &CachePlan) -> String {
    let what = match cache.kind {
        CacheKind::Latent => "latents and shared keys",
        CacheKind::Naive => "every head's keys and values",
    };
    let layout = match cache.page_size {
        Some(page) => format!("Pages of {page} tokens"),
        None => "One run of tokens per request".to_owned(),
    };
    format!(
        "{layout}, holding {what}: {} elements of type `E` per token.",
        cache.elements_per_token
    )
}

/// Rust's name of a cache's element type.
pub(super) fn cache_element(dtype: CacheDType) -> &'static str {
    match dtype {
        CacheDType::F32 => "f32",
        CacheDType::Bf16 => "bf16",
        CacheDType::F16 => "f16",
        CacheDType::F64 => "f64",
    }
}

/// Rust's name of an element type.
pub(super) fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::Bf16 => "bf16",
        DType::F64 => "f64",
    }
}

fn layout(layout: Option<RopeLayout>) -> &'static str {
    match layout {
        Some(RopeLayout::Interleaved) => "Interleaved",
        Some(RopeLayout::Half) => "Half",
        None => "Unrotated",
    }
}

/// The struct.
pub(super) fn structure(program: &Program, name: &str, documented: bool, lines: &mut Lines) {
    let head = if documented {
        lines.prose("///", "The layer, with its parameters on a backend.");
        lines.line("#[derive(Debug)]");
        format!(
            "pub struct {name}<B: Backend = Cpu<{}>>",
            element(program.build.dtype)
        )
    } else {
        format!("pub(super) struct {name}<B: Backend>")
    };
    lines.item(&head, |lines| {
        for module in &program.modules {
            if documented {
                lines.prose("///", &module.doc);
            }
            lines.line(&format!("{}: {},", module.slot, module_type(module)));
        }
        if let Some(table) = &program.rotary {
            if documented {
                lines.prose(
                    "///",
                    "Rotates the rope part of queries and the shared key.",
                );
            }
            let (input, output) = (layout(Some(table.input)), layout(Some(table.output)));
            lines.line(&format!(
                "rotary: Rotary<B, {input}, {output}, {}>,",
                table.width.name
            ));
        }
    });
}

fn module_type(module: &Module) -> String {
    match &module.kind {
        ModuleKind::Linear(linear) => {
            format!("Linear<B, {}, {}>", linear.input.name, linear.output.name)
        }
        ModuleKind::Norm(norm) => norm_type(norm),
        ModuleKind::NormLinear(norm, linear) => {
            let (input, output) = (linear.input.name, linear.output.name);
            format!("LayerNormLinear<B, {}, {input}, {output}>", norm_type(norm))
        }
    }
}

fn norm_type(norm: &NormParams) -> String {
    format!("{}<B, {}>", norm_name(norm), norm.width.name)
}

fn norm_name(norm: &NormParams) -> &'static str {
    match norm.kind {
        NormKind::RmsNorm => "RmsNorm",
        NormKind::LayerNorm => "LayerNorm",
    }
}

fn norm(module: &Module) -> Option<&NormParams> {
    match &module.kind {
        ModuleKind::Norm(norm) | ModuleKind::NormLinear(norm, _) => Some(norm),
        ModuleKind::Linear(_) => None,
    }
}

fn linear(module: &Module) -> Option<&LinearParams> {
    match &module.kind {
        ModuleKind::Linear(linear) | ModuleKind::NormLinear(_, linear) => Some(linear),
        ModuleKind::Norm(_) => None,
    }
}

/// `load`.
pub(super) fn load(program: &Program, documented: bool, lines: &mut Lines) {
    if documented {
        lines.prose(
            "///",
            "Loads the layer from the tensors below `prefix`, which may end with a dot or not.",
        );
        lines.line("///");
        lines.line("/// # Errors");
        lines.prose(
            "///",
            "The tensors below `prefix` are not exactly [`TENSORS`]: one is missing, left over, misshapen, or of an \
             element type that no weight has; all of them are listed. A tensor can't be read.",
        );
    }
    let visibility = if documented { "pub" } else { "pub(super)" };
    let parameters = ["weights: &Weights", "prefix: &str", "device: &B::Device"].map(str::to_owned);
    lines.function(
        &format!("{visibility} fn load"),
        &parameters,
        "Result<Self>",
        |lines| {
            lines.line("let weights = weights.exactly(prefix, &TENSORS)?;");
            lines.block("Ok(Self {", "})", |lines| {
                for module in &program.modules {
                    load_module(module, lines);
                }
                if program.rotary.is_some() {
                    let call =
                        Call::fallible("Rotary::new", &["device", "&INV_FREQ", "COS_SIN_FACTOR"]);
                    lines.call("rotary: ", &call, ",");
                }
            });
        },
    );
}

fn load_module(module: &Module, lines: &mut Lines) {
    let field = format!("{}: ", module.slot);
    match &module.kind {
        ModuleKind::Linear(linear) => lines.call(&field, &load_linear(linear), ","),
        ModuleKind::Norm(norm) => lines.call(&field, &load_norm(norm), ","),
        ModuleKind::NormLinear(norm, linear) => {
            lines.block(&format!("{field}LayerNormLinear::new("), "),", |lines| {
                lines.call("", &load_norm(norm), ",");
                lines.call("", &load_linear(linear), ",");
            })
        }
    }
}

fn load_linear(linear: &LinearParams) -> Call {
    let sources: Vec<String> = linear
        .sources
        .iter()
        .map(|(source, _)| format!("\"{source}\""))
        .collect();
    let sources = format!("&[{}]", sources.join(", "));
    let callee = if linear.bias {
        "Linear::load_biased"
    } else {
        "Linear::load"
    };
    Call::fallible(callee, &["&weights", &sources, "device"])
}

fn load_norm(norm: &NormParams) -> Call {
    let source = format!("\"{}\"", norm.source);
    Call::fallible(
        format!("{}::load", norm_name(norm)),
        &["&weights", &source, norm.eps_name, "device"],
    )
}

/// The function of a phase.
pub(super) fn function_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Forward => "forward",
        Phase::Prefill => "prefill",
        Phase::Decode => "decode",
    }
}

/// A phase's function up to its parameters, and these.
pub(super) fn signature(plan: &Plan, probes: bool) -> (String, Vec<String>) {
    let hidden = "hidden: &Rows<B, HIDDEN_SIZE>";
    let mut parameters = vec!["&self"];
    let name = function_name(plan.phase);
    let head = match plan.phase {
        Phase::Forward => {
            let positions = if reads_positions(plan) {
                "positions: &[u32]"
            } else {
                "_positions: &[u32]"
            };
            parameters.extend([hidden, positions, "mask: &Mask"]);
            format!("pub fn {name}")
        }
        Phase::Prefill | Phase::Decode => {
            parameters.extend(["cache: &mut Cache<B, E>", "batch: &Batch", hidden]);
            format!("pub fn {name}<E: CacheElement>")
        }
    };
    parameters.extend(probes.then_some("probe: &mut dyn Probe"));
    (head, parameters.into_iter().map(str::to_owned).collect())
}

/// Whether a phase has any use for positions.
pub(super) fn reads_positions(plan: &Plan) -> bool {
    let mut ops = plan.steps.iter().flat_map(|step| &step.ops);
    ops.any(|op| matches!(op, crate::plan::Op::Angles { .. }))
}
