//! What the families' lowerings share: sizes, inputs, gates, outputs.

use std::borrow::Cow;

use mla_spec::{
    Checked, Core, Gate, GateGranularity, GateSource, Indexer, KvSource, Layer, Phase,
    QueryScaling, Sink,
};

use super::module::{linear, norm};
use super::writer::Writer;
use crate::plan::{
    Argument, Aspect, Constant, Dim, LinearParams, Module, ModuleKind, Number, Numeral, Op,
    PositionScale, Rows, Ty, ValueId, formulas,
};

/// Sizes that layers of every family have.
#[derive(Debug, Clone, Copy)]
pub(in crate::plan) struct Common {
    pub(in crate::plan) hidden: Dim,
    pub(in crate::plan) heads: Dim,
    /// One head's value and output.
    pub(in crate::plan) v: Dim,
    /// All heads' outputs.
    pub(in crate::plan) out: Dim,
}

pub(super) fn stated(dim: Dim, doc: &'static str) -> Constant {
    Constant {
        name: dim.name,
        value: dim.size,
        formula: None,
        doc,
        public: true,
    }
}

/// A size that only the layer itself speaks of.
pub(super) fn private(dim: Dim, doc: &'static str) -> Constant {
    Constant {
        public: false,
        ..stated(dim, doc)
    }
}

pub(in crate::plan) fn derived(
    dim: Dim,
    formula: impl Into<Cow<'static, str>>,
    public: bool,
    doc: &'static str,
) -> Constant {
    Constant {
        name: dim.name,
        value: dim.size,
        formula: Some(formula.into()),
        doc,
        public,
    }
}

/// What a function is given.
pub(super) struct Inputs {
    /// The layer's input, normed where the layer does that.
    pub(super) hidden: ValueId,
    pub(super) segments: ValueId,
    pub(super) angles: Option<ValueId>,
}

/// `L_0` and the offset of a llama4 query scale.
const QUERY_SCALE_LENGTH: &str = "QUERY_SCALE_LENGTH";
const QUERY_SCALE_OFFSET: &str = "QUERY_SCALE_OFFSET";
const QUERY_SCALE_BETA: &str = "QUERY_SCALE_BETA";

/// Sizes that options outside the projections bring.
pub(super) fn constants(layer: &Layer) -> Vec<Constant> {
    let mut all = Vec::new();
    if let Some(rank) = input_norm_rank(layer) {
        all.push(private(
            rank,
            "Rows of the first matrix in `input_layernorm`'s gate.",
        ));
    }
    all
}

/// Numbers that options outside the projections bring.
pub(super) fn numbers(layer: &Layer) -> Vec<Number> {
    let mut all = Vec::new();
    if let QueryScaling::Llama4 {
        beta,
        original_max_position_embeddings,
        position_offset,
    } = layer.query_scaling
    {
        all.push(Number {
            name: QUERY_SCALE_BETA,
            value: Numeral::Real(beta),
            doc: "How much queries grow: they are multiplied by 1 + β ln(1 + ⌊(pos + offset) / L_0⌋)."
                .to_owned(),
        });
        all.push(Number {
            name: QUERY_SCALE_LENGTH,
            value: Numeral::Position(original_max_position_embeddings),
            doc: "Positions after which queries grow, L_0.".to_owned(),
        });
        all.push(Number {
            name: QUERY_SCALE_OFFSET,
            value: Numeral::Position(position_offset),
            doc: "Added to positions where queries grow.".to_owned(),
        });
    }
    all
}

fn input_norm_rank(layer: &Layer) -> Option<Dim> {
    layer
        .input_norm
        .and_then(|norm| super::writer::rank(norm.kind, "INPUT_LAYERNORM_RANK"))
}

