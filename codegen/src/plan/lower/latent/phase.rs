//! One phase of a latent layer in canonical form: expanded attention over the call's own tokens.

use mla_spec::{
    DownProjection, KvSource, Latent, Layer, Norm, Phase, Query, QueryScaleSite, QueryUp,
};

use super::super::common::Inputs;
use super::super::writer::Writer;
use super::modules::{KV_LATENT_SCALE, Q_LATENT_SCALE};
use super::sizes::{GatedQuery, Sizes};
use crate::plan::{
    Argument, Aspect, Dim, Handed, LinearPart, NormPart, Offset, Op, Plan, RotaryTable, Turn, Ty,
    ValueId, formulas,
};

/// Lowers one phase.
pub(super) fn lower(
    layer: &Layer,
    latent: &Latent,
    sizes: &Sizes,
    rotary: Option<&RotaryTable>,
    phase: Phase,
    arguments: Vec<Argument>,
) -> Plan {
    let mut lowering = Lowering {
        writer: Writer::new(layer, sizes.common(), rotary, phase),
        latent,
        sizes,
    };
    let inputs = lowering.writer.inputs();
    let fused = lowering.fused_down(&inputs);
    let Queries {
        q,
        latent: q_latent,
        gate,
    } = lowering.queries(&inputs, fused);
    let (kv_latent, k_rope) = match latent.kv_source {
        KvSource::Own { shared } => {
            let made = lowering.kv(&inputs, fused);
            if shared && !phase.is_cached() {
                lowering.writer.push(Op::GiveKv {
                    latent: made.0,
                    k_rope: made.1,
                });
            }
            made
        }
        KvSource::Other => lowering.taken_kv(),
    };
    let selection = lowering.writer.selection(&inputs, q_latent);
    let attended = lowering.attention(q, kv_latent, k_rope, inputs.segments, selection);
    let mut writer = lowering.writer;
    let gate = gate.or_else(|| writer.gate(inputs.hidden));
    let output = writer.output(attended, gate);
    writer.finish(arguments, output)
}

/// Queries, and what is made on the way.
struct Queries {
    q: ValueId,
    /// The normed query latent, where there is one.
    latent: Option<ValueId>,
    /// The gate, where the same matrix makes it.
    gate: Option<ValueId>,
}

struct Lowering<'a> {
    writer: Writer<'a>,
    latent: &'a Latent,
    sizes: &'a Sizes,
}

