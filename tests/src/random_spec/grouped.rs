//! `SelfAttention`.

use super::build::{Attention, build};
use super::dice::Dice;
use super::draft::{Draft, eps, gate_projection, norm, plain_norm, with_bias};
use super::frame::{Frame, query_scaling};
use super::rope::Rotation;
use super::training::clip;

/// Draws a layer.
pub(super) fn draw(draft: &mut Draft, dice: &mut Dice) {
    let frame = Frame::roll(dice);
    let groups = dice.within(1, 3);
    draft.param("hidden_size", dice.within(2, 40));
    draft.param("num_attention_heads", groups * dice.within(1, 3));
    draft.param("num_query_groups", groups);
    let rotation = heads(draft, &frame, dice);
    frame.mask(draft, true, dice);
    frame.logits(draft, &rotation, dice);
    let scaled = query_scaling(draft, dice);
    let l2 = dice.once_in(5);
    if l2 {
        draft.param("qk_l2_norm", "true");
        draft.param("qk_l2_norm_eps", eps(dice));
    }
    submodules(draft, l2, dice);
    let normed = l2 || draft.fills("q_layernorm") || draft.fills("k_layernorm");
    clip(draft, &frame, normed, dice);
    let attention = Attention::Grouped {
        may_fuse_decode: rotation.rotates && !l2 && !scaled,
    };
    build(draft, attention, &frame, rotation.rotates, dice);
}

/// The length of a head, and how much of it is rotated.
fn heads(draft: &mut Draft, frame: &Frame, dice: &mut Dice) -> Rotation {
    let dim = dice.within(1, 13);
    draft.param("kv_channels", dim);
    let rotation = if dim < 2 || dice.once_in(5) {
        Rotation::none()
    } else {
        let part = dim % 2 == 1 || dice.once_in(2);
        let rotated = if part {
            2 * dice.within(1, dim / 2)
        } else {
            dim
        };
        if part {
            draft.param("rotary_dim", rotated);
        }
        Rotation::roll(rotated, frame, dice)
    };
    if let Some(rope) = &rotation.text {
        draft.param("rope", rope);
    }
    rotation
}

fn submodules(draft: &mut Draft, l2: bool, dice: &mut Dice) {
    if dice.once_in(5) {
        draft.slot("input_layernorm", norm(dice));
    }
    let gated = dice.once_in(3);
    if dice.once_in(2) {
        draft.slot("linear_qkv", with_bias("ColumnParallelLinear", dice));
        if gated {
            draft.param("attention_output_gate", "per_element");
        }
    } else {
        draft.slot("linear_q", with_bias("ColumnParallelLinear", dice));
        draft.slot("linear_kv", with_bias("ColumnParallelLinear", dice));
        if gated {
            let form = dice.pick(&["per_head", "per_element"]);
            draft.param("attention_output_gate", form);
            draft.slot("linear_gate_proj", gate_projection(dice));
        }
    }
    for slot in ["q_layernorm", "k_layernorm"] {
        if !l2 && dice.once_in(2) {
            draft.slot(slot, plain_norm(dice));
        }
    }
    draft.slot("core_attention", "DotProductAttention");
    draft.slot("linear_proj", with_bias("RowParallelLinear", dice));
}