/// The modules before the projections.
pub(super) fn first_modules(layer: &Layer, common: &Common) -> Vec<Module> {
    let input = layer.input_norm.map(|params| {
        norm(
            ("input_layernorm", "the layer's input"),
            "input_layernorm",
            ("INPUT_LAYERNORM_EPS", params.eps),
            (params.kind, common.hidden, input_norm_rank(layer)),
        )
    });
    input.into_iter().collect()
}

/// The modules behind the projections.
pub(super) fn last_modules(layer: &Layer, common: &Common) -> Vec<Module> {
    let mut all = Vec::new();
    if layer.query_scaling == QueryScaling::LogPosition {
        all.push(Module {
            slot: "query_scale",
            kind: ModuleKind::LogPositionScale {
                heads: common.heads,
                source: "softmax_scaling",
            },
            doc: "a and b of the query scale a_h ln(pos + 1) + b_h, HF `softmax_scaling`."
                .to_owned(),
        });
    }
    if layer.logits.sink == Sink::Learned {
        all.push(Module {
            slot: "sinks",
            kind: ModuleKind::Sinks {
                heads: common.heads,
                source: "sinks",
            },
            doc: "s, a logit per head that takes part in softmax and has no value, HF `sinks`."
                .to_owned(),
        });
    }
    if let Some((gate, bias, full_precision)) = own_gate(layer) {
        let rows = Rows::Stacked(vec![("g_proj", gate_width(gate, common))]);
        let params = LinearParams {
            input: common.hidden,
            output: gate_width(gate, common),
            rows,
            bias,
        };
        let (kind, note) = if full_precision {
            (
                ModuleKind::AccumLinear(params),
                ", in the accumulation type",
            )
        } else {
            (ModuleKind::Linear(params), "")
        };
        all.push(Module {
            slot: "linear_gate_proj",
            kind,
            doc: format!("W_G, HF `g_proj`{note}."),
        });
    }
    let widths = (common.out, common.hidden);
    all.push(linear(
        ("linear_proj", "W_O"),
        "o_proj",
        widths,
        layer.output_bias,
    ));
    all
}

/// A gate with a linear of its own, that linear's bias, and whether it is computed in full precision.
fn own_gate(layer: &Layer) -> Option<(Gate, bool, bool)> {
    let gate = layer.gate?;
    match gate.source {
        GateSource::Linear {
            bias,
            full_precision,
        } => Some((gate, bias, full_precision)),
        GateSource::Query | GateSource::Qkv => None,
    }
}

fn gate_width(gate: Gate, common: &Common) -> Dim {
    match gate.granularity {
        GateGranularity::PerHead => common.heads,
        GateGranularity::PerElement => common.out,
    }
}

/// What a phase's function takes besides what every such function takes.
pub(super) fn arguments(layer: &Layer, phase: Phase) -> Vec<Argument> {
    let mut all = Vec::new();
    match (layer.latent().map(|latent| latent.kv_source), phase) {
        (Some(KvSource::Own { shared: true }), Phase::Forward | Phase::Train) => {
            all.push(Argument::GivesKv)
        }
        (Some(KvSource::Other), Phase::Forward | Phase::Train) => all.push(Argument::TakesKv),
        (Some(KvSource::Other), _) => all.push(Argument::Source),
        _ => {}
    }
    match &layer.core {
        Core::Sparse(Indexer::Lightning(indexer)) if indexer.shared => {
            all.push(Argument::GivesSelection);
        }
        Core::Sparse(Indexer::Shared { .. }) => all.push(Argument::TakesSelection),
        _ => {}
    }
    if layer.logits.bias {
        all.push(Argument::Bias);
    }
    if layer.logits.dropout > 0.0 && !phase.is_cached() {
        all.push(Argument::Dropout);
    }
    all
}

/// Whether the layer is trained.
pub(super) fn is_trained(checked: &Checked) -> bool {
    checked.build.phases.contains(&Phase::Train)
}

/// Whether phases with a cache are emitted.
pub(super) fn is_cached(checked: &Checked) -> bool {
    checked.build.phases.iter().any(|phase| phase.is_cached())
}

