//! What only training reads: QK-clip, and what a step computes again or puts aside.

use super::dice::Dice;
use super::draft::Draft;
use super::frame::Frame;

/// `qk_clip`, where logits follow the weights.
pub(super) fn clip(draft: &mut Draft, frame: &Frame, norms_heads: bool, dice: &mut Dice) {
    let bent = draft.has_param("attn_logits_soft_cap") || norms_heads;
    if frame.has("train") && !bent && dice.once_in(3) {
        let (threshold, alpha) = (
            dice.pick(&["100.0", "0.5", "0.02"]),
            dice.pick(&["0.5", "0.25"]),
        );
        let clip = format!("{{ threshold: {threshold}, alpha: {alpha} }}");
        draft.param("qk_clip", clip);
    }
}

/// The loss of an indexer that scores single keys.
pub(super) fn loss(share_topk: bool, dice: &mut Dice) -> String {
    let stage = match share_topk {
        true => "sparse",
        false => dice.pick(&["dense", "sparse"]),
    };
    let (coeff, reduction, epsilon) = (
        dice.pick(&["1.0", "0.01"]),
        dice.pick(&["mean_valid", "mean_all", "sum"]),
        dice.pick(&["clamp", "add"]),
    );
    format!(
        "loss: {{ stage: {stage}, coeff: {coeff}, reduction: {reduction}, epsilon: {epsilon} }}"
    )
}

/// `recompute` and `offload`, drawn for each part that the layer has.
pub(super) fn kept(draft: &Draft, latent: bool, dice: &mut Dice) -> String {
    let (mut recompute, mut offload) = (Vec::new(), Vec::new());
    for part in parts(draft, latent) {
        match dice.within(0, 3) {
            0 => recompute.push(part),
            1 => offload.push(part),
            _ => {}
        }
    }
    let mut text = String::new();
    for (key, mut list) in [("recompute", recompute), ("offload", offload)] {
        let halves = ["q_up_proj", "kv_up_proj"];
        if halves.iter().all(|half| list.contains(half)) && dice.once_in(2) {
            list.retain(|part| !halves.contains(part));
            list.insert(0, "mla_up_proj");
        }
        if !list.is_empty() {
            text.push_str(&format!("  {key}: [{}]\n", list.join(", ")));
        }
    }
    text
}

/// The parts of a finished layer.
fn parts(draft: &Draft, latent: bool) -> Vec<&'static str> {
    let norms = [
        "q_layernorm",
        "kv_layernorm",
        "k_layernorm",
        "k_rope_layernorm",
    ];
    let normed = norms.iter().any(|slot| draft.fills(slot))
        || draft.has_module("LayerNormColumnParallelLinear")
        || draft.has_param("qk_l2_norm");
    let q_down = draft.fills("linear_q_down_proj") || draft.fills("linear_qkv_down_proj");
    let candidates = [
        ("input_layernorm", draft.fills("input_layernorm")),
        ("q_down_proj", q_down),
        ("kv_down_proj", draft.fills("linear_kv_down_proj")),
        ("layernorm", normed),
        ("q_up_proj", latent),
        ("kv_up_proj", latent),
        ("qkv_proj", !latent),
        ("core_attn", true),
    ];
    let made = candidates.into_iter().filter(|(_, made)| *made);
    made.map(|(part, _)| part).collect()
}
