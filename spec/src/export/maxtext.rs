//! A MaxText model's YAML.

use std::fmt::Display;

use crate::build::CacheKind;
use crate::layer::{
    Checked, Indexer, Latent, Layer, LightningIndexer, LossStage, Query, Rope, RopeLayout,
    RopeScaling, Rotary, Yarn, yarn_magnitude,
};

/// The `original_max_position_embeddings` of ropes that have none.
const ORIGINAL: u32 = 4096;

/// The keys, a line each.
pub(super) fn write(checked: &Checked, latent: &Latent) -> String {
    let layer = &checked.layer;
    let mut keys = Keys {
        text: format!(
            "# {} as MaxText's keys: attention alone, without `base_num_decoder_layers` and whatever else the model is made of.\n",
            layer.name
        ),
    };
    sizes(&mut keys, latent);
    match &layer.rope {
        Rope::Rotary(rotary) => rope(&mut keys, rotary),
        Rope::None => {}
    }
    attention(&mut keys, layer);
    if let Some(Indexer::Lightning(indexer)) = layer.indexer() {
        picks(&mut keys, indexer);
    }
    let naive = checked.build.cache.kind == CacheKind::Naive;
    keys.add("mla_naive_kvcache", naive);
    keys.text
}

struct Keys {
    text: String,
}

impl Keys {
    fn add(&mut self, key: &str, value: impl Display) {
        self.text.push_str(&format!("{key}: {value}\n"));
    }

    /// A number that is real even where it is whole.
    fn real(&mut self, key: &str, value: f64) {
        self.add(key, format!("{value:?}"));
    }
}

fn sizes(keys: &mut Keys, latent: &Latent) {
    let dims = &latent.dims;
    keys.add("decoder_block", "deepseek");
    keys.add("attention_type", "mla");
    keys.add("base_emb_dim", dims.hidden_size);
    keys.add("base_num_query_heads", dims.num_attention_heads);
    keys.add("base_num_kv_heads", dims.num_attention_heads);
    let rank = match latent.query {
        Query::Plain => 0,
        Query::Lora { rank, .. } => rank,
    };
    keys.add("q_lora_rank", rank);
    keys.add("kv_lora_rank", dims.kv_lora_rank);
    keys.add("qk_nope_head_dim", dims.qk_nope_head_dim);
    keys.add("qk_rope_head_dim", dims.qk_rope_head_dim);
    keys.add("v_head_dim", dims.v_head_dim);
    if let Some(norm) = super::latent_norm(latent) {
        let mantissa = format!("{:e}", norm.eps);
        // YAML 1.1 takes an exponent for a number only behind a fraction.
        let (digits, exponent) = mantissa.split_once('e').unwrap_or((&mantissa, "0"));
        let fraction = if digits.contains('.') { "" } else { ".0" };
        keys.add(
            "normalization_layer_epsilon",
            format!("{digits}{fraction}e{exponent}"),
        );
    }
}

fn rope(keys: &mut Keys, rotary: &Rotary) {
    let interleaved = rotary.layout == RopeLayout::Interleaved;
    match &rotary.scaling {
        RopeScaling::Yarn(yarn) => stretched(keys, rotary, yarn, interleaved),
        // MaxText's plain rope turns halves alone; its YaRN of factor 1 turns pairs, at the same frequencies.
        RopeScaling::None if interleaved => {
            keys.add("rope_type", "yarn");
            keys.real("rope_max_timescale", rotary.theta);
            keys.add("rope_factor", 1);
            keys.add("rope_interleave", true);
            keys.real("mscale", 1.0);
            numbers(keys, ORIGINAL, 40.0);
            keys.real("beta_fast", 32.0);
            keys.real("beta_slow", 1.0);
        }
        scaling => {
            keys.add("rope_type", "default");
            keys.real("rope_max_timescale", rotary.theta);
            if let RopeScaling::Linear { factor } = scaling {
                keys.real("rope_linear_scaling_factor", *factor);
            }
            // Alike, so that the softmax scale is not corrected.
            keys.add("max_position_embeddings", ORIGINAL);
            keys.add("original_max_position_embeddings", ORIGINAL);
        }
    }
}

fn stretched(keys: &mut Keys, rotary: &Rotary, yarn: &Yarn, interleaved: bool) {
    keys.add("rope_type", "yarn");
    keys.real("rope_max_timescale", rotary.theta);
    keys.add("rope_factor", yarn.factor);
    keys.real("beta_fast", yarn.beta_fast);
    keys.real("beta_slow", yarn.beta_slow);
    // The one mscale that MaxText has corrects the softmax scale.
    keys.real("mscale", yarn.mscale_all_dim);
    keys.add("rope_interleave", interleaved);
    keys.add("rope_truncate", yarn.truncate);
    let magnified = (rotary.cos_sin_factor() - yarn_magnitude(yarn.factor, 1.0)).abs() < 1e-12;
    keys.add("rope_attention_scaling", magnified && yarn.factor > 1.0);
    numbers(keys, yarn.original_max_position_embeddings, yarn.factor);
}

/// The lengths: the longest one is above the original one, so that the softmax scale is corrected.
fn numbers(keys: &mut Keys, original: u32, factor: f64) {
    let longest = (f64::from(original) * factor.max(2.0)).min(f64::from(u32::MAX)) as u32;
    keys.add("max_position_embeddings", longest);
    keys.add("original_max_position_embeddings", original);
}

fn attention(keys: &mut Keys, layer: &Layer) {
    if let Some(cap) = layer.logits.soft_cap {
        keys.real("attn_logits_soft_cap", cap);
    }
    if layer.logits.dropout != 0.0 {
        keys.add("attention", "cudnn_flash_te"); // the one kernel that drops probabilities
        keys.add("enable_dropout", true);
        keys.real("dropout_rate", layer.logits.dropout);
    }
    if let Some(clip) = layer.qk_clip {
        keys.add("use_qk_clip", true);
        keys.real("qk_clip_threshold", clip.threshold);
    }
}

fn picks(keys: &mut Keys, indexer: &LightningIndexer) {
    keys.add("use_indexer", true);
    keys.add("indexer_n_heads", indexer.num_heads);
    keys.add("indexer_head_dim", indexer.head_dim);
    keys.add("indexer_topk", indexer.topk);
    if let Some(loss) = indexer.loss {
        keys.real("indexer_loss_scaling_factor", loss.coeff);
        keys.add("indexer_sparse_training", loss.stage == LossStage::Sparse);
    }
}
