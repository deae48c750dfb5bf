//! `CrossAttention`: attention from one sequence to another.

use mla_spec::{Checked, Cross, Layer, Phase};

use super::common::{Common, derived, first_modules, last_modules, stated};
use super::grouped::by_groups;
use super::module::linear;
use super::writer::Writer;
use super::{Frame, common, frame};
use crate::plan::{
    Argument, Aspect, CacheContent, CachePlan, Constant, Dim, Family, GroupPart, GroupPiece,
    Module, Op, Plan, Program, Ty, formulas,
};

/// The sizes of a cross attention.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    hidden: Dim,
    context: Dim,
    heads: Dim,
    head: Dim,
    /// All heads' queries; all heads' keys; all heads' values.
    width: Dim,
    /// Every head's key and value.
    kv: Dim,
}

impl Sizes {
    fn of(cross: &Cross) -> Self {
        let dim = |name, size| Dim { name, size };
        let width = cross.num_attention_heads * cross.kv_channels;
        Self {
            hidden: dim("HIDDEN_SIZE", cross.hidden_size),
            context: dim("CONTEXT_HIDDEN_SIZE", cross.context_hidden_size),
            heads: dim("NUM_ATTENTION_HEADS", cross.num_attention_heads),
            head: dim("HEAD_DIM", cross.kv_channels),
            width: dim("Q_WIDTH", width),
            kv: dim("KV_WIDTH", 2 * width),
        }
    }

    fn common(&self) -> Common {
        Common {
            hidden: self.hidden,
            heads: self.heads,
            v: self.head,
            out: self.width,
        }
    }

    fn constants(&self) -> Vec<Constant> {
        vec![
            stated(self.hidden, "Width of the residual stream, h."),
            stated(self.context, "Width of the context, the other sequence."),
            stated(self.heads, "Heads, H."),
            stated(self.head, "One head's query, key and value, d."),
            derived(
                self.width,
                "NUM_ATTENTION_HEADS * HEAD_DIM",
                false,
                "Every head's query, key, value or output.",
            ),
            derived(
                self.kv,
                "Q_WIDTH + Q_WIDTH",
                false,
                "Rows of `linear_kv`: head by head its key and its value.",
            ),
        ]
    }
}

/// The layer's parts, and each phase in canonical form.
pub(super) fn lower(checked: &Checked, cross: &Cross) -> Program {
    let layer = &checked.layer;
    let sizes = Sizes::of(cross);
    let plans = checked.build.phases.iter().map(|&phase| {
        let arguments = [context(phase), common::arguments(layer, phase)].concat();
        phase_plan(layer, cross, &sizes, phase, arguments)
    });
    let cache = CachePlan {
        content: CacheContent::Context,
        store: checked.build.cache.store,
        index: None,
        page_size: checked.build.cache.page_size,
        rope_layout: None,
        elements_per_token: 2 * u64::from(sizes.width.size),
        rope_elements: 0,
    };
    frame(
        checked,
        Frame {
            family: Family::Cross,
            constants: sizes.constants(),
            numbers: Vec::new(),
            modules: modules(layer, cross, &sizes),
            plans: plans.collect(),
            cache: Some(cache),
            source: None,
            rotary: None,
        },
    )
}

/// What a phase is given of the context: a decode finds it in the cache.
fn context(phase: Phase) -> Vec<Argument> {
    match phase {
        Phase::Forward | Phase::Train => vec![Argument::Context, Argument::ContextMask],
        Phase::Prefill => vec![Argument::Context],
        Phase::Decode | Phase::Mixed => Vec::new(),
    }
}

fn modules(layer: &Layer, cross: &Cross, sizes: &Sizes) -> Vec<Module> {
    let common = sizes.common();
    let piece = |source| GroupPiece {
        source,
        heads: sizes.heads,
        rows: sizes.width,
    };
    let mut modules = first_modules(layer, &common);
    modules.push(linear(
        ("linear_q", "W_Q"),
        "q_proj",
        (sizes.hidden, sizes.width),
        cross.q_bias,
    ));
    modules.push(by_groups(
        ("linear_kv", "W_KV"),
        vec![piece("k_proj"), piece("v_proj")],
        (sizes.context, sizes.kv),
        (sizes.heads, cross.kv_bias),
    ));
    modules.extend(last_modules(layer, &common));
    modules
}

fn phase_plan(
    layer: &Layer,
    cross: &Cross,
    sizes: &Sizes,
    phase: Phase,
    arguments: Vec<Argument>,
) -> Plan {
    let Sizes {
        heads,
        head,
        width,
        kv,
        ..
    } = *sizes;
    let mut writer = Writer::new(layer, sizes.common(), None, phase);
    writer.step("");
    let hidden = writer.define("hidden", Ty::Rows(sizes.hidden), |out| Op::Hidden { out });
    let context = arguments.contains(&Argument::Context).then(|| {
        writer.define("context", Ty::Rows(sizes.context), |out| Op::Context {
            out,
        })
    });
    let segments = match (phase, context) {
        (Phase::Forward | Phase::Train, Some(_)) => Some(writer.define(
            "segments",
            Ty::Segments,
            |out| Op::MaskSegments { context, out },
        )),
        _ => {
            writer.push(Op::CheckBatch);
            None
        }
    };
    let x = writer.input_norm(hidden);
    writer.step(formulas::cross_queries(cross.q_bias));
    let q = writer.linear("q", x, "linear_q", width);
    let q = writer.heads("q", q, heads, head);
    let q = writer.scaled_queries(q);
    writer.probe("mid.q", q, Aspect::Value);
    let made = context.map(|context| {
        writer.step(formulas::cross_keys(cross.kv_bias));
        let rows = writer.linear("kv", context, "linear_kv", kv);
        let mut part = |name, part| {
            writer.define(name, Ty::Heads(heads, head), |out| Op::GroupPart {
                x: rows,
                part,
                out,
            })
        };
        (part("k", GroupPart::Key), part("v", GroupPart::Value))
    });
    if let (None, Some((k, v))) = (segments, made) {
        writer.push(Op::WriteGroups { k, v });
    }
    writer.step(formulas::grouped(layer));
    let ty = Ty::Attended(heads, head);
    let attended = writer.define("attended", ty, |out| match (segments, made) {
        (Some(segments), Some((k, v))) => Op::AttendGroups {
            q,
            k,
            v,
            segments,
            out,
        },
        _ => Op::AttendGroupCache { q, out },
    });
    let gate = writer.gate(x);
    let output = writer.output(attended, gate);
    writer.finish(arguments, output)
}
