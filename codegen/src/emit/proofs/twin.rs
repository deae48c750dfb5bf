//! A layer's twin: the same structure at sizes where proofs in f64 are quick.

use mla_spec::{
    Build, Checked, Core, Cross, Dims, Forced, Grouped, Indexer, Latent, LatentScale, Layer,
    LightningIndexer, LongRope, LongRopeSelect, MaskKind, Pool, Projections, Query, Rope,
    RopeScaling, Rotary, Window,
};

/// The twin of a layer. Sizes shrink and stay even or odd, to numbers that no vector width divides; what is small already
/// stays. So do pages, the chunks in which context is expanded, windows and selections, that short requests cross several.
///
/// What a caller has to bring, a bias or a mask of its own, the twin does without, and its frequencies don't depend on a call's
/// length: no proof compares calls of one length only.
pub(super) fn of(checked: &Checked) -> Checked {
    let Checked { layer, build } = checked;
    let projections = match &layer.projections {
        Projections::Latent(latent) => Projections::Latent(latents(latent)),
        Projections::Grouped(grouped) => Projections::Grouped(groups(grouped)),
        Projections::Cross(cross) => Projections::Cross(across(cross)),
    };
    let mut twin = Layer {
        projections,
        ..layer.clone()
    };
    twin.rope = rope(&layer.rope, twin.rotated_dim());
    twin.logits.bias = false;
    if layer.mask.kind == MaskKind::Arbitrary {
        twin.mask.kind = MaskKind::Causal;
    }
    twin.mask.bidirectional_blocks = false;
    twin.mask.window = layer.mask.window.map(|window| Window {
        left: window.left.map(|left| left.min(4)),
        right: window.right.map(|right| right.min(3)),
    });
    twin.mask.chunk = layer.mask.chunk.map(|chunk| chunk.min(5));
    twin.core = match &layer.core {
        Core::Dense => Core::Dense,
        Core::Sparse(indexer) => Core::Sparse(self::indexer(indexer, twin.rotated_dim())),
    };
    let mut cache = build.cache;
    // A page holds whole pools
    let pool = match &twin.core {
        Core::Sparse(Indexer::Lightning(own)) => own.pool.map_or(1, |pool| pool.size),
        _ => 1,
    };
    let page = |page| at_most(6, page).next_multiple_of(pool);
    cache.page_size = cache.page_size.map(page);
    Checked {
        layer: twin,
        build: Build {
            cache,
            context_chunk: at_most(7, build.context_chunk),
            ..build.clone()
        },
    }
}

fn latents(latent: &Latent) -> Latent {
    let dims = &latent.dims;
    let dims = Dims {
        hidden_size: at_most(45, dims.hidden_size),
        num_attention_heads: at_most(4, dims.num_attention_heads),
        kv_lora_rank: at_most(18, dims.kv_lora_rank),
        qk_nope_head_dim: at_most(10, dims.qk_nope_head_dim),
        qk_rope_head_dim: at_most(6, dims.qk_rope_head_dim),
        v_head_dim: at_most(14, dims.v_head_dim),
    };
    let scaled = |scale: LatentScale, rank: u32| LatentScale {
        factor: if scale.hidden_over_rank {
            (f64::from(dims.hidden_size) / f64::from(rank)).sqrt()
        } else {
            scale.factor
        },
        ..scale
    };
    let query = match &latent.query {
        Query::Plain => Query::Plain,
        Query::Lora {
            rank,
            norm,
            scale,
            up,
        } => {
            let rank = at_most(22, *rank);
            Query::Lora {
                rank,
                norm: norm.clone(),
                scale: scale.map(|(scale, site)| (scaled(scale, rank), site)),
                up: *up,
            }
        }
    };
    Latent {
        dims,
        query,
        kv_scale: latent
            .kv_scale
            .map(|scale| scaled(scale, dims.kv_lora_rank)),
        ..latent.clone()
    }
}

/// Groups stay as many heads wide as they are, up to 3.
fn groups(grouped: &Grouped) -> Grouped {
    let per_group = (grouped.num_attention_heads / grouped.num_query_groups.max(1)).min(3);
    let num_query_groups = at_most(2, grouped.num_query_groups).max(1);
    let kv_channels = at_most(14, grouped.kv_channels);
    Grouped {
        hidden_size: at_most(45, grouped.hidden_size),
        num_attention_heads: num_query_groups * per_group,
        num_query_groups,
        kv_channels,
        rotary_dim: if grouped.rotary_dim == grouped.kv_channels {
            kv_channels
        } else {
            at_most(6, grouped.rotary_dim).min(kv_channels)
        },
        ..grouped.clone()
    }
}

fn across(cross: &Cross) -> Cross {
    Cross {
        hidden_size: at_most(45, cross.hidden_size),
        context_hidden_size: at_most(27, cross.context_hidden_size),
        num_attention_heads: at_most(4, cross.num_attention_heads),
        kv_channels: at_most(14, cross.kv_channels),
        ..cross.clone()
    }
}

/// As many factors per list as the twin has pairs, whatever the length of a call.
fn rope(rope: &Rope, rotated: u32) -> Rope {
    let Rope::Rotary(rotary) = rope else {
        return rope.clone();
    };
    let scaling = match &rotary.scaling {
        RopeScaling::LongRope(long) => {
            let shorter = |list: &[f64]| list.iter().copied().take(rotated as usize / 2).collect();
            RopeScaling::LongRope(LongRope {
                short_factor: shorter(&long.short_factor),
                long_factor: shorter(&long.long_factor),
                select: match long.select {
                    LongRopeSelect::ByLength => LongRopeSelect::Short,
                    fixed => fixed,
                },
                ..long.clone()
            })
        }
        RopeScaling::Dynamic { .. } => RopeScaling::None,
        scaling => scaling.clone(),
    };
    Rope::Rotary(Rotary {
        scaling,
        ..rotary.clone()
    })
}

/// Few keys are picked, so that requests have more; a head is a power of two and holds what is rotated.
fn indexer(indexer: &Indexer, rotated: u32) -> Indexer {
    match indexer {
        Indexer::Shared { topk, tail } => Indexer::Shared {
            topk: (*topk).min(TWIN_TOPK),
            tail: (*tail).min(TWIN_POOL - 1),
        },
        Indexer::Lightning(own) => Indexer::Lightning(LightningIndexer {
            num_heads: at_most(3, own.num_heads),
            head_dim: own.head_dim.min(8).max(rotated),
            topk: own.topk.min(TWIN_TOPK),
            forced: Forced {
                initial: own.forced.initial.min(1),
                local: own.forced.local.min(2),
            },
            pool: own.pool.map(|pool| Pool {
                size: pool.size.min(TWIN_POOL),
                ..pool
            }),
            ..own.clone()
        }),
    }
}

/// How many keys a twin picks at most, and how many make a pool.
const TWIN_TOPK: u32 = 4;
const TWIN_POOL: u32 = 2;

/// `size`, or where that is larger the largest number up to `most` with the same parity.
fn at_most(most: u32, size: u32) -> u32 {
    if size <= most {
        size
    } else {
        most - (most + size) % 2
    }
}

#[cfg(test)]
mod tests {
    use super::at_most;

    #[test]
    fn sizes_keep_their_parity() {
        for size in 1..200 {
            let twin = at_most(45, size);
            assert!(
                twin <= 45 && twin >= size.min(44) && twin % 2 == size % 2,
                "{size} -> {twin}"
            );
        }
        assert_eq!(at_most(4, 128), 4);
        assert_eq!(at_most(4, 7), 3);
    }
}
