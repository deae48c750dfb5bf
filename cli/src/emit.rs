//! What this command asks of the compiler.

use mla_codegen::{Options, Origin};
use mla_spec::Checked;
use similar::TextDiff;

use crate::args::Emit;
use crate::folder::{Files, MARKER};
use crate::source::Described;

/// What is to be emitted.
pub(crate) struct Request {
    /// The command that regenerates it, for the header.
    pub(crate) command: String,
    /// Which parts; `None` for the module folder.
    pub(crate) emit: Option<Emit>,
}

/// Name of the file that holds the plans.
const PLAN: &str = "layer.plan";

/// The files that a spec becomes; of a model those of each layer in a folder.
pub(crate) fn files(described: &Described, request: &Request) -> Files {
    let mut files = Files::new();
    if !matches!(request.emit, Some(Emit::Plan)) {
        files.extend(texts(described, request));
    }
    match request.emit {
        Some(Emit::Rust) => files.retain(|name, _| is_file(name, "mod.rs")),
        Some(Emit::Tests) => files.retain(|name, _| is_file(name, "tests.rs")),
        Some(Emit::Plan | Emit::All) => files.extend(plans(described)),
        None => {}
    }
    files
}

fn texts(described: &Described, request: &Request) -> Files {
    let origin = Origin {
        spec: described.shown().to_owned(),
        command: Some(request.command.clone()),
    };
    let options = Options {
        tests: !matches!(request.emit, Some(Emit::Rust)),
        ..Options::new(origin)
    };
    match described {
        Described::Layer(spec) => mla_codegen::emit(&spec.checked, &options).0,
        Described::Model(_, model) => mla_codegen::emit_model(model, &options).0,
    }
}

/// Whether a path's last part is `file`.
fn is_file(path: &str, file: &str) -> bool {
    path.rsplit('/').next() == Some(file)
}

fn plans(described: &Described) -> Files {
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
