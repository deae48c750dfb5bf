//! `SelfAttention`: groups of query heads share a key and a value head (features 1.R).

use mla_spec::{Checked, GateSource, Grouped, HeadNorms, Layer, NormParams, Phase, QkvProjection};

use super::common::{
    Common, Inputs, arguments, derived, first_modules, last_modules, private, stated,
};
use super::module::{linear, norm};
use super::writer::{Writer, rank};
use super::{Frame, frame, scale};
use crate::plan::{
    Argument, Aspect, CacheContent, CachePlan, Constant, Dim, Family, GroupPart, GroupPiece,
    LinearParams, Module, ModuleKind, Number, Numeral, Op, Plan, Program, RotaryTable, Rows, Turn,
    Ty, ValueId, formulas,
};

/// `ε` of the norm without weights.
const QK_L2_NORM_EPS: &str = "QK_L2_NORM_EPS";

/// The sizes of a grouped layer.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    hidden: Dim,
    heads: Dim,
    groups: Dim,
    head: Dim,
    rotary: Dim,
    /// All query heads.
    q: Dim,
    /// All key heads, and all value heads.
    k: Dim,
    /// Every group's key and value.
    kv: Dim,
    /// Every group's queries, their gates where there are some, its key and value.
    qkv: Dim,
}

impl Sizes {
    fn of(layer: &Layer, grouped: &Grouped) -> Self {
        let dim = |name, size| Dim { name, size };
        let q = grouped.num_attention_heads * grouped.kv_channels;
        let k = grouped.num_query_groups * grouped.kv_channels;
        let gates = if has_fused_gate(layer) { q } else { 0 };
        Self {
            hidden: dim("HIDDEN_SIZE", grouped.hidden_size),
            heads: dim("NUM_ATTENTION_HEADS", grouped.num_attention_heads),
            groups: dim("NUM_QUERY_GROUPS", grouped.num_query_groups),
            head: dim("HEAD_DIM", grouped.kv_channels),
            rotary: dim("ROTARY_DIM", grouped.rotary_dim),
            q: dim("Q_WIDTH", q),
            k: dim("K_WIDTH", k),
            kv: dim("KV_WIDTH", 2 * k),
            qkv: dim("QKV_WIDTH", q + gates + 2 * k),
        }
    }

    fn common(&self) -> Common {
        Common {
            hidden: self.hidden,
            heads: self.heads,
            v: self.head,
            out: self.q,
        }
    }

    fn constants(&self, layer: &Layer, grouped: &Grouped) -> Vec<Constant> {
        let mut all = vec![
            stated(self.hidden, "Width of the residual stream, h."),
            stated(self.heads, "Query heads, H."),
            stated(
                self.groups,
                "Groups of query heads that share a key and a value head, G.",
            ),
            stated(self.head, "One head's query, key and value, d."),
        ];
        if self.rotary.size > 0 {
            all.push(stated(
                self.rotary,
                "First part of a head that rope rotates.",
            ));
        }
        all.push(derived(
            self.q,
            "NUM_ATTENTION_HEADS * HEAD_DIM",
            false,
            "Every head's query, and every head's output.",
        ));
        all.push(derived(
            self.k,
            "NUM_QUERY_GROUPS * HEAD_DIM",
            false,
            "Every group's key, and every group's value.",
        ));
        all.push(match grouped.qkv {
            QkvProjection::Separate { .. } => derived(
                self.kv,
                "K_WIDTH + K_WIDTH",
                false,
                "Rows of `linear_kv`: group by group its key and its value.",
            ),
            QkvProjection::Fused { .. } if has_fused_gate(layer) => derived(
                self.qkv,
                "Q_WIDTH + Q_WIDTH + K_WIDTH + K_WIDTH",
                false,
                "Rows of `linear_qkv`: group by group its queries, their gates, its key and its value.",
            ),
            QkvProjection::Fused { .. } => derived(
                self.qkv,
                "Q_WIDTH + K_WIDTH + K_WIDTH",
                false,
                "Rows of `linear_qkv`: group by group its queries, its key and its value.",
            ),
        });
        if let HeadNorms::Learned { q, k } = grouped.norms {
            let ranks = [(q, Q_NORM_RANK), (k, K_NORM_RANK)];
            let ranks = ranks
                .into_iter()
                .filter_map(|(norm, name)| rank(norm?.kind, name));
            all.extend(
                ranks.map(|rank| private(rank, "Rows of the first matrix in a gated norm's gate.")),
            );
        }
        all
    }
}

const Q_NORM_RANK: &str = "Q_LAYERNORM_RANK";
const K_NORM_RANK: &str = "K_LAYERNORM_RANK";

/// Whether gates are rows of `linear_qkv`.
fn has_fused_gate(layer: &Layer) -> bool {
    layer
        .gate
        .is_some_and(|gate| gate.source == GateSource::Qkv)
}

