//! Lowering: a checked layer in its canonical form, before any decision.
//!
//! Every phase is written as MHA over the call's own tokens, with norms apart from linears and every probe in place. The
//! passes turn that into what is emitted.

mod modules;
mod phase;
mod scale;
mod sizes;

use crate::plan::mla;
use mla_spec::{CacheKind, Checked, DownProjection, Phase, Rope};

pub(super) use sizes::Sizes;

use super::{CachePlan, Program};

/// The layer's parts, and each phase in canonical form.
pub(super) fn lower(checked: &Checked) -> Program {
    let Checked { layer, build } = checked;
    let sizes = Sizes::of(layer);
    let cached = build.phases.iter().any(|phase| *phase != Phase::Forward);
    let cached_layout = build.cache.rope_layout.filter(|_| cached);
    let rotary = scale::rotary(layer, &sizes, cached_layout);
    let fused_down = matches!(mla(layer).down, DownProjection::Fused { .. });
    Program {
        name: layer.name.clone(),
        constants: sizes.constants(fused_down),
        modules: modules::modules(layer, &sizes),
        softmax_scale: scale::softmax_scale(layer),
        mask: layer.mask,
        cache: cached.then(|| cache(checked, rotary.as_ref().map(|table| table.output))),
        plans: build
            .phases
            .iter()
            .map(|&phase| phase::lower(layer, &sizes, rotary.as_ref(), phase))
            .collect(),
        rotary,
        build: build.clone(),
    }
}

fn cache(checked: &Checked, rotated: Option<mla_spec::RopeLayout>) -> CachePlan {
    let dims = &mla(&checked.layer).dims;
    let spec = &checked.build.cache;
    let elements_per_token = match spec.kind {
        CacheKind::Latent => u64::from(dims.kv_lora_rank) + u64::from(dims.qk_rope_head_dim),
        CacheKind::Naive => {
            u64::from(dims.num_attention_heads)
                * (u64::from(dims.qk_head_dim()) + u64::from(dims.v_head_dim))
        }
    };
    debug_assert_eq!(
        rotated.is_some(),
        matches!(checked.layer.rope, Rope::Rotary(_))
    );
    CachePlan {
        kind: spec.kind,
        dtype: match spec.store {
            mla_spec::Store::Plain(dtype) => dtype,
            _ => unreachable!("check makes none yet"),
        },
        page_size: spec.page_size,
        rope_layout: rotated,
        elements_per_token,
    }
}
