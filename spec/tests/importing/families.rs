//! Every family beyond DeepSeek-V3's own shape: numbers, and the tensors that a layer loads, against the modeling code's.
//!
//! `families/facts.json` was taken from transformers 5.23.0's own modules, built from the configs beside it.

use mla_spec::{
    GateGranularity, GateSource, Indexer, IndexerQuery, KvSource, Latent, NormKind, QueryScaling,
    QueryUp, Sink,
};

use super::*;

/// The tensors below `self_attn` that a layer loads, with their shapes.
fn tensors(layer: &Layer) -> BTreeMap<String, Vec<u32>> {
    let latent = layer.latent().unwrap();
    let (dims, heads) = (&latent.dims, latent.dims.num_attention_heads);
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut add = |name: &str, shape: &[u32]| {
        found.insert(name.to_owned(), shape.to_vec());
    };
    let (h, dq) = (dims.hidden_size, dims.qk_head_dim());
    match &latent.query {
        Query::Plain => add("q_proj.weight", &[heads * dq, h]),
        Query::Lora { rank, up, .. } => {
            add("q_a_proj.weight", &[*rank, h]);
            add("q_a_layernorm.weight", &[*rank]);
            match up {
                QueryUp::Query => add("q_b_proj.weight", &[heads * dq, *rank]),
                QueryUp::QueryAndGate => add(
                    "q_gate_proj.weight",
                    &[heads * (dq + dims.v_head_dim), 2 * rank],
                ),
            }
        }
    }
    if latent.kv_source != KvSource::Other {
        add(
            "kv_a_proj_with_mqa.weight",
            &[dims.kv_lora_rank + dims.qk_rope_head_dim, h],
        );
        add("kv_a_layernorm.weight", &[dims.kv_lora_rank]);
    }
    add(
        "kv_b_proj.weight",
        &[
            heads * (dims.qk_nope_head_dim + dims.v_head_dim),
            dims.kv_lora_rank,
        ],
    );
    add("o_proj.weight", &[h, heads * dims.v_head_dim]);
    if latent.k_rope_norm.is_some() {
        add("k_rope_only_layernorm.weight", &[dims.qk_rope_head_dim]);
    }
    if layer.logits.sink == Sink::Learned {
        add("sinks", &[heads]);
    }
    if layer.query_scaling == QueryScaling::LogPosition {
        add("softmax_scaling.scale", &[heads]);
        add("softmax_scaling.bias", &[heads]);
    }
    if let Some(gate) = layer.gate
        && let GateSource::Linear { .. } = gate.source
    {
        match gate.granularity {
            GateGranularity::PerHead => add("g_proj.weight", &[heads, h]),
            GateGranularity::PerElement => add("gate_proj.weight", &[heads * dims.v_head_dim, h]),
        }
    }
    if let Some(Indexer::Lightning(indexer)) = layer.indexer() {
        indexer_tensors(indexer, latent, &mut add);
    }
    found
}

fn indexer_tensors(
    indexer: &mla_spec::LightningIndexer,
    latent: &Latent,
    add: &mut impl FnMut(&str, &[u32]),
) {
    let h = latent.dims.hidden_size;
    let (heads, dim) = (indexer.num_heads, indexer.head_dim);
    let from = match (&indexer.query, &latent.query) {
        (IndexerQuery::Latent, Query::Lora { rank, .. }) => *rank,
        (IndexerQuery::Hidden { .. }, _) => h,
        other => panic!("{other:?}"),
    };
    add("indexer.wq_b.weight", &[heads * dim, from]);
    add("indexer.wk.weight", &[dim, h]);
    add("indexer.weights_proj.weight", &[heads, h]);
    add("indexer.k_norm.weight", &[dim]);
    if indexer.k_norm.kind == NormKind::LayerNorm {
        add("indexer.k_norm.bias", &[dim]);
    }
    if let IndexerQuery::Hidden { norm: Some(_) } = indexer.query {
        add("indexer.q_input_norm.weight", &[h]);
        add("indexer.q_input_norm.bias", &[h]);
    }
    if indexer.log_position_scaling {
        add("indexer.softmax_scaling.scale", &[heads]);
        add("indexer.softmax_scaling.bias", &[heads]);
    }
    if let Some(pool) = indexer.pool {
        add("indexer.index_kpool_compress_ape", &[pool.size, dim]);
        add("indexer.index_kpool_compress_gate", &[dim, h]);
    }
}

#[track_caller]
fn at(file: &str, layer: u32) -> Imported {
    let options = Options {
        layer: Some(layer),
        strict: true,
        ..Options::default()
    };
    accept(file, &read(&format!("{file}.json")), &options)
}

fn near(ours: f64, theirs: &Value, what: &str) {
    let theirs = theirs.as_f64().unwrap_or_else(|| panic!("{what}"));
    assert!(
        (ours - theirs).abs() <= 1e-14 * theirs.abs().max(1.0),
        "{what}: {ours} and {theirs}"
    );
}

#[test]
fn numbers_and_tensors_are_the_modeling_codes() {
    let facts: BTreeMap<String, Value> =
        serde_json::from_str(&read("families/facts.json")).unwrap();
    assert!(facts.len() >= 17);
    for (case, facts) in facts {
        let (file, number) = case.split_once(':').unwrap();
        let layer = layer(&at(file, number.parse().unwrap()));
        near(layer.softmax_scale(), &facts["softmax_scale"], &case);
        let latent = layer.latent().unwrap();
        let eps_of = |norm: &Norm| norm.params().map(|norm| norm.eps);
        assert_eq!(eps_of(&latent.kv_norm), facts["kv_eps"].as_f64(), "{case}");
        let q_eps = match &latent.query {
            Query::Plain => None,
            Query::Lora { norm, .. } => eps_of(norm),
        };
        assert_eq!(q_eps, facts["q_eps"].as_f64(), "{case}");
        let k_rope_eps = latent.k_rope_norm.map(|norm| norm.eps);
        assert_eq!(k_rope_eps, facts["k_rope_eps"].as_f64(), "{case}");
        match (&layer.rope, facts.get("inv_freq")) {
            (Rope::None, None) => {}
            (Rope::Rotary(rotary), Some(theirs)) => {
                let theirs = theirs.as_array().unwrap();
                let ours = rotary.inv_freq(latent.dims.qk_rope_head_dim);
                assert_eq!(ours.len(), theirs.len(), "{case}");
                for (ours, theirs) in ours.iter().zip(theirs) {
                    near(*ours, theirs, &case);
                }
                near(rotary.cos_sin_factor(), &facts["cos_sin_factor"], &case);
            }
            other => panic!("{case}: {other:?}"),
        }
        if let (Some(Indexer::Lightning(indexer)), Some(theirs)) =
            (layer.indexer(), facts.get("indexer"))
        {
            assert_eq!(indexer.num_heads, theirs["heads"], "{case}");
            assert_eq!(indexer.head_dim, theirs["head_dim"], "{case}");
            assert_eq!(indexer.topk, theirs["topk"], "{case}");
            assert_eq!(indexer.k_norm.eps, theirs["k_norm_eps"], "{case}");
        }
        let theirs: BTreeMap<String, Vec<u32>> =
            serde_json::from_value(facts["tensors"].clone()).unwrap();
        assert_eq!(tensors(&layer), theirs, "{case}");
    }
}
