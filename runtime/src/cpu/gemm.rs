//! The one door to the `gemm` crate: bounds are checked here, so that its raw pointers stay inside.

use gemm::Parallelism;

use super::{with_room, zeros};
use crate::element::Real;
use crate::error::Result;

/// A strided matrix in a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a, A> {
    /// Starts at element (0, 0).
    pub(super) values: &'a [A],
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

/// Where a product goes.
#[derive(Debug)]
pub(super) struct Target<'a, A> {
    /// Starts at element (0, 0).
    pub(super) values: &'a mut [A],
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
    /// Add to what is there.
    pub(super) accumulate: bool,
}

/// Elements that a `[rows, columns]` matrix spans.
fn span(rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> usize {
    if rows == 0 || columns == 0 {
        0
    } else {
        (rows - 1) * row_stride + (columns - 1) * column_stride + 1
    }
}

/// `target (+)= scale · lhs [m, k] · rhs [k, n]`.
pub(super) fn product<A: Real>(
    (m, n, k): (usize, usize, usize),
    target: Target<'_, A>,
    lhs: Matrix<'_, A>,
    rhs: Matrix<'_, A>,
    scale: A,
    parallelism: Parallelism,
) {
    let needed = span(m, n, target.row_stride, target.column_stride);
    assert!(target.values.len() >= needed, "product beyond its target");
    assert!(
        lhs.values.len() >= span(m, k, lhs.row_stride, lhs.column_stride),
        "product beyond its left side"
    );
    assert!(
        rhs.values.len() >= span(k, n, rhs.row_stride, rhs.column_stride),
        "product beyond its right side"
    );
    assert!(
        m <= 1
            || n <= 1
            || target.row_stride >= span(1, n, 0, target.column_stride)
            || target.column_stride >= span(m, 1, target.row_stride, 0),
        "elements of the target overlap"
    );
    if m == 0 || n == 0 {
        return;
    }
    // SAFETY: the asserts above keep every element that strides and counts can reach inside its slice; the target is borrowed
    // mutably, so nothing aliases it, and its elements do not overlap each other; all memory is initialised.
    unsafe {
        raw(
            (m, n, k),
            target.values.as_mut_ptr(),
            (target.row_stride, target.column_stride, target.accumulate),
            lhs,
            rhs,
            scale,
            parallelism,
        );
    }
}

/// `lhs [m, k] · rhs [k, n]` as new memory, row-major: large results are not filled with zeros first.
pub(super) fn new_product<A: Real>(
    (m, n, k): (usize, usize, usize),
    lhs: Matrix<'_, A>,
    rhs: Matrix<'_, A>,
    parallelism: Parallelism,
) -> Result<Vec<A>> {
    if m == 0 || n == 0 || k == 0 {
        return zeros(m * n);
    }
    assert!(
        lhs.values.len() >= span(m, k, lhs.row_stride, lhs.column_stride),
        "product beyond its left side"
    );
    assert!(
        rhs.values.len() >= span(k, n, rhs.row_stride, rhs.column_stride),
        "product beyond its right side"
    );
    let mut out: Vec<A> = with_room(m * n)?;
    // SAFETY: the operands span at most their slices, as asserted. There is room for m·n elements; without `accumulate` the product
    // writes every one of them, reading none, before the length says that they are there.
    unsafe {
        raw(
            (m, n, k),
            out.as_mut_ptr(),
            (n, 1, false),
            lhs,
            rhs,
            A::ONE,
            parallelism,
        );
        out.set_len(m * n);
    }
    Ok(out)
}

/// The crate's function, with rows before columns.
///
/// # Safety
/// All elements that counts and strides reach have to be inside their allocations, initialised (the target's only when accumulating), and
/// those of the target distinct and not aliased. `A` is `f32` or `f64`, the types that the crate dispatches on: [`Real`] has no others.
unsafe fn raw<A: Real>(
    (m, n, k): (usize, usize, usize),
    target: *mut A,
    (row_stride, column_stride, accumulate): (usize, usize, bool),
    lhs: Matrix<'_, A>,
    rhs: Matrix<'_, A>,
    scale: A,
    parallelism: Parallelism,
) {
    // SAFETY: the caller's promise is the function's.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            target,
            column_stride as isize,
            row_stride as isize,
            accumulate,
            lhs.values.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.values.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            A::ONE,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(
        m: usize,
        n: usize,
        k: usize,
        lhs: impl Fn(usize, usize) -> f64,
        rhs: impl Fn(usize, usize) -> f64,
    ) -> Vec<f64> {
        (0..m * n)
            .map(|i| (0..k).map(|j| lhs(i / n, j) * rhs(j, i % n)).sum())
            .collect()
    }

    #[test]
    fn agrees_with_loops_for_every_stride_order_and_accumulates() {
        for (m, n, k) in [
            (1, 1, 1),
            (3, 5, 7),
            (16, 33, 64),
            (5, 1, 9),
            (1, 8, 3),
            (4, 4, 0),
            (0, 3, 2),
        ] {
            let a: Vec<f64> = (0..m * k).map(|i| (i as f64 * 0.37).sin()).collect();
            let b: Vec<f64> = (0..k * n).map(|i| (i as f64 * 0.73).cos()).collect();
            let wanted = naive(m, n, k, |i, j| a[i * k + j], |i, j| b[i * n + j]);
            let wanted: Vec<f64> = wanted.iter().map(|x| 1.0 + 2.0 * x).collect();
            let mut c = vec![1.0; m * n];
            // The same right side, stored column by column
            let transposed: Vec<f64> = (0..k * n).map(|i| b[(i % k) * n + i / k]).collect();
            let rhs = Matrix {
                values: &transposed,
                row_stride: 1,
                column_stride: k,
            };
            let target = Target {
                values: &mut c,
                row_stride: n,
                column_stride: 1,
                accumulate: true,
            };
            let lhs = Matrix {
                values: &a,
                row_stride: k,
                column_stride: 1,
            };
            product((m, n, k), target, lhs, rhs, 2.0, Parallelism::None);
            let fresh = new_product((m, n, k), lhs, rhs, Parallelism::None).expect("room");
            assert_eq!(fresh.len(), m * n);
            for (fresh, c) in fresh.iter().zip(&c) {
                assert!((1.0 + 2.0 * fresh - c).abs() < 1e-12);
            }
            for (c, wanted) in c.iter().zip(&wanted) {
                assert!(
                    (c - wanted).abs() < 1e-12,
                    "{m} {n} {k}: {c} is not {wanted}"
                );
            }
        }
    }

    #[test]
    #[should_panic(expected = "beyond its left side")]
    fn a_short_operand_is_caught_before_the_pointers() {
        let mut c = [0.0_f32; 4];
        let target = Target {
            values: &mut c,
            row_stride: 2,
            column_stride: 1,
            accumulate: false,
        };
        let lhs = Matrix {
            values: &[1.0; 3],
            row_stride: 2,
            column_stride: 1,
        };
        let rhs = Matrix {
            values: &[1.0; 4],
            row_stride: 2,
            column_stride: 1,
        };
        product((2, 2, 2), target, lhs, rhs, 1.0, Parallelism::None);
    }
}
