//! Training: the functions, and the structs that pass from one to the next.

mod clip;

use super::body::{self, Function, Style, gradient_field, rust_type};
use super::layout::Lines;
use super::parts::{self, Look};
use super::signature;
use super::words;
use crate::plan::{Adjoint, Argument, Gradient, Op, Plan, Program, Training, ValueId, WeightPart};

/// The structs of a layer that is trained; nothing of one that is not.
pub(crate) fn structs(program: &Program, layer: &str, look: Look) -> Option<String> {
    let training = program.training.as_ref()?;
    let mut lines = look.lines();
    saved(program, training, layer, look, &mut lines);
    lines.line("");
    deferred(training, layer, look, &mut lines);
    lines.line("");
    input_gradients(training, layer, look, &mut lines);
    lines.line("");
    parts::parameters(program, look, &mut lines);
    Some(lines.into_text())
}

fn saved(program: &Program, training: &Training, layer: &str, look: Look, lines: &mut Lines) {
    look.doc(
        &format!("What [`{layer}::forward_train`] keeps for the backward pass."),
        lines,
    );
    lines.line("#[derive(Debug)]");
    let head = format!("{}struct Saved<B: Backend>", look.visibility);
    lines.item(&head, |lines| {
        let plan = &training.forward;
        for (kept, &id) in training.kept.iter().zip(&plan.outputs[1..]) {
            let ty = rust_type(&plan.values[id.0].ty);
            let ty = match kept.offloaded {
                true => format!("Offloaded<{ty}>"),
                false => ty,
            };
            lines.field(&kept.name, &ty);
        }
        if training.keeps_positions {
            lines.line("positions: Vec<u32>,");
        }
        if !training.keeps_tensors() {
            lines.line("backend: std::marker::PhantomData<B>,");
        }
        if plan.arguments.contains(&Argument::Dropout) {
            lines.line("dropout: Option<Dropout>,");
        }
        look.doc(
            "The largest logit of each head, scaled, capped and biased as the softmax has it: what QK-clip reads. -∞ where nothing is seen.",
            lines,
        );
        lines.line(&format!("{}max_logits: Vec<f64>,", look.visibility));
    });
    let _ = program;
}

fn deferred(training: &Training, layer: &str, look: Look, lines: &mut Lines) {
    look.doc(
        &format!("What [`{layer}::backward_input`] leaves for the weights' gradients."),
        lines,
    );
    lines.line("#[derive(Debug)]");
    let head = format!("{}struct Deferred<B: Backend>", look.visibility);
    lines.item(&head, |lines| {
        let plan = &training.backward_input;
        for &id in &plan.outputs[training.gradients.len()..] {
            let value = &plan.values[id.0];
            lines.field(&value.name, &rust_type(&value.ty));
        }
    });
}

fn input_gradients(training: &Training, layer: &str, look: Look, lines: &mut Lines) {
    look.doc(
        &format!("The gradients of what [`{layer}::forward_train`] was given."),
        lines,
    );
    lines.line("#[derive(Debug)]");
    let head = format!("{}struct {}", look.visibility, gradients_item(training));
    lines.item(&head, |lines| {
        let plan = &training.backward;
        for (gradient, &id) in training.gradients.iter().zip(&plan.outputs) {
            look.doc(about_gradient(*gradient), lines);
            let ty = match gradient {
                Gradient::Bias => "AttentionBias<B>".to_owned(),
                Gradient::IndexerLoss => "f64".to_owned(),
                _ => rust_type(&plan.values[id.0].ty),
            };
            lines.line(&format!(
                "{}{}: {ty},",
                look.visibility,
                gradient_field(*gradient)
            ));
        }
    });
}

/// Whether any gradient lives on a backend.
fn on_backend(training: &Training) -> bool {
    let mut all = training.gradients.iter();
    all.any(|gradient| *gradient != Gradient::IndexerLoss)
}

fn gradients_item(training: &Training) -> &'static str {
    if on_backend(training) {
        "InputGradients<B: Backend>"
    } else {
        "InputGradients"
    }
}

fn gradients_type(training: &Training) -> &'static str {
    if on_backend(training) {
        "InputGradients<B>"
    } else {
        "InputGradients"
    }
}

fn about_gradient(gradient: Gradient) -> &'static str {
    match gradient {
        Gradient::Hidden => "Of the layer's input.",
        Gradient::Context => "Of the context.",
        Gradient::Latent => "Of the other layer's latents.",
        Gradient::RopeKey => "Of the other layer's rotated keys.",
        Gradient::Bias => "Of the bias of the logits.",
        Gradient::IndexerLoss => "No gradient: the indexer's loss, without `loss_scale`.",
    }
}

