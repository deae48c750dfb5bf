//! `MLASelfAttention`: keys and values from a latent that all heads share.

mod kv;
mod query;
pub(super) mod sizes;

use super::codes;
use super::foreign::Place;
use super::gate::{self, Wanted};
use super::modules::{self, Attention, Module};
use super::norms;
use super::rope::{self, RotatedPart};
use super::slots::{Known, Slots};
use super::sparse::{self, Surroundings};
use super::value::{Stated, Table};
use super::{About, Found, LatentSizes, logits, mask, qk_clip, scaling};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::document::{ModuleSpec, Submodule};
use crate::layer::{
    Core, Latent, LatentScale, Layer, Logits, Norm, NormParams, Projections, Query, QueryScaleSite,
    QueryScaling, Rope,
};
use crate::reference::LATENT_SLOTS;
use crate::span::Span;
use kv::Source;
use query::{Asked, Path};
use sizes::{Rank, Sizes};

#[rustfmt::skip] // a table
const SLOTS: Known = Known {
    module: "MLASelfAttention",
    slots: &LATENT_SLOTS,
    foreign: &[
        ("q_proj", Some("linear_q_proj"), "here it is called `linear_q_proj`"),
        ("query", Some("linear_q_proj"), "here it is called `linear_q_proj`"),
        ("q_a_proj", Some("linear_q_down_proj"), "here it is called `linear_q_down_proj`"),
        ("wq_a", Some("linear_q_down_proj"), "here it is called `linear_q_down_proj`"),
        ("q_a_layernorm", Some("q_layernorm"), "here it is called `q_layernorm`"),
        ("q_norm", Some("q_layernorm"), "here it is called `q_layernorm`"),
        ("q_b_proj", Some("linear_q_up_proj"), "here it is called `linear_q_up_proj`"),
        ("wq_b", Some("linear_q_up_proj"), "here it is called `linear_q_up_proj`"),
        ("q_gate_proj", Some("linear_q_gate_proj"), "here it is called `linear_q_gate_proj`"),
        ("kv_a_proj_with_mqa", Some("linear_kv_down_proj"), "here it is called `linear_kv_down_proj`"),
        ("wkv_a", Some("linear_kv_down_proj"), "here it is called `linear_kv_down_proj`"),
        ("fused_qkv_a_proj", Some("linear_qkv_down_proj"), "here it is called `linear_qkv_down_proj`"),
        ("kv_a_layernorm", Some("kv_layernorm"), "here it is called `kv_layernorm`"),
        ("kv_norm", Some("kv_layernorm"), "here it is called `kv_layernorm`"),
        ("k_rope_only_layernorm", Some("k_rope_layernorm"), "here it is called `k_rope_layernorm`"),
        ("kv_b_proj", Some("linear_kv_up_proj"), "here it is called `linear_kv_up_proj`"),
        ("wkv_b", Some("linear_kv_up_proj"), "here it is called `linear_kv_up_proj`"),
        ("o_proj", Some("linear_proj"), "here it is called `linear_proj`"),
        ("g_proj", Some("linear_gate_proj"), "here it is called `linear_gate_proj`"),
        ("gate_proj", Some("linear_gate_proj"), "here it is called `linear_gate_proj`"),
        ("linear_gate", Some("linear_gate_proj"), "here it is called `linear_gate_proj`"),
        ("indexer", None, "write it inside: `core_attention: { module: SparseAttention, submodules: { indexer: .. } }`"),
        ("linear_qkv", None, "latent attention has no joint q, k and v projection; see `linear_qkv_down_proj`"),
        ("k_layernorm", None, "latent attention norms its latents, not the keys: see `kv_layernorm`"),
    ],
};

