//! Layers of spec/models by name, and what is planned for them.

use mla_codegen::plan::{Plan, Program};
use mla_spec::{Checked, Phase, Sources, check, read};

/// The layer of a file in spec/models.
pub(crate) fn model(name: &str) -> Checked {
    let path = format!("{}/../spec/models/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the model spec is readable");
    parsed(&text)
}

/// The layer of a spec's text.
pub(crate) fn parsed(text: &str) -> Checked {
    let document =
        read::yaml(&mut Sources::default(), "model.yaml", text).expect("the spec is well-formed");
    check::check(&document).0.expect("the spec is valid")
}

/// The plan of a phase.
#[allow(dead_code)] // not every test file that includes this module uses it
pub(crate) fn plan(program: &Program, phase: Phase) -> &Plan {
    program
        .plans
        .iter()
        .find(|plan| plan.phase == phase)
        .expect("the phase is planned")
}
