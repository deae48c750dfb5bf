//! The parts of a module around its functions: tensors, the struct, loading.

use mla_spec::{DType, IndexerRope, NormKind, RopeLayout};

use super::body::Style;
use super::layout::{Call, Lines};
use crate::plan::{
    Argument, ByLength, CheckpointTensor, Dim, Family, GroupPiece, LinearParams, Module,
    ModuleKind, NormParams, Program, RotaryTable, Rows,
};

/// How items look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Documented, as where people outside the file read them.
    pub(crate) documented: bool,
    /// What stands before items that other modules use: `pub `, `pub(super) `.
    pub(crate) visibility: &'static str,
    /// Indentations.
    pub(crate) level: usize,
}

impl Look {
    /// A layer's own module.
    pub(crate) const PUBLIC: Self = Self {
        documented: true,
        visibility: "pub ",
        level: 0,
    };

    /// No lines yet, at the look's level.
    pub(super) fn lines(self) -> Lines {
        Lines::indented(self.level)
    }

    /// Documentation, where there is any.
    pub(super) fn doc(self, text: &str, lines: &mut Lines) {
        if self.documented {
            lines.prose("///", text);
        }
    }

    /// Visibility of what users of a layer call, and what nobody calls by name elsewhere.
    pub(super) fn of_functions(self) -> &'static str {
        if self.documented { self.visibility } else { "" }
    }
}

/// The array of the checkpoint's tensors.
pub(crate) fn tensors(program: &Program, look: Look) -> String {
    let all: Vec<Call> = program.tensors().iter().map(tensor).collect();
    let mut lines = look.lines();
    look.doc(
        "The checkpoint's tensors below the layer's prefix: exactly these.",
        &mut lines,
    );
    let open = format!(
        "{}const TENSORS: [TensorShape; {}] = [",
        look.visibility,
        all.len()
    );
    lines.block(&open, "];", |lines| {
        all.iter().for_each(|call| lines.call("", call, ","))
    });
    lines.into_text()
}

fn tensor(tensor: &CheckpointTensor) -> Call {
    let shape: Vec<&str> = tensor.shape.iter().map(|dim| dim.name).collect();
    let (name, shape) = (
        format!("\"{}\"", tensor.name),
        format!("&[{}]", shape.join(", ")),
    );
    Call::infallible("TensorShape::new", &[&name, &shape])
}

/// Rust's name of an element type.
pub(super) fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::Bf16 => "bf16",
        DType::F64 => "f64",
    }
}

pub(super) fn layout(layout: Option<RopeLayout>) -> &'static str {
    match layout {
        Some(RopeLayout::Interleaved) => "Interleaved",
        Some(RopeLayout::Half) => "Half",
        None => "Unrotated",
    }
}

/// The struct.
pub(super) fn structure(program: &Program, name: &str, look: Look, lines: &mut Lines) {
    look.doc("The layer, with its parameters on a backend.", lines);
    lines.line("#[derive(Debug)]");
    let default = format!(" = Cpu<{}>", element(program.build.dtype));
    let default = if look.documented { &default } else { "" };
    let head = format!("{}struct {name}<B: Backend{default}>", look.visibility);
    lines.item(&head, |lines| {
        for module in &program.modules {
            look.doc(&module.doc, lines);
            lines.field(module.slot, &module_type(module));
        }
        if let Some(table) = &program.rotary {
            look.doc(rotary_doc(program), lines);
            let (input, output) = (layout(Some(table.input)), layout(Some(table.output)));
            lines.line(&format!(
                "rotary: Rotary<B, {input}, {output}, {}>,",
                table.width.name
            ));
            if let Some(rope) = indexer_rope(program) {
                look.doc(
                    "Rotates a part of the indexer's queries and keys, at the same frequencies.",
                    lines,
                );
                let pairs = layout(Some(rope.layout));
                lines.line(&format!(
                    "indexer_rotary: Rotary<B, {pairs}, {pairs}, {}>,",
                    table.width.name
                ));
            }
        }
    });
}

fn rotary_doc(program: &Program) -> &'static str {
    match program.family {
        Family::Latent if program.source.is_some() || takes_kv(program) => {
            "Rotates the rope part of queries."
        }
        Family::Latent => "Rotates the rope part of queries and the shared key.",
        Family::Grouped | Family::Cross => "Rotates queries and keys.",
    }
}

/// Whether rotated keys are another layer's.
fn takes_kv(program: &Program) -> bool {
    let mut arguments = program.plans.iter().flat_map(|plan| &plan.arguments);
    arguments.any(|argument| matches!(argument, Argument::TakesKv | Argument::Source))
}