/// What the parameters say; a part is absent where it was refused.
struct Params {
    sizes: Sizes,
    rank: Rank,
    mask: Option<mask::Mask>,
    logits: logits::Found,
    query_scaling: Option<QueryScaling>,
    q_scale: Stated<(LatentScale, QueryScaleSite)>,
    kv_scale: Stated<LatentScale>,
    gate: Stated<Wanted>,
    gate_lacks_rank: bool,
    qk_clip: qk_clip::Found,
    source: Source,
    rope: Option<Rope>,
    /// Where the rope, or the head dim that forbids one, was written.
    rope_span: Span,
}

/// What the slots say; a part is absent where it was refused.
struct Parts {
    input_norm: Option<Option<NormParams>>,
    query: Option<Query>,
    /// Where the query's up projection stands, if it holds a norm.
    normed_in_projection: Option<Span>,
    latent_norm: Option<Norm>,
    down: Option<crate::layer::DownProjection>,
    k_rope_norm: Option<Option<NormParams>>,
    gate: Option<Option<crate::layer::Gate>>,
    core: Option<Core>,
    output_bias: Option<bool>,
}

/// Checks the module.
pub(super) fn check(spec: &ModuleSpec, out: &mut Diagnostics) -> Found {
    let params = Params::read(spec, out);
    let core = spec.submodule("core_attention");
    let core_span = core.map_or(Span::NONE, |slot| slot.spec.module.span);
    let parts = params.parts(spec, out);
    let mut about = params.about(
        spec.module.span,
        parts.core.clone().map(|core| (core, core_span)),
    );
    let loss = core.and_then(sparse::loss);
    about.of_training.extend(loss.map(|key| ("loss", key)));
    about.query_norm_inside = parts.normed_in_projection;
    Found {
        layer: params.layer(parts),
        about,
    }
}

impl Params {
    fn read(spec: &ModuleSpec, out: &mut Diagnostics) -> Self {
        let mut table = Table::params(spec, Place::Attention);
        let sizes = Sizes::read(&mut table, out);
        let rank = Rank::read(&mut table, out);
        sizes.check_products(out);
        let mask = mask::read(&mut table, &mask::SELF_ATTENTION, out);
        let part = RotatedPart::of("qk_rope_head_dim", sizes.qk_rope_head_dim);
        let (rope, rope_span) = rope::read(&mut table, part, out);
        let logits = logits::read(&mut table, out);
        logits.agree_with(rope.as_ref(), rope_span, out);
        let query_scaling = scaling::of_queries(&mut table, out);
        let source = Source::read(&mut table, out);
        let hidden = sizes.hidden_size.map(|size| size.value);
        let q_rank = match rank {
            Rank::Given { value, .. } => Some(value.value),
            Rank::Absent => Some(1), // refused for want of a rank, whatever the factor
            Rank::Refused => None,
        };
        let q_scale = scaling::of_the_query_latent(&mut table, hidden.zip(q_rank), out);
        let kv_rank = sizes.kv_lora_rank.map(|rank| rank.value);
        let kv_scale = scaling::of_the_kv_latent(&mut table, hidden.zip(kv_rank), out);
        source.refuse_stated("kv_lora_scale", &kv_scale, out);
        let gate = gate::read(&mut table, &gate::OF_LATENT_ATTENTION, out);
        let qk_clip = qk_clip::read(&mut table, &logits, None, out);
        table.finish(out);
        let mut params = Self {
            sizes,
            rank,
            mask,
            logits,
            query_scaling,
            q_scale,
            kv_scale,
            gate,
            gate_lacks_rank: false,
            qk_clip,
            source,
            rope,
            rope_span,
        };
        params.refuse_without_rank(spec.module.span, out);
        params
    }

