//! How queries, keys and values are made, and which keys are attended to.

use super::layer::norm;
use super::{Facts, training, yes_or_no};
use crate::layer::{
    Core, Cross, DownProjection, Forced, Grouped, HeadNorms, Indexer, IndexerQuery, IndexerRope,
    KvSource, Latent, LatentScale, LightningIndexer, Norm, Projections, QkvProjection, Query,
    QueryScaleSite, QueryUp, RopeLayout, SplitOrder,
};

pub(super) fn projections(facts: &mut Facts, projections: &Projections) {
    match projections {
        Projections::Latent(latent) => of_latents(facts, latent),
        Projections::Grouped(grouped) => of_groups(facts, grouped),
        Projections::Cross(cross) => of_another_sequence(facts, cross),
    }
}

fn of_latents(facts: &mut Facts, latent: &Latent) {
    let Latent {
        dims,
        query,
        down,
        kv_norm,
        kv_scale,
        k_rope_norm,
        kv_source,
    } = latent;
    facts.mathematics("module", "MLASelfAttention");
    facts.mathematics("hidden size", dims.hidden_size);
    facts.mathematics("heads", dims.num_attention_heads);
    facts.mathematics("rank of the key-value latent", dims.kv_lora_rank);
    facts.mathematics("head dim, not rotated", dims.qk_nope_head_dim);
    facts.mathematics("head dim, rotated", dims.qk_rope_head_dim);
    facts.mathematics("head dim of values", dims.v_head_dim);
    of_query(facts, query);
    facts.mathematics("norm of the key-value latent", norm_or_none(kv_norm));
    place_of_norm(facts, "norm of the key-value latent stands", kv_norm);
    scale(facts, "key-value latent times", kv_scale.as_ref());
    facts.mathematics_if_any("norm of the rope key", k_rope_norm.as_ref().map(norm));
    let latents = match kv_source {
        KvSource::Own { shared: false } => "its own",
        KvSource::Own { shared: true } => "its own, which later layers use",
        KvSource::Other => "another layer's",
    };
    facts.mathematics("latents", latents);
    let (joined, q_bias, kv_bias) = match *down {
        DownProjection::Separate { q_bias, kv_bias } => ("one each", q_bias, kv_bias),
        DownProjection::Fused { bias } => ("joined", bias, bias),
    };
    facts.layout("down projections", joined);
    facts.mathematics("bias of the query latent", yes_or_no(q_bias));
    facts.mathematics("bias of the key-value latent", yes_or_no(kv_bias));
}

fn of_query(facts: &mut Facts, query: &Query) {
    match query {
        Query::Plain => facts.mathematics("rank of the query latent", "none: queries are plain"),
        Query::Lora {
            rank,
            norm,
            scale: times,
            up,
        } => {
            facts.mathematics("rank of the query latent", rank);
            facts.mathematics("norm of the query latent", norm_or_none(norm));
            place_of_norm(facts, "norm of the query latent stands", norm);
            scale(
                facts,
                "query latent times",
                times.as_ref().map(|(scale, _)| scale),
            );
            facts.mathematics_if_any(
                "where the query is scaled",
                times.map(|(_, site)| match site {
                    QueryScaleSite::Latent => "at the latent, before an indexer reads it",
                    QueryScaleSite::Query => "at the query",
                }),
            );
            if *up == QueryUp::QueryAndGate {
                facts.layout("query's up projection", "queries and gates");
            }
        }
    }
}

fn norm_or_none(of: &Norm) -> String {
    of.params().map_or("none".to_owned(), norm)
}

fn place_of_norm(facts: &mut Facts, name: &str, norm: &Norm) {
    match norm {
        Norm::Identity => {}
        Norm::Separate(_) => facts.layout(name, "by itself"),
        Norm::FusedIntoLinear(_) => facts.layout(name, "inside the up projection"),
    }
}

fn scale(facts: &mut Facts, name: &str, scale: Option<&LatentScale>) {
    if let Some(scale) = scale {
        facts.number(name, scale.factor);
    }
}

fn of_groups(facts: &mut Facts, grouped: &Grouped) {
    let Grouped {
        hidden_size,
        num_attention_heads,
        num_query_groups,
        kv_channels,
        rotary_dim,
        qkv,
        norms,
    } = grouped;
    facts.mathematics("module", "SelfAttention");
    facts.mathematics("hidden size", hidden_size);
    facts.mathematics("heads", num_attention_heads);
    facts.mathematics("groups of heads", num_query_groups);
    facts.mathematics("head dim", kv_channels);
    facts.mathematics("head dim, rotated", rotary_dim);
    let (joined, q_bias, kv_bias) = match *qkv {
        QkvProjection::Fused { bias } => ("joined", bias, bias),
        QkvProjection::Separate { q_bias, kv_bias } => ("queries apart", q_bias, kv_bias),
    };
    facts.layout("projections of queries, keys and values", joined);
    biases(facts, q_bias, kv_bias);
    match norms {
        HeadNorms::Learned { q, k } => {
            facts.mathematics_if_any("norm of query heads", q.as_ref().map(norm));
            facts.mathematics_if_any("norm of key heads", k.as_ref().map(norm));
        }
        HeadNorms::L2 { eps } => {
            facts.mathematics("norm of query heads", format!("L2, eps {eps:e}"));
            facts.mathematics("norm of key heads", format!("L2, eps {eps:e}"));
        }
    }
}