/// The layer's parts, and each phase in canonical form.
pub(super) fn lower(checked: &Checked, grouped: &Grouped) -> Program {
    let layer = &checked.layer;
    let sizes = Sizes::of(layer, grouped);
    let rotary = scale::rotary(layer, sizes.rotary, None);
    let plans = checked.build.phases.iter().map(|&phase| {
        let arguments = arguments(layer, phase);
        phase_plan(layer, grouped, &sizes, (rotary.as_ref(), phase), arguments)
    });
    let cache = CachePlan {
        content: CacheContent::Groups,
        store: checked.build.cache.store,
        index: None,
        page_size: checked.build.cache.page_size,
        rope_layout: rotary.as_ref().map(|table| table.output),
        elements_per_token: 2 * u64::from(sizes.k.size),
        rope_elements: 0,
    };
    frame(
        checked,
        Frame {
            family: Family::Grouped,
            constants: sizes.constants(layer, grouped),
            numbers: numbers(grouped),
            modules: modules(layer, grouped, &sizes),
            plans: plans.collect(),
            cache: Some(cache),
            source: None,
            rotary,
        },
    )
}

fn numbers(grouped: &Grouped) -> Vec<Number> {
    match grouped.norms {
        HeadNorms::L2 { eps } => vec![Number {
            name: QK_L2_NORM_EPS,
            value: Numeral::Real(eps),
            doc: "ε of the norm of queries and keys.".to_owned(),
        }],
        HeadNorms::Learned { .. } => Vec::new(),
    }
}

fn modules(layer: &Layer, grouped: &Grouped, sizes: &Sizes) -> Vec<Module> {
    let common = sizes.common();
    let mut modules = first_modules(layer, &common);
    modules.extend(projections(layer, grouped, sizes));
    if let HeadNorms::Learned { q, k } = grouped.norms {
        let one = |params: Option<NormParams>, slot, of, source, eps_name, rank_name| {
            params.map(|params| {
                let rank = rank(params.kind, rank_name);
                norm(
                    (slot, of),
                    source,
                    (eps_name, params.eps),
                    (params.kind, sizes.head, rank),
                )
            })
        };
        modules.extend(one(
            q,
            "q_layernorm",
            "every head's query",
            "q_norm",
            "Q_LAYERNORM_EPS",
            Q_NORM_RANK,
        ));
        modules.extend(one(
            k,
            "k_layernorm",
            "every head's key",
            "k_norm",
            "K_LAYERNORM_EPS",
            K_NORM_RANK,
        ));
    }
    modules.extend(last_modules(layer, &common));
    modules
}

fn projections(layer: &Layer, grouped: &Grouped, sizes: &Sizes) -> Vec<Module> {
    let piece = |source, heads, rows| GroupPiece {
        source,
        heads,
        rows,
    };
    let of_queries = |source| piece(source, sizes.heads, sizes.q);
    let of_groups = |source| piece(source, sizes.groups, sizes.k);
    let (k, v) = (of_groups("k_proj"), of_groups("v_proj"));
    match grouped.qkv {
        QkvProjection::Fused { bias } => {
            let gates = has_fused_gate(layer).then(|| of_queries("g_proj"));
            let pieces = [Some(of_queries("q_proj")), gates, Some(k), Some(v)];
            let (slot, symbol) = ("linear_qkv", "W_QKV");
            let pieces = pieces.into_iter().flatten().collect();
            vec![by_groups(
                (slot, symbol),
                pieces,
                (sizes.hidden, sizes.qkv),
                (sizes.groups, bias),
            )]
        }
        QkvProjection::Separate { q_bias, kv_bias } => vec![
            linear(
                ("linear_q", "W_Q"),
                "q_proj",
                (sizes.hidden, sizes.q),
                q_bias,
            ),
            by_groups(
                ("linear_kv", "W_KV"),
                vec![k, v],
                (sizes.hidden, sizes.kv),
                (sizes.groups, kv_bias),
            ),
        ],
    }
}

