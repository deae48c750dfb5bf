//! Numbers that rope and softmax need, with where they come from.

use crate::plan::mla;
use mla_spec::{Layer, Rope, RopeScaling, Rotary, YarnMagnitude};

use super::sizes::Sizes;
use crate::plan::{RotaryTable, SoftmaxScale};

/// The rotary table; `None` where nothing is rotated. `cached` is the order that the cache asks for.
pub(super) fn rotary(
    layer: &Layer,
    sizes: &Sizes,
    cached: Option<mla_spec::RopeLayout>,
) -> Option<RotaryTable> {
    let Rope::Rotary(rotary) = &layer.rope else {
        return None;
    };
    Some(RotaryTable {
        width: sizes.rope,
        inv_freq: rotary.inv_freq(sizes.rope.size),
        cos_sin_factor: rotary.cos_sin_factor(),
        input: rotary.layout,
        output: cached.unwrap_or(rotary.layout),
        doc: format!(
            "Rope frequencies in radians per position: {}.",
            frequencies(rotary)
        ),
    })
}

fn frequencies(rotary: &Rotary) -> String {
    let base = rotary.theta;
    match &rotary.scaling {
        RopeScaling::None => format!("base {base}"),
        RopeScaling::Linear { factor } => format!("base {base}, all divided by {factor}"),
        RopeScaling::Llama3(_) | RopeScaling::LongRope(_) | RopeScaling::Dynamic { .. } => {
            unreachable!("check makes none yet")
        }
        RopeScaling::Yarn(yarn) => {
            let magnitude = match yarn.magnitude {
                YarnMagnitude::Ratio { mscale } => {
                    format!(
                        "cos and sin times g({0}, {mscale}) / g({0}, {1})",
                        yarn.factor, yarn.mscale_all_dim
                    )
                }
                YarnMagnitude::Constant(factor) => format!("cos and sin times {factor}"),
            };
            format!(
                "YaRN, base {base}, factor {} over {} tokens, ramp between {} and {} rotations; {magnitude}",
                yarn.factor, yarn.original_max_position_embeddings, yarn.beta_fast, yarn.beta_slow
            )
        }
    }
}

/// `τ` with its derivation.
pub(super) fn softmax_scale(layer: &Layer) -> SoftmaxScale {
    let dims = &mla(layer).dims;
    let root = format!(
        "τ = ({} + {})^-1/2",
        dims.qk_nope_head_dim, dims.qk_rope_head_dim
    );
    let doc = match &layer.rope {
        Rope::Rotary(Rotary {
            scaling: RopeScaling::Yarn(yarn),
            ..
        }) => format!(
            "{root} · {}²: YaRN's g({}, {})², where g(f, m) = 0.1 m ln f + 1.",
            rounded(layer.softmax_mscale()),
            yarn.factor,
            yarn.mscale_all_dim
        ),
        _ => format!("{root}."),
    };
    SoftmaxScale {
        value: layer.softmax_scale(),
        doc,
    }
}

/// At most five significant digits, without trailing zeros.
fn rounded(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
