//! `rope`, in every type.

use super::dice::Dice;
use super::frame::Frame;

/// A drawn `rope`.
#[derive(Debug)]
pub(super) struct Rotation {
    /// The mapping; `None` where nothing is said.
    pub(super) text: Option<String>,
    /// Whether anything is rotated.
    pub(super) rotates: bool,
    /// Whether it says what the softmax scale is multiplied by, beside which none may be stated.
    pub(super) corrects_scale: bool,
}

impl Rotation {
    /// `rope: { type: none }`.
    pub(super) fn none() -> Self {
        Self {
            text: Some("{ type: none }".to_owned()),
            rotates: false,
            corrects_scale: false,
        }
    }

    /// Nothing said about rope.
    pub(super) fn unsaid() -> Self {
        Self {
            text: None,
            ..Self::none()
        }
    }

    /// A rope that rotates `dims` elements.
    pub(super) fn roll(dims: u32, frame: &Frame, dice: &mut Dice) -> Self {
        let theta = dice.pick(&["10000.0", "50000.0", "777.5"]);
        let layout = dice.pick(&["interleaved", "half"]);
        let common = format!("theta: {theta}, layout: {layout}");
        let factor = dice.pick(&["1.0", "3.5", "40.0"]);
        let (text, corrects_scale) = match dice.within(0, 7) {
            0 => (format!("type: plain, {common}"), false),
            1 => (format!("type: linear, {common}, factor: {factor}"), false),
            2 => (llama3(&common, factor, dice), false),
            3 => (longrope(&common, dims, frame, dice), false),
            // Frequencies that follow a call's length leave cached keys behind.
            4 if !frame.is_causal() => (
                format!("type: dynamic, {common}, factor: {factor}, max_position_embeddings: 4"),
                false,
            ),
            _ => yarn(&common, factor, dice),
        };
        Self {
            text: Some(format!("{{ {text} }}")),
            rotates: true,
            corrects_scale,
        }
    }
}

fn llama3(common: &str, factor: &str, dice: &mut Dice) -> String {
    let bounds = dice.pick(&[
        "low_freq_factor: 1.0, high_freq_factor: 4.0",
        "low_freq_factor: 0.5, high_freq_factor: 2.0",
    ]);
    let context = dice.pick(&[16, 50, 8192]);
    format!(
        "type: llama3, {common}, factor: {factor}, {bounds}, original_max_position_embeddings: {context}"
    )
}

fn longrope(common: &str, dims: u32, frame: &Frame, dice: &mut Dice) -> String {
    let mut factors = || {
        let all: Vec<String> = (0..dims / 2)
            .map(|_| dice.pick(&["1.0", "1.25", "3.0"]).to_owned())
            .collect();
        all.join(", ")
    };
    let (short, long) = (factors(), factors());
    let select = if frame.is_causal() {
        dice.pick(&["short", "long"]) // by length, cached keys would be left behind
    } else {
        "by_length"
    };
    format!(
        "type: longrope, {common}, short_factor: [{short}], long_factor: [{long}], original_max_position_embeddings: 5, attention_factor: 1.19, select: {select}"
    )
}

/// YaRN, and whether it corrects the softmax scale.
fn yarn(common: &str, factor: &str, dice: &mut Dice) -> (String, bool) {
    let context = dice.pick(&[16, 50, 4096]);
    let betas = dice.pick(&[
        "beta_fast: 32.0, beta_slow: 1.0",
        "beta_fast: 4.0, beta_slow: 0.5",
        "beta_fast: 2.0, beta_slow: 2.0",
    ]);
    let magnitude = dice.pick(&[
        "mscale: 1.0",
        "mscale: 0.7",
        "mscale: 0.0",
        "attention_factor: 0.9",
    ]);
    let all_dim = dice.pick(&["0.0", "0.4", "1.0"]);
    let truncate = dice.pick(&["", ", truncate: true", ", truncate: false"]);
    let text = format!(
        "type: yarn, {common}, factor: {factor}, original_max_position_embeddings: {context}, {betas}, {magnitude}, mscale_all_dim: {all_dim}{truncate}"
    );
    (text, all_dim != "0.0")
}
