//! A `config.json` of DeepSeek-V3's family, or of V3.2's where keys are picked.

use serde_json::{Map, Value, json};

use crate::layer::{
    Checked, DownProjection, Indexer, Latent, LongRopeSelect, Query, Rope, RopeLayout, RopeScaling,
    Rotary, Yarn, YarnMagnitude,
};

/// The object, its keys in alphabetical order.
pub(super) fn write(checked: &Checked, latent: &Latent) -> String {
    let layer = &checked.layer;
    let dims = &latent.dims;
    let rank = match latent.query {
        Query::Plain => None,
        Query::Lora { rank, .. } => Some(rank),
    };
    let biased = match latent.down {
        DownProjection::Separate { kv_bias, .. } => kv_bias,
        DownProjection::Fused { bias } => bias,
    };
    let sparse = matches!(layer.indexer(), Some(Indexer::Lightning(_)));
    let mut config = json!({
        "model_type": if sparse { "deepseek_v32" } else { "deepseek_v3" },
        "hidden_size": dims.hidden_size,
        "num_attention_heads": dims.num_attention_heads,
        "num_key_value_heads": dims.num_attention_heads,
        "q_lora_rank": rank,
        "kv_lora_rank": dims.kv_lora_rank,
        "qk_nope_head_dim": dims.qk_nope_head_dim,
        "qk_rope_head_dim": dims.qk_rope_head_dim,
        "v_head_dim": dims.v_head_dim,
        "attention_bias": biased,
        "rms_norm_eps": super::latent_norm(latent).map_or(1e-6, |norm| norm.eps),
    });
    if let Some(object) = config.as_object_mut() {
        if let Rope::Rotary(rotary) = &layer.rope {
            rope(object, rotary, sparse);
        }
        if let Some(Indexer::Lightning(indexer)) = layer.indexer() {
            object.insert("index_n_heads".to_owned(), json!(indexer.num_heads));
            object.insert("index_head_dim".to_owned(), json!(indexer.head_dim));
            object.insert("index_topk".to_owned(), json!(indexer.topk));
        }
    }
    format!("{config:#}\n")
}

fn rope(config: &mut Map<String, Value>, rotary: &Rotary, sparse: bool) {
    config.insert("rope_theta".to_owned(), json!(rotary.theta));
    // V3.2's modeling code turns pairs whatever is said.
    if !sparse {
        let pairs = rotary.layout == RopeLayout::Interleaved;
        config.insert("rope_interleave".to_owned(), json!(pairs));
    }
    let scaling = match &rotary.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "type": "linear", "factor": factor }),
        RopeScaling::Yarn(yarn) => stretched(yarn),
        RopeScaling::Llama3(llama) => json!({
            "rope_type": "llama3",
            "factor": llama.factor,
            "low_freq_factor": llama.low_freq_factor,
            "high_freq_factor": llama.high_freq_factor,
            "original_max_position_embeddings": llama.original_max_position_embeddings,
        }),
        RopeScaling::LongRope(long) => {
            if long.select == LongRopeSelect::ByLength {
                let longest = long.original_max_position_embeddings;
                config.insert("max_position_embeddings".to_owned(), json!(longest));
            }
            json!({
                "rope_type": "longrope",
                "short_factor": long.short_factor,
                "long_factor": long.long_factor,
                "original_max_position_embeddings": long.original_max_position_embeddings,
                "attention_factor": long.attention_factor,
            })
        }
        RopeScaling::Dynamic {
            factor,
            max_position_embeddings: longest,
        } => {
            config.insert("max_position_embeddings".to_owned(), json!(longest));
            json!({ "rope_type": "dynamic", "factor": factor })
        }
    };
    config.insert("rope_scaling".to_owned(), scaling);
}

fn stretched(yarn: &Yarn) -> Value {
    let mut scaling = json!({
        "type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_max_position_embeddings,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "mscale_all_dim": yarn.mscale_all_dim,
        "truncate": yarn.truncate,
    });
    let (key, value) = match yarn.magnitude {
        YarnMagnitude::Ratio { mscale } => ("mscale", mscale),
        YarnMagnitude::Constant(factor) => ("attention_factor", factor),
    };
    if let Some(object) = scaling.as_object_mut() {
        object.insert(key.to_owned(), json!(value));
    }
    scaling
}