/// The functions of a layer that is trained.
pub(super) fn functions(program: &Program, style: Style, look: Look, lines: &mut Lines) {
    let Some(training) = &program.training else {
        return;
    };
    lines.line("");
    forward(program, training, style, look, lines);
    lines.line("");
    let backward = Function::Backward(training);
    let returns = format!("Result<{}>", gradients_type(training));
    function(
        (program, &training.backward, backward),
        ("backward", "saved: Saved<B>", &returns),
        (style, look),
        lines,
    );
    lines.line("");
    let returns = format!("Result<({}, Deferred<B>)>", gradients_type(training));
    function(
        (
            program,
            &training.backward_input,
            Function::BackwardInput(training),
        ),
        ("backward_input", "saved: Saved<B>", &returns),
        (style, look),
        lines,
    );
    for part in &training.weights {
        lines.line("");
        let name = format!("backward_{}", part.name);
        function(
            (program, &part.plan, Function::Weights),
            (&name, "deferred: &Deferred<B>", "Result<()>"),
            (style, look),
            lines,
        );
    }
    lines.line("");
    backward_dw(program, training, look, lines);
    if let Some(plan) = &program.qk_clip {
        lines.line("");
        clip::function(plan, look, lines);
    }
}

fn forward(program: &Program, training: &Training, style: Style, look: Look, lines: &mut Lines) {
    let plan = &training.forward;
    if look.documented {
        words::forward_train(program, plan, lines);
    }
    let (head, parameters) = signature::signature(program, plan, false, look);
    let returns = "Result<(Rows<B, HIDDEN_SIZE>, Saved<B>)>";
    allow_many(&parameters, lines);
    lines.function(&head, &parameters, returns, |lines| {
        let function = Function::ForwardTrain(training);
        body::write(program, plan, function, style, lines);
    });
}

fn function(
    (program, plan, function): (&Program, &Plan, Function<'_>),
    (name, from, returns): (&str, &str, &str),
    (style, look): (Style, Look),
    lines: &mut Lines,
) {
    if look.documented {
        words::backward(name, plan, lines);
    }
    let mut parameters = vec!["&self".to_owned(), from.to_owned()];
    parameters.extend(
        given(plan)
            .into_iter()
            .map(|given| parameter(program, given)),
    );
    // A layer without norms and sinks has the gradients of its linears alone
    let adds = plan
        .ops()
        .any(|op| matches!(op, Op::Adjoint(adjoint) if adjoint.adds()));
    let unused = if adds { "" } else { "_" };
    parameters.push(format!("{unused}gradients: &mut Parameters<B>"));
    allow_many(&parameters, lines);
    let head = format!("{}fn {name}", look.of_functions());
    lines.function(&head, &parameters, returns, |lines| {
        body::write(program, plan, function, style, lines);
    });
}

/// All parts, in order.
fn backward_dw(program: &Program, training: &Training, look: Look, lines: &mut Lines) {
    let all: Vec<Given> = all_given(training);
    if look.documented {
        lines.prose(
            "///",
            "Adds the weights' gradients, part by part: what [`backward`](Self::backward) does beyond [`backward_input`](Self::backward_input).",
        );
        lines.line("///");
        lines.line("/// # Errors");
        lines.line("/// The device refuses.");
    }
    let mut parameters = vec!["&self".to_owned(), "deferred: Deferred<B>".to_owned()];
    parameters.extend(all.iter().map(|&given| parameter(program, given)));
    parameters.push("gradients: &mut Parameters<B>".to_owned());
    allow_many(&parameters, lines);
    let head = format!("{}fn backward_dw", look.of_functions());
    lines.function(&head, &parameters, "Result<()>", |lines| {
        let last = training.weights.len().saturating_sub(1);
        for (i, part) in training.weights.iter().enumerate() {
            let mut arguments = vec!["&deferred"];
            arguments.extend(given(&part.plan).into_iter().map(Given::name));
            arguments.push("gradients");
            let callee = format!("self.backward_{}", part.name);
            let call = super::layout::Call::infallible(callee, &arguments);
            let after = if i == last { "" } else { "?;" };
            lines.line(&format!(
                "{}({}){after}",
                call.callee,
                call.arguments.join(", ")
            ));
        }
    });
}

/// What the weights' gradients are given, all parts together.
fn all_given(training: &Training) -> Vec<Given> {
    let mut all: Vec<Given> = training
        .weights
        .iter()
        .flat_map(|part: &WeightPart| given(&part.plan))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// As many parameters as clippy counts.
fn allow_many(parameters: &[String], lines: &mut Lines) {
    if parameters.len() > 7 {
        lines.line(
            "#[allow(clippy::too_many_arguments)] // what the forward pass was lent, and what comes back",
        );
    }
}

/// What a backward function is given besides what was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Given {
    Hidden,
    Context,
    SharedKv,
    Bias,
    OutputGradient,
    SharedKvGradients,
    LossScale,
}

impl Given {
    fn name(self) -> &'static str {
        match self {
            Given::Hidden => "hidden",
            Given::Context => "context",
            Given::SharedKv => "shared_kv",
            Given::Bias => "bias",
            Given::OutputGradient => "d_output",
            Given::SharedKvGradients => "d_shared_kv",
            Given::LossScale => "loss_scale",
        }
    }
}

