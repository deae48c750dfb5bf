//! The indexer of `experimental_attention_variant: dsa` (features 1.L), and which layers have one (L-14).

use super::super::codes;
use super::super::config::Given;
use super::super::defaults::Reader;
use super::super::maxtext::dense_stage;
use super::super::parts::{Indexer, IndexerLoss, Lightning};
use crate::diagnostic::Diagnostic;
use crate::layer::{RopeLayout, SplitOrder};
use crate::span::Spanned;

const PATH: &str = "submodules.core_attention.submodules.indexer";
const VARIANT: &str = "experimental_attention_variant";

/// Whether keys are picked; other variants are no latent attention.
pub(super) fn is_asked_for(reader: &mut Reader<'_, '_>) -> bool {
    match reader.config.word(VARIANT) {
        Given::Value(variant) if variant.value == "dsa" => true,
        Given::Value(variant) => {
            let name = variant.value.escape_debug();
            let message = format!("the attention variant `{name}` is not latent attention");
            reader.config.report(
                Diagnostic::error(
                    codes::NO_LATENT_ATTENTION,
                    message,
                    variant.span,
                    "another kind of layer",
                )
                .help("write `dsa`, or remove it"),
            );
            false
        }
        Given::Absent | Given::Null(_) | Given::Wrong => false,
    }
}

/// The indexer of the layer of a number, counted from 1: `Some(None)` where attention is dense, `None` where it was refused.
pub(super) fn read(
    reader: &mut Reader<'_, '_>,
    number: u32,
    sparse: bool,
    lora: bool,
) -> Option<Option<Indexer>> {
    if !sparse {
        return Some(None);
    }
    if !lora {
        let span = reader.place(VARIANT);
        let message = "the indexer reads the query latent, and there is none without `q_lora_rank`";
        reader.config.report(
            Diagnostic::error(codes::REFUSED_THERE, message, span, "refused")
                .help("state `q_lora_rank`"),
        );
    }
    refuse_beside(reader);
    let sharing = Sharing::read(reader);
    let num_heads = required(reader, "dsa_indexer_n_heads");
    let head_dim = required(reader, "dsa_indexer_head_dim");
    let topk = required(reader, "dsa_indexer_topk");
    let interleaved = reader.flag("dsa_indexer_rope_interleaved", false);
    let hadamard = reader.flag("dsa_indexer_rotate_activation", true);
    let relu = reader.flag("dsa_indexer_scoring_relu", true);
    let k_norm_eps = k_norm_eps(reader);
    // How exactly the key's norm is computed is this language's own affair: always in f32 or wider.
    reader.flag("dsa_indexer_k_norm_fp32", false);
    let loss = loss(reader);
    let path = |param: &str| format!("{PATH}.params.{param}");
    if sharing.is_shared(number) {
        let why = "uses what the nearest earlier picking layer picked";
        reader.comments.add(PATH, why);
        return Some(Some(Indexer::Shared { topk: topk? }));
    }
    if hadamard.value {
        reader.comments.add(
            &path("hadamard"),
            "dsa_indexer_rotate_activation, which is true where nothing is said; exact scores are the same without",
        );
    }
    reader.comments.add(
        &path("rope_layout"),
        "dsa_indexer_rope_interleaved, whatever the layer's own rope is",
    );
    let layout = match interleaved.value {
        true => RopeLayout::Interleaved,
        false => RopeLayout::Half,
    };
    Some(Some(Indexer::Lightning(Box::new(Lightning {
        num_heads: num_heads?,
        head_dim: head_dim?,
        topk: topk?,
        rope: Some((layout, SplitOrder::RopeFirst)),
        from_hidden: false,
        log_position: false,
        k_norm: "LayerNorm",
        k_norm_eps,
        full_precision_weights: false,
        hadamard: hadamard.value,
        relu,
        loss,
        forced: None,
        pool: None,
        shared: sharing.freq > 1,
    }))))
}

