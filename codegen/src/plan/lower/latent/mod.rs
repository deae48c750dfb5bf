//! `MLASelfAttention`: keys and values come from a latent that all heads share.

mod modules;
mod phase;
mod sizes;

use mla_spec::{CacheKind, Checked, KvSource, Latent, RopeLayout};

pub(in crate::plan) use sizes::Sizes;

use super::common::{arguments, is_cached};
use super::{Family, Frame, frame, indexer, scale};
use crate::plan::{CacheContent, CachePlan, Program};

/// The layer's parts, and each phase in canonical form.
pub(super) fn lower(checked: &Checked, latent: &Latent) -> Program {
    let build = &checked.build;
    let layer = &checked.layer;
    let sizes = Sizes::of(layer, latent);
    let cached_layout = build.cache.rope_layout.filter(|_| is_cached(checked));
    let rotary = scale::rotary(layer, sizes.rope, cached_layout);
    let plans = build.phases.iter().map(|&phase| {
        let arguments = arguments(layer, phase);
        phase::lower(layer, latent, &sizes, rotary.as_ref(), phase, arguments)
    });
    let own = own_cache(checked, latent, rotary.as_ref().map(|table| table.output));
    let source = matches!(latent.kv_source, KvSource::Other).then(|| CachePlan {
        index: None,
        ..own.clone()
    });
    let cache = match (&source, own.index) {
        (Some(_), None) => None,
        (Some(_), Some(_)) => Some(CachePlan {
            content: CacheContent::Index,
            elements_per_token: 0,
            rope_elements: 0,
            ..own
        }),
        (None, _) => Some(own),
    };
    frame(
        checked,
        Frame {
            family: Family::Latent,
            constants: sizes.constants(latent),
            numbers: modules::numbers(latent),
            modules: modules::modules(layer, latent, &sizes),
            plans: plans.collect(),
            cache,
            source,
            rotary,
        },
    )
}

/// The cache of a layer whose latents are its own.
fn own_cache(checked: &Checked, latent: &Latent, rotated: Option<RopeLayout>) -> CachePlan {
    let dims = &latent.dims;
    let spec = &checked.build.cache;
    let (content, elements_per_token) = match spec.kind {
        CacheKind::Latent => (
            CacheContent::Latent,
            u64::from(dims.kv_lora_rank) + u64::from(dims.qk_rope_head_dim),
        ),
        CacheKind::Naive => (
            CacheContent::Naive,
            u64::from(dims.num_attention_heads)
                * (u64::from(dims.qk_head_dim()) + u64::from(dims.v_head_dim)),
        ),
    };
    CachePlan {
        content,
        store: spec.store,
        index: indexer::cache(checked),
        page_size: spec.page_size,
        rope_layout: rotated,
        elements_per_token,
        rope_elements: match spec.kind {
            CacheKind::Latent => u64::from(dims.qk_rope_head_dim),
            CacheKind::Naive => 0,
        },
    }
}