/// What a backward plan reads that is not kept, in the order of its function's parameters.
pub(super) fn given(plan: &Plan) -> Vec<Given> {
    let reads = |value: ValueId| {
        plan.outputs.contains(&value) || plan.ops().any(|op| op.reads().contains(&value))
    };
    let mut all = Vec::new();
    for op in plan.ops() {
        match op {
            // A tensor of another layer's latents is as long as the hidden states
            Op::TakeKv { .. } => all.extend([Given::Hidden, Given::SharedKv]),
            Op::Hidden { out } if reads(*out) => all.push(Given::Hidden),
            Op::Context { out } if reads(*out) => all.push(Given::Context),
            Op::Adjoint(Adjoint::OutputGradient { out }) if reads(*out) => {
                all.push(Given::OutputGradient);
            }
            Op::Adjoint(Adjoint::GivenKvGradient { .. }) => all.push(Given::SharedKvGradients),
            Op::Adjoint(Adjoint::IndexerLoss { .. }) => all.push(Given::LossScale),
            _ => {}
        }
        if plan.arguments.contains(&Argument::Bias) && attends(op) {
            all.push(Given::Bias);
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Whether an op has a softmax.
fn attends(op: &Op) -> bool {
    matches!(
        op,
        Op::AttendExpanded { .. }
            | Op::AttendAbsorbed { .. }
            | Op::AttendGroups { .. }
            | Op::Adjoint(
                Adjoint::Expanded { .. }
                    | Adjoint::Absorbed { .. }
                    | Adjoint::Groups { .. }
                    | Adjoint::IndexerLoss { .. }
            )
    )
}

/// Whether a backward plan has any softmax.
pub(super) fn has_softmax(plan: &Plan) -> bool {
    plan.ops().any(attends)
}

/// Whether a plan takes what the forward pass kept.
pub(super) fn unpacks(plan: &Plan) -> bool {
    plan.ops()
        .any(|op| matches!(op, Op::Adjoint(Adjoint::Saved { .. })))
}

fn parameter(program: &Program, given: Given) -> String {
    match given {
        Given::Hidden => "hidden: &Rows<B, HIDDEN_SIZE>".to_owned(),
        Given::Context => "context: &Rows<B, CONTEXT_HIDDEN_SIZE>".to_owned(),
        Given::SharedKv => signature::parameter(program, Argument::TakesKv),
        Given::Bias => signature::parameter(program, Argument::Bias),
        Given::OutputGradient => "d_output: &Rows<B, HIDDEN_SIZE>".to_owned(),
        Given::SharedKvGradients => {
            "d_shared_kv: &SharedKvGradients<B, KV_LORA_RANK, QK_ROPE_HEAD_DIM>".to_owned()
        }
        Given::LossScale => "loss_scale: f64".to_owned(),
    }
}

/// The lines that implement the runtime's traits of training.
pub(crate) fn traits(program: &Program, name: &str, runtime: &str, level: usize) -> Option<String> {
    let training = program.training.as_ref()?;
    let mut lines = Lines::indented(level);
    let slots: Vec<&str> = program.modules.iter().map(|module| module.slot).collect();
    let frozen = slots.len() > training.trained.len();
    listing(
        &mut lines,
        &format!("{runtime}::parameters!({name}:"),
        &[
            ("", slots),
            (
                "trained",
                if frozen {
                    training.trained.clone()
                } else {
                    Vec::new()
                },
            ),
        ],
    );
    let names = |plan: &Plan| given(plan).into_iter().map(Given::name).collect::<Vec<_>>();
    let forward: Vec<&str> = training
        .forward
        .arguments
        .iter()
        .map(|argument| signature::listed(*argument))
        .collect();
    let gradients: Vec<&str> = training
        .gradients
        .iter()
        .map(|gradient| gradient_field(*gradient))
        .collect();
    let dw: Vec<&str> = all_given(training).into_iter().map(Given::name).collect();
    lines.line(&format!("{runtime}::train_traits!("));
    let lists = [
        ("forward_train", forward),
        ("backward", names(&training.backward)),
        ("backward_input", names(&training.backward_input)),
        ("backward_dw", dw),
        ("gradients", gradients),
    ];
    lines.line(&format!("    {name}:"));
    for (what, list) in lists {
        lines.line(&format!("    {what}({}),", list.join(", ")));
    }
    if program.qk_clip.is_some() {
        lines.line("    clip_qk,");
    }
    lines.line(");");
    Some(lines.into_text())
}

/// A macro's call with lists of names, as many to a line as fit.
fn listing(lines: &mut Lines, open: &str, lists: &[(&str, Vec<&str>)]) {
    lines.block(open, ");", |lines| {
        for (what, names) in lists.iter().filter(|(_, names)| !names.is_empty()) {
            if !what.is_empty() {
                lines.line(&format!("; {what}:"));
            }
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            lines.packed(&names);
        }
    });
}