    /// Refuses what concerns a query latent where queries have none.
    fn refuse_without_rank(&mut self, module: Span, out: &mut Diagnostics) {
        if !matches!(self.rank, Rank::Absent) {
            return;
        }
        if let Some((_, key)) = self.q_scale.given() {
            let message = "`q_lora_scale` scales the query latent, and plain queries have none";
            let without = Diagnostic::error(
                codes::SCALE_WITHOUT_LATENT,
                message,
                key,
                "nothing to scale",
            );
            out.push(
                without
                    .and(module, "has no `q_lora_rank`")
                    .help("remove `q_lora_scale`, or give `q_lora_rank` and the low-rank slots"),
            );
            self.q_scale = Stated::Refused;
        }
        if let Stated::Given {
            value: Wanted::FusedWithQuery,
            key,
        } = self.gate
        {
            let message = "a gate that is fused with the query comes from the query latent";
            let without = Diagnostic::error(
                codes::FUSED_GATE_WITHOUT_RANK,
                message,
                key,
                "plain queries have no latent",
            );
            out.push(without.and(module, "has no `q_lora_rank`").help(
                "write `per_head` or `per_element` and fill `linear_gate_proj`, or give `q_lora_rank` and the low-rank slots",
            ));
            self.gate = Stated::Refused;
            self.gate_lacks_rank = true;
        }
    }

    fn parts(&self, spec: &ModuleSpec, out: &mut Diagnostics) -> Parts {
        let mut slots = Slots::read(spec, &SLOTS, out);
        let asked = Asked {
            rank: self.rank,
            fused_gate: matches!(
                self.gate,
                Stated::Given {
                    value: Wanted::FusedWithQuery,
                    ..
                }
            ),
            gate_lacks_rank: self.gate_lacks_rank,
        };
        let path = asked.path(&slots, out);
        let down = kv::down(asked, path, self.source, &mut slots, out);
        let plain_is_right = asked.plain(path, &mut slots, out);
        let latent = asked.latent(path, &mut slots, out);
        let normed_in_projection = latent
            .as_ref()
            .filter(|latent| matches!(latent.norm, Norm::FusedIntoLinear(_)))
            .map(|latent| latent.norm_span);
        let query = match (path, self.rank) {
            (Path::Plain, _) => plain_is_right.then_some(Query::Plain),
            (Path::Lora, Rank::Given { value, .. }) => self.lora(value.value, latent, out),
            _ => None,
        };
        let latent_norm = self.latent_norm(&mut slots, out);
        let k_rope_norm = self.k_rope_norm(&slots, out);
        let input_norm = norms::optional(slots.get("input_layernorm"), out);
        let gate = gate::check(self.gate, &mut slots, out);
        let core = slots.require("core_attention").and_then(|slot| {
            sparse::core(slot, &self.surroundings(spec, normed_in_projection), out)
        });
        let output_bias = slots.require("linear_proj").and_then(|slot| {
            modules::in_slot(slot, &[Module::RowParallelLinear], |_| None, out)?;
            modules::bias(&slot.spec, out)
        });
        slots.finish(out);
        Parts {
            input_norm,
            query,
            normed_in_projection,
            latent_norm,
            down,
            k_rope_norm,
            gate,
            core,
            output_bias,
        }
    }

    fn lora(
        &self,
        rank: u32,
        latent: Option<query::LatentQuery>,
        out: &mut Diagnostics,
    ) -> Option<Query> {
        let latent = latent?;
        if let (Some(((_, QueryScaleSite::Latent), key)), Norm::FusedIntoLinear(_)) =
            (self.q_scale.given(), &latent.norm)
        {
            scaling::refuse_behind_fused_norm("q_lora_scale", key, latent.norm_span, out);
        }
        Some(Query::Lora {
            rank,
            norm: latent.norm,
            scale: self.q_scale.optional()?,
            up: latent.up,
        })
    }

    fn latent_norm(&self, slots: &mut Slots<'_>, out: &mut Diagnostics) -> Option<Norm> {
        let (norm, span) = kv::norm(self.source, slots, out)?;
        if let (Some((_, key)), Norm::FusedIntoLinear(_)) = (self.kv_scale.given(), &norm) {
            scaling::refuse_behind_fused_norm("kv_lora_scale", key, span, out);
        }
        Some(norm)
    }