fn of_another_sequence(facts: &mut Facts, cross: &Cross) {
    let Cross {
        hidden_size,
        context_hidden_size,
        num_attention_heads,
        kv_channels,
        q_bias,
        kv_bias,
    } = cross;
    facts.mathematics("module", "CrossAttention");
    facts.mathematics("hidden size", hidden_size);
    facts.mathematics("width of the other sequence", context_hidden_size);
    facts.mathematics("heads", num_attention_heads);
    facts.mathematics("head dim", kv_channels);
    biases(facts, *q_bias, *kv_bias);
}

fn biases(facts: &mut Facts, q_bias: bool, kv_bias: bool) {
    facts.mathematics("bias of queries", yes_or_no(q_bias));
    facts.mathematics("bias of keys and values", yes_or_no(kv_bias));
}

/// Which of the visible keys are attended to.
pub(super) fn core(facts: &mut Facts, core: &Core) {
    match core {
        Core::Dense => facts.mathematics("keys attended to", "every visible one"),
        Core::Sparse(Indexer::Shared { topk, tail }) => {
            let tail = match tail {
                0 => String::new(),
                tail => format!(" and up to {tail} of an incomplete pool"),
            };
            let picked = format!("{topk}{tail}, which an earlier layer picked");
            facts.mathematics("keys attended to", picked);
        }
        Core::Sparse(Indexer::Lightning(indexer)) => {
            facts.mathematics("keys attended to", format!("the best {}", indexer.topk));
            picks(facts, indexer);
        }
    }
}

fn picks(facts: &mut Facts, indexer: &LightningIndexer) {
    let LightningIndexer {
        num_heads,
        head_dim,
        topk: _, // said already
        query,
        rope,
        k_norm,
        hadamard,
        relu,
        log_position_scaling,
        full_precision_weights,
        forced: Forced { initial, local },
        pool,
        shared,
        loss,
    } = indexer;
    facts.mathematics("indexer's heads", num_heads);
    facts.mathematics("indexer's head dim", head_dim);
    let made_of = match query {
        IndexerQuery::Latent => "the query latent".to_owned(),
        IndexerQuery::Hidden { norm: None } => "the input".to_owned(),
        IndexerQuery::Hidden { norm: Some(of) } => format!("the input, normed ({})", norm(of)),
    };
    facts.mathematics("indexer's queries are made of", made_of);
    facts.mathematics("norm of the indexer's key", norm(k_norm));
    facts.mathematics("indexer's scores below 0 count as 0", yes_or_no(*relu));
    let by_position = log_position_scaling.then_some("times a ln(pos + 1) + b, learned per head");
    facts.mathematics_if_any("indexer's queries by position", by_position);
    if (*initial, *local) != (0, 0) {
        let always = format!("the first {initial} and the last {local}");
        facts.mathematics("keys always picked", always);
    }
    facts.mathematics_if_any(
        "pools of keys",
        pool.map(|pool| match pool.always_select_tail {
            true => format!("of {}, an incomplete one always", pool.size),
            false => format!("of {}", pool.size),
        }),
    );
    facts.mathematics("later layers use what is picked", yes_or_no(*shared));
    facts.mathematics("indexer is rotated", yes_or_no(rope.is_some()));
    if let Some(IndexerRope { layout, split }) = rope {
        facts.layout("pairs of the indexer's rope", pairs(*layout));
        let order = match split {
            SplitOrder::RopeFirst => "rope part first",
            SplitOrder::NopeFirst => "rope part last",
        };
        facts.layout("order of the indexer's heads", order);
    }
    facts.layout("indexer's keys turned by Hadamard", yes_or_no(*hadamard));
    let weights = if *full_precision_weights {
        "f32"
    } else {
        "as the rest"
    };
    facts.schedule("indexer's head weights", weights);
    training::loss(facts, loss.as_ref());
}

/// Which elements a rope turns together.
pub(super) fn pairs(layout: RopeLayout) -> &'static str {
    match layout {
        RopeLayout::Interleaved => "interleaved: (2i, 2i+1)",
        RopeLayout::Half => "half: (i, i+d/2)",
    }
}
