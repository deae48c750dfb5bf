//! What every module that attends to itself has: a mask, phases, and what happens to logits.

use super::dice::Dice;
use super::draft::Draft;
use super::rope::Rotation;

/// The mask and the phases, which decide about each other.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) mask: &'static str,
    pub(super) phases: Vec<&'static str>,
}

impl Frame {
    pub(super) fn roll(dice: &mut Dice) -> Self {
        let mask = dice.pick(&[
            "causal",
            "causal",
            "causal",
            "padding_causal",
            "padding",
            "no_mask",
        ]);
        let cacheable = mask.ends_with("causal");
        let mut phases = if cacheable && !dice.once_in(6) {
            dice.pick(&[
                &["forward", "prefill", "decode"][..],
                &["forward", "prefill", "decode"],
                &["decode", "forward", "prefill"],
                &["prefill", "decode"],
                &["forward", "decode"],
                &["forward", "prefill"],
                &["decode"],
                &["prefill"],
            ])
            .to_vec()
        } else {
            vec!["forward"]
        };
        match dice.within(0, 5) {
            0 | 1 => phases.push("train"),
            2 => phases = vec!["train"],
            _ => {}
        }
        Self { mask, phases }
    }

    pub(super) fn is_causal(&self) -> bool {
        self.mask.ends_with("causal")
    }

    pub(super) fn caches(&self) -> bool {
        self.has("prefill") || self.has("decode")
    }

    pub(super) fn has(&self, phase: &str) -> bool {
        self.phases.contains(&phase)
    }

    /// `attn_mask_type`, and now and then what bounds it.
    pub(super) fn mask(&self, draft: &mut Draft, bounded: bool, dice: &mut Dice) {
        draft.param("attn_mask_type", self.mask);
        if !bounded {
            return;
        }
        match dice.within(0, 7) {
            0 => draft.param("attention_chunk_size", dice.within(1, 6)),
            1 | 2 if self.is_causal() => {
                draft.param("window_size", format!("[{}, 0]", dice.within(1, 5)));
            }
            1 | 2 => {
                let window = dice.pick(&["[2, 3]", "[0, 2]", "[-1, 1]", "[1, -1]", "[4, 0]"]);
                draft.param("window_size", window);
            }
            _ => {}
        }
    }

    /// What happens to logits: their scale, a soft cap, a sink, dropout.
    pub(super) fn logits(&self, draft: &mut Draft, rotation: &Rotation, dice: &mut Dice) {
        if !rotation.corrects_scale && dice.once_in(4) {
            draft.param("softmax_scale", dice.pick(&["0.0884", "1", "0.5"]));
        }
        if dice.once_in(4) {
            draft.param("attn_logits_soft_cap", dice.pick(&["0.5", "2.0", "50"]));
        }
        match dice.within(0, 6) {
            0 => draft.param("softmax_type", "vanilla"),
            1 => draft.param("softmax_type", "off-by-one"),
            2 => draft.param("softmax_type", "learnable"),
            _ => {}
        }
        if (self.has("forward") || self.has("train")) && dice.once_in(8) {
            draft.param("attention_dropout", "0.1");
        }
    }
}

/// `query_scaling`, one time in three. Says whether there is one.
pub(super) fn query_scaling(draft: &mut Draft, dice: &mut Dice) -> bool {
    match dice.within(0, 5) {
        0 => {
            let (beta, original, offset) = (
                dice.pick(&["0.1", "0.7"]),
                dice.within(1, 6),
                dice.within(0, 1),
            );
            draft.param(
                "query_scaling",
                format!("{{ type: llama4, beta: {beta}, original_max_position_embeddings: {original}, position_offset: {offset} }}"),
            );
        }
        1 => draft.param("query_scaling", "{ type: log_position }"),
        _ => return false,
    }
    true
}
