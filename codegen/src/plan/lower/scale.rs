//! Numbers that rope and softmax need, with where they come from.

use mla_spec::{
    Layer, LongRopeSelect, Projections, Rope, RopeLayout, RopeScaling, Rotary, YarnMagnitude,
};

use crate::plan::{ByLength, Dim, RotaryTable, SoftmaxScale};

/// The rotary table; `None` where nothing is rotated. `cached` is the order that the cache asks for.
pub(super) fn rotary(layer: &Layer, width: Dim, cached: Option<RopeLayout>) -> Option<RotaryTable> {
    let Rope::Rotary(rotary) = &layer.rope else {
        return None;
    };
    Some(RotaryTable {
        width,
        inv_freq: rotary.inv_freq(width.size),
        by_length: by_length(rotary, width),
        cos_sin_factor: rotary.cos_sin_factor(),
        input: rotary.layout,
        output: cached.unwrap_or(rotary.layout),
        doc: format!(
            "Rope frequencies in radians per position: {}.",
            frequencies(rotary)
        ),
    })
}

fn by_length(rotary: &Rotary, width: Dim) -> Option<ByLength> {
    match &rotary.scaling {
        RopeScaling::LongRope(long) if long.select == LongRopeSelect::ByLength => {
            let mut always_long = rotary.clone();
            if let RopeScaling::LongRope(long) = &mut always_long.scaling {
                long.select = LongRopeSelect::Long;
            }
            Some(ByLength::LongRope {
                long: always_long.inv_freq(width.size),
                original_max_position_embeddings: long.original_max_position_embeddings,
            })
        }
        RopeScaling::Dynamic {
            factor,
            max_position_embeddings,
        } => Some(ByLength::Dynamic {
            theta: rotary.theta,
            factor: *factor,
            max_position_embeddings: *max_position_embeddings,
        }),
        _ => None,
    }
}

fn frequencies(rotary: &Rotary) -> String {
    let base = rotary.theta;
    match &rotary.scaling {
        RopeScaling::None => format!("base {base}"),
        RopeScaling::Linear { factor } => format!("base {base}, all divided by {factor}"),
        RopeScaling::Llama3(llama) => format!(
            "Llama 3's, base {base}, wavelengths beyond {} tokens divided by {}, those below {} kept",
            f64::from(llama.original_max_position_embeddings) / llama.low_freq_factor,
            llama.factor,
            f64::from(llama.original_max_position_embeddings) / llama.high_freq_factor
        ),
        RopeScaling::LongRope(long) => {
            let list = match long.select {
                LongRopeSelect::ByLength => "one list of divisors for calls up to",
                LongRopeSelect::Short => "the divisors for calls up to",
                LongRopeSelect::Long => "the divisors for calls beyond",
            };
            format!(
                "LongRoPE, base {base}, {list} {} tokens; cos and sin times {}",
                long.original_max_position_embeddings, long.attention_factor
            )
        }
        RopeScaling::Dynamic {
            factor,
            max_position_embeddings,
        } => format!(
            "base {base}, which grows by {factor} with calls beyond {max_position_embeddings} tokens"
        ),
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
    let root = match &layer.projections {
        Projections::Latent(latent) => format!(
            "τ = ({} + {})^-1/2",
            latent.dims.qk_nope_head_dim, latent.dims.qk_rope_head_dim
        ),
        Projections::Grouped(_) | Projections::Cross(_) => {
            format!("τ = {}^-1/2", layer.qk_head_dim())
        }
    };
    let doc = match (layer.logits.scale, &layer.rope) {
        (Some(_), _) => "τ, as the spec states it.".to_owned(),
        (
            None,
            Rope::Rotary(Rotary {
                scaling: RopeScaling::Yarn(yarn),
                ..
            }),
        ) => format!(
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