fn indexer_rope(program: &Program) -> Option<IndexerRope> {
    program.indexer.as_ref()?.rope
}

fn module_type(module: &Module) -> String {
    match &module.kind {
        ModuleKind::Linear(linear) => {
            format!("Linear<B, {}, {}>", linear.input.name, linear.output.name)
        }
        ModuleKind::Fp8Linear(linear) => {
            format!(
                "Fp8Linear<B, {}, {}>",
                linear.input.name, linear.output.name
            )
        }
        ModuleKind::AccumLinear(linear) => format!(
            "AccumLinear<B, {}, {}>",
            linear.input.name, linear.output.name
        ),
        ModuleKind::Norm(norm) => norm_type(norm),
        ModuleKind::NormLinear(norm, linear) => {
            let (input, output) = (linear.input.name, linear.output.name);
            format!("LayerNormLinear<B, {}, {input}, {output}>", norm_type(norm))
        }
        ModuleKind::Sinks { heads, .. } => format!("Sinks<B, {}>", heads.name),
        ModuleKind::LogPositionScale { heads, .. } => {
            format!("LogPositionScale<B, {}>", heads.name)
        }
        ModuleKind::KeyPools {
            input, pool, width, ..
        } => format!("KeyPools<B, {}, {}, {}>", input.name, width.name, pool.name),
    }
}

fn norm_type(norm: &NormParams) -> String {
    match norm.rank {
        Some(rank) => format!("{}<B, {}, {}>", norm_name(norm), norm.width.name, rank.name),
        None => format!("{}<B, {}>", norm_name(norm), norm.width.name),
    }
}

fn norm_name(norm: &NormParams) -> &'static str {
    match norm.kind {
        NormKind::RmsNorm => "RmsNorm",
        NormKind::LayerNorm => "LayerNorm",
        NormKind::GatedRmsNorm { .. } => "GatedRmsNorm",
    }
}

/// `load`.
pub(super) fn load(program: &Program, style: Style, look: Look, lines: &mut Lines) {
    if look.documented {
        lines.prose(
            "///",
            "Loads the layer from the tensors below `prefix`, which may end with a dot or not.",
        );
        lines.line("///");
        lines.line("/// # Errors");
        lines.prose(
            "///",
            "The tensors below `prefix` are not exactly [`TENSORS`]: one is missing, left over, misshapen, or of an \
             element type that no weight has; all of them are listed. A tensor can't be read.",
        );
    }
    let visibility = look.of_functions();
    let parameters = ["weights: &Weights", "prefix: &str", "device: &B::Device"].map(str::to_owned);
    lines.function(
        &format!("{visibility}fn load"),
        &parameters,
        "Result<Self>",
        |lines| {
            lines.line("let weights = weights.exactly(prefix, &TENSORS)?;");
            if style.kernels {
                let cubins = if style.cubins { "&CUBINS" } else { "&[]" };
                lines.line(&format!("B::add_kernels(device, &KERNELS, {cubins})?;"));
            }
            lines.block("Ok(Self {", "})", |lines| {
                for module in &program.modules {
                    load_module(module, lines);
                }
                if let Some(table) = &program.rotary {
                    lines.call("rotary: ", &load_rotary(table), ",");
                    if indexer_rope(program).is_some() {
                        lines.call("indexer_rotary: ", &load_rotary(table), ",");
                    }
                }
            });
        },
    );
}

fn load_rotary(table: &RotaryTable) -> Call {
    match table.by_length {
        None => Call::fallible("Rotary::new", &["device", "&INV_FREQ", "COS_SIN_FACTOR"]),
        Some(ByLength::LongRope { .. }) => Call::fallible(
            "Rotary::longrope",
            &[
                "device",
                "&INV_FREQ",
                "&LONG_INV_FREQ",
                "ROPE_LENGTH",
                "COS_SIN_FACTOR",
            ],
        ),
        Some(ByLength::Dynamic { .. }) => Call::fallible(
            "Rotary::dynamic",
            &["device", "ROPE_THETA", "ROPE_FACTOR", "ROPE_LENGTH"],
        ),
    }
}

