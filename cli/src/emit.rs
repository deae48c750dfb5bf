//! What this command asks of the compiler.

use mla_codegen::{Options, Origin};
use similar::TextDiff;

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

/// The finished plan, and below it what each pass changed.
fn plan(spec: &Spec) -> String {
    let passes = mla_codegen::plan::trace(&spec.checked);
    let finished = passes.last().map_or("", |(_, text)| text.trim_end());
    let mut text = format!(
        "// {MARKER} {} from `{}`.\n\n{finished}\n",
        env!("CARGO_PKG_VERSION"),
        spec.shown
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