/// What Megatron refuses beside an indexer (features 4.1, 46 to 48).
fn refuse_beside(reader: &mut Reader<'_, '_>) {
    let refused = [
        (
            "add_bias_linear",
            true,
            "no projection beside an indexer has a bias there; it is on unless it is switched off",
        ),
        (
            "cache_mla_latents",
            false,
            "there is no inference with an indexer there",
        ),
        (
            "qk_clip",
            false,
            "there is no QK-clip beside an indexer there",
        ),
        (
            "mla_down_proj_fusion",
            false,
            "the down projections beside an indexer are separate there",
        ),
    ];
    for (key, default, why) in refused {
        if reader.flag(key, default).value {
            let span = match reader.config.entry(key) {
                Some(entry) => entry.key.span,
                None => reader.place(VARIANT),
            };
            let message = format!("Megatron refuses `{key}` beside an indexer");
            reader.config.report(
                Diagnostic::error(codes::REFUSED_THERE, message, span, "refused")
                    .note(why)
                    .help(format!("switch `{key}` off")),
            );
        }
    }
    let freq = reader.config.size("dsa_indexer_topk_freq").value();
    if let Some(freq) = freq.filter(|freq| freq.value == 0) {
        let message = "`dsa_indexer_topk_freq` is 0, wanted at least 1";
        let wrong = Diagnostic::error(codes::WRONG_VALUE, message, freq.span, "no layer picks");
        reader
            .config
            .report(wrong.help("write 1 where every layer picks"));
    }
}

/// Which layers use what others picked.
struct Sharing {
    freq: u32,
    offset: u32,
}

impl Sharing {
    fn read(reader: &Reader<'_, '_>) -> Self {
        let size = |key| reader.config.size(key).value().map(|value| value.value);
        Self {
            freq: size("dsa_indexer_topk_freq").unwrap_or(1).max(1),
            offset: size("dsa_indexer_skip_topk_offset").unwrap_or(0),
        }
    }

    /// Whether the layer of a number, counted from 1, has no indexer of its own.
    fn is_shared(&self, number: u32) -> bool {
        let behind = number.saturating_sub(self.offset.max(1));
        !behind.is_multiple_of(self.freq)
    }
}

/// A size that has no default.
fn required(reader: &Reader<'_, '_>, key: &str) -> Option<Spanned<u32>> {
    match reader.config.size(key) {
        Given::Value(value) => Some(value),
        Given::Wrong => None,
        Given::Absent | Given::Null(_) => {
            let span = reader.place(VARIANT);
            let message = format!("`{key}` is missing");
            reader.config.report(
                Diagnostic::error(codes::SIZE_MISSING, message, span, "asks for an indexer")
                    .note("Megatron has no default for it")
                    .help(format!("state `{key}`")),
            );
            None
        }
    }
}

fn k_norm_eps(reader: &mut Reader<'_, '_>) -> Spanned<f64> {
    if let Some(eps) = reader.optional("dsa_indexer_k_norm_epsilon") {
        return eps;
    }
    reader.comments.add(
        &format!("{PATH}.submodules.k_norm.params.eps"),
        "layernorm_epsilon, since dsa_indexer_k_norm_epsilon is absent",
    );
    let eps = reader.optional("layernorm_epsilon");
    eps.unwrap_or(Spanned::unplaced(1e-5))
}

/// The loss that trains the indexer (features 1.M).
fn loss(reader: &mut Reader<'_, '_>) -> Option<IndexerLoss> {
    let sparse = reader.flag("dsa_indexer_use_sparse_loss", false);
    let per_token = reader.flag("calculate_per_token_loss", false);
    let coeff = reader.optional("dsa_indexer_loss_coeff")?;
    if coeff.value == 0.0 {
        return None;
    }
    if !sparse.value {
        let lint = dense_stage("Megatron", "the training loop", coeff.span);
        reader.config.report(lint);
    }
    let stage = if sparse.value { "sparse" } else { "dense" };
    let reduction = if per_token.value { "sum" } else { "mean_valid" };
    Some(IndexerLoss {
        coeff,
        stage: Spanned::new(stage, sparse.span),
        reduction: Spanned::new(reduction, per_token.span),
        epsilon: "clamp",
    })
}