fn load_module(module: &Module, lines: &mut Lines) {
    let field = format!("{}: ", module.slot);
    match &module.kind {
        ModuleKind::Linear(linear) => load_rows(&field, "Linear", linear, lines),
        ModuleKind::Fp8Linear(linear) => load_rows(&field, "Fp8Linear", linear, lines),
        ModuleKind::AccumLinear(linear) => lines.call(&field, &load_accum_linear(linear), ","),
        ModuleKind::Sinks { source, .. } => {
            lines.call(&field, &load_named("Sinks", source), ",");
        }
        ModuleKind::LogPositionScale { source, .. } => {
            lines.call(&field, &load_named("LogPositionScale", source), ",");
        }
        ModuleKind::KeyPools { source, .. } => {
            lines.call(&field, &load_named("KeyPools", source), ",");
        }
        ModuleKind::Norm(norm) => lines.call(&field, &load_norm(norm), ","),
        ModuleKind::NormLinear(norm, linear) => {
            lines.block(&format!("{field}LayerNormLinear::new("), "),", |lines| {
                lines.call("", &load_norm(norm), ",");
                lines.call("", &load_linear("Linear", linear), ",");
            })
        }
    }
}

fn load_linear(ty: &str, linear: &LinearParams) -> Call {
    let biased = if linear.bias { "_biased" } else { "" };
    let names: Vec<String> = linear
        .sources()
        .iter()
        .map(|(source, _)| format!("\"{source}\""))
        .collect();
    let names = format!("&[{}]", names.join(", "));
    Call::fallible(
        format!("{ty}::load{biased}"),
        &["&weights", &names, "device"],
    )
}

/// A linear of modules one below the other, or group by group.
fn load_rows(field: &str, ty: &str, linear: &LinearParams, lines: &mut Lines) {
    let Rows::Grouped { groups, pieces } = &linear.rows else {
        return lines.call(field, &load_linear(ty, linear), ",");
    };
    let biased = if linear.bias { "_biased" } else { "" };
    let open = format!("{field}{ty}::load_grouped{biased}(");
    lines.block(&open, ")?,", |lines| {
        lines.line("&weights,");
        lines.line(&format!("{},", groups.name));
        lines.block("&[", "],", |lines| {
            for piece in pieces {
                lines.call("", &group_part(*piece, *groups), ",");
            }
        });
        lines.line("device,");
    });
}

/// What one module adds to each group.
fn group_part(piece: GroupPiece, groups: Dim) -> Call {
    let name = format!("\"{}\"", piece.source);
    let heads = if piece.heads == groups {
        "1".to_owned()
    } else {
        format!("{} / {}", piece.heads.name, groups.name)
    };
    Call::infallible("GroupPart::heads", &[&name, &heads, "HEAD_DIM"])
}

/// The weights of one module, in the accumulation type.
fn load_accum_linear(linear: &LinearParams) -> Call {
    let biased = if linear.bias { "_biased" } else { "" };
    let source = linear
        .sources()
        .first()
        .map_or(String::new(), |(source, _)| format!("\"{source}\""));
    Call::fallible(
        format!("AccumLinear::load{biased}"),
        &["&weights", &source, "device"],
    )
}

fn load_norm(norm: &NormParams) -> Call {
    let source = format!("\"{}\"", norm.source);
    Call::fallible(
        format!("{}::load", norm_name(norm)),
        &["&weights", &source, norm.eps_name, "device"],
    )
}

/// What is loaded by its name alone.
fn load_named(ty: &str, source: &str) -> Call {
    let source = format!("\"{source}\"");
    Call::fallible(format!("{ty}::load"), &["&weights", &source, "device"])
}

/// The struct of parameters, and its zeros.
pub(super) fn parameters(program: &Program, look: Look, lines: &mut Lines) {
    look.doc(
        "A number in the accumulation type for each parameter of the layer: gradients, master weights, an optimiser's moments.",
        lines,
    );
    lines.line("#[derive(Debug)]");
    let head = format!("{}struct Parameters<B: Backend>", look.visibility);
    lines.item(&head, |lines| {
        for module in &program.modules {
            look.doc(&format!("Of `{}`.", module.slot), lines);
            let field = format!("{}{}", look.visibility, module.slot);
            lines.field(&field, &parameters_type(module));
        }
    });
    lines.line("");
    lines.block("impl<B: Backend> Parameters<B> {", "}", |lines| {
        if look.documented {
            lines.line("/// Zeros.");
            lines.line("///");
            lines.line("/// # Errors");
            lines.line("/// The device has no room.");
        }
        let head = format!("{}fn zeros", look.of_functions());
        let device = ["device: &B::Device".to_owned()];
        lines.function(&head, &device, "Result<Self>", |lines| {
            lines.block("Ok(Self {", "})", |lines| {
                for module in &program.modules {
                    zeros(module, lines);
                }
            });
        });
    });
}

