//! The Rust printer: a [`Program`] as the text of a module.
//!
//! Tera templates hold what every file has; [`layout`] breaks lines as rustfmt does; the rest turns parts of a program
//! into text. Nothing from a spec reaches the text but the layer's name, which is an identifier, and numbers.

mod body;
mod cache;
mod constants;
mod imports;
mod kernels;
mod layout;
mod model;
mod parts;
mod signature;
mod training;
mod visible;
mod words;

use serde::Serialize;

use super::KernelTexts;
use super::cuda::CubinFile;
use crate::plan::{Plan, Program};
pub(crate) use body::Style;
pub(crate) use cache::caches;
pub(crate) use constants::constants;
pub(crate) use imports::of as imports;
pub(crate) use kernels::kernels;
pub(crate) use layout::Lines;
pub(crate) use model::model;
pub(crate) use parts::{Look, tensors};
pub(crate) use training::structs as training_structs;

/// What a module's text depends on besides the program.
#[derive(Debug, Clone)]
pub(crate) struct Setting<'a> {
    /// The lines above everything, each without its `//`.
    pub(crate) header: Vec<String>,
    /// Path of the runtime crate.
    pub(crate) runtime: &'a str,
    /// Whether functions take a probe.
    pub(crate) probes: bool,
    /// Whether `tests.rs` stands beside the module.
    pub(crate) tests: bool,
    /// Where the layer's kernels stand.
    pub(crate) kernels: KernelTexts,
    /// What they were compiled to.
    pub(crate) cubins: Vec<CubinFile>,
}

/// The file around the parts, for the template `module.rs.tera`.
#[derive(Serialize)]
struct ModuleFile {
    header: Vec<String>,
    docs: String,
    imports: String,
    constants: String,
    tensors: String,
    kernels: Option<String>,
    cache: Option<String>,
    training: Option<String>,
    layer: String,
    traits: String,
    tests: bool,
}

/// The text of a layer's module.
pub(crate) fn module(program: &Program, setting: &Setting<'_>) -> String {
    let style = Style {
        formulas: true,
        probes: setting.probes,
        kernels: setting.kernels != KernelTexts::None,
        cubins: !setting.cubins.is_empty(),
    };
    let layer = layer(program, &program.name, style, Look::PUBLIC);
    let tensors = parts::tensors(program, Look::PUBLIC);
    let cache = caches(program, Look::PUBLIC);
    let training = training_structs(program, &program.name, Look::PUBLIC);
    let optional = [&cache, &training].map(|item| item.as_deref().unwrap_or(""));
    let kernels = kernels(program, setting.kernels, &setting.cubins, Look::PUBLIC);
    // Their texts are CUDA's, and name nothing of Rust's
    let listed = match (&kernels, setting.cubins.as_slice()) {
        (None, _) => "",
        (Some(_), []) => "KernelSource",
        (Some(_), _) => "Cubin KernelSource",
    };
    let needed = [layer.as_str(), &tensors, listed, optional[0], optional[1]].concat();
    let constants = constants(program, &needed, Look::PUBLIC);
    let code = [needed.as_str(), &constants].concat();
    render(
        "module",
        &ModuleFile {
            header: setting.header.clone(),
            docs: words::module(program),
            imports: imports(&code, setting.runtime, 0),
            constants,
            tensors,
            kernels,
            cache,
            training,
            layer,
            traits: all_traits(program, &program.name, setting.runtime, setting.probes, 0),
            tests: setting.tests,
        },
    )
}

/// The struct and its functions.
pub(crate) fn layer(program: &Program, name: &str, style: Style, look: Look) -> String {
    let mut lines = look.lines();
    parts::structure(program, name, look, &mut lines);
    lines.line("");
    lines.block(&format!("impl<B: Backend> {name}<B> {{"), "}", |lines| {
        parts::load(program, style, look, lines);
        for plan in &program.plans {
            lines.line("");
            function(program, plan, style, look, lines);
        }
        training::functions(program, style, look, lines);
    });
    lines.into_text()
}

fn function(program: &Program, plan: &Plan, style: Style, look: Look, lines: &mut Lines) {
    if look.documented {
        words::function(program, plan, style.probes, lines);
    }
    let (head, parameters) = signature::signature(program, plan, style.probes, look);
    lines.function(
        &head,
        &parameters,
        "Result<Rows<B, HIDDEN_SIZE>>",
        |lines| {
            body::write(program, plan, body::Function::Phase, style, lines);
        },
    );
}

/// The lines that implement the runtime's traits.
pub(crate) fn all_traits(
    program: &Program,
    name: &str,
    runtime: &str,
    probes: bool,
    level: usize,
) -> String {
    let mut lines = Lines::indented(level);
    lines.line(&signature::traits(program, name, runtime, probes));
    let training = training::traits(program, name, runtime, level);
    [Some(lines.into_text()), training]
        .into_iter()
        .flatten()
        .collect::<Vec<String>>()
        .join("\n")
}

/// Fills one of the templates.
pub(crate) fn render(template: &str, context: &impl Serialize) -> String {
    let filled = templates()
        .and_then(|tera| tera.render(template, &tera::Context::from_serialize(context)?));
    // The templates and what fills them are this crate's own, and tests render each: there is no input that fails here
    filled.unwrap_or_else(|error| {
        format!(
            "compile_error!({:?});\n",
            format!("template {template}: {error}")
        )
    })
}

fn templates() -> tera::TeraResult<tera::Tera> {
    let mut tera = tera::Tera::default();
    tera.autoescape_on(Vec::<&'static str>::new());
    tera.add_raw_templates([
        ("module", include_str!("../../../templates/module.rs.tera")),
        ("model", include_str!("../../../templates/model.rs.tera")),
        ("tests", include_str!("../../../templates/tests.rs.tera")),
        ("kernel", include_str!("../../../templates/kernel.cu.tera")),
    ])?;
    Ok(tera)
}