impl Lowering<'_> {
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
        self.writer
            .define(name, Ty::Rows(width), |out| Op::Norm { x, slot, part, out })
    }

    /// An up projection as heads.
    fn up(
        &mut self,
        norm: &Norm,
        name: &'static str,
        x: ValueId,
        slot: &'static str,
        (head, width): (Dim, Dim),
    ) -> ValueId {
        let part = match norm {
            Norm::FusedIntoLinear(_) => LinearPart::Inner,
            Norm::Identity | Norm::Separate(_) => LinearPart::Whole,
        };
        let rows = self.writer.define(name, Ty::Rows(width), |out| Op::Linear {
            x,
            slot,
            part,
            out,
        });
        self.writer.heads(name, rows, self.sizes.heads, head)
    }

    /// `x` times a number.
    fn scaled(&mut self, name: &'static str, x: ValueId, by: &'static str) -> ValueId {
        let ty = match self.writer.ty(x) {
            Ty::Columns(width) => Ty::Rows(width),
            ty => ty,
        };
        self.writer.define(name, ty, |out| Op::Scale { x, by, out })
    }

    /// All latents by one matrix, where the spec fuses the down projections.
    fn fused_down(&mut self, inputs: &Inputs) -> Option<ValueId> {
        let (DownProjection::Fused { bias }, Some(width)) =
            (&self.latent.down, self.sizes.qkv_down)
        else {
            return None;
        };
        let all = if self.sizes.rope.size == 0 {
            "[c_q; c]"
        } else {
            "[c_q; c; k_r]"
        };
        let product = formulas::product("W_DQKV", "x", *bias);
        self.writer
            .step(format!("All latents at once: {all} = {product}"));
        Some(
            self.writer
                .linear("qkv_down", inputs.hidden, "linear_qkv_down_proj", width),
        )
    }

    fn queries(&mut self, inputs: &Inputs, fused: Option<ValueId>) -> Queries {
        let (layer, sizes) = (self.writer.layer, self.sizes);
        self.writer.step(formulas::queries(layer, self.latent));
        let mut made = match (&self.latent.query, sizes.q_rank) {
            (
                Query::Lora {
                    norm, scale, up, ..
                },
                Some(rank),
            ) => {
                let raw = match fused {
                    Some(all) => self.writer.columns("q_compressed", all, vec![], rank),
                    None => self.writer.linear(
                        "q_compressed",
                        inputs.hidden,
                        "linear_q_down_proj",
                        rank,
                    ),
                };
                let site = scale.map(|(_, site)| site);
                self.queries_of_latent((norm, *up), raw, rank, site)
            }
            _ => {
                let rows = self
                    .writer
                    .linear("q", inputs.hidden, "linear_q_proj", sizes.q_width);
                Queries {
                    q: self.writer.heads("q", rows, sizes.heads, sizes.qk),
                    latent: None,
                    gate: None,
                }
            }
        };
        if let Some(angles) = inputs.angles {
            let x = made.q;
            made.q = self.writer.turned(x, |out| Op::RotateHeads {
                x,
                angles,
                turn: Turn::LAST,
                out,
            });
        }
        made.q = self.writer.scaled_queries(made.q);
        self.writer.probe("mid.q", made.q, Aspect::Value);
        made
    }

    /// Queries of a latent.
    fn queries_of_latent(
        &mut self,
        (norm, up): (&Norm, QueryUp),
        raw: ValueId,
        rank: Dim,
        scaled: Option<QueryScaleSite>,
    ) -> Queries {
        let sizes = self.sizes;
        let slot = match up {
            QueryUp::Query => "linear_q_up_proj",
            QueryUp::QueryAndGate => "linear_q_gate_proj",
        };
        let name = match up {
            QueryUp::Query => "q_compressed",
            QueryUp::QueryAndGate => "q_normed",
        };
        let mut latent = self.norm(norm, name, raw, ("q_layernorm", slot), rank);
        if scaled == Some(QueryScaleSite::Latent) {
            latent = self.scaled(name, latent, Q_LATENT_SCALE);
        }
        let (mut q, gate) = match sizes.gated {
            None => (
                self.up(norm, "q", latent, slot, (sizes.qk, sizes.q_width)),
                None,
            ),
            Some(gated) => self.query_and_gate((latent, raw), slot, gated),
        };
        if scaled == Some(QueryScaleSite::Query) {
            q = self.scaled("q", q, Q_LATENT_SCALE);
        }
        Queries {
            q,
            latent: Some(latent),
            gate,
        }
    }

    /// Queries and gates of `[normed; raw]` (S-13).
    fn query_and_gate(
        &mut self,
        (normed, raw): (ValueId, ValueId),
        slot: &'static str,
        gated: GatedQuery,
    ) -> (ValueId, Option<ValueId>) {
        let Sizes {
            heads, qk, v, out, ..
        } = *self.sizes;
        let writer = &mut self.writer;
        let both = writer.define("q_latents", Ty::Rows(gated.input), |out| Op::Concat {
            left: normed,
            right: raw,
            out,
        });
        let rows = writer.linear("q_gate", both, slot, gated.width);
        let all = writer.heads("q_gate", rows, heads, gated.head);
        let cut = |writer: &mut Writer<'_>, name, offset, width| {
            let part = writer.define(name, Ty::HeadPart(heads, width), |out| Op::HeadPart {
                x: all,
                offset: Offset(offset),
                width,
                out,
            });
            writer.define(name, Ty::Heads(heads, width), |out| Op::CutHeads {
                x: part,
                out,
            })
        };
        let q = cut(writer, "q", vec![], qk);
        let gate = cut(writer, "gate", vec![qk], v);
        let gate = writer.define("gate", Ty::Rows(out), |id| Op::IntoRows {
            x: gate,
            width: out,
            out: id,
        });
        (q, Some(gate))
    }

    /// The latent as the cache holds it, and the shared rope key.
    fn kv(&mut self, inputs: &Inputs, fused: Option<ValueId>) -> (ValueId, ValueId) {
        let (layer, sizes) = (self.writer.layer, self.sizes);
        self.writer.step(formulas::latent(layer, self.latent));
        let (down, before) = match (fused, sizes.q_rank) {
            (Some(all), Some(rank)) => (all, vec![rank]),
            _ => {
                let slot = "linear_kv_down_proj";
                let down = self
                    .writer
                    .linear("kv_down", inputs.hidden, slot, sizes.kv_down);
                (down, vec![])
            }
        };
        let name = "kv_compressed";
        let raw = self
            .writer
            .columns(name, down, before.clone(), sizes.kv_rank);
        let slots = ("kv_layernorm", "linear_kv_up_proj");
        let mut latent = self.norm(&self.latent.kv_norm, name, raw, slots, sizes.kv_rank);
        if self.latent.kv_scale.is_some() {
            latent = self.scaled(name, latent, KV_LATENT_SCALE);
        }
        self.writer.probe("mid.kv_latent", latent, Aspect::Value);
        let offset = before.into_iter().chain([sizes.kv_rank]).collect();
        (latent, self.rope_key(inputs, down, offset))
    }

    /// The shared rope key: columns of `down`, normed and rotated where the layer does that.
    fn rope_key(&mut self, inputs: &Inputs, down: ValueId, offset: Vec<Dim>) -> ValueId {
        let rope = self.sizes.rope;
        let ty = Ty::RopeKey(rope, self.writer.rotary.map(|table| table.output));
        if rope.size == 0 {
            let x = inputs.hidden;
            return self.writer.define("k_rope", ty, |out| Op::UnrotatedKey {
                x,
                absent: true,
                out,
            });
        }
        let mut x = self.writer.columns("k_rope", down, offset, rope);
        if self.latent.k_rope_norm.is_some() {
            x = self.writer.norm("k_rope", x, "k_rope_layernorm", rope);
        }
        let k_rope = self.writer.define("k_rope", ty, |out| match inputs.angles {
            Some(angles) => Op::RotateKey { x, angles, out },
            None => Op::UnrotatedKey {
                x,
                absent: false,
                out,
            },
        });
        self.writer.probe("mid.k_pe", k_rope, Aspect::Value);
        k_rope
    }

    /// Another layer's latents and rotated keys (S-16).
    fn taken_kv(&mut self) -> (ValueId, ValueId) {
        let sizes = self.sizes;
        let from = if self.writer.is_cached() {
            Handed::Cached
        } else {
            Handed::Over
        };
        self.writer.step(formulas::taken_kv());
        let ty = Ty::SharedKv(sizes.kv_rank, sizes.rope);
        let x = self
            .writer
            .define("shared", ty, |out| Op::TakeKv { from, out });
        let latent = self
            .writer
            .define("kv_compressed", Ty::Rows(sizes.kv_rank), |out| {
                Op::TakenLatent { x, out }
            });
        let ty = Ty::RopeKey(sizes.rope, self.writer.rotary.map(|table| table.output));
        let k_rope = self
            .writer
            .define("k_rope", ty, |out| Op::TakenKey { x, out });
        if sizes.rope.size > 0 {
            self.writer.probe("mid.k_pe", k_rope, Aspect::Value);
        }
        (latent, k_rope)
    }

    fn attention(
        &mut self,
        q: ValueId,
        latent: ValueId,
        k_rope: ValueId,
        segments: ValueId,
        selection: Option<ValueId>,
    ) -> ValueId {
        let (layer, sizes) = (self.writer.layer, self.sizes);
        self.writer.step(formulas::expanded(layer, self.latent));
        let kv = self.up(
            &self.latent.kv_norm,
            "kv",
            latent,
            "linear_kv_up_proj",
            (sizes.kv_head, sizes.kv_up),
        );
        let ty = Ty::Attended(sizes.heads, sizes.v);
        self.writer
            .define("attended", ty, |out| Op::AttendExpanded {
                q,
                kv,
                k_rope,
                segments,
                selection,
                out,
            })
    }
}
