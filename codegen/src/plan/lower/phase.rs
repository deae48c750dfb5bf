//! One phase in canonical form: expanded attention over the call's own tokens.

use crate::plan::mla;
use mla_spec::{DownProjection, Form, Layer, Norm, Phase, Query};

use super::sizes::Sizes;
use crate::plan::{
    Aspect, Dim, LinearPart, NormPart, Offset, Op, Plan, RotaryTable, Step, Ty, Value, ValueId,
    formulas,
};

/// Lowers one phase.
pub(super) fn lower(
    layer: &Layer,
    sizes: &Sizes,
    rotary: Option<&RotaryTable>,
    phase: Phase,
) -> Plan {
    let mut writer = Writer {
        layer,
        sizes,
        rotary,
        values: Vec::new(),
        steps: Vec::new(),
    };
    let inputs = writer.inputs(phase);
    let fused = writer.fused_down(&inputs);
    let q = writer.queries(&inputs, fused);
    let (latent, k_rope) = writer.latent(&inputs, fused);
    let attended = writer.attention(q, latent, k_rope, inputs.segments);
    let output = writer.output(attended);
    Plan {
        phase,
        form: Form::Mha,
        form_reason: "not chosen yet".to_owned(),
        values: writer.values,
        steps: writer.steps,
        output,
    }
}

struct Inputs {
    hidden: ValueId,
    segments: ValueId,
    angles: Option<ValueId>,
}

struct Writer<'a> {
    layer: &'a Layer,
    sizes: &'a Sizes,
    rotary: Option<&'a RotaryTable>,
    values: Vec<Value>,
    steps: Vec<Step>,
}

