//! Products of few rows with a large weight. Reading the weight once is all that counts, so rows of the weight are multiplied where they
//! lie, four at a time, without packing.

use super::simd::{Vectorised, dispatch};
use crate::element::{Real, Scalar};

/// Lanes of an accumulator: one AVX-512 register of f32, two of f64.
pub(super) const LANES: usize = 16;
/// Input rows handled at once; more would not leave registers for the accumulators.
const ROWS: usize = 4;

/// `out[o * rows + r] = Σ_i x[r * k + i] · weight[o * k + i]`, for all `o` that `weight` has rows for.
pub(super) fn dots<A: Real, T: Scalar>(
    weight: &[T],
    x: &[A],
    rows: usize,
    k: usize,
    out: &mut [A],
) {
    dispatch(Dots {
        weight,
        x,
        rows,
        k,
        out,
    });
}

/// `out[n] += Σ_k x[k] · matrix[k * stride + n]`.
pub(super) fn axpys<A: Real, T: Scalar>(matrix: &[T], stride: usize, x: &[A], out: &mut [A]) {
    dispatch(Axpys {
        matrix,
        stride,
        x,
        out,
    });
}

struct Dots<'a, A, T> {
    weight: &'a [T],
    x: &'a [A],
    rows: usize,
    k: usize,
    out: &'a mut [A],
}

impl<A: Real, T: Scalar> Vectorised for Dots<'_, A, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Self {
            weight,
            x,
            rows,
            k,
            out,
        } = self;
        let outputs = weight.len().checked_div(k).unwrap_or(0);
        let mut r = 0;
        while r < rows {
            let count = ROWS.min(rows - r);
            let x = &x[r * k..(r + count) * k];
            let mut o = 0;
            while o < outputs {
                let wide = (outputs - o).min(4);
                let weight = &weight[o * k..(o + wide) * k];
                let out = &mut out[o * rows + r..];
                match (wide, count) {
                    (4, 1) => tile::<A, T, FMA, 4, 1>(weight, x, k, out, rows),
                    (4, 2) => tile::<A, T, FMA, 4, 2>(weight, x, k, out, rows),
                    (4, 3) => tile::<A, T, FMA, 4, 3>(weight, x, k, out, rows),
                    (4, 4) => tile::<A, T, FMA, 4, 4>(weight, x, k, out, rows),
                    _ => {
                        for i in 0..wide {
                            for j in 0..count {
                                let (w, x) = (&weight[i * k..(i + 1) * k], &x[j * k..(j + 1) * k]);
                                tile::<A, T, FMA, 1, 1>(w, x, k, &mut out[i * rows + j..], rows);
                            }
                        }
                    }
                }
                o += wide;
            }
            r += count;
        }
    }
}

/// `O` rows of the weight times `R` rows of the input.
#[inline(always)]
fn tile<A: Real, T: Scalar, const FMA: bool, const O: usize, const R: usize>(
    weight: &[T],
    x: &[A],
    k: usize,
    out: &mut [A],
    out_stride: usize,
) {
    let mut sums = [[[A::ZERO; LANES]; R]; O];
    let whole = k / LANES * LANES;
    let w: [&[T]; O] = std::array::from_fn(|o| &weight[o * k..(o + 1) * k]);
    let x: [&[A]; R] = std::array::from_fn(|r| &x[r * k..(r + 1) * k]);
    let mut i = 0;
    while i < whole {
        let xs: [[A; LANES]; R] = std::array::from_fn(|r| lanes(&x[r][i..]));
        for o in 0..O {
            let ws: [T; LANES] = lanes(&w[o][i..]);
            for (r, xs) in xs.iter().enumerate() {
                for l in 0..LANES {
                    sums[o][r][l] = A::load(ws[l]).madd::<FMA>(xs[l], sums[o][r][l]);
                }
            }
        }
        i += LANES;
    }
    for o in 0..O {
        for r in 0..R {
            let mut sum = folded(sums[o][r]);
            for i in whole..k {
                sum = A::load(w[o][i]).madd::<FMA>(x[r][i], sum);
            }
            out[o * out_stride + r] = sum;
        }
    }
}

#[inline(always)]
fn lanes<S: Scalar>(values: &[S]) -> [S; LANES] {
    let values = &values[..LANES];
    std::array::from_fn(|l| values[l])
}

/// The sum of all lanes, halves to halves.
#[inline(always)]
pub(super) fn folded<A: Real>(mut sums: [A; LANES]) -> A {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            let upper = sums[l + width];
            sums[l] += upper;
        }
        width /= 2;
    }
    sums[0]
}

struct Axpys<'a, A, T> {
    matrix: &'a [T],
    stride: usize,
    x: &'a [A],
    out: &'a mut [A],
}

impl<A: Real, T: Scalar> Vectorised for Axpys<'_, A, T> {
    type Output = ();

    #[inline(always)]
    fn run<const FMA: bool>(self) {
        const AT_ONCE: usize = 8;
        let Self {
            matrix,
            stride,
            x,
            out,
        } = self;
        let n = out.len();
        let whole = x.len() / AT_ONCE * AT_ONCE;
        for k in (0..whole).step_by(AT_ONCE) {
            let rows: [&[T]; AT_ONCE] = std::array::from_fn(|j| &matrix[(k + j) * stride..][..n]);
            let xs: [A; AT_ONCE] = std::array::from_fn(|j| x[k + j]);
            for (i, out) in out.iter_mut().enumerate() {
                let mut sum = *out;
                for j in 0..AT_ONCE {
                    sum = A::load(rows[j][i]).madd::<FMA>(xs[j], sum);
                }
                *out = sum;
            }
        }
        for k in whole..x.len() {
            for (out, &m) in out.iter_mut().zip(&matrix[k * stride..][..n]) {
                *out = A::load(m).madd::<FMA>(x[k], *out);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn dots_agree_with_loops_for_all_row_counts_and_odd_widths() {
        for rows in 1..=9 {
            for (outputs, k) in [(1, 1), (4, 16), (5, 33), (9, 100), (3, 0)] {
                let w: Vec<bf16> = (0..outputs * k)
                    .map(|i| bf16::from_f32((i as f32 * 0.3).sin()))
                    .collect();
                let x: Vec<f32> = (0..rows * k).map(|i| (i as f32 * 0.7).cos()).collect();
                let mut out = vec![0.0; if k == 0 { 0 } else { outputs * rows }];
                dots(&w, &x, rows, k, &mut out);
                for (i, out) in out.iter().enumerate() {
                    let (o, r) = (i / rows, i % rows);
                    let wanted: f64 = (0..k)
                        .map(|j| w[o * k + j].to_f64() * f64::from(x[r * k + j]))
                        .sum();
                    assert!(
                        (f64::from(*out) - wanted).abs() < 1e-4,
                        "{rows} {outputs} {k}: {out} is not {wanted}"
                    );
                }
            }
        }
    }

    #[test]
    fn axpys_add_to_what_is_there() {
        for (k, n) in [(0, 3), (7, 5), (8, 16), (19, 33)] {
            let stride = n + 2;
            let m: Vec<f64> = (0..k * stride).map(|i| (i as f64 * 0.3).sin()).collect();
            let x: Vec<f64> = (0..k).map(|i| (i as f64 * 0.7).cos()).collect();
            let mut out = vec![1.0; n];
            axpys(&m, stride, &x, &mut out);
            for (i, out) in out.iter().enumerate() {
                let wanted = 1.0 + (0..k).map(|j| x[j] * m[j * stride + i]).sum::<f64>();
                assert!((out - wanted).abs() < 1e-12);
            }
        }
    }
}
