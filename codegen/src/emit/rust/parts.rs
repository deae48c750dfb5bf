//! The parts of a module around its functions' bodies: tensors, cache, the struct, loading, signatures.

use mla_spec::{CacheDType, CacheKind, DType, NormKind, Phase, RopeLayout};

use super::layout::{Call, Lines};
use crate::plan::{CachePlan, LinearParams, Module, ModuleKind, NormParams, Op, Plan, Program};

/// How items look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Documented, as where people outside the file read them.
    pub(crate) documented: bool,
    /// What stands before items that other modules use: `pub `, `pub(super) `.
    pub(crate) visibility: &'static str,
    /// Indentations.
    pub(crate) level: usize,
}

impl Look {
    /// A layer's own module.
    pub(crate) const PUBLIC: Self = Self {
        documented: true,
        visibility: "pub ",
        level: 0,
    };

    /// No lines yet, at the look's level.
    pub(super) fn lines(self) -> Lines {
        Lines::indented(self.level)
    }

    /// Documentation, where there is any.
    pub(super) fn doc(self, text: &str, lines: &mut Lines) {
        if self.documented {
            lines.prose("///", text);
        }
    }

    /// Visibility of what users of a layer call, and what nobody calls by name elsewhere.
    fn of_functions(self) -> &'static str {
        if self.documented { self.visibility } else { "" }
    }
}

/// The array of the checkpoint's tensors.
pub(crate) fn tensors(program: &Program, look: Look) -> String {
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
    let mut lines = look.lines();
    look.doc(
        "The checkpoint's tensors below the layer's prefix: exactly these.",
        &mut lines,
    );
    let open = format!(
        "{}const TENSORS: [TensorShape; {}] = [",
        look.visibility,
        all.len()
    );
    lines.block(&open, "];", |lines| {
        all.iter().for_each(|call| lines.call("", call, ","))
    });
    lines.into_text()
}

/// The cache's alias; `None` where no phase has one.
pub(crate) fn cache(program: &Program, look: Look) -> Option<String> {
    let cache = program.cache.as_ref()?;
    let layout = layout(cache.rope_layout);
    let pages = cache
        .page_size
        .map_or_else(|| "Contiguous".to_owned(), |page| format!("Paged<{page}>"));
    let ty = match cache.kind {
        CacheKind::Latent => {
            format!("LatentCache<B, F, {layout}, {pages}, KV_LORA_RANK, QK_ROPE_HEAD_DIM>")
        }
        CacheKind::Naive => format!(
            "NaiveCache<B, F, {layout}, {pages}, NUM_ATTENTION_HEADS, QK_HEAD_DIM, V_HEAD_DIM>"
        ),
    };
    let mut lines = look.lines();
    look.doc(&cache_doc(cache), &mut lines);
    let visibility = look.of_functions();
    lines.assignment(
        &format!(
            "{visibility}type Cache<B, F = {}>",
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
        "{layout}, holding {what}: {} elements of type `F` per token.",
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
pub(super) fn structure(program: &Program, name: &str, look: Look, lines: &mut Lines) {
    look.doc("The layer, with its parameters on a backend.", lines);
    lines.line("#[derive(Debug)]");
    let default = format!(" = Cpu<{}>", element(program.build.dtype));
    let default = if look.documented { &default } else { "" };
    let head = format!("{}struct {name}<B: Backend{default}>", look.visibility);
    lines.item(&head, |lines| {
        for module in &program.modules {
            look.doc(&module.doc, lines);
            lines.field(module.slot, &module_type(module));
        }
        if let Some(table) = &program.rotary {
            look.doc(
                "Rotates the rope part of queries and the shared key.",
                lines,
            );
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
        NormKind::GatedRmsNorm { .. } => "GatedRmsNorm",
    }
}

/// A module's norm, inside or alone.
pub(super) fn norm(module: &Module) -> Option<&NormParams> {
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
pub(super) fn load(program: &Program, look: Look, lines: &mut Lines) {
    if look.documented {
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
    let visibility = look.of_functions();
    let parameters = ["weights: &Weights", "prefix: &str", "device: &B::Device"].map(str::to_owned);
    lines.function(
        &format!("{visibility}fn load"),
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
pub(super) fn signature(plan: &Plan, probes: bool, look: Look) -> (String, Vec<String>) {
    let hidden = "hidden: &Rows<B, HIDDEN_SIZE>";
    let mut parameters = vec!["&self"];
    let visibility = look.of_functions();
    let name = function_name(plan.phase);
    let head = match plan.phase {
        Phase::Forward => {
            let positions = if reads_positions(plan) {
                "positions: &[u32]"
            } else {
                "_positions: &[u32]"
            };
            parameters.extend([hidden, positions, "mask: &Mask"]);
            format!("{visibility}fn {name}")
        }
        Phase::Prefill | Phase::Decode => {
            parameters.extend(["cache: &mut Cache<B, F>", "batch: &Batch", hidden]);
            format!("{visibility}fn {name}<F: CacheFormat>")
        }
    };
    parameters.extend(probes.then_some("probe: &mut dyn Probe"));
    (head, parameters.into_iter().map(str::to_owned).collect())
}

/// Whether a phase has any use for positions.
pub(super) fn reads_positions(plan: &Plan) -> bool {
    let mut ops = plan.steps.iter().flat_map(|step| &step.ops);
    ops.any(|op| matches!(op, Op::Angles { .. }))
}
