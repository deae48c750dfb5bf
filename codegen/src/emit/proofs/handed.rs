//! Layers that make themselves what a twin is handed: latents, a selection.

use mla_spec::{
    Build, Checked, Core, Indexer, IndexerQuery, IndexerRope, KvSource, Latent, Layer,
    LightningIndexer, Norm, NormKind, NormParams, Pool, Projections, Rope, SplitOrder,
};

/// The twin with latents and an indexer of its own, which hands them out; `None` where it is handed nothing.
pub(super) fn own(twin: &Checked) -> Option<Checked> {
    let layer = &twin.layer;
    let takes_selection = matches!(layer.core, Core::Sparse(Indexer::Shared { .. }));
    if !takes_selection && !takes_kv(layer) {
        return None;
    }
    let core = match &layer.core {
        Core::Sparse(Indexer::Shared { topk, tail }) => {
            Core::Sparse(Indexer::Lightning(indexer(layer, *topk, *tail)))
        }
        core => core.clone(),
    };
    Some(with(twin, own_latents(layer), core))
}

/// The twin with latents of its own and dense attention, in whose cache it finds them; `None` where it caches its own.
pub(super) fn source(twin: &Checked) -> Option<Checked> {
    takes_kv(&twin.layer).then(|| with(twin, own_latents(&twin.layer), Core::Dense))
}

fn takes_kv(layer: &Layer) -> bool {
    layer
        .latent()
        .is_some_and(|latent| latent.kv_source == KvSource::Other)
}

fn with(twin: &Checked, projections: Projections, core: Core) -> Checked {
    Checked {
        layer: Layer {
            projections,
            core,
            ..twin.layer.clone()
        },
        // Other projections of the input would be joined to another width
        build: Build {
            fold: Vec::new(),
            ..twin.build.clone()
        },
    }
}

fn own_latents(layer: &Layer) -> Projections {
    match &layer.projections {
        Projections::Latent(latent) if latent.kv_source == KvSource::Other => {
            Projections::Latent(Latent {
                kv_source: KvSource::Own { shared: true },
                kv_norm: Norm::Separate(NormParams {
                    kind: NormKind::RmsNorm,
                    eps: 1e-6,
                }),
                ..latent.clone()
            })
        }
        projections => projections.clone(),
    }
}

/// Some indexer that picks as many keys.
fn indexer(layer: &Layer, topk: u32, tail: u32) -> LightningIndexer {
    let rope = match &layer.rope {
        Rope::None => None,
        Rope::Rotary(rotary) => Some(IndexerRope {
            layout: rotary.layout,
            split: SplitOrder::RopeFirst,
        }),
    };
    LightningIndexer {
        num_heads: 2,
        head_dim: layer.rotated_dim().max(8),
        topk,
        query: match layer.q_lora_rank() {
            Some(_) => IndexerQuery::Latent,
            None => IndexerQuery::Hidden { norm: None },
        },
        rope,
        k_norm: NormParams {
            kind: NormKind::LayerNorm,
            eps: 1e-6,
        },
        hadamard: false,
        relu: true,
        log_position_scaling: false,
        full_precision_weights: false,
        forced: mla_spec::Forced::default(),
        pool: (tail > 0).then_some(Pool {
            size: tail + 1,
            always_select_tail: true,
        }),
        shared: true,
        loss: None,
    }
}
