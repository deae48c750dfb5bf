//! Layers of families that the importer does not know yet, from their configs.

use mla_spec::*;
use serde_json::Value;

pub(crate) fn checked(config: &Value, layer: usize) -> Option<Checked> {
    let family = config["model_type"].as_str()?.to_owned();
    let c = if config["text_config"].is_object() { &config["text_config"] } else { config };
    let n = |key: &str| c[key].as_u64().map(|v| v as u32);
    let req = |key: &str| n(key).unwrap_or_else(|| panic!("{key}"));
    let h = req("hidden_size");
    let rms = |eps| NormParams { kind: NormKind::RmsNorm, eps };
    let f = family.as_str();
    let config_eps = c["rms_norm_eps"].as_f64().unwrap();
    let eps = if matches!(f, "glm5_next" | "dots3_note" | "mistral_large4") { config_eps } else { 1e-6 };
    let sliding = f == "dots3_note" && layer >= 2 && layer % 4 != 1;
    let pre = if sliding { "swa_" } else { "" };
    let d = |key: &str| req(&format!("{pre}{key}"));
    let no_rope = f == "glm5_next" || (f == "mistral_large4" && (layer + 1) % 4 == 0);
    let mut dims = Dims {
        hidden_size: h, num_attention_heads: d("num_attention_heads"), kv_lora_rank: d("kv_lora_rank"),
        qk_nope_head_dim: d("qk_nope_head_dim"), qk_rope_head_dim: d("qk_rope_head_dim"),
        v_head_dim: if c[format!("{pre}v_head_dim")].is_null() { h / req("num_attention_heads") } else { d("v_head_dim") },
    };
    if f == "mistral_large4" && no_rope { dims.qk_nope_head_dim += dims.qk_rope_head_dim; dims.qk_rope_head_dim = 0; }
    let rank = n(&format!("{pre}q_lora_rank"));
    let over = |r: u32| LatentScale { factor: (f64::from(h) / f64::from(r)).sqrt(), hidden_over_rank: true };
    let query = match rank {
        None => Query::Plain,
        Some(rank) => Query::Lora { rank, norm: Norm::Separate(rms(eps)),
            scale: match f { "longcat_flash" => Some((over(rank), QueryScaleSite::Query)), "dots3_note" => Some((over(rank), QueryScaleSite::Latent)), _ => None },
            up: if f == "axk2" { QueryUp::QueryAndGate } else { QueryUp::Query } },
    };
    let consumer = f == "mistral_large4" && c["kv_source_layers"][layer].as_u64() != Some(layer as u64);
    let params = &c["rope_parameters"]; let scaling = if params.is_object() { params } else { &c["rope_scaling"] };
    let theta = if f == "dots3_note" { if sliding { 5e4 } else { 8e7 } } else { c["rope_theta"].as_f64().or(params["rope_theta"].as_f64()).unwrap_or(1e4) };
    let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
    let num = |key: &str| scaling[key].as_f64();
    let layout = if matches!(f, "minicpm3" | "hy_v4") { RopeLayout::Half } else { RopeLayout::Interleaved };
    let orig = num("original_max_position_embeddings").map(|v| v as u32);
    let list = |key: &str| scaling[key].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect::<Vec<_>>();
    let scaling_kind = match kind {
        "default" => RopeScaling::None,
        "yarn" => RopeScaling::Yarn(Yarn { factor: num("factor").unwrap(), original_max_position_embeddings: orig.unwrap(), beta_fast: num("beta_fast").unwrap(), beta_slow: num("beta_slow").unwrap(), truncate: true,
            magnitude: match num("attention_factor") { Some(a) => YarnMagnitude::Constant(a), None => YarnMagnitude::Ratio { mscale: num("mscale").unwrap() } }, mscale_all_dim: num("mscale_all_dim").unwrap_or(0.0) }),
        "llama3" => RopeScaling::Llama3(Llama3 { factor: num("factor").unwrap(), low_freq_factor: num("low_freq_factor").unwrap(), high_freq_factor: num("high_freq_factor").unwrap(), original_max_position_embeddings: orig.unwrap() }),
        "dynamic" => RopeScaling::Dynamic { factor: num("factor").unwrap(), max_position_embeddings: req("max_position_embeddings") },
        "longrope" => { let l0 = orig.unwrap(); let ratio = f64::from(req("max_position_embeddings")) / f64::from(l0);
            RopeScaling::LongRope(LongRope { short_factor: list("short_factor"), long_factor: list("long_factor"), original_max_position_embeddings: l0,
                attention_factor: if ratio <= 1.0 { 1.0 } else { (1.0 + ratio.ln() / f64::from(l0).ln()).sqrt() }, select: LongRopeSelect::ByLength }) }
        other => panic!("{other}"),
    };
    let rope = if no_rope { Rope::None } else { Rope::Rotary(Rotary { theta, layout, scaling: scaling_kind }) };
    let shared_index = match f {
        "glm_moe_dsa" | "mistral_large4" => { let freq = n("index_topk_freq").unwrap_or(1).max(1); let offset = n("index_skip_topk_offset").unwrap_or(2); (layer as u32 + 1).saturating_sub(offset) % freq != 0 }
        "glm5_next" => c["indexer_types"][layer] == "shared",
        "hy_v4" => layer != 0 && (layer - 1) % 4 != 0,
        _ => false,
    };
    let topk = n("index_topk");
    let core = match topk {
        _ if sliding => Core::Dense,
        None => Core::Dense,
        Some(topk) if shared_index => Core::Sparse(Indexer::Shared { topk, tail: n("index_kpool").map_or(0, |p| p - 1) }),
        Some(topk) => Core::Sparse(Indexer::Lightning(LightningIndexer {
            num_heads: req("index_n_heads"), head_dim: req("index_head_dim"), topk,
            query: if f == "mistral_large4" { IndexerQuery::Hidden { norm: Some(NormParams { kind: NormKind::LayerNorm, eps: 1e-6 }) } } else { IndexerQuery::Latent },
            rope: (!no_rope).then_some(IndexerRope { layout: if matches!(f, "glm_moe_dsa" | "dots3_note" | "mistral_large4") { RopeLayout::Interleaved } else { RopeLayout::Half }, split: if f == "hy_v4" { SplitOrder::NopeFirst } else { SplitOrder::RopeFirst } }),
            k_norm: NormParams { kind: NormKind::LayerNorm, eps: if f == "hy_v4" { config_eps } else { 1e-6 } },
            hadamard: false, relu: true, log_position_scaling: f == "mistral_large4", full_precision_weights: false, forced: Forced::default(),
            pool: n("index_kpool").map(|size| Pool { size, always_select_tail: c["index_kpool_always_select_tail"] == true }), shared: true })),
    };
    let gate = match f {
        "bailing_hybrid" | "dots3_note" => Some(Gate { granularity: GateGranularity::PerHead, source: GateSource::Linear { bias: false, full_precision: f == "bailing_hybrid" } }),
        "hy_v4" => Some(Gate { granularity: GateGranularity::PerElement, source: GateSource::Linear { bias: false, full_precision: false } }),
        "axk2" => Some(Gate { granularity: GateGranularity::PerElement, source: GateSource::Query }),
        _ => None,
    };
    let query_scaling = match f {
        "mistral4" => QueryScaling::Llama4 { beta: num("llama_4_scaling_beta").unwrap(), original_max_position_embeddings: orig.unwrap(), position_offset: 0 },
        "mistral_large4" => QueryScaling::LogPosition, _ => QueryScaling::None,
    };
    let mut mask = AttnMask::PADDING_CAUSAL;
    if sliding { mask.window = Some(Window { left: Some(req("sliding_window") - 1), right: Some(0) }); }
    Some(Checked {
        layer: Layer { name: "A".to_owned(), input_norm: None,
            projections: Projections::Latent(Latent { dims, query, down: DownProjection::Separate { q_bias: false, kv_bias: false },
                kv_norm: if consumer { Norm::Identity } else { Norm::Separate(rms(eps)) },
                kv_scale: matches!(f, "longcat_flash" | "dots3_note").then(|| over(dims.kv_lora_rank)),
                k_rope_norm: (f == "dots3_note").then(|| rms(eps)),
                kv_source: if consumer { KvSource::Other } else { KvSource::Own { shared: false } } }),
            rope, query_scaling, mask, logits: Logits { sink: if f == "hy_v4" { Sink::Learned } else { Sink::None }, ..Logits::PLAIN }, core, gate, output_bias: false },
        build: Build::default(),
    })
}
