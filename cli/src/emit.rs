//! What this command asks of the compiler.

use mla_codegen::{Options, Origin};

use crate::args::Emit;
use crate::folder::{Files, MARKER};
use crate::source::Spec;

/// What is to be emitted.
pub(crate) struct Request {
    /// The command that regenerates it, for the header.
    pub(crate) command: String,
    /// Which parts; `None` for the module folder.
    pub(crate) emit: Option<Emit>,
}

/// Name of the file that holds the plans.
const PLAN: &str = "layer.plan";

/// The files that a spec becomes.
pub(crate) fn files(spec: &Spec, request: &Request) -> Files {
    let mut files = Files::new();
    if !matches!(request.emit, Some(Emit::Plan)) {
        let origin = Origin {
            spec: spec.shown.clone(),
            command: Some(request.command.clone()),
        };
        let options = Options {
            tests: !matches!(request.emit, Some(Emit::Rust)),
            ..Options::new(origin)
        };
        files.extend(mla_codegen::emit(&spec.checked, &options).0);
    }
    match request.emit {
        Some(Emit::Rust) => files.retain(|name, _| name == "mod.rs"),
        Some(Emit::Tests) => files.retain(|name, _| name == "tests.rs"),
        Some(Emit::Plan | Emit::All) => {
            files.insert(PLAN.to_owned(), plan(spec));
        }
        None => {}
    }
    files
}

fn plan(spec: &Spec) -> String {
    let mut text = format!(
        "// {MARKER} {} from `{}`.\n",
        env!("CARGO_PKG_VERSION"),
        spec.shown
    );
    for (pass, plan) in mla_codegen::plan::trace(&spec.checked) {
        text.push_str(&format!("\n==== {pass} ====\n{}\n", plan.trim_end()));
    }
    text
}