impl Writer<'_> {
    fn step(&mut self, formula: impl Into<String>) {
        self.steps.push(Step {
            formula: formula.into(),
            ops: Vec::new(),
        });
    }

    /// Adds an op to the last step.
    fn push(&mut self, op: Op) {
        if self.steps.is_empty() {
            self.step("");
        }
        if let Some(step) = self.steps.last_mut() {
            step.ops.push(op);
        }
    }

    fn define(&mut self, name: &'static str, ty: Ty, op: impl FnOnce(ValueId) -> Op) -> ValueId {
        let out = ValueId(self.values.len());
        self.values.push(Value { name, ty });
        self.push(op(out));
        out
    }

    fn probe(&mut self, name: &'static str, value: ValueId, aspect: Aspect) {
        self.push(Op::Probe {
            name,
            value,
            aspect,
        });
    }

    fn linear(
        &mut self,
        name: &'static str,
        x: ValueId,
        slot: &'static str,
        width: Dim,
    ) -> ValueId {
        let part = LinearPart::Whole;
        self.define(name, Ty::Rows(width), |out| Op::Linear {
            x,
            slot,
            part,
            out,
        })
    }

    fn columns(&mut self, name: &'static str, x: ValueId, offset: Vec<Dim>, width: Dim) -> ValueId {
        let offset = Offset(offset);
        self.define(name, Ty::Columns(width), |out| Op::Columns {
            x,
            offset,
            width,
            out,
        })
    }

    /// The norm of a latent: its own module, or the norm inside the up projection in `up`.
    fn norm(
        &mut self,
        norm: &Norm,
        name: &'static str,
        x: ValueId,
        (slot, up): (&'static str, &'static str),
        width: Dim,
    ) -> ValueId {
        let (slot, part) = match norm {
            Norm::Identity => return x,
            Norm::Separate(_) => (slot, NormPart::Whole),
            Norm::FusedIntoLinear(_) => (up, NormPart::Inner),
        };
        self.define(name, Ty::Rows(width), |out| Op::Norm { x, slot, part, out })
    }

    /// An up projection as heads.
    fn up(
        &mut self,
        norm: &Norm,
        name: &'static str,
        x: ValueId,
        slot: &'static str,
        head: Dim,
        width: Dim,
    ) -> ValueId {
        let part = match norm {
            Norm::FusedIntoLinear(_) => LinearPart::Inner,
            Norm::Identity | Norm::Separate(_) => LinearPart::Whole,
        };
        let rows = self.define(name, Ty::Rows(width), |out| Op::Linear {
            x,
            slot,
            part,
            out,
        });
        self.heads(name, rows, head)
    }

    fn heads(&mut self, name: &'static str, x: ValueId, dim: Dim) -> ValueId {
        let heads = self.sizes.heads;
        self.define(name, Ty::Heads(heads, dim), |out| Op::IntoHeads {
            x,
            heads,
            dim,
            out,
        })
    }

    fn inputs(&mut self, phase: Phase) -> Inputs {
        self.step("");
        let hidden = self.define("hidden", Ty::Rows(self.sizes.hidden), |out| Op::Hidden {
            out,
        });
        let segments = match phase {
            Phase::Forward => self.define("segments", Ty::Segments, |out| Op::MaskSegments { out }),
            Phase::Prefill | Phase::Decode => {
                self.push(Op::CheckBatch);
                self.define("segments", Ty::Segments, |out| Op::BatchSegments { out })
            }
        };
        let angles = self
            .rotary
            .map(|table| self.define("angles", Ty::Angles(table.width), |out| Op::Angles { out }));
        Inputs {
            hidden,
            segments,
            angles,
        }
    }

    /// All latents by one matrix, where the spec fuses the down projections.
    fn fused_down(&mut self, inputs: &Inputs) -> Option<ValueId> {
        let (DownProjection::Fused { bias }, Some(width)) =
            (&mla(&self.layer).down, self.sizes.qkv_down)
        else {
            return None;
        };
        let all = if self.sizes.rope.size == 0 {
            "[c_q; c]"
        } else {
            "[c_q; c; k_r]"
        };
        let product = formulas::product("W_DQKV", "x", *bias);
        self.step(format!("All latents at once: {all} = {product}"));
        Some(self.linear("qkv_down", inputs.hidden, "linear_qkv_down_proj", width))
    }

    fn queries(&mut self, inputs: &Inputs, fused: Option<ValueId>) -> ValueId {
        let (layer, sizes) = (self.layer, self.sizes);
        self.step(formulas::queries(layer));
        let q = match (&mla(layer).query, sizes.q_rank) {
            (Query::Lora { norm, .. }, Some(rank)) => {
                let latent = match fused {
                    Some(all) => self.columns("q_compressed", all, vec![], rank),
                    None => self.linear("q_compressed", inputs.hidden, "linear_q_down_proj", rank),
                };
                let latent = self.norm(
                    norm,
                    "q_compressed",
                    latent,
                    ("q_layernorm", "linear_q_up_proj"),
                    rank,
                );
                self.up(
                    norm,
                    "q",
                    latent,
                    "linear_q_up_proj",
                    sizes.qk,
                    sizes.q_width,
                )
            }
            _ => {
                let rows = self.linear("q", inputs.hidden, "linear_q_proj", sizes.q_width);
                self.heads("q", rows, sizes.qk)
            }
        };
        let q = match inputs.angles {
            Some(angles) => {
                let ty = Ty::Heads(sizes.heads, sizes.qk);
                self.define("q", ty, |out| Op::RotateHeads { x: q, angles, out })
            }
            None => q,
        };
        self.probe("mid.q", q, Aspect::Value);
        q
    }

    /// The latent as the cache holds it, and the shared rope key.
    fn latent(&mut self, inputs: &Inputs, fused: Option<ValueId>) -> (ValueId, ValueId) {
        let (layer, sizes) = (self.layer, self.sizes);
        self.step(formulas::latent(layer));
        let (down, before) = match (fused, sizes.q_rank) {
            (Some(all), Some(rank)) => (all, vec![rank]),
            _ => (
                self.linear(
                    "kv_down",
                    inputs.hidden,
                    "linear_kv_down_proj",
                    sizes.kv_down,
                ),
                vec![],
            ),
        };
        let latent = self.columns("kv_compressed", down, before.clone(), sizes.kv_rank);
        let slots = ("kv_layernorm", "linear_kv_up_proj");
        let latent = self.norm(
            &mla(layer).kv_norm,
            "kv_compressed",
            latent,
            slots,
            sizes.kv_rank,
        );
        self.probe("mid.kv_latent", latent, Aspect::Value);
        let key = Ty::RopeKey(sizes.rope, self.rotary.map(|table| table.output));
        if sizes.rope.size == 0 {
            let x = inputs.hidden;
            let k_rope = self.define("k_rope", key, |out| Op::UnrotatedKey {
                x,
                absent: true,
                out,
            });
            return (latent, k_rope);
        }
        let offset = before.into_iter().chain([sizes.kv_rank]).collect();
        let x = self.columns("k_rope", down, offset, sizes.rope);
        let k_rope = self.define("k_rope", key, |out| match inputs.angles {
            Some(angles) => Op::RotateKey { x, angles, out },
            None => Op::UnrotatedKey {
                x,
                absent: false,
                out,
            },
        });
        self.probe("mid.k_pe", k_rope, Aspect::Value);
        (latent, k_rope)
    }

    fn attention(
        &mut self,
        q: ValueId,
        latent: ValueId,
        k_rope: ValueId,
        segments: ValueId,
    ) -> ValueId {
        let (layer, sizes) = (self.layer, self.sizes);
        self.step(formulas::expanded(layer));
        let kv = self.up(
            &mla(layer).kv_norm,
            "kv",
            latent,
            "linear_kv_up_proj",
            sizes.kv_head,
            sizes.kv_up,
        );
        let ty = Ty::Attended(sizes.heads, sizes.v);
        self.define("attended", ty, |out| Op::AttendExpanded {
            q,
            kv,
            k_rope,
            segments,
            out,
        })
    }

    fn output(&mut self, attended: ValueId) -> ValueId {
        let sizes = self.sizes;
        self.step(formulas::output(self.layer));
        self.probe("mid.lse", attended, Aspect::Lse);
        self.probe("mid.max_logit", attended, Aspect::MaxLogit);
        let ty = Ty::Heads(sizes.heads, sizes.v);
        let heads = self.define("out", ty, |out| Op::AttendedOut { x: attended, out });
        let width = sizes.out;
        let rows = self.define("out", Ty::Rows(width), |out| Op::IntoRows {
            x: heads,
            width,
            out,
        });
        self.probe("mid.attn_out", rows, Aspect::Value);
        self.linear("output", rows, "linear_proj", sizes.hidden)
    }
}
