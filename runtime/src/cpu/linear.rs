//! Linear layers and head-wise products: which kernel runs for which sizes.

use gemm::Parallelism;
use rayon::prelude::*;

use super::gemm::{Matrix, Target, new_product, product};
use super::skinny::{axpys, dots};
use super::{Cpu, CpuElement, part, rounded, same, zeros};
use crate::backend::{HeadMatrices, Strided};
use crate::element::{Element, Real, Scalar};
use crate::error::Result;
use crate::weights::blocks::{STRIP, widen_strip};

/// Up to this many rows a product is bound by reading the weight, and packing it would only read it twice.
const SKINNY_ROWS: usize = 16;
/// Bytes of weight that one task of a skinny product reads.
const SKINNY_BYTES: usize = 1 << 18;
/// From this many multiplications per head on, sharing each among threads costs less than moving products to where they belong.
const SHARED_WORK: usize = 1 << 22;
/// Rows of a narrower weight that are widened at a time.
const WIDENED_ROWS: usize = 128;

/// Rows of a window in the accumulation type: borrowed where they already are contiguous and of that type.
fn packed<'a, T: CpuElement>(
    x: &Strided<'a, Cpu<T>, T>,
    head: usize,
    keep: &'a mut Vec<T::Accum>,
) -> &'a [T::Accum] {
    if (x.row_stride == x.width || x.rows == 1)
        && x.width > 0
        && let Some(all) = same::<T, T::Accum>(x.buffer)
    {
        let start = x.offset + head * x.head_stride;
        return &all[start..start + x.rows * x.width];
    }
    keep.clear();
    keep.reserve(x.rows * x.width);
    for row in 0..x.rows {
        keep.extend(
            part(x, row, head)
                .iter()
                .map(|&value| T::Accum::load(value)),
        );
    }
    keep
}

/// `x Wᵀ + b`.
pub(super) fn linear<T: CpuElement>(
    x: Strided<'_, Cpu<T>, T>,
    weight: &[T],
    bias: Option<&[T]>,
    out: usize,
) -> Result<Vec<T>> {
    let multiply = |xs: &[T::Accum], rows, k| {
        if k > 0 && rows <= SKINNY_ROWS {
            return skinny(weight, xs, rows, out);
        }
        if let Some(weight) = same::<T, T::Accum>(weight) {
            return many(weight, xs, (rows, out, k), Parallelism::Rayon(0));
        }
        let widen = |first: usize, wide: &mut [T::Accum]| {
            for (wide, &value) in wide.iter_mut().zip(&weight[first * k..]) {
                *wide = T::Accum::load(value);
            }
        };
        widening((rows, out, k), xs, WIDENED_ROWS, widen)
    };
    Ok(rounded(biased(x, bias, out, multiply)?))
}

/// What `multiply` makes of rows of so many numbers each, with a bias; rows come in the accumulation type.
fn biased<T: CpuElement, S: Scalar>(
    x: Strided<'_, Cpu<T>, T>,
    bias: Option<&[S]>,
    out: usize,
    multiply: impl FnOnce(&[T::Accum], usize, usize) -> Result<Vec<T::Accum>>,
) -> Result<Vec<T::Accum>> {
    let mut keep = Vec::new();
    let xs = packed(&x, 0, &mut keep);
    if x.rows == 0 || out == 0 {
        return Ok(Vec::new());
    }
    let mut y = multiply(xs, x.rows, x.width)?;
    add_bias(&mut y, bias);
    Ok(y)
}

/// `x Wᵀ + b` with a weight in blocks of codes.
pub(super) fn fp8_linear<T: CpuElement>(
    x: Strided<'_, Cpu<T>, T>,
    weight: &[u8],
    bias: Option<&[T]>,
    out: usize,
) -> Result<Vec<T>> {
    let multiply = |xs: &[T::Accum], rows, k| {
        let widen = |first: usize, wide: &mut [T::Accum]| {
            let mut strip = vec![0.0; STRIP * k];
            for (first, wide) in (first..).step_by(STRIP).zip(wide.chunks_mut(STRIP * k)) {
                let strip = &mut strip[..wide.len()];
                widen_strip(weight, k, first, strip);
                for (wide, &value) in wide.iter_mut().zip(&*strip) {
                    *wide = T::Accum::load(value);
                }
            }
        };
        // Few rows are done before numbers of a strip have left the cache
        let at_once = if rows <= SKINNY_ROWS {
            STRIP
        } else {
            WIDENED_ROWS
        };
        widening((rows, out, k), xs, at_once, widen)
    };
    Ok(rounded(biased(x, bias, out, multiply)?))
}

