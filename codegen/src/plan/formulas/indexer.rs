//! Steps of indexers.

use mla_spec::{IndexerQuery, LightningIndexer};

use super::norm_name;

/// An indexer's queries.
pub(in crate::plan) fn index_queries(indexer: &LightningIndexer) -> String {
    let x = match indexer.query {
        IndexerQuery::Latent => "ĉ_q".to_owned(),
        IndexerQuery::Hidden { norm: None } => "x".to_owned(),
        IndexerQuery::Hidden { norm: Some(norm) } => format!("{}(x)", norm_name(norm.kind)),
    };
    let scaled = if indexer.log_position_scaling {
        ";  Q_j times a_j ln(pos + 1) + b_j"
    } else {
        ""
    };
    format!(
        "Indexer queries and weights: Q = W_IQ · {x}{}{scaled}{};  w = W_IW · x",
        rope(indexer),
        transform(indexer, "Q")
    )
}

/// An indexer's keys.
pub(in crate::plan) fn index_keys(indexer: &LightningIndexer) -> String {
    let gate = match indexer.pool {
        None => "",
        Some(_) => ";  g = W_IG · x, which pools it",
    };
    format!(
        "Indexer key: K = {}(W_IK · x){}{}{gate}",
        norm_name(indexer.k_norm.kind),
        rope(indexer),
        transform(indexer, "K")
    )
}

/// How keys are picked.
pub(in crate::plan) fn selection(indexer: &LightningIndexer) -> String {
    let product = if indexer.relu {
        "relu(Q_j(t)·K(u))"
    } else {
        "Q_j(t)·K(u)"
    };
    let score = format!(
        "I(t, u) = Σ_j w_j · {}^-1/2 · {}^-1/2 · {product}",
        indexer.num_heads, indexer.head_dim
    );
    let forced = match (indexer.forced.initial, indexer.forced.local) {
        (0, 0) => String::new(),
        (initial, 0) => format!(", the first {initial} always among them"),
        (0, local) => format!(", the last {local} always among them"),
        (initial, local) => {
            format!(", the first {initial} and the last {local} always among them")
        }
    };
    match indexer.pool {
        None => format!(
            "Selection: {score};  the {} keys with the highest scores{forced}",
            indexer.topk
        ),
        Some(pool) => {
            let tail = if pool.always_select_tail {
                ", and the tokens behind the last complete pool"
            } else {
                ""
            };
            format!(
                "Selection: {score} for pools of {} keys;  the {} pools with the highest scores{forced}{tail}",
                pool.size,
                indexer.topk / pool.size
            )
        }
    }
}

/// Another layer's selection.
pub(in crate::plan) fn shared_selection() -> String {
    "Selection: the keys that another layer picked".to_owned()
}

/// What goes into an indexer's cache.
pub(in crate::plan) fn index_write(indexer: &LightningIndexer) -> String {
    match indexer.pool {
        None => "The cache keeps K".to_owned(),
        Some(_) => "The cache keeps K and g".to_owned(),
    }
}

fn rope(indexer: &LightningIndexer) -> &'static str {
    match indexer.rope {
        None => "",
        Some(_) => ", roped",
    }
}

/// The Hadamard transform of `x`.
fn transform(indexer: &LightningIndexer, x: &str) -> String {
    if indexer.hadamard {
        format!(";  {x} Hadamard-transformed")
    } else {
        String::new()
    }
}
