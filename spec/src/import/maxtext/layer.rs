//! The layer, apart from its rope and its indexer.

use super::super::codes;
use super::super::config::Given;
use super::super::defaults::Reader;
use super::super::keys::passed_over_there;
use super::super::parts::{LatentNorm, Logits, Parts, QkClip, Sizes};
use super::{indexer, rope};
use crate::diagnostic::Diagnostic;
use crate::span::Spanned;

/// The `α` of MaxText's QK-clip, which no option changes.
const CLIP_ALPHA: f64 = 0.5;

/// The kernel that `dropout_rate` reaches.
const DROPPING_KERNEL: &str = "cudnn_flash_te";

/// Everything about the layer.
pub(super) fn read(reader: &mut Reader<'_, '_>) -> Parts {
    let sizes = sizes(reader);
    let eps = reader.real(
        "normalization_layer_epsilon",
        "submodules.kv_layernorm.params.eps",
        1e-5,
    );
    let rope = rope::read(reader, &sizes);
    let indexer = indexer::read(reader, sizes.q_lora_rank.is_some());
    let logits = Logits {
        scale: rope.softmax_scale,
        soft_cap: reader
            .optional("attn_logits_soft_cap")
            .filter(|cap| cap.value != 0.0),
        dropout: dropout(reader),
        ..Logits::default()
    };
    let qk_clip = qk_clip(reader, &sizes);
    reader.comments.add(
        "params.attn_mask_type",
        "not in the config: decoders are causal",
    );
    Parts {
        logits,
        indexer,
        qk_clip,
        ..Parts::plain(sizes, rope.node, Some(LatentNorm::rms(eps)))
    }
}

fn sizes(reader: &mut Reader<'_, '_>) -> Sizes {
    let hidden_size = reader.size("base_emb_dim", "params.hidden_size", 2048);
    let heads = reader.size("base_num_query_heads", "params.num_attention_heads", 16);
    let key_heads = reader.size("base_num_kv_heads", "params.num_attention_heads", 16);
    if heads.value != key_heads.value {
        let message = format!(
            "`base_num_kv_heads` is {}, and `base_num_query_heads` is {}",
            key_heads.value, heads.value
        );
        let span = reader.place("base_num_kv_heads");
        reader.config.report(
            Diagnostic::error(
                codes::REFUSED_THERE,
                message,
                span,
                "not as many as queries have",
            )
            .note("MaxText refuses latent attention with fewer key heads: each head has its own")
            .help("write the same number twice"),
        );
    }
    refuse_scale(reader);
    Sizes {
        hidden_size,
        num_attention_heads: heads,
        q_lora_rank: query_rank(reader),
        kv_lora_rank: reader.size("kv_lora_rank", "params.kv_lora_rank", 512),
        qk_nope_head_dim: reader.size("qk_nope_head_dim", "params.qk_nope_head_dim", 128),
        qk_rope_head_dim: reader.size("qk_rope_head_dim", "params.qk_rope_head_dim", 64),
        v_head_dim: reader.size("v_head_dim", "params.v_head_dim", 128),
    }
}

/// MaxText says plain queries by a rank of 0 (features T-12).
fn query_rank(reader: &mut Reader<'_, '_>) -> Option<Spanned<u32>> {
    let (rank, why) = match reader.config.size("q_lora_rank") {
        Given::Value(rank) => (Some(rank), "q_lora_rank is 0: queries are plain"),
        Given::Wrong => (None, ""),
        Given::Absent | Given::Null(_) => {
            (None, "q_lora_rank is absent, which is 0: queries are plain")
        }
    };
    let rank = rank.filter(|rank| rank.value != 0);
    if rank.is_none() {
        reader.comments.add("submodules.linear_q_proj", why);
    }
    rank
}

/// A scale multiplies the base sizes by powers of two, each size by its own.
fn refuse_scale(reader: &Reader<'_, '_>) {
    let scale = reader.config.size("global_parameter_scale").value();
    if let Some(scale) = scale.filter(|scale| scale.value != 1) {
        reader.config.report(
            Diagnostic::error(
                codes::NOT_SAID_HERE,
                "`global_parameter_scale` changes the sizes that the config states",
                scale.span,
                "wanted 1",
            )
            .help("write the sizes that come out, and remove it"),
        );
    }
}

/// Dropout of probabilities: `dropout_rate`, while `enable_dropout` is true, in the one kernel that drops any.
fn dropout(reader: &mut Reader<'_, '_>) -> Option<Spanned<f64>> {
    let enabled = reader.flag("enable_dropout", true);
    let kernel = reader.word("attention", "autoselected");
    let rate = reader.optional("dropout_rate")?;
    if !enabled.value || rate.value == 0.0 {
        return None;
    }
    if kernel.value != DROPPING_KERNEL {
        let why = "attention `cudnn_flash_te` alone drops probabilities; what else is dropped lies beside the layer";
        let lint = passed_over_there("dropout_rate", "MaxText", rate.span, why);
        reader.config.report(lint);
        return None;
    }
    Some(rate)
}

fn qk_clip(reader: &mut Reader<'_, '_>, sizes: &Sizes) -> Option<QkClip> {
    let on = reader.flag("use_qk_clip", false);
    let threshold = reader.config.real("qk_clip_threshold").value();
    if !on.value {
        return None;
    }
    if sizes.q_lora_rank.is_none() {
        reader.config.report(
            Diagnostic::warning(
                codes::DIFFERS_THERE,
                "MaxText's QK-clip scales keys alone where queries are plain",
                on.span,
                "clips `wkv_b` and not `query`",
            )
            .note("logits stay above the threshold there; here both are scaled, and logits come down to it"),
        );
    }
    reader
        .comments
        .add("params.qk_clip.alpha", "MaxText's, which is fixed");
    Some(QkClip {
        threshold: threshold.unwrap_or(Spanned::unplaced(100.0)),
        alpha: Spanned::unplaced(CLIP_ALPHA),
    })
}