/// `x Wᵀ + b` in the accumulation type.
pub(super) fn accum_linear<T: CpuElement>(
    x: Strided<'_, Cpu<T>, T>,
    weight: &[T::Accum],
    bias: Option<&[T::Accum]>,
    out: usize,
) -> Result<Vec<T::Accum>> {
    biased(x, bias, out, |xs, rows, k| {
        if k > 0 && rows <= SKINNY_ROWS {
            skinny(weight, xs, rows, out)
        } else {
            many(weight, xs, (rows, out, k), Parallelism::Rayon(0))
        }
    })
}

/// Adds `bias` to each of its many values of `y`.
fn add_bias<A: Real, S: Scalar>(y: &mut [A], bias: Option<&[S]>) {
    let Some(bias) = bias else { return };
    y.par_chunks_mut(bias.len())
        .with_min_len(super::PARALLEL_WORK / bias.len() + 1)
        .for_each(|row| {
            for (y, &b) in row.iter_mut().zip(bias) {
                *y += A::load(b);
            }
        });
}

/// Many rows of a weight that is of the accumulation type.
fn many<A: Real>(
    weight: &[A],
    xs: &[A],
    (rows, out, k): (usize, usize, usize),
    parallelism: Parallelism,
) -> Result<Vec<A>> {
    let lhs = Matrix {
        values: xs,
        row_stride: k,
        column_stride: 1,
    };
    let rhs = Matrix {
        values: weight,
        row_stride: 1,
        column_stride: k,
    };
    new_product((rows, out, k), lhs, rhs, parallelism)
}

/// Few rows: each task reads its rows of the weight once.
fn skinny<A: Real, S: Scalar>(weight: &[S], xs: &[A], rows: usize, out: usize) -> Result<Vec<A>> {
    let k = xs.len() / rows;
    let mut y: Vec<A> = zeros(rows * out)?;
    let per_task = (SKINNY_BYTES / size_of::<S>() / k)
        .clamp(4, out.max(4))
        .next_multiple_of(4);
    if rows == 1 {
        y.par_chunks_mut(per_task)
            .zip(weight.par_chunks(per_task * k))
            .for_each(|(y, w)| dots(w, xs, 1, k, y));
        return Ok(y);
    }
    let mut columns: Vec<A> = zeros(out * rows)?;
    columns
        .par_chunks_mut(per_task * rows)
        .zip(weight.par_chunks(per_task * k))
        .for_each(|(columns, w)| dots(w, xs, rows, k, columns));
    put_by_row(&columns, rows, &mut y);
    Ok(y)
}

/// Columns of so many values, row by row.
fn put_by_row<A: Copy>(columns: &[A], rows: usize, y: &mut [A]) {
    for (r, y) in y.chunks_exact_mut(columns.len() / rows).enumerate() {
        for (o, y) in y.iter_mut().enumerate() {
            *y = columns[o * rows + r];
        }
    }
}

/// Products with a weight `[out, k]` that is narrower than the accumulator: `widen` makes some of its rows numbers, from one on, so many `at_once`.
fn widening<A: Real>(
    (rows, out, k): (usize, usize, usize),
    xs: &[A],
    at_once: usize,
    widen: impl Fn(usize, &mut [A]) + Sync,
) -> Result<Vec<A>> {
    let mut y: Vec<A> = zeros(rows * out)?;
    if k == 0 {
        return Ok(y);
    }
    let firsts: Vec<usize> = (0..out).step_by(at_once).collect();
    let blocks: Vec<Vec<A>> = firsts
        .into_par_iter()
        .map_init(Vec::new, |wide: &mut Vec<A>, first| {
            let columns = at_once.min(out - first);
            wide.resize(columns * k, A::ZERO);
            widen(first, wide);
            times(xs, wide, (rows, columns, k))
        })
        .collect::<Result<_>>()?;
    y.par_chunks_mut(out).enumerate().for_each(|(r, y)| {
        for (block, y) in blocks.iter().zip(y.chunks_mut(at_once)) {
            y.copy_from_slice(&block[r * y.len()..(r + 1) * y.len()]);
        }
    });
    Ok(y)
}

/// `x Wᵀ` of some rows of a weight, on one thread.
fn times<A: Real>(
    xs: &[A],
    weight: &[A],
    (rows, columns, k): (usize, usize, usize),
) -> Result<Vec<A>> {
    if rows > SKINNY_ROWS {
        return many(weight, xs, (rows, columns, k), Parallelism::None);
    }
    let mut by_column: Vec<A> = zeros(columns * rows)?;
    dots(weight, xs, rows, k, &mut by_column);
    let mut y: Vec<A> = zeros(columns * rows)?;
    put_by_row(&by_column, rows, &mut y);
    Ok(y)
}

