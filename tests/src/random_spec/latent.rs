//! `MLASelfAttention`.

use super::build::{Attention, build};
use super::dice::Dice;
use super::draft::{Draft, eps, gate_projection, norm, with_bias};
use super::frame::{Frame, query_scaling};
use super::rope::Rotation;
use super::sparse::Sparse;
use super::training::clip;

/// What the sections of a latent layer must agree on.
struct Choices {
    frame: Frame,
    lora: bool,
    rope_dim: u32,
    rotation: Rotation,
    sparse: Option<Sparse>,
    gate: Option<&'static str>,
    /// Whether the normed query latent is scaled before its up projection.
    scales_q_latent: bool,
    scales_kv_latent: bool,
}

/// Draws a layer.
pub(super) fn draw(draft: &mut Draft, dice: &mut Dice) {
    let layer = Choices::roll(dice);
    layer.params(draft, dice);
    layer.submodules(draft, dice);
    let attention = Attention::Latent {
        pool: layer.sparse.as_ref().map(|sparse| sparse.pool),
    };
    build(draft, attention, &layer.frame, layer.rotation.rotates, dice);
}

impl Choices {
    fn roll(dice: &mut Dice) -> Self {
        let frame = Frame::roll(dice);
        let lora = dice.once_in(2);
        let rope_dim = 2 * dice.within(0, 4);
        let rotation = if rope_dim > 0 && !dice.once_in(5) {
            Rotation::roll(rope_dim, &frame, dice)
        } else if rope_dim > 0 || dice.once_in(2) {
            Rotation::none()
        } else {
            Rotation::unsaid()
        };
        let rotated = if rotation.rotates { rope_dim } else { 0 };
        let sparse = (frame.is_causal() && dice.once_in(3))
            .then(|| Sparse::roll(lora, rotated, frame.has("train"), dice));
        let gate = match dice.within(0, 8) {
            0 => Some("per_head"),
            1 => Some("per_element"),
            2 if lora => Some("fused_with_query"),
            _ => None,
        };
        Self {
            frame,
            lora,
            rope_dim,
            rotation,
            sparse,
            gate,
            scales_q_latent: lora && dice.once_in(5),
            scales_kv_latent: dice.once_in(5),
        }
    }

    fn params(&self, draft: &mut Draft, dice: &mut Dice) {
        draft.param("hidden_size", dice.within(2, 40));
        draft.param("num_attention_heads", dice.within(1, 5));
        if self.lora {
            draft.param("q_lora_rank", dice.within(1, 24));
        }
        draft.param("kv_lora_rank", dice.within(1, 24));
        draft.param("qk_nope_head_dim", dice.within(1, 13));
        draft.param("qk_rope_head_dim", self.rope_dim);
        draft.param("v_head_dim", dice.within(1, 13));
        self.frame.mask(draft, self.sparse.is_none(), dice);
        if let Some(rope) = &self.rotation.text {
            draft.param("rope", rope);
        }
        self.frame.logits(draft, &self.rotation, dice);
        query_scaling(draft, dice);
        clip(draft, &self.frame, false, dice);
        self.latent_scales(draft, dice);
        if let Some(gate) = self.gate {
            draft.param("attention_output_gate", gate);
        }
        if dice.once_in(12) {
            draft.param("kv_source", "own");
        }
    }

    fn latent_scales(&self, draft: &mut Draft, dice: &mut Dice) {
        let mut factor = || dice.pick(&["hidden_over_rank", "0.75", "2"]);
        if self.scales_q_latent {
            draft.param(
                "q_lora_scale",
                format!("{{ factor: {}, at: latent }}", factor()),
            );
        }
        if self.scales_kv_latent {
            draft.param("kv_lora_scale", format!("{{ factor: {} }}", factor()));
        }
        if self.lora && !self.scales_q_latent && dice.once_in(4) {
            let factor = dice.pick(&["hidden_over_rank", "0.75", "2"]);
            draft.param("q_lora_scale", format!("{{ factor: {factor}, at: query }}"));
        }
    }

    fn submodules(&self, draft: &mut Draft, dice: &mut Dice) {
        if dice.once_in(5) {
            draft.slot("input_layernorm", norm(dice));
        }
        let fused_down = self.lora && dice.once_in(3);
        if fused_down {
            draft.slot("linear_qkv_down_proj", with_bias("Linear", dice));
        }
        if self.lora {
            if !fused_down {
                draft.slot("linear_q_down_proj", with_bias("Linear", dice));
            }
            self.query(draft, dice);
        } else {
            draft.slot("linear_q_proj", "ColumnParallelLinear");
        }
        if !fused_down {
            draft.slot("linear_kv_down_proj", with_bias("Linear", dice));
        }
        let kv = ("kv_layernorm", "linear_kv_up_proj");
        norm_and_up(draft, kv, !self.scales_kv_latent, dice);
        if self.rope_dim > 0 && dice.once_in(5) {
            draft.slot("k_rope_layernorm", norm(dice));
        }
        match &self.sparse {
            Some(sparse) => draft.slot("core_attention", sparse.core(dice)),
            None => draft.slot("core_attention", "DotProductAttention"),
        }
        if matches!(self.gate, Some("per_head" | "per_element")) {
            draft.slot("linear_gate_proj", gate_projection(dice));
        }
        draft.slot("linear_proj", with_bias("RowParallelLinear", dice));
    }

    fn query(&self, draft: &mut Draft, dice: &mut Dice) {
        if self.gate == Some("fused_with_query") {
            draft.slot("q_layernorm", norm(dice));
            draft.slot("linear_q_gate_proj", "ColumnParallelLinear");
            return;
        }
        let read_by_others = self.sparse.as_ref().is_some_and(Sparse::reads_latent);
        let fusable = !self.scales_q_latent && !read_by_others;
        norm_and_up(draft, ("q_layernorm", "linear_q_up_proj"), fusable, dice);
    }
}

/// A norm slot and its up projection: no norm, a norm of its own, or one inside the projection.
fn norm_and_up(draft: &mut Draft, (slot, up): (&str, &str), fusable: bool, dice: &mut Dice) {
    match dice.within(0, 4) {
        0 => {
            draft.slot(slot, "IdentityOp");
            draft.slot(up, "ColumnParallelLinear");
        }
        1 | 2 if fusable => {
            let kind = dice.pick(&["RMSNorm", "RMSNorm", "LayerNorm"]);
            let eps = eps(dice);
            draft.slot(slot, "IdentityOp");
            draft.slot(
                up,
                format!("{{ module: LayerNormColumnParallelLinear, params: {{ normalization: {kind}, eps: {eps} }} }}"),
            );
        }
        _ => {
            draft.slot(slot, norm(dice));
            draft.slot(up, "ColumnParallelLinear");
        }
    }
}
