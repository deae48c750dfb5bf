//! Products of few rows with a weight, by a kernel that reads the weight ahead (`skinny.cuh`): for which there is one, and how it cuts them.

use super::kernels::KernelUnit;

/// The unit.
const UNIT: &str = "skinny";
/// Rows that a kernel is made for: those are a product's columns.
pub const COLUMNS: [usize; 2] = [16, 32];
/// Numbers of a row of a weight in a step.
const STEP: usize = 64;
/// Numbers that a weight has at least: a smaller one is read in less time than it takes to begin.
const LEAST: usize = 1 << 22;

/// Steps of a piece, of which the copy engine brings one at a time, where there is a kernel for a weight `[out, input]`.
pub fn steps([out, input]: [usize; 2]) -> Option<usize> {
    let fits = |steps: &usize| input > 0 && input.is_multiple_of(STEP * steps);
    [4, 2, 1]
        .into_iter()
        .find(fits)
        .filter(|_| out * input >= LEAST)
}

/// The unit of products of heads, each with a matrix of its own.
const HEADS_UNIT: &str = "skinny_heads";
/// Bytes of a block's shared memory for rows and matrices.
const HEADS_ROOM: usize = 208 << 10;
/// Numbers of k at most where they lie one below the other.
const MOST_TURNED: usize = 256;

/// Whether there is a kernel for matrices `[k, n]` of heads; `turned`: their numbers of n lie side by side.
pub fn heads_fit([k, n]: [usize; 2], turned: bool) -> bool {
    let whole = k > 0 && k.is_multiple_of(STEP) && n > 0 && n.is_multiple_of(STEP);
    let [_, rows] = COLUMNS;
    whole && (!turned || k <= MOST_TURNED) && (rows + STEP) * k * 2 <= HEADS_ROOM
}

/// All that a layer with such matrices may need.
pub fn heads_units(matrix: [usize; 2], turned: bool) -> impl Iterator<Item = KernelUnit> {
    let of = move |columns| {
        heads_fit(matrix, turned).then(|| KernelUnit {
            unit: HEADS_UNIT,
            dims: vec![columns, matrix[0], usize::from(turned)],
        })
    };
    COLUMNS.into_iter().filter_map(of)
}

/// The unit of products with weights in blocks of codes, and rows that its kernels are made for.
const FP8_UNIT: &str = "skinny_fp8";
/// As [`COLUMNS`].
pub const FP8_COLUMNS: [usize; 4] = [16, 32, 64, 128];
/// Columns of a block of codes.
const FP8_BLOCK: usize = 128;

/// All that a layer may need with a weight in blocks of codes that reads so many numbers.
pub fn fp8_units(input: usize) -> impl Iterator<Item = KernelUnit> {
    let of = move |columns| {
        input.is_multiple_of(FP8_BLOCK).then(|| KernelUnit {
            unit: FP8_UNIT,
            dims: vec![columns],
        })
    };
    FP8_COLUMNS.into_iter().filter_map(of)
}

/// All that a layer with such a weight may need, whatever its batches.
pub fn units(weight: [usize; 2]) -> impl Iterator<Item = KernelUnit> {
    let steps = steps(weight);
    let of = move |columns| {
        steps.map(|steps| KernelUnit {
            unit: UNIT,
            dims: vec![columns, steps],
        })
    };
    COLUMNS.into_iter().filter_map(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_has_as_many_steps_as_divide_a_row() {
        // DeepSeek-V3's projections
        assert_eq!(steps([2112, 7168]), Some(4));
        assert_eq!(steps([24576, 1536]), Some(4));
        assert_eq!(steps([7168, 16384]), Some(4));
        assert_eq!(steps([65536, 192]), Some(1));
        assert_eq!(steps([65536, 384]), Some(2));
        assert_eq!(steps([65536, 100]), None);
        assert_eq!(steps([64, 7168]), None, "small ones gain nothing");
        let dims = units([2112, 7168]).map(|unit| unit.dims);
        assert_eq!(dims.collect::<Vec<_>>(), [[16, 4], [32, 4]]);
    }
}
