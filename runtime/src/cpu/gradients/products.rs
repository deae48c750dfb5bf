//! Gradients of products.

use gemm::Parallelism;
use rayon::prelude::*;

use super::super::gemm::{Matrix, Target, new_product, product};
use super::super::{PARALLEL_WORK, same};
use super::window::Window;
use crate::backend::HeadMatrices;
use crate::element::{Real, Scalar};
use crate::error::Result;

/// Rows that are widened at a time where they are narrower than the accumulator.
const WIDENED_ROWS: usize = 512;

/// `M_h[k, n] += Σ_r x[r, h, k] · dy[r, h, n]`, M the matrices in `into`.
pub(super) fn outer_products<X: Scalar, Y: Scalar, A: Real>(
    x: Window<'_, X>,
    dy: Window<'_, Y>,
    into: &mut [A],
    matrices: HeadMatrices,
) {
    if [x.rows, x.heads, x.width, matrices.columns].contains(&0) {
        return;
    }
    let into = &mut into[matrices.offset..];
    if x.heads == 1 {
        one_head(&x, &dy, 0, into, matrices, Parallelism::Rayon(0));
        return;
    }
    into.par_chunks_mut(matrices.head_stride)
        .take(x.heads)
        .enumerate()
        .for_each(|(head, into)| {
            one_head(&x, &dy, head, into, matrices, Parallelism::None);
        });
}

fn one_head<X: Scalar, Y: Scalar, A: Real>(
    x: &Window<'_, X>,
    dy: &Window<'_, Y>,
    head: usize,
    into: &mut [A],
    matrices: HeadMatrices,
    parallelism: Parallelism,
) {
    let in_place = same::<X, A>(&[]).is_some() && same::<Y, A>(&[]).is_some();
    let block = if in_place { x.rows } else { WIDENED_ROWS };
    let (mut keep_x, mut keep_dy) = (Vec::new(), Vec::new());
    for row in (0..x.rows).step_by(block) {
        let rows = block.min(x.rows - row);
        let (values, stride) = lines(x, head, row, rows, &mut keep_x);
        let lhs = Matrix {
            values,
            row_stride: 1,
            column_stride: stride,
        };
        let (values, stride) = lines(dy, head, row, rows, &mut keep_dy);
        let rhs = Matrix {
            values,
            row_stride: stride,
            column_stride: 1,
        };
        let target = Target {
            values: &mut *into,
            row_stride: matrices.k_stride,
            column_stride: matrices.n_stride,
            accumulate: true,
        };
        let sizes = (x.width, matrices.columns, rows);
        product(sizes, target, lhs, rhs, A::ONE, parallelism);
    }
}

/// Rows of one head in the accumulation type and the stride between them: where they lie, or widened.
fn lines<'a, S: Scalar, A: Real>(
    x: &Window<'a, S>,
    head: usize,
    row: usize,
    rows: usize,
    keep: &'a mut Vec<A>,
) -> (&'a [A], usize) {
    let (values, stride) = x.tail(row, head);
    if let Some(values) = same(values) {
        return (values, stride);
    }
    keep.resize(rows * x.width, A::ZERO);
    keep.par_chunks_mut(x.width)
        .with_min_len(PARALLEL_WORK / x.width + 1)
        .enumerate()
        .for_each(|(i, to)| {
            for (to, &value) in to.iter_mut().zip(x.part(row + i, head)) {
                *to = A::load(value);
            }
        });
    (keep, x.width)
}

/// `dy [rows, out] · weight [out, width]`, all contiguous.
pub(super) fn by_rows<A: Real>(
    dy: &[A],
    weight: &[A],
    (rows, out, width): (usize, usize, usize),
) -> Result<Vec<A>> {
    let row_major = |values, columns| Matrix {
        values,
        row_stride: columns,
        column_stride: 1,
    };
    new_product(
        (rows, width, out),
        row_major(dy, out),
        row_major(weight, width),
        Parallelism::Rayon(0),
    )
}