/// `y[r, h, :] = x[r, h, :] M_h`.
pub(super) fn head_product<T: CpuElement>(
    x: Strided<'_, Cpu<T>, T>,
    weight: &[T],
    matrices: HeadMatrices,
) -> Result<Vec<T>> {
    let (rows, k, n) = (x.rows, x.width, matrices.columns);
    if rows == 0 || n == 0 || x.heads == 0 {
        return Ok(Vec::new());
    }
    if rows > SKINNY_ROWS && k > 0 && (x.heads == 1 || rows * k * n >= SHARED_WORK) {
        return head_after_head(&x, weight, matrices);
    }
    let mut by_head: Vec<T::Accum> = zeros(x.heads * rows * n)?;
    if k > 0 {
        by_head
            .par_chunks_mut(rows * n)
            .enumerate()
            .for_each(|(head, y)| one_head(&x, head, weight, matrices, y));
    }
    if rows == 1 {
        return Ok(rounded(by_head));
    }
    let mut y: Vec<T> = zeros(x.heads * rows * n)?;
    y.par_chunks_mut(n)
        .with_min_len(super::PARALLEL_WORK / n + 1)
        .enumerate()
        .for_each(|(i, y)| {
            let (row, head) = (i / x.heads, i % x.heads);
            for (y, &value) in y.iter_mut().zip(&by_head[(head * rows + row) * n..]) {
                *y = value.store();
            }
        });
    Ok(y)
}

/// Many rows, one head after the other: all threads share a head, and its product goes where it belongs.
fn head_after_head<T: CpuElement>(
    x: &Strided<'_, Cpu<T>, T>,
    weight: &[T],
    matrices: HeadMatrices,
) -> Result<Vec<T>> {
    let (rows, k, n) = (x.rows, x.width, matrices.columns);
    let mut y: Vec<T::Accum> = zeros(rows * x.heads * n)?;
    let (mut keep, mut wide) = (Vec::new(), Vec::new());
    for head in 0..x.heads {
        let (values, row_stride) = match same::<T, T::Accum>(x.buffer) {
            Some(all) => (&all[x.offset + head * x.head_stride..], x.row_stride),
            None => (packed(x, head, &mut keep), k),
        };
        let lhs = Matrix {
            values,
            row_stride,
            column_stride: 1,
        };
        let start = matrices.offset + head * matrices.head_stride;
        let len = (k - 1) * matrices.k_stride + (n - 1) * matrices.n_stride + 1;
        let matrix = &weight[start..start + len];
        let values = match same::<T, T::Accum>(matrix) {
            Some(values) => values,
            None => {
                let values = matrix.par_iter().with_min_len(super::PARALLEL_WORK);
                values
                    .map(|&value| T::Accum::load(value))
                    .collect_into_vec(&mut wide);
                &wide
            }
        };
        let rhs = Matrix {
            values,
            row_stride: matrices.k_stride,
            column_stride: matrices.n_stride,
        };
        let target = Target {
            values: &mut y[head * n..],
            row_stride: x.heads * n,
            column_stride: 1,
            accumulate: false,
        };
        let sizes = (rows, n, k);
        product(
            sizes,
            target,
            lhs,
            rhs,
            T::Accum::ONE,
            Parallelism::Rayon(0),
        );
    }
    Ok(rounded(y))
}

fn one_head<T: CpuElement>(
    x: &Strided<'_, Cpu<T>, T>,
    head: usize,
    weight: &[T],
    matrices: HeadMatrices,
    y: &mut [<T as Element>::Accum],
) {
    let (rows, k, n) = (x.rows, x.width, matrices.columns);
    let mut keep = Vec::new();
    let xs = packed(x, head, &mut keep);
    let start = matrices.offset + head * matrices.head_stride;
    let matrix =
        &weight[start..start + (k - 1) * matrices.k_stride + (n - 1) * matrices.n_stride + 1];
    if rows <= SKINNY_ROWS && matrices.n_stride == 1 {
        for (x, y) in xs.chunks_exact(k).zip(y.chunks_exact_mut(n)) {
            axpys(matrix, matrices.k_stride, x, y);
        }
    } else if rows == 1 && matrices.k_stride == 1 && matrices.n_stride == k {
        dots(matrix, xs, 1, k, y);
    } else {
        let wide: Vec<T::Accum>;
        let values = match same::<T, T::Accum>(matrix) {
            Some(values) => values,
            None => {
                wide = matrix.iter().map(|&value| T::Accum::load(value)).collect();
                &wide
            }
        };
        let target = Target {
            values: y,
            row_stride: n,
            column_stride: 1,
            accumulate: false,
        };
        let lhs = Matrix {
            values: xs,
            row_stride: k,
            column_stride: 1,
        };
        let rhs = Matrix {
            values,
            row_stride: matrices.k_stride,
            column_stride: matrices.n_stride,
        };
        product(
            (rows, n, k),
            target,
            lhs,
            rhs,
            T::Accum::ONE,
            Parallelism::None,
        );
    }
}