/// A linear whose rows stand group by group.
pub(super) fn by_groups(
    (slot, symbol): (&'static str, &str),
    pieces: Vec<GroupPiece>,
    (input, output): (Dim, Dim),
    (groups, bias): (Dim, bool),
) -> Module {
    let names: Vec<String> = pieces
        .iter()
        .map(|piece| format!("`{}`", piece.source))
        .collect();
    let names = names.join(", ");
    let with_bias = if bias { ", with a bias" } else { "" };
    Module {
        slot,
        kind: ModuleKind::Linear(LinearParams {
            input,
            output,
            rows: Rows::Grouped { groups, pieces },
            bias,
        }),
        doc: format!("{symbol}, group by group of HF {names}{with_bias}."),
    }
}

/// One phase.
fn phase_plan(
    layer: &Layer,
    grouped: &Grouped,
    sizes: &Sizes,
    (rotary, phase): (Option<&RotaryTable>, Phase),
    arguments: Vec<Argument>,
) -> Plan {
    let mut lowering = Lowering {
        writer: Writer::new(layer, sizes.common(), rotary, phase),
        grouped,
        sizes,
    };
    let inputs = lowering.writer.inputs();
    let made = lowering.projected(&inputs);
    let q = lowering.prepared(made.q, "q_layernorm", true, &inputs);
    let q = lowering.writer.scaled_queries(q);
    lowering.writer.probe("mid.q", q, Aspect::Value);
    let k = lowering.prepared(made.k, "k_layernorm", false, &inputs);
    let mut writer = lowering.writer;
    writer.step(formulas::grouped(layer));
    let ty = Ty::Attended(sizes.heads, sizes.head);
    let attended = writer.define("attended", ty, |out| Op::AttendGroups {
        q,
        k,
        v: made.v,
        segments: inputs.segments,
        out,
    });
    let gate = made.gate.or_else(|| writer.gate(inputs.hidden));
    let output = writer.output(attended, gate);
    writer.finish(arguments, output)
}

/// Queries, keys and values as the projections make them.
struct Projected {
    q: ValueId,
    gate: Option<ValueId>,
    k: ValueId,
    v: ValueId,
}

struct Lowering<'a> {
    writer: Writer<'a>,
    grouped: &'a Grouped,
    sizes: &'a Sizes,
}

impl Lowering<'_> {
    fn projected(&mut self, inputs: &Inputs) -> Projected {
        let sizes = self.sizes;
        let layer = self.writer.layer;
        match self.grouped.qkv {
            QkvProjection::Fused { bias } => {
                let fused_gate = has_fused_gate(layer);
                self.writer.step(formulas::qkv(fused_gate, bias));
                let rows = self
                    .writer
                    .linear("qkv", inputs.hidden, "linear_qkv", sizes.qkv);
                Projected {
                    q: self.part("q", rows, GroupPart::Query),
                    gate: fused_gate.then(|| self.part("gate", rows, GroupPart::Gate)),
                    k: self.part("k", rows, GroupPart::Key),
                    v: self.part("v", rows, GroupPart::Value),
                }
            }
            QkvProjection::Separate { q_bias, kv_bias } => {
                self.writer.step(formulas::q_and_kv(q_bias, kv_bias));
                let q = self.writer.linear("q", inputs.hidden, "linear_q", sizes.q);
                let q = self.writer.heads("q", q, sizes.heads, sizes.head);
                let rows = self
                    .writer
                    .linear("kv", inputs.hidden, "linear_kv", sizes.kv);
                Projected {
                    q,
                    gate: None,
                    k: self.part("k", rows, GroupPart::Key),
                    v: self.part("v", rows, GroupPart::Value),
                }
            }
        }
    }

    fn part(&mut self, name: &'static str, x: ValueId, part: GroupPart) -> ValueId {
        let Sizes {
            heads,
            groups,
            head,
            q,
            ..
        } = *self.sizes;
        let ty = match part {
            GroupPart::Query => Ty::Heads(heads, head),
            GroupPart::Gate => Ty::Rows(q),
            GroupPart::Key | GroupPart::Value => Ty::Heads(groups, head),
        };
        self.writer
            .define(name, ty, |out| Op::GroupPart { x, part, out })
    }

    /// A query or key, normed and rotated where the layer does that.
    fn prepared(
        &mut self,
        made: ValueId,
        slot: &'static str,
        is_query: bool,
        inputs: &Inputs,
    ) -> ValueId {
        let learned = match self.grouped.norms {
            HeadNorms::Learned { q, k } => {
                if is_query {
                    q
                } else {
                    k
                }
            }
            HeadNorms::L2 { .. } => None,
        };
        let l2 = matches!(self.grouped.norms, HeadNorms::L2 { .. });
        if learned.is_none() && !l2 && inputs.angles.is_none() {
            return made;
        }
        let symbol = if is_query { "q" } else { "k" };
        self.writer
            .step(formulas::prepared(symbol, learned, l2, self.rotated()));
        let mut x = made;
        if learned.is_some() {
            let before = x;
            x = self.writer.turned(before, |out| Op::HeadNorm {
                x: before,
                slot,
                out,
            });
        }
        if let Some(angles) = inputs.angles {
            let before = x;
            x = self.writer.turned(before, |out| Op::RotateHeads {
                x: before,
                angles,
                turn: Turn::FIRST,
                out,
            });
        }
        if l2 {
            let before = x;
            x = self.writer.turned(before, |out| Op::L2Norm {
                x: before,
                eps: QK_L2_NORM_EPS,
                out,
            });
        }
        x
    }

    /// How many of a head's elements are rotated, and how many it has; `None` where none is.
    fn rotated(&self) -> Option<(u32, u32)> {
        self.writer
            .rotary
            .map(|table| (table.width.size, self.sizes.head.size))
    }
}