    /// `k_rope_layernorm`, which needs a key to norm.
    fn k_rope_norm(&self, slots: &Slots<'_>, out: &mut Diagnostics) -> Option<Option<NormParams>> {
        let slot = slots.get("k_rope_layernorm");
        if let (Some(slot), Some(dim)) = (slot, self.sizes.qk_rope_head_dim)
            && dim.value == 0
        {
            let message = "`k_rope_layernorm` norms the shared rope key, and this layer has none";
            let without = Diagnostic::error(
                codes::K_ROPE_NORM_WITHOUT_DIMS,
                message,
                slot.slot.span,
                "nothing to norm",
            );
            out.push(
                without
                    .and(dim.span, "no rope key")
                    .help("remove `k_rope_layernorm`"),
            );
        }
        norms::optional(slot, out)
    }

    fn surroundings<'a>(
        &'a self,
        spec: &'a ModuleSpec,
        normed_in_projection: Option<Span>,
    ) -> Surroundings<'a> {
        Surroundings {
            module: spec.module.span,
            rope: self.rope.as_ref().map(|rope| (rope, self.rope_span)),
            rotated: self.sizes.qk_rope_head_dim,
            rank: self.rank,
            normed_in_projection,
            mask: self.mask,
            bias: self.logits.bias,
        }
    }

    fn about(&self, module: Span, core: Option<(Core, Span)>) -> About {
        About {
            attention: Some((Attention::Mla, module)),
            mask: self.mask,
            rope: self.rope.clone().map(|rope| (rope, self.rope_span)),
            bias: self.logits.bias,
            dropout: self.logits.dropout,
            of_training: qk_clip::of_training(&self.qk_clip),
            core,
            after_rope: None,
            latent: Some(LatentSizes {
                kv_lora_rank: self.sizes.kv_lora_rank,
                qk_rope_head_dim: self.sizes.qk_rope_head_dim,
                elsewhere: self.source.shared.or(self.source.handed_out),
            }),
            query_norm_inside: None,
        }
    }

    fn layer(self, parts: Parts) -> Option<Layer> {
        let logits: Logits = self.logits.logits?;
        Some(Layer {
            name: String::new(),
            input_norm: parts.input_norm?,
            projections: Projections::Latent(Latent {
                dims: self.sizes.dims()?,
                query: parts.query?,
                down: parts.down?,
                kv_norm: parts.latent_norm?,
                kv_scale: self.kv_scale.optional()?,
                k_rope_norm: parts.k_rope_norm?,
                kv_source: self.source.kind?,
            }),
            rope: self.rope?,
            query_scaling: self.query_scaling?,
            mask: self.mask?.value,
            logits,
            core: parts.core?,
            gate: parts.gate?,
            output_bias: parts.output_bias?,
            qk_clip: self.qk_clip.optional()?,
        })
    }
}

/// A down projection's bias.
fn down_projection(slot: &Submodule, out: &mut Diagnostics) -> Option<bool> {
    let norm_inside = |module| {
        (module == Module::LayerNormColumnParallelLinear).then(|| {
            norm_of_the_input(slot).help(format!(
                "write `{}: Linear`; a norm of the layer's input is the slot `input_layernorm`",
                slot.slot.value
            ))
        })
    };
    modules::in_slot(slot, &[Module::Linear], norm_inside, out)?;
    modules::bias(&slot.spec, out)
}

/// A norm inside a projection of the hidden state: a trainable norm that no checkpoint has.
fn norm_of_the_input(slot: &Submodule) -> Diagnostic {
    let message = format!(
        "`{}` would norm the hidden state once more",
        slot.slot.value
    );
    let label = "has a norm inside";
    Diagnostic::error(
        codes::NORM_OF_THE_INPUT,
        message,
        slot.spec.module.span,
        label,
    )
    .note("a norm here has a weight of `hidden_size` elements that no published checkpoint has")
}
