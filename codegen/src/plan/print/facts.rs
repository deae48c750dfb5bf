//! What a program knows besides its ops, as text.

use mla_spec::{
    AttnMask, CacheDType, Fp8, IndexStore, IndexerLoss, LossEpsilon, LossReduction, LossStage,
    MaskKind, RopeLayout, ScaleFormat, SplitOrder, Store,
};

use crate::plan::{ByLength, CacheContent, CachePlan, IndexerPlan, RotaryTable, SoftmaxPlan};

/// The rule, and what bounds it.
pub(super) fn mask(mask: AttnMask) -> String {
    let kind = match (mask.kind, mask.padding) {
        (MaskKind::Causal, false) => "causal",
        (MaskKind::Causal, true) => "padding_causal",
        (MaskKind::Full, false) => "no_mask",
        (MaskKind::Full, true) => "padding",
        (MaskKind::CausalBottomRight, _) => "causal_bottom_right",
        (MaskKind::Arbitrary, _) => "arbitrary",
    };
    let mut text = kind.to_owned();
    if let Some(window) = mask.window {
        let side = |side: Option<u32>| side.map_or("all".to_owned(), |n| n.to_string());
        text.push_str(&format!(
            ", window of {} before and {} behind",
            side(window.left),
            side(window.right)
        ));
    }
    if let Some(chunk) = mask.chunk {
        text.push_str(&format!(", chunks of {chunk}"));
    }
    if mask.bidirectional_blocks {
        text.push_str(", bidirectional blocks");
    }
    text
}

pub(super) fn layout(layout: Option<RopeLayout>) -> &'static str {
    match layout {
        Some(RopeLayout::Interleaved) => "interleaved",
        Some(RopeLayout::Half) => "half",
        None => "unrotated",
    }
}

pub(super) fn rotary(table: &RotaryTable) -> String {
    let by_length = match table.by_length {
        None => "",
        Some(ByLength::LongRope { .. }) => " (two lists, by the call's length)",
        Some(ByLength::Dynamic { .. }) => " (growing with the call's length)",
    };
    format!(
        "rotary {} -> {}, cos and sin times {}{by_length}: {}",
        layout(Some(table.input)),
        layout(Some(table.output)),
        table.cos_sin_factor,
        table.doc
    )
}

/// What stands between scaled logits and probabilities; `None` where nothing does.
pub(super) fn softmax(plan: &SoftmaxPlan) -> Option<String> {
    let cap = plan.soft_cap.map(|cap| format!("soft cap {cap}"));
    let bias = plan.bias.then(|| "bias".to_owned());
    let dropout = (plan.dropout > 0.0).then(|| format!("dropout {}", plan.dropout));
    let parts: Vec<String> = [cap, bias, dropout].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

pub(super) fn indexer(plan: &IndexerPlan) -> String {
    let rope = match plan.rope {
        None => "unrotated".to_owned(),
        Some(rope) => {
            let place = match rope.split {
                SplitOrder::RopeFirst => "first",
                SplitOrder::NopeFirst => "last",
            };
            format!("rotated {} {place}", layout(Some(rope.layout)))
        }
    };
    let relu = if plan.relu { "relu, " } else { "" };
    let mut text = format!(
        "indexer {} x {}, {relu}{rope}, scores times {}, top {}",
        plan.heads.size, plan.head_dim.size, plan.scale, plan.topk.size
    );
    if plan.forced.initial + plan.forced.local > 0 {
        text.push_str(&format!(
            ", the first {} and last {} always",
            plan.forced.initial, plan.forced.local
        ));
    }
    if let Some(pool) = plan.pool {
        let tail = if pool.tail { " and the tail" } else { "" };
        text.push_str(&format!(", in pools of {}{tail}", pool.size.size));
    }
    text.extend(plan.loss.as_ref().map(loss));
    text
}

/// How an indexer learns.
fn loss(loss: &IndexerLoss) -> String {
    let stage = match loss.stage {
        LossStage::Dense => "dense",
        LossStage::Sparse => "sparse",
    };
    let reduction = match loss.reduction {
        LossReduction::MeanValid => "mean over rows that see a key",
        LossReduction::MeanAll => "mean over all rows",
        LossReduction::Sum => "sum over rows",
    };
    let epsilon = match loss.epsilon {
        LossEpsilon::Clamp => "clamped",
        LossEpsilon::Add => "added to",
    };
    let coeff = loss.coeff;
    format!(", {stage} loss times {coeff}, {reduction}, logarithms {epsilon}")
}

pub(super) fn cache(plan: &CachePlan) -> String {
    let content = match plan.content {
        CacheContent::Latent => "latent",
        CacheContent::Naive => "naive",
        CacheContent::Groups => "groups",
        CacheContent::Context => "context",
        CacheContent::Index => "index",
    };
    let pages = match plan.page_size {
        Some(size) => format!("pages of {size}"),
        None => "contiguous".to_owned(),
    };
    let index = match plan.index {
        None => String::new(),
        Some(index) => format!(
            ", indexer keys {} x {}{}{}",
            index_store(index.store),
            index.width.size,
            index
                .pool
                .map_or(String::new(), |pool| format!(" in pools of {}", pool.size)),
            if index.rounds_queries {
                ", queries rounded as they are"
            } else {
                ""
            }
        ),
    };
    if plan.content == CacheContent::Index {
        return format!("{content}, {pages}{index}");
    }
    format!(
        "{content}_{}, {pages}, rope key {}, {} elements per token{index}",
        store(plan.store),
        layout(plan.rope_layout),
        plan.elements_per_token
    )
}

fn store(store: Store) -> &'static str {
    match store {
        Store::Plain(dtype) => plain(dtype),
        Store::Fp8(Fp8::E4m3) => "fp8_e4m3",
        Store::Fp8(Fp8::E5m2) => "fp8_e5m2",
        Store::Fp8DsMla(ScaleFormat::F32) => "fp8_ds_mla",
        Store::Fp8DsMla(ScaleFormat::PowerOfTwo) => "fp8_ds_mla (ue8m0)",
        Store::Model1 => "fp8_model1",
        Store::Mxfp8 => "mxfp8",
    }
}

fn index_store(store: IndexStore) -> &'static str {
    match store {
        IndexStore::Plain(dtype) => plain(dtype),
        IndexStore::Fp8(ScaleFormat::F32) => "fp8",
        IndexStore::Fp8(ScaleFormat::PowerOfTwo) => "fp8_ue8m0",
        IndexStore::Mxfp4 => "mxfp4",
    }
}

fn plain(dtype: CacheDType) -> &'static str {
    match dtype {
        CacheDType::F32 => "f32",
        CacheDType::Bf16 => "bf16",
        CacheDType::F16 => "f16",
        CacheDType::F64 => "f64",
    }
}
