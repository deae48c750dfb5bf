//! The kernels of an indexer's logits by Hopper's tensor cores: what they multiply, and for which sizes there are some.

use super::kernels::KernelUnit;

/// The unit.
const UNIT: &str = "index_logits";
/// Queries of a run that share their keys, at most.
const MOST_QUERIES: usize = 8;

/// What is multiplied, by the numbers that `index_tiles.cuh` knows it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operands {
    /// Codes of e4m3, each key with a scale.
    Codes = 1,
    /// Numbers of bf16.
    Numbers = 2,
    /// Keys in codes by queries in bf16.
    Mixed = 3,
}

/// Whether there are kernels for so many heads of this width.
pub fn takes([heads, width]: [usize; 2]) -> bool {
    [8, 16, 32, 64].contains(&heads) && [64, 128].contains(&width)
}

/// Columns of a product, and how many products meet a tile of keys, where so many queries share their keys.
pub fn shape(heads: usize, queries: usize, operands: Operands) -> [usize; 2] {
    match heads * queries.clamp(1, MOST_QUERIES).next_power_of_two() {
        0..=64 => [64, 1],
        65..=128 => [128, 1],
        // Keys that are widened take the registers of a second one
        _ if operands == Operands::Mixed => [128, 1],
        _ => [128, 2],
    }
}

/// All that a layer may need, whatever its batches.
pub fn units([heads, width]: [usize; 2], operands: Operands) -> impl Iterator<Item = KernelUnit> {
    let shapes = (1..=MOST_QUERIES).map(move |queries| shape(heads, queries, operands));
    shapes.map(move |[columns, units]| KernelUnit {
        unit: UNIT,
        dims: vec![heads, width, operands as usize, columns, units],
    })
}
