//! A `config.json` of DeepSeek-V3's family, or of V3.2's where keys are picked.

use serde_json::{Value, json};

use crate::layer::{
    Checked, DownProjection, Indexer, Latent, LongRopeSelect, Query, Rope, RopeLayout, RopeScaling,
    Rotary, Yarn, YarnMagnitude,
};

const ORIGINAL: &str = "original_max_position_embeddings";

/// An object whose keys stand in the order in which they were added, whatever serde_json was built with.
#[derive(Default)]
struct Object {
    entries: Vec<(&'static str, String)>,
}

impl Object {
    fn add(&mut self, key: &'static str, value: impl Into<Value>) {
        self.entries.push((key, value.into().to_string()));
    }

    /// Its text, so many levels deep.
    fn text(&self, depth: usize) -> String {
        let indent = "  ".repeat(depth);
        let entries = self.entries.iter();
        let lines: Vec<_> = entries
            .map(|(key, value)| format!("{indent}  \"{key}\": {value}"))
            .collect();
        format!("{{\n{}\n{indent}}}", lines.join(",\n"))
    }
}

/// The object.
pub(super) fn write(checked: &Checked, latent: &Latent) -> String {
    let layer = &checked.layer;
    let dims = &latent.dims;
    let indexer = match layer.indexer() {
        Some(Indexer::Lightning(indexer)) => Some(indexer),
        _ => None,
    };
    let family = match indexer {
        Some(_) => "deepseek_v32",
        None => "deepseek_v3",
    };
    let mut config = Object::default();
    config.add("model_type", family);
    config.add("hidden_size", dims.hidden_size);
    config.add("num_attention_heads", dims.num_attention_heads);
    config.add("num_key_value_heads", dims.num_attention_heads);
    config.add(
        "q_lora_rank",
        match latent.query {
            Query::Plain => Value::Null,
            Query::Lora { rank, .. } => json!(rank),
        },
    );
    config.add("kv_lora_rank", dims.kv_lora_rank);
    config.add("qk_nope_head_dim", dims.qk_nope_head_dim);
    config.add("qk_rope_head_dim", dims.qk_rope_head_dim);
    config.add("v_head_dim", dims.v_head_dim);
    config.add(
        "attention_bias",
        match latent.down {
            DownProjection::Separate { kv_bias, .. } => kv_bias,
            DownProjection::Fused { bias } => bias,
        },
    );
    let eps = super::latent_norm(latent).map_or(1e-6, |norm| norm.eps);
    config.add("rms_norm_eps", eps);
    if let Rope::Rotary(rotary) = &layer.rope {
        rope(&mut config, rotary, indexer.is_some());
    }
    if let Some(indexer) = indexer {
        config.add("index_n_heads", indexer.num_heads);
        config.add("index_head_dim", indexer.head_dim);
        config.add("index_topk", indexer.topk);
    }
    config.text(0) + "\n"
}

fn rope(config: &mut Object, rotary: &Rotary, sparse: bool) {
    config.add("rope_theta", rotary.theta);
    // V3.2's modeling code turns pairs whatever is said.
    if !sparse {
        config.add("rope_interleave", rotary.layout == RopeLayout::Interleaved);
    }
    let mut scaling = Object::default();
    match &rotary.scaling {
        RopeScaling::None => {}
        RopeScaling::Linear { factor } => {
            scaling.add("type", "linear");
            scaling.add("factor", *factor);
        }
        RopeScaling::Yarn(yarn) => stretched(&mut scaling, yarn),
        RopeScaling::Llama3(llama) => {
            scaling.add("rope_type", "llama3");
            scaling.add("factor", llama.factor);
            scaling.add("low_freq_factor", llama.low_freq_factor);
            scaling.add("high_freq_factor", llama.high_freq_factor);
            scaling.add(ORIGINAL, llama.original_max_position_embeddings);
        }
        RopeScaling::LongRope(long) => {
            if long.select == LongRopeSelect::ByLength {
                config.add(
                    "max_position_embeddings",
                    long.original_max_position_embeddings,
                );
            }
            scaling.add("rope_type", "longrope");
            scaling.add("short_factor", long.short_factor.clone());
            scaling.add("long_factor", long.long_factor.clone());
            scaling.add(ORIGINAL, long.original_max_position_embeddings);
            scaling.add("attention_factor", long.attention_factor);
        }
        RopeScaling::Dynamic {
            factor,
            max_position_embeddings: longest,
        } => {
            config.add("max_position_embeddings", *longest);
            scaling.add("rope_type", "dynamic");
            scaling.add("factor", *factor);
        }
    }
    let scaling = match scaling.entries.is_empty() {
        true => "null".to_owned(),
        false => scaling.text(1),
    };
    config.entries.push(("rope_scaling", scaling));
}

fn stretched(scaling: &mut Object, yarn: &Yarn) {
    scaling.add("type", "yarn");
    scaling.add("factor", yarn.factor);
    scaling.add(ORIGINAL, yarn.original_max_position_embeddings);
    scaling.add("beta_fast", yarn.beta_fast);
    scaling.add("beta_slow", yarn.beta_slow);
    match yarn.magnitude {
        YarnMagnitude::Ratio { mscale } => scaling.add("mscale", mscale),
        YarnMagnitude::Constant(factor) => scaling.add("attention_factor", factor),
    }
    scaling.add("mscale_all_dim", yarn.mscale_all_dim);
    scaling.add("truncate", yarn.truncate);
}
