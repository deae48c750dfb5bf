//! Rotary embedding in place.

use rayon::prelude::*;

use super::{Cpu, CpuElement, PARALLEL_WORK};
use crate::backend::Rotation;
use crate::element::{Element, Real};

/// `(a, b) -> (a cos − b sin, a sin + b cos)` on `2 · pairs` neighbouring values of every head, of the opposite angle if backward.
pub(super) fn rotate<T: CpuElement>(
    x: &mut [T],
    heads: usize,
    width: usize,
    rotation: &Rotation<'_, Cpu<T>>,
) {
    let pairs = rotation.pairs;
    let row = heads * width;
    if row == 0 || pairs == 0 {
        return;
    }
    x.par_chunks_mut(row)
        .with_min_len(PARALLEL_WORK / row + 1)
        .enumerate()
        .for_each(|(r, x)| {
            let cos = &rotation.cos[r * pairs..(r + 1) * pairs];
            let sin = &rotation.sin[r * pairs..(r + 1) * pairs];
            let mut rotated = vec![T::default(); 2 * pairs];
            for head in x.chunks_exact_mut(width) {
                let turned = &mut head[rotation.start..rotation.start + 2 * pairs];
                for i in 0..pairs {
                    let (a, b) = places(i, pairs, rotation.half_in);
                    let (a, b): (T::Accum, T::Accum) =
                        (Real::load(turned[a]), Real::load(turned[b]));
                    let sin = if rotation.backward { -sin[i] } else { sin[i] };
                    let (to_a, to_b) = places(i, pairs, rotation.half_out);
                    rotated[to_a] = round::<T>(a * cos[i] - b * sin);
                    rotated[to_b] = round::<T>(a * sin + b * cos[i]);
                }
                turned.copy_from_slice(&rotated);
            }
        });
}

#[inline(always)]
fn round<T: Element>(value: T::Accum) -> T {
    value.store()
}

/// Where the two values of pair `i` stand.
#[inline(always)]
fn places(i: usize, pairs: usize, half: bool) -> (usize, usize) {
    if half {
        (i, i + pairs)
    } else {
        (2 * i, 2 * i + 1)
    }
}