fn parameters_type(module: &Module) -> String {
    let linear = |linear: &LinearParams| {
        let (input, output) = (linear.input.name, linear.output.name);
        format!("LinearParameters<B, {input}, {output}>")
    };
    match &module.kind {
        ModuleKind::Linear(params)
        | ModuleKind::Fp8Linear(params)
        | ModuleKind::AccumLinear(params) => linear(params),
        ModuleKind::Norm(norm) => norm_parameters(norm),
        ModuleKind::NormLinear(norm, params) => format!(
            "NormLinearParameters<{}, {}>",
            norm_parameters(norm),
            linear(params)
        ),
        ModuleKind::Sinks { heads, .. } => format!("SinkParameters<B, {}>", heads.name),
        ModuleKind::LogPositionScale { heads, .. } => {
            format!("LogPositionParameters<B, {}>", heads.name)
        }
        ModuleKind::KeyPools {
            input, pool, width, ..
        } => format!(
            "KeyPoolParameters<B, {}, {}, {}>",
            input.name, width.name, pool.name
        ),
    }
}

fn norm_parameters(norm: &NormParams) -> String {
    match norm.rank {
        Some(rank) => format!("GatedNormParameters<B, {}, {}>", norm.width.name, rank.name),
        None => format!("NormParameters<B, {}>", norm.width.name),
    }
}

fn zeros(module: &Module, lines: &mut Lines) {
    let field = format!("{}: ", module.slot);
    let named = |ty: &str, source: &str| {
        let source = format!("\"{source}\"");
        Call::fallible(format!("{ty}::zeros"), &["device", &source])
    };
    match &module.kind {
        ModuleKind::Linear(linear)
        | ModuleKind::Fp8Linear(linear)
        | ModuleKind::AccumLinear(linear) => {
            zero_rows(&field, linear, lines);
        }
        ModuleKind::Norm(norm) => lines.call(&field, &zero_norm(norm), ","),
        ModuleKind::NormLinear(norm, linear) => {
            let open = format!("{field}NormLinearParameters::new(");
            lines.block(&open, "),", |lines| {
                lines.call("", &zero_norm(norm), ",");
                zero_rows("", linear, lines);
            });
        }
        ModuleKind::Sinks { source, .. } => {
            lines.call(&field, &named("SinkParameters", source), ",");
        }
        ModuleKind::LogPositionScale { source, .. } => {
            lines.call(&field, &named("LogPositionParameters", source), ",");
        }
        ModuleKind::KeyPools { source, .. } => {
            lines.call(&field, &named("KeyPoolParameters", source), ",");
        }
    }
}

fn zero_norm(norm: &NormParams) -> Call {
    let source = format!("\"{}\"", norm.source);
    let (ty, function) = match (norm.kind, norm.rank) {
        (_, Some(_)) => ("GatedNormParameters", "zeros"),
        (NormKind::LayerNorm, _) => ("NormParameters", "zeros_shifted"),
        _ => ("NormParameters", "zeros"),
    };
    Call::fallible(format!("{ty}::{function}"), &["device", &source])
}

fn zero_rows(field: &str, linear: &LinearParams, lines: &mut Lines) {
    let biased = if linear.bias { "_biased" } else { "" };
    match &linear.rows {
        Rows::Stacked(sources) => {
            let pieces: Vec<String> = sources
                .iter()
                .map(|(source, rows)| format!("(\"{source}\", {})", rows.name))
                .collect();
            let callee = format!("LinearParameters::zeros{biased}");
            if pieces.join(", ").chars().count() + 2 > 60 {
                return lines.block(&format!("{field}{callee}("), ")?,", |lines| {
                    lines.line("device,");
                    lines.block("&[", "],", |lines| {
                        pieces
                            .iter()
                            .for_each(|piece| lines.line(&format!("{piece},")));
                    });
                });
            }
            let pieces = format!("&[{}]", pieces.join(", "));
            lines.call(field, &Call::fallible(callee, &["device", &pieces]), ",");
        }
        Rows::Grouped { groups, pieces } => {
            let open = format!("{field}LinearParameters::zeros_grouped{biased}(");
            lines.block(&open, ")?,", |lines| {
                lines.line("device,");
                lines.line(&format!("{},", groups.name));
                lines.block("&[", "],", |lines| {
                    for piece in pieces {
                        lines.call("", &group_part(*piece, *groups), ",");
                    }
                });
            });
        }
    }
}
