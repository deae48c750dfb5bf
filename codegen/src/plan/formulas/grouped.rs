//! Steps of layers without latents.

use mla_spec::{Layer, NormParams};

use super::{has_groups, norm_name, product, softmax};

/// All projections at once.
pub(in crate::plan) fn qkv(gates: bool, bias: bool) -> String {
    let made = if gates {
        "[q; g; k; v]_g"
    } else {
        "[q; k; v]_g"
    };
    format!(
        "Queries, keys and values, group by group: {made} = {}",
        product("W_QKV,g", "x", bias)
    )
}

/// Queries, and keys and values.
pub(in crate::plan) fn q_and_kv(q_bias: bool, kv_bias: bool) -> String {
    format!(
        "Queries, keys and values: q = {};  [k; v]_g = {}",
        product("W_Q", "x", q_bias),
        product("W_KV,g", "x", kv_bias)
    )
}

/// What happens to a query or key before attention.
pub(in crate::plan) fn prepared(
    symbol: &str,
    learned: Option<NormParams>,
    l2: bool,
    rotated: Option<(u32, u32)>,
) -> String {
    let name = if symbol == "q" { "Queries" } else { "Keys" };
    let mut parts = Vec::new();
    if let Some(params) = learned {
        parts.push(format!(
            "{symbol}_h = {}({symbol}_h)",
            norm_name(params.kind)
        ));
    }
    if let Some((first, head)) = rotated {
        parts.push(if first == head {
            "rope".to_owned()
        } else {
            format!("rope on the first {first} of each head's {head}")
        });
    }
    if l2 {
        parts.push(format!(
            "{symbol}_h = {symbol}_h / (mean({symbol}_h²) + ε)^1/2"
        ));
    }
    format!("{name}: {}", parts.join(";  "))
}

/// A context's queries.
pub(in crate::plan) fn cross_queries(bias: bool) -> String {
    format!("Queries: q = {}", product("W_Q", "x", bias))
}

/// A context's keys and values.
pub(in crate::plan) fn cross_keys(bias: bool) -> String {
    format!(
        "Keys and values of the context: [k; v]_h = {}",
        product("W_KV,h", "c", bias)
    )
}

/// Attention of heads over groups.
pub(in crate::plan) fn grouped(layer: &Layer) -> String {
    let (k, v) = keys(layer);
    format!(
        "Attention: p = {};  o_h = Σ p · {v}",
        softmax(layer, &format!("q_h·{k}"))
    )
}

/// What goes into a cache of groups.
pub(in crate::plan) fn groups_write() -> String {
    "The cache keeps k and v".to_owned()
}

/// Rope, cache and attention as one.
pub(in crate::plan) fn flash(layer: &Layer) -> String {
    let (k, v) = keys(layer);
    format!(
        "Rope on q and k, the cache keeps k and v, and all at once: p = {};  o_h = Σ p · {v}",
        softmax(layer, &format!("q_h·{k}"))
    )
}

/// A head's key and value.
fn keys(layer: &Layer) -> (&'static str, &'static str) {
    if has_groups(layer) {
        ("k_g(h)", "v_g(h)")
    } else {
        ("k_h", "v_h")
    }
}