impl Writer<'_> {
    /// Hidden state, segments and angles.
    pub(super) fn inputs(&mut self) -> Inputs {
        self.step("");
        let given = self.define("hidden", Ty::Rows(self.common.hidden), |out| Op::Hidden {
            out,
        });
        let segments = if self.is_cached() {
            self.push(Op::CheckBatch);
            self.define("segments", Ty::Segments, |out| Op::BatchSegments { out })
        } else {
            self.define("segments", Ty::Segments, |out| Op::MaskSegments {
                context: None,
                out,
            })
        };
        let angles = self
            .rotary
            .map(|table| self.define("angles", Ty::Angles(table.width), |out| Op::Angles { out }));
        Inputs {
            hidden: self.input_norm(given),
            segments,
            angles,
        }
    }

    /// The layer's input as its projections see it.
    pub(super) fn input_norm(&mut self, hidden: ValueId) -> ValueId {
        match self.layer.input_norm {
            None => hidden,
            Some(params) => {
                self.step(formulas::input_norm(params.kind));
                self.norm("hidden", hidden, "input_layernorm", self.common.hidden)
            }
        }
    }

    /// Queries as attention takes them: scaled by position where the layer does that.
    pub(super) fn scaled_queries(&mut self, q: ValueId) -> ValueId {
        let dim = |name, size| Dim { name, size };
        let scale = match self.layer.query_scaling {
            QueryScaling::None => return q,
            QueryScaling::Llama4 {
                original_max_position_embeddings,
                position_offset,
                ..
            } => PositionScale::Llama4 {
                beta: QUERY_SCALE_BETA,
                original_max_position_embeddings: dim(
                    QUERY_SCALE_LENGTH,
                    original_max_position_embeddings,
                ),
                position_offset: dim(QUERY_SCALE_OFFSET, position_offset),
            },
            QueryScaling::LogPosition => PositionScale::Learned {
                slot: "query_scale",
            },
        };
        self.turned(q, |out| Op::ScaleByPosition { x: q, scale, out })
    }

    /// The gate of a linear of its own.
    pub(super) fn gate(&mut self, hidden: ValueId) -> Option<ValueId> {
        let (gate, bias, full_precision) = own_gate(self.layer)?;
        self.step(formulas::gate(gate.granularity, bias));
        let width = gate_width(gate, &self.common);
        Some(if full_precision {
            self.accum_linear("gate", hidden, "linear_gate_proj", width)
        } else {
            self.linear("gate", hidden, "linear_gate_proj", width)
        })
    }

    /// Everything behind attention.
    pub(super) fn output(&mut self, attended: ValueId, gate: Option<ValueId>) -> ValueId {
        let Common { heads, v, out, .. } = self.common;
        self.step(formulas::output(self.layer));
        let attended = match self.layer.logits.sink {
            Sink::None => attended,
            sink => {
                let slot = (sink == Sink::Learned).then_some("sinks");
                self.turned(attended, |out| Op::Sink {
                    x: attended,
                    slot,
                    out,
                })
            }
        };
        self.probe("mid.lse", attended, Aspect::Lse);
        self.probe("mid.max_logit", attended, Aspect::MaxLogit);
        let mut result = self.define("out", Ty::Heads(heads, v), |out| Op::AttendedOut {
            x: attended,
            out,
        });
        if let (Some(gate), Some(Gate { granularity, .. })) = (gate, self.layer.gate) {
            self.probe("mid.attn_raw", result, Aspect::Value);
            let x = result;
            result = self.turned(x, |out| Op::Gate {
                x,
                gate,
                granularity,
                out,
            });
        }
        let rows = self.define("out", Ty::Rows(out), |id| Op::IntoRows {
            x: result,
            width: out,
            out: id,
        });
        self.probe("mid.attn_out", rows, Aspect::Value);
        self.linear("output", rows, "linear_proj", self.common.hidden)
    }
}
