//! `mla-gen run --grad SPEC`

use mla_codegen::report;
use mla_spec::Checked;

use super::{
    done, head, input, is_padded, line, refuse_consumer, speed, weights, written, written_layout,
};
use crate::args::Run;
use crate::driver::job::{Grad, Job, Mode, Phase, Report, Rope, Split, Stored};
use crate::driver::{Program, Training, hands_on};
use crate::failure::Failure;
use crate::source;
use crate::talk;
use crate::talk::counted;

/// Compiles the layer with the phase `train`, does one forward and one backward pass, and prints what came of them.
pub(super) fn run(args: &Run) -> Result<(), Failure> {
    let spec = source::spec(&args.spec, &args.config)?;
    let input = input(args)?;
    refuse_consumer(&spec, args.io.as_deref())?;
    let training = Training {
        form: args.form.map(Into::into),
        dtype: args.dtype.map(Into::into),
        recompute: None,
    };
    let checked = training.of(&spec.checked, is_padded(args)?);
    let mut program = Program::on(args.backend);
    let layer = program.add(&checked);
    let job = Job {
        name: checked.layer.name.clone(),
        layer: layer.key,
        weights: weights(args, &spec)?,
        input,
        modes: vec![Mode::Grad],
        chunks: None,
        cache: Stored::Exact,
        rope: Rope {
            found: layer.rope,
            wanted: written_layout(args, layer.rope),
        },
        grad: Grad {
            hands_on: hands_on(&checked),
            ..Grad::default()
        },
        bench: Vec::new(),
        out: args.out.clone(),
    };
    tell(&checked, &done(&program.compile()?, job)?)
}

fn tell(checked: &Checked, report: &Report) -> Result<(), Failure> {
    let mut lines = head(checked, report);
    for phase in [Phase::ForwardTrain, Phase::Backward] {
        lines.extend(speed(checked, report, phase));
    }
    lines.extend(kept(checked, report));
    if let Some(loss) = report.indexer_loss {
        lines.push(line("loss", format!("of the indexer {loss:.6e}")));
    }
    let names = report.gradients.iter().map(|gradient| gradient.name.len());
    let width = names.max().unwrap_or(0);
    for gradient in &report.gradients {
        let norm = gradient
            .norm
            .map_or("not finite".to_owned(), |norm| format!("{norm:.6e}"));
        let text = format!("of {:<width$}  norm {norm}", gradient.name);
        lines.push(line("gradient", text));
    }
    lines.extend(written(report));
    let verdict = |passed: bool| if passed { "pass" } else { "FAIL" };
    let infinite = report
        .gradients
        .iter()
        .filter(|one| one.norm.is_none())
        .count();
    let all = counted(report.gradients.len(), "gradient");
    let text = format!("{all}, all finite: {}", verdict(infinite == 0));
    lines.push(line("proof", text));
    let differs = report
        .split
        .as_ref()
        .and_then(|split| split.differs.as_ref());
    if let Some(Split { tensors, .. }) = report.split {
        let tensors = counted(tensors, "tensor");
        let text = format!(
            "backward_input and backward_dw equal backward, bit for bit, {tensors}: {}",
            verdict(differs.is_none())
        );
        lines.push(line("proof", text));
    }
    talk::data(&(lines.join("\n") + "\n"))?;
    match (infinite, differs) {
        (0, None) => Ok(()),
        (0, Some(differs)) => Err(Failure::Check(format!(
            "the backward pass in two parts differs from the whole one: {differs}"
        ))),
        _ => Err(Failure::Check(format!(
            "{infinite} of {all} {} not finite",
            if infinite == 1 { "is" } else { "are" }
        ))),
    }
}

/// What stays in memory between the passes.
fn kept(checked: &Checked, report: &Report) -> Option<String> {
    let kept = report::report(checked).training?.kept;
    let bytes: u128 = kept.iter().map(|kept| kept.bytes).sum();
    let tokens = report.batch * report.seq;
    let words: Vec<&str> = checked
        .build
        .recompute
        .iter()
        .map(|part| part.word())
        .collect();
    let again = match words.is_empty() {
        true => String::new(),
        false => format!(", computed again: {}", words.join(", ")),
    };
    let total = bytes * tokens as u128;
    Some(line(
        "kept",
        format!(
            "{bytes} bytes per token, {total} bytes for {}{again}",
            counted(tokens, "token")
        ),
    ))
}
