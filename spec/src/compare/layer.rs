//! What a layer computes, whichever module it is.

use super::{Facts, modules, rope, training};
use crate::layer::{
    AttnMask, Gate, GateGranularity, GateSource, Layer, Logits, MaskKind, NormKind, NormParams,
    QueryScaling, Sink,
};

/// Facts about a layer. Its name says nothing.
pub(super) fn add(facts: &mut Facts, layer: &Layer) {
    let Layer {
        name: _,
        input_norm,
        projections,
        rope,
        query_scaling,
        mask,
        logits,
        core,
        gate,
        output_bias,
        qk_clip,
    } = layer;
    modules::projections(facts, projections);
    facts.mathematics_if_any("norm of the input", input_norm.as_ref().map(norm));
    facts.mathematics("bias of the output", super::yes_or_no(*output_bias));
    rope::add(facts, rope, layer.rotated_dim());
    facts.number("softmax scale", layer.softmax_scale());
    facts.mathematics_if_any("queries by position", scaling(query_scaling));
    facts.mathematics("mask", visible(*mask));
    probabilities(facts, logits);
    modules::core(facts, core);
    if let Some(gate) = gate {
        gated(facts, *gate);
    }
    training::clip(facts, qk_clip.as_ref());
}

/// A norm, in words.
pub(super) fn norm(params: &NormParams) -> String {
    let NormParams { kind, eps } = params;
    let kind = match kind {
        NormKind::RmsNorm => "RMSNorm".to_owned(),
        NormKind::LayerNorm => "LayerNorm".to_owned(),
        NormKind::GatedRmsNorm { rank } => format!("GatedRMSNorm of rank {rank}"),
    };
    format!("{kind}, eps {eps:e}")
}

fn scaling(scaling: &QueryScaling) -> Option<String> {
    match scaling {
        QueryScaling::None => None,
        QueryScaling::Llama4 {
            beta,
            original_max_position_embeddings: original,
            position_offset: offset,
        } => Some(format!(
            "times 1 + {beta} ln(1 + floor((pos + {offset}) / {original}))"
        )),
        QueryScaling::LogPosition => Some("times a ln(pos + 1) + b, learned per head".to_owned()),
    }
}

fn visible(mask: AttnMask) -> String {
    let AttnMask {
        kind,
        padding,
        window,
        chunk,
        bidirectional_blocks,
    } = mask;
    let mut words = vec![
        match kind {
            MaskKind::Causal => "causal",
            MaskKind::CausalBottomRight => "causal, aligned at the last key",
            MaskKind::Full => "everything",
            MaskKind::Arbitrary => "what an input says",
        }
        .to_owned(),
    ];
    if padding {
        words.push("padding".to_owned());
    }
    if let Some(window) = window {
        let side = |bound: Option<u32>| bound.map_or("∞".to_owned(), |bound| bound.to_string());
        words.push(format!(
            "window [{}, {}]",
            side(window.left),
            side(window.right)
        ));
    }
    words.extend(chunk.map(|chunk| format!("chunks of {chunk}")));
    if bidirectional_blocks {
        words.push("blocks see each other".to_owned());
    }
    words.join(", ")
}

fn probabilities(facts: &mut Facts, logits: &Logits) {
    let Logits {
        scale: _, // the derived softmax scale
        soft_cap,
        sink,
        bias,
        dropout,
    } = logits;
    facts.mathematics_if_any("soft cap", *soft_cap);
    let denominator = match sink {
        Sink::None => None,
        Sink::OffByOne => Some("the keys, and 1"),
        Sink::Learned => Some("the keys, and a learned logit per head"),
    };
    facts.mathematics_if_any("softmax's denominator", denominator);
    facts.mathematics_if_any("bias of logits", bias.then_some("an input"));
    let dropped = (*dropout != 0.0).then_some(*dropout);
    facts.mathematics_if_any("dropout of probabilities (training)", dropped);
}

fn gated(facts: &mut Facts, gate: Gate) {
    let Gate {
        granularity,
        source,
    } = gate;
    let granularity = match granularity {
        GateGranularity::PerHead => "per head",
        GateGranularity::PerElement => "per element",
    };
    let made_of = match source {
        GateSource::Linear { bias: false, .. } => "of the input",
        GateSource::Linear { bias: true, .. } => "of the input, with a bias",
        GateSource::Query => "of the query latent",
        GateSource::Qkv => "of the joint projection",
    };
    facts.mathematics("output gate", format!("{granularity}, {made_of}"));
    if let GateSource::Linear {
        full_precision: true,
        ..
    } = source
    {
        facts.schedule("gate's arithmetic", "f32");
    }
}
