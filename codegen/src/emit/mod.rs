//! Text from programs. Emission prints what was planned and decides nothing.

pub mod cuda;
mod proofs;
mod rust;

use mla_spec::{Checked, CheckedModel};

use crate::files::{Files, layer_modules};
use crate::plan::{self, ProbeMode, Program};
use crate::{model_digest, spec_digest};
pub use cuda::CubinFile;
use rust::Setting;

/// What emitted text depends on besides the spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What the header says.
    pub origin: Origin,
    /// Whether the layer's functions take a `probe` and report intermediate values to it.
    pub probes: bool,
    /// Path of the runtime crate: `mla_runtime`, or `::mla_runtime` where a macro expands.
    pub runtime: String,
    /// Whether `tests.rs` is emitted beside `mod.rs`.
    pub tests: bool,
    /// Which layers bring kernels along.
    pub kernels: Kernels,
    /// What the proofs of `tests.rs` run on.
    pub proofs: ProofsOn,
    /// Architectures that the kernels of [`emit`]'s folders are compiled for ahead of time, `sm_90a`: the text includes the files that
    /// [`cubins`] lists.
    pub cubins: Vec<String>,
}

/// Which layers bring CUDA kernels along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kernels {
    /// Those whose targets name a GPU's architecture.
    #[default]
    ByTargets,
    /// All.
    Always,
}

/// What proofs run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProofsOn {
    /// The CPU.
    #[default]
    Cpu,
    /// A GPU, or the host emulating one.
    Cuda,
}

/// Where a layer's kernels stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KernelTexts {
    /// Nowhere: it has none.
    None,
    /// In files beside its module.
    Files,
    /// In its module.
    Inside,
}

/// Where a layer came from, for the header of its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The spec, as the user names it: usually a path.
    pub spec: String,
    /// The command that makes the file again; `None` where there is none, as in a macro.
    pub command: Option<String>,
}

impl Options {
    /// A layer with tests and without probes.
    pub fn new(origin: Origin) -> Self {
        Self {
            origin,
            probes: false,
            runtime: "mla_runtime".to_owned(),
            tests: true,
            kernels: Kernels::default(),
            proofs: ProofsOn::default(),
            cubins: Vec::new(),
        }
    }
}

/// The layer as a module folder: `mod.rs`, and `tests.rs` where asked for.
pub fn emit(checked: &Checked, options: &Options) -> Files {
    let program = program(checked, options);
    let mut files = Files::default();
    let kernels = kernel_texts(checked, options, KernelTexts::Files);
    let setting = Setting {
        cubins: cubins(checked, options),
        ..setting(checked, options, options.tests, kernels)
    };
    let text = rust::module(&program, &setting);
    files.0.insert("mod.rs".to_owned(), text);
    if kernels == KernelTexts::Files {
        let texts = plan::kernels(&program).into_iter();
        let files_of_them = texts.map(|unit| (format!("cuda/{}.cu", unit.name()), unit.text()));
        files.0.extend(files_of_them);
    }
    if options.tests {
        let tests = proofs::tests(checked, options, header(checked, options));
        files.0.insert("tests.rs".to_owned(), tests);
    }
    files
}

/// The compiled kernels that the text of [`emit`] includes, for whoever writes it to compile; none of layers that bring no kernels along.
pub fn cubins(checked: &Checked, options: &Options) -> Vec<CubinFile> {
    match kernel_texts(checked, options, KernelTexts::Files) {
        KernelTexts::None => Vec::new(),
        _ => cuda::cubins(&program(checked, options), options),
    }
}

/// A model as a module folder: a folder for each different layer, which holds what [`emit`] makes of it, and a `mod.rs` that says
/// where which of them stands.
pub fn emit_model(model: &CheckedModel, options: &Options) -> Files {
    let modules = modules(model, options);
    let mut files = Files::default();
    for (module, layer) in modules.iter().zip(&model.layers) {
        let inside = emit(&layer.checked, options).0;
        let named = |(file, text)| (format!("{module}/{file}"), text);
        files.0.extend(inside.into_iter().map(named));
    }
    let text = rust::model(
        model,
        &modules,
        &model_header(model, options),
        &options.runtime,
        None,
    );
    files.0.insert("mod.rs".to_owned(), text);
    files
}

