//! Megatron-LM's command line.

use crate::build::{Activation, CacheKind};
use crate::layer::{
    Checked, DownProjection, Indexer, Latent, Layer, LightningIndexer, LossReduction, LossStage,
    NormKind, Query, Rope, RopeLayout, RopeScaling, Rotary, Sink, Yarn, YarnMagnitude,
    yarn_magnitude,
};

/// The flags, as an array of a script.
pub(super) fn write(checked: &Checked, latent: &Latent) -> String {
    let mut flags = Flags::default();
    sizes(&mut flags, latent);
    norms(&mut flags, latent, &checked.layer);
    rope(&mut flags, &checked.layer);
    attention(&mut flags, &checked.layer);
    if let Some(Indexer::Lightning(indexer)) = checked.layer.indexer() {
        picks(&mut flags, indexer);
    }
    schedule(&mut flags, checked);
    let lines: Vec<_> = flags
        .list
        .iter()
        .map(|flag| format!("    {flag}\n"))
        .collect();
    format!(
        "# {} as Megatron-LM's arguments: attention alone, without `--num-layers` and whatever else the model is made of.\n\
         ATTENTION_ARGS=(\n{})\n",
        checked.layer.name,
        lines.concat()
    )
}

#[derive(Default)]
struct Flags {
    list: Vec<String>,
}

impl Flags {
    fn on(&mut self, flag: &str) {
        self.list.push(flag.to_owned());
    }

    fn on_if(&mut self, on: bool, flag: &str) {
        if on {
            self.on(flag);
        }
    }

    fn value(&mut self, flag: &str, value: impl std::fmt::Display) {
        self.list.push(format!("{flag} {value}"));
    }
}

fn sizes(flags: &mut Flags, latent: &Latent) {
    let dims = &latent.dims;
    flags.on("--multi-latent-attention");
    flags.value("--transformer-impl", "transformer_engine");
    flags.value("--hidden-size", dims.hidden_size);
    flags.value("--num-attention-heads", dims.num_attention_heads);
    if let Query::Lora { rank, .. } = latent.query {
        flags.value("--q-lora-rank", rank);
    }
    flags.value("--kv-lora-rank", dims.kv_lora_rank);
    flags.value("--qk-head-dim", dims.qk_nope_head_dim);
    flags.value("--qk-pos-emb-head-dim", dims.qk_rope_head_dim);
    flags.value("--v-head-dim", dims.v_head_dim);
    let fused = matches!(latent.down, DownProjection::Fused { .. });
    flags.on_if(fused, "--mla-down-proj-fusion");
}

fn norms(flags: &mut Flags, latent: &Latent, layer: &Layer) {
    if let Some(norm) = super::latent_norm(latent) {
        flags.on("--qk-layernorm");
        let kind = match norm.kind {
            NormKind::LayerNorm => "LayerNorm",
            NormKind::RmsNorm | NormKind::GatedRmsNorm { .. } => "RMSNorm",
        };
        flags.value("--normalization", kind);
        flags.value("--norm-epsilon", format!("{:e}", norm.eps));
    }
    flags.on_if(!layer.output_bias, "--disable-bias-linear");
}

fn rope(flags: &mut Flags, layer: &Layer) {
    flags.value("--position-embedding-type", "rope");
    let Rope::Rotary(rotary) = &layer.rope else {
        return;
    };
    let Rotary { theta, scaling, .. } = rotary;
    match scaling {
        RopeScaling::Yarn(yarn) => {
            flags.value("--rope-type", "yarn");
            flags.value("--rotary-base", theta);
            flags.value("--rotary-scaling-factor", yarn.factor);
            flags.value("--mscale", mscale(yarn));
            flags.value("--mscale-all-dim", yarn.mscale_all_dim);
        }
        _ => {
            flags.value("--rope-type", "rope");
            flags.value("--rotary-base", theta);
        }
    }
}

/// The `mscale` with which `g(f, mscale) / g(f, mscale_all_dim)` is the magnitude.
fn mscale(yarn: &Yarn) -> f64 {
    match yarn.magnitude {
        YarnMagnitude::Ratio { mscale } => mscale,
        YarnMagnitude::Constant(_) if yarn.factor <= 1.0 => 1.0,
        YarnMagnitude::Constant(magnitude) => {
            let all_dim = yarn_magnitude(yarn.factor, yarn.mscale_all_dim);
            (magnitude * all_dim - 1.0) / (0.1 * yarn.factor.ln())
        }
    }
}

fn attention(flags: &mut Flags, layer: &Layer) {
    let window = layer.mask.window.and_then(|window| window.left);
    if let Some(left) = window {
        flags.value("--window-size", format!("\"({left},0)\""));
    }
    match layer.logits.sink {
        Sink::None => {}
        Sink::OffByOne => flags.value("--softmax-type", "off-by-one"),
        Sink::Learned => flags.value("--softmax-type", "learnable"),
    }
    flags.value("--attention-dropout", layer.logits.dropout);
    if let Some(clip) = layer.qk_clip {
        flags.on("--qk-clip");
        flags.value("--qk-clip-threshold", clip.threshold);
        flags.value("--qk-clip-alpha", clip.alpha);
    }
}

fn picks(flags: &mut Flags, indexer: &LightningIndexer) {
    flags.value("--experimental-attention-variant", "dsa");
    flags.value("--dsa-indexer-n-heads", indexer.num_heads);
    flags.value("--dsa-indexer-head-dim", indexer.head_dim);
    flags.value("--dsa-indexer-topk", indexer.topk);
    let eps = format!("{:e}", indexer.k_norm.eps);
    flags.value("--dsa-indexer-k-norm-epsilon", eps);
    let layout = indexer.rope.map(|rope| rope.layout);
    let pairs = layout == Some(RopeLayout::Interleaved);
    flags.on_if(pairs, "--dsa-indexer-rope-interleaved");
    flags.on_if(!indexer.hadamard, "--no-dsa-indexer-rotate-activation");
    flags.on_if(!indexer.relu, "--no-dsa-indexer-scoring-relu");
    if let Some(loss) = indexer.loss {
        flags.value("--dsa-indexer-loss-coeff", loss.coeff);
        let sparse = loss.stage == LossStage::Sparse;
        flags.on_if(sparse, "--dsa-indexer-use-sparse-loss");
        let summed = loss.reduction == LossReduction::Sum;
        flags.on_if(summed, "--calculate-per-token-loss");
    }
}

fn schedule(flags: &mut Flags, checked: &Checked) {
    let build = &checked.build;
    // Beside an indexer Megatron has no cache, and its fused rope kernel is for YaRN without either.
    let sparse = checked.layer.indexer().is_some();
    let paged = build.cache.kind == CacheKind::Latent && build.cache.page_size == Some(64);
    let latents = paged && !sparse;
    flags.on_if(latents, "--cache-mla-latents");
    let yarn = matches!(
        &checked.layer.rope,
        Rope::Rotary(Rotary {
            scaling: RopeScaling::Yarn(_),
            ..
        })
    );
    flags.on_if(latents || sparse || !yarn, "--no-rope-fusion");
    let again = |part| build.recompute.contains(&part);
    let mut modules = Vec::new();
    if again(Activation::CoreAttn) {
        modules.push("core_attn");
    }
    if again(Activation::QUp) && again(Activation::KvUp) {
        modules.push("mla_up_proj");
    }
    if !modules.is_empty() {
        flags.value("--recompute-granularity", "selective");
        flags.value("--recompute-modules", modules.join(" "));
    }
}
