//! `mla-gen show SPEC`

mod page;
mod timed;

use mla_codegen::report;
use mla_spec::{Activation, Build, Checked, CheckedModel, FormChoice, Phase, check_model, import};

use crate::args::Show;
use crate::failure::Failure;
use crate::source::{self, Described, Spec};
use crate::talk;

/// Prints what a layer costs, or a model's layers as a table; or writes a page of a layer, or of two.
pub(crate) fn show(args: &Show) -> Result<(), Failure> {
    if let Some(file) = &args.html {
        return page::write(args, file);
    }
    if args.model {
        return table(args, &imported(args)?);
    }
    match source::described(&args.spec, &args.config)? {
        Described::Model(_, model) => table(args, &model),
        Described::Layer(spec) => layer(args, *spec),
    }
}

fn layer(args: &Show, spec: Spec) -> Result<(), Failure> {
    let checked = scheduled(args, spec.checked)?;
    if args.schedule.is_some() {
        announce(&checked.build)?;
    }
    let phase = args.phase.map(Phase::from);
    if let Some(phase) = phase.filter(|phase| !checked.build.phases.contains(phase)) {
        return Err(without(&spec.shown, phase));
    }
    talk::data(&report::report(&checked).text(phase))?;
    let Some(budget) = args.budget else {
        return Ok(());
    };
    let Some(cheapest) = report::cheapest(&checked, u128::from(budget)) else {
        return Err(Failure::Usage(format!(
            "`--budget` chooses what training keeps, and `{}` is not trained: add `train` to its `build.phases`",
            spec.shown
        )));
    };
    let words: Vec<&str> = cheapest.recompute.iter().map(|part| part.word()).collect();
    let verdict = if cheapest.bytes > u128::from(budget) {
        format!("no schedule keeps as little as {budget} B per token; the least")
    } else {
        format!("cheapest within {budget} B per token")
    };
    talk::data(&format!(
        "\n{verdict}: recompute: [{}]\n{cheapest}\n",
        words.join(", ")
    ))
}

/// The layer in the form and with the schedule that are asked for.
fn scheduled(args: &Show, mut checked: Checked) -> Result<Checked, Failure> {
    if let Some(form) = args.form {
        checked.build.form = FormChoice::Forced(form.into());
    }
    if let Some(path) = &args.schedule {
        let schedule = source::schedule(path, &checked.layer)?;
        checked.build.recompute = schedule.recompute;
        checked.build.offload = schedule.offload;
    }
    Ok(checked)
}

fn without(shown: &str, phase: Phase) -> Failure {
    Failure::Usage(format!(
        "`{shown}` has no phase {phase:?}: its `build.phases` leave it out"
    ))
}

/// The schedule, as a spec's `build` section would have it.
fn announce(build: &Build) -> Result<(), Failure> {
    let list = |parts: &[Activation]| {
        let words: Vec<&str> = parts.iter().map(|part| part.word()).collect();
        format!("[{}]", words.join(", "))
    };
    talk::data(&format!(
        "recompute: {}\noffload: {}\n\n",
        list(&build.recompute),
        list(&build.offload)
    ))
}

fn table(args: &Show, model: &CheckedModel) -> Result<(), Failure> {
    if args.phase.is_some() || args.form.is_some() {
        return Err(Failure::Usage(format!(
            "`--phase` and `--form` go with a layer, and `{}` is a model",
            args.spec.display()
        )));
    }
    talk::data(&report::model(model).to_string())
}

/// Every attention layer of a config.
fn imported(args: &Show) -> Result<CheckedModel, Failure> {
    let options = import::Options {
        layer: None,
        strict: args.config.strict,
        name: None,
    };
    let model = source::model_config(&args.spec, &options)?;
    talk::plain(&model.warnings.text);
    let (checked, _) = check_model(&model.imported.document);
    checked
        .ok_or_else(|| Failure::Usage(format!("`{}` is no model that can be shown", model.shown)))
}