/// As [`emit_model`], in one text: the layers are modules inside it.
pub(crate) fn model_text(model: &CheckedModel, options: &Options) -> String {
    let texts: Vec<String> = model
        .layers
        .iter()
        .map(|layer| {
            let mut text = emit_module_text(&layer.checked, options);
            if options.tests {
                text.push_str(&tests_module(&layer.checked, options));
            }
            text
        })
        .collect();
    rust::model(
        model,
        &modules(model, options),
        &model_header(model, options),
        &options.runtime,
        Some(&texts),
    )
}

/// The modules of a model's layers, in the order of [`CheckedModel::layers`], as [`emit_model`] calls them.
pub fn model_modules(model: &CheckedModel) -> Vec<String> {
    let origin = Origin {
        spec: String::new(),
        command: None,
    };
    modules(model, &Options::new(origin))
}

/// None hides a name that stands beside them: the runtime's, or that of a crate's root module.
fn modules(model: &CheckedModel, options: &Options) -> Vec<String> {
    let layers: Vec<&str> = model.layers.iter().map(|layer| &*layer.name).collect();
    let runtime = options.runtime.split("::").find(|part| !part.is_empty());
    layer_modules(&layers, &[runtime.unwrap_or("mla_runtime"), "layer"])
}

/// `tests.rs` as a module of the file that the layer stands in.
pub(crate) fn tests_module(checked: &Checked, options: &Options) -> String {
    let tests = proofs::tests(checked, options, header(checked, options));
    format!("\n#[cfg(test)]\nmod tests {{\n{tests}}}\n")
}

/// `mod.rs` alone: what macros parse and build scripts include. It names no other file.
pub fn emit_module_text(checked: &Checked, options: &Options) -> String {
    rust::module(
        &program(checked, options),
        &setting(
            checked,
            options,
            false,
            kernel_texts(checked, options, KernelTexts::Inside),
        ),
    )
}

fn program(checked: &Checked, options: &Options) -> Program {
    plan::program_with(
        checked,
        if options.probes {
            ProbeMode::Keep
        } else {
            ProbeMode::Drop
        },
    )
}

/// Where the kernels of a layer stand that has some.
fn kernel_texts(checked: &Checked, options: &Options, where_there_are: KernelTexts) -> KernelTexts {
    let by_targets = checked.build.targets.iter().any(|target| target.is_gpu());
    match options.kernels {
        Kernels::ByTargets if !by_targets => KernelTexts::None,
        _ => where_there_are,
    }
}

fn setting<'a>(
    checked: &Checked,
    options: &'a Options,
    tests: bool,
    kernels: KernelTexts,
) -> Setting<'a> {
    Setting {
        kernels,
        cubins: Vec::new(),
        header: header(checked, options),
        runtime: &options.runtime,
        probes: options.probes,
        tests,
    }
}

/// The lines above everything else of a layer.
fn header(checked: &Checked, options: &Options) -> Vec<String> {
    made_of(&spec_digest(checked), &options.origin)
}

/// The lines above everything else of a model.
fn model_header(model: &CheckedModel, options: &Options) -> Vec<String> {
    made_of(&model_digest(model), &options.origin)
}

fn made_of(digest: &str, Origin { spec, command }: &Origin) -> Vec<String> {
    let version = env!("CARGO_PKG_VERSION");
    let made = format!(
        "@generated by mla-gen {version} from `{}` (digest {digest}). Do not edit.",
        on_one_line(spec)
    );
    let again = command
        .as_ref()
        .map(|command| format!("Regenerate: {}", on_one_line(command)));
    std::iter::once(made).chain(again).collect()
}

/// A path or a command as part of a comment: whatever could end the line or reorder it is escaped.
fn on_one_line(text: &str) -> String {
    let shown = |c: char| c == ' ' || c.is_ascii_graphic() || c.is_alphanumeric();
    text.chars()
        .flat_map(|c| {
            if shown(c) {
                vec![c]
            } else {
                c.escape_unicode().collect()
            }
        })
        .collect()
}
