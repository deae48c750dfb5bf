//! Rotation: angles of a call, and turning parts of vectors by them (features 1.D).

use mla_spec::RopeLayout;

use super::array::Array;
use crate::plan::{ByLength, RotaryTable, Turned};

/// The frequencies of a call: those of its longest position where they depend on it.
pub(super) fn frequencies(table: &RotaryTable, positions: &[u32]) -> Vec<f64> {
    let length = positions
        .iter()
        .max()
        .map_or(0, |longest| u64::from(*longest) + 1);
    match &table.by_length {
        Some(ByLength::LongRope {
            long,
            original_max_position_embeddings,
        }) if length > u64::from(*original_max_position_embeddings) => long.clone(),
        Some(ByLength::Dynamic {
            theta,
            factor,
            max_position_embeddings,
        }) if length > u64::from(*max_position_embeddings) => {
            let dim = 2.0 * table.inv_freq.len() as f64;
            let stretch = factor * length as f64 / f64::from(*max_position_embeddings);
            let base = theta * (stretch - (factor - 1.0)).powf(dim / (dim - 2.0));
            let pairs = 0..table.inv_freq.len();
            pairs
                .map(|pair| base.powf(-2.0 * pair as f64 / dim))
                .collect()
        }
        _ => table.inv_freq.clone(),
    }
}

/// cos and sin, `[tokens, 1, d_r / 2]` each.
pub(super) fn angles(table: &RotaryTable, positions: &[u32]) -> (Array, Array) {
    let frequencies = frequencies(table, positions);
    let of = |function: fn(f64) -> f64| {
        let shape = (positions.len(), 1, frequencies.len());
        Array::build(shape, |row, _| {
            let position = f64::from(positions[row]);
            let angle = |frequency: &f64| table.cos_sin_factor * function(position * frequency);
            frequencies.iter().map(angle).collect()
        })
    };
    (of(f64::cos), of(f64::sin))
}

/// Turns the first or the last elements of every vector, pairs standing as `input` says before and as `output` says after.
pub(super) fn rotate(
    x: &Array,
    (cos, sin): (&Array, &Array),
    part: Turned,
    (input, output): (RopeLayout, RopeLayout),
) -> Array {
    let pairs = cos.dim;
    let start = match part {
        Turned::First => 0,
        Turned::Last => x.dim.saturating_sub(2 * pairs),
    };
    Array::build((x.rows, x.heads, x.dim), |row, head| {
        let vector = x.at(row, head);
        let mut turned = vector.to_vec();
        for pair in 0..pairs {
            let (cos, sin) = (cos.row(row)[pair], sin.row(row)[pair]);
            let (first, second) = places(input, pair, pairs);
            let (a, b) = (vector[start + first], vector[start + second]);
            let (first, second) = places(output, pair, pairs);
            turned[start + first] = a * cos - b * sin;
            turned[start + second] = a * sin + b * cos;
        }
        turned
    })
}

/// Where the two elements of a pair stand.
pub(super) fn places(layout: RopeLayout, pair: usize, pairs: usize) -> (usize, usize) {
    match layout {
        RopeLayout::Interleaved => (2 * pair, 2 * pair + 1),
        RopeLayout::Half => (pair, pair + pairs),
    }
}
