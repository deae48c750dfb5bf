//! How far each pair of elements is turned, by position.

use super::modules::pairs;
use super::{Facts, Topic, Value};
use crate::layer::{LongRopeSelect, Rope, RopeScaling, Rotary};

pub(super) fn add(facts: &mut Facts, rope: &Rope, rotated_dim: u32) {
    match rope {
        Rope::None => facts.mathematics("rope", "none"),
        Rope::Rotary(rotary) => {
            let value = Value::Numbers {
                numbers: numbers(rotary, rotated_dim),
                shown: described(rotary),
            };
            facts.add(Topic::Mathematics, "rope", value);
            facts.number("cos and sin times", rotary.cos_sin_factor());
            facts.layout("pairs of the rope", pairs(rotary.layout));
        }
    }
}

/// The frequencies, and whatever else decides on angles.
fn numbers(rotary: &Rotary, dim: u32) -> Vec<f64> {
    let mut numbers = rotary.inv_freq(dim);
    match &rotary.scaling {
        RopeScaling::None
        | RopeScaling::Linear { .. }
        | RopeScaling::Yarn(_)
        | RopeScaling::Llama3(_) => {}
        RopeScaling::Dynamic {
            factor,
            max_position_embeddings,
        } => numbers.extend([*factor, f64::from(*max_position_embeddings)]),
        RopeScaling::LongRope(long) if long.select == LongRopeSelect::ByLength => {
            numbers.extend(&long.long_factor);
            numbers.push(f64::from(long.original_max_position_embeddings));
        }
        RopeScaling::LongRope(_) => {}
    }
    numbers
}

fn described(rotary: &Rotary) -> String {
    let theta = rotary.theta;
    match &rotary.scaling {
        RopeScaling::None => format!("plain, θ {theta}"),
        RopeScaling::Linear { factor } => format!("linear, θ {theta}, factor {factor}"),
        RopeScaling::Yarn(yarn) => format!(
            "yarn, θ {theta}, factor {}, L₀ {}, β {} to {}{}",
            yarn.factor,
            yarn.original_max_position_embeddings,
            yarn.beta_fast,
            yarn.beta_slow,
            if yarn.truncate { "" } else { ", not rounded" }
        ),
        RopeScaling::Llama3(llama) => format!(
            "llama3, θ {theta}, factor {}, L₀ {}, {} to {}",
            llama.factor,
            llama.original_max_position_embeddings,
            llama.low_freq_factor,
            llama.high_freq_factor
        ),
        RopeScaling::LongRope(long) => format!(
            "longrope, θ {theta}, L₀ {}, {}",
            long.original_max_position_embeddings,
            match long.select {
                LongRopeSelect::ByLength => "the list by length",
                LongRopeSelect::Short => "the short list",
                LongRopeSelect::Long => "the long list",
            }
        ),
        RopeScaling::Dynamic {
            factor,
            max_position_embeddings,
        } => format!("dynamic, θ {theta}, factor {factor}, L₀ {max_position_embeddings}"),
    }
}
