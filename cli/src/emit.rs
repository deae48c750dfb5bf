//! What this command asks of the compiler.

use std::collections::BTreeMap;

use mla_codegen::plan::KernelUnit;
use mla_codegen::{CubinFile, Options, Origin};
use mla_nvrtc::{Compiled, CubinCache, Source};
use mla_spec::Checked;
use similar::TextDiff;

use crate::args::Emit;
use crate::failure::Failure;
use crate::folder::{self, Files, MARKER};
use crate::source::Described;
use crate::talk;
use crate::talk::counted;

/// What is to be emitted.
pub(crate) struct Request {
    /// The command that regenerates it, for the header.
    pub(crate) command: String,
    /// Which parts; `None` for the module folder.
    pub(crate) emit: Option<Emit>,
    /// Architectures that kernels are compiled for.
    pub(crate) cubins: Vec<String>,
}

/// Name of the file that holds the plans.
const PLAN: &str = "layer.plan";

/// The files that a spec becomes; of a model those of each layer in a folder.
pub(crate) fn files(described: &Described, request: &Request) -> Result<Files, Failure> {
    let mut files = BTreeMap::new();
    if !matches!(request.emit, Some(Emit::Plan)) {
        files.extend(texts(described, request));
    }
    match request.emit {
        Some(Emit::Rust) => files.retain(|name, _| is_file(name, "mod.rs")),
        Some(Emit::Tests) => files.retain(|name, _| is_file(name, "tests.rs")),
        Some(Emit::Plan | Emit::All) => files.extend(plans(described)),
        None => {}
    }
    let mut files = folder::texts(files);
    if !matches!(request.emit, Some(Emit::Rust | Emit::Tests | Emit::Plan)) {
        files.extend(compiled(described, &options(described, request))?);
    }
    Ok(files)
}

/// What kernels are compiled to.
fn compiled(described: &Described, options: &Options) -> Result<Files, Failure> {
    let layers: Vec<(String, &Checked)> = match described {
        Described::Layer(spec) => vec![(String::new(), &spec.checked)],
        Described::Model(_, model) => {
            let modules = mla_codegen::model_modules(model).into_iter();
            let layers = model.layers.iter().map(|layer| &layer.checked);
            modules
                .map(|module| format!("{module}/"))
                .zip(layers)
                .collect()
        }
    };
    let cubins: Vec<(String, CubinFile)> = layers
        .into_iter()
        .flat_map(|(folder, checked)| {
            let cubins = mla_codegen::cubins(checked, options).into_iter();
            cubins.map(move |cubin| (format!("{folder}{}", cubin.file), cubin))
        })
        .collect();
    if cubins.is_empty() {
        return Ok(Files::new());
    }
    let cache = CubinCache::of_user();
    let compile = |(file, cubin): &(String, CubinFile)| {
        let compiled = cubin_of(&cubin.unit, cubin.types, &cubin.arch, &cache)?;
        Ok((file.clone(), compiled.cubin))
    };
    talk::progress(
        format!("compiling {}", counted(cubins.len(), "cubin")),
        || cubins.iter().map(compile).collect(),
    )
}

/// A text of kernels compiled for number types and an architecture.
pub(crate) fn cubin_of(
    unit: &KernelUnit,
    [values, others]: [&str; 2],
    arch: &str,
    cache: &CubinCache,
) -> Result<Compiled, Failure> {
    let name = unit.name();
    let source = Source {
        name: &format!("{name}.cu"),
        text: &unit.text(),
        defines: &[("MLA_ELEM", values), ("MLA_KEY", others)],
        checked: false,
    };
    let compiled = cache.compile(&source, arch);
    compiled.map_err(|error| Failure::Program {
        message: format!("`{name}` has no cubin"),
        stderr: error.to_string(),
    })
}

fn options(described: &Described, request: &Request) -> Options {
    let origin = Origin {
        spec: described.shown().to_owned(),
        command: Some(request.command.clone()),
    };
    Options {
        tests: !matches!(request.emit, Some(Emit::Rust)),
        cubins: request.cubins.clone(),
        ..Options::new(origin)
    }
}

fn texts(described: &Described, request: &Request) -> BTreeMap<String, String> {
    let options = options(described, request);
    match described {
        Described::Layer(spec) => mla_codegen::emit(&spec.checked, &options).0,
        Described::Model(_, model) => mla_codegen::emit_model(model, &options).0,
    }
}

/// Whether a path's last part is `file`.
fn is_file(path: &str, file: &str) -> bool {
    path.rsplit('/').next() == Some(file)
}

fn plans(described: &Described) -> BTreeMap<String, String> {
    match described {
        Described::Layer(spec) => [(PLAN.to_owned(), plan(&spec.shown, &spec.checked))].into(),
        Described::Model(shown, model) => {
            let modules = mla_codegen::model_modules(model);
            let layers = modules.iter().zip(&model.layers);
            layers
                .map(|(module, layer)| (format!("{module}/{PLAN}"), plan(shown, &layer.checked)))
                .collect()
        }
    }
}

/// The finished plan, and below it what each pass changed.
fn plan(shown: &str, checked: &Checked) -> String {
    let passes = mla_codegen::plan::trace(checked);
    let finished = passes.last().map_or("", |(_, text)| text.trim_end());
    let mut text = format!(
        "// {MARKER} {} from `{shown}`.\n\n{finished}\n",
        env!("CARGO_PKG_VERSION"),
    );
    for pair in passes.windows(2) {
        let [(_, before), (pass, after)] = pair else {
            continue;
        };
        let diff = TextDiff::from_lines(before, after)
            .unified_diff()
            .context_radius(1)
            .to_string();
        let changes = if diff.is_empty() {
            "nothing to do\n"
        } else {
            &diff
        };
        text.push_str(&format!("\n==== pass {pass} ====\n{changes}"));
    }
    text
}
