//! A layer's twin: the same structure at sizes where proofs in f64 are quick.

use crate::plan::mla;
use mla_spec::{Build, Checked, Dims, Latent, Layer, Projections, Query};

/// The twin of a layer. Sizes shrink and stay even or odd, to numbers that no vector width divides; what is small already
/// stays. So do pages and the chunks in which context is expanded, that short requests cross several.
pub(super) fn of(checked: &Checked) -> Checked {
    let Checked { layer, build } = checked;
    let dims = &mla(layer).dims;
    let dims = Dims {
        hidden_size: at_most(45, dims.hidden_size),
        num_attention_heads: at_most(4, dims.num_attention_heads),
        kv_lora_rank: at_most(18, dims.kv_lora_rank),
        qk_nope_head_dim: at_most(10, dims.qk_nope_head_dim),
        qk_rope_head_dim: at_most(6, dims.qk_rope_head_dim),
        v_head_dim: at_most(14, dims.v_head_dim),
    };
    let query = match &mla(layer).query {
        Query::Plain => Query::Plain,
        Query::Lora {
            rank,
            norm,
            scale,
            up,
        } => Query::Lora {
            rank: at_most(22, *rank),
            norm: norm.clone(),
            scale: *scale,
            up: *up,
        },
    };
    let mut cache = build.cache;
    cache.page_size = cache.page_size.map(|page| at_most(6, page));
    Checked {
        layer: Layer {
            projections: Projections::Latent(Latent {
                dims,
                query,
                ..mla(layer).clone()
            }),
            ..layer.clone()
        },
        build: Build {
            cache,
            context_chunk: at_most(7, build.context_chunk),
            ..build.clone()
        },
    }
}

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
