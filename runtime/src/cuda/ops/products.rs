//! Products of matrices: the driver's where it has them, otherwise a kernel of our own.

use bytemuck::{Pod, Zeroable};

use super::super::driver::{Address, Matmul, NumberType, Operand};
use super::super::kernels::Kernel;
use super::super::{Accum, Cuda, CudaBuffer, CudaDevice, CudaElement};
use super::pointwise::{join_three, narrowed, split_in_three};
use super::{few_heads, few_rows};
use crate::backend::{HeadMatrices, Strided};
use crate::element::Scalar;
use crate::error::{Error, Result};

/// Rows and columns of a block's result, as `product.cuh` has it.
const TILE: usize = 32;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Matrix {
    at: Address,
    row_stride: i64,
    column_stride: i64,
    batch_stride: i64,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Product {
    a: Matrix,
    b: Matrix,
    c: Matrix,
    bias: Address,
    m: i64,
    n: i64,
    k: i64,
    accumulate: i64,
}

impl From<Operand> for Matrix {
    fn from(operand: Operand) -> Self {
        Self {
            at: operand.at,
            row_stride: operand.row_stride as i64,
            column_stride: operand.column_stride as i64,
            batch_stride: operand.batch_stride as i64,
        }
    }
}

/// A matrix in memory, contiguous but for its strides.
fn operand<S: Scalar>(
    at: Address,
    [row_stride, column_stride, batch_stride]: [usize; 3],
) -> Result<Operand> {
    Ok(Operand {
        at,
        number: NumberType::of(S::NAME)
            .ok_or_else(|| Error::Device(format!("no products of type {}", S::NAME)))?,
        row_stride,
        column_stride,
        batch_stride,
    })
}

/// `C = A B`; a bias is of C's type.
fn multiply(device: &CudaDevice, matmul: &Matmul, bias: Option<Address>) -> Result<()> {
    if [matmul.m, matmul.n, matmul.batch].contains(&0) {
        return Ok(());
    }
    let driver_may = bias.is_none() && matmul.k > 0;
    if driver_may
        && (few_rows::multiply(device, matmul)?
            || few_heads::multiply(device, matmul)?
            || device.matmul(matmul)?)
    {
        return Ok(());
    }
    let kernel = Kernel {
        unit: "product",
        entry: if matmul.c.number == matmul.a.number {
            "product"
        } else {
            "accum_product"
        },
        dims: &[],
        elem: matmul.a.number.name(),
        key: matmul.b.number.name(),
    };
    let args = Product {
        a: matmul.a.into(),
        b: matmul.b.into(),
        c: matmul.c.into(),
        bias: bias.unwrap_or(0),
        m: matmul.m as i64,
        n: matmul.n as i64,
        k: matmul.k as i64,
        accumulate: i64::from(matmul.accumulate),
    };
    let grid = [
        matmul.m.div_ceil(TILE),
        matmul.n.div_ceil(TILE),
        matmul.batch,
    ];
    device.launch(&kernel, grid, matmul.work(), &args)
}

/// `x Wᵀ + b`, the weight, the bias and the result of elements or of accumulators.
pub(super) fn linear<T: CudaElement, S: Scalar>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, T>,
    weight: &CudaBuffer<S>,
    bias: Option<&CudaBuffer<S>>,
    out: usize,
) -> Result<CudaBuffer<S>> {
    let y = device.room_of_product(x.rows * out)?;
    let matmul = Matmul {
        m: x.rows,
        n: out,
        k: x.width,
        batch: 1,
        a: operand::<T>(x.buffer.place(x.offset), [x.row_stride, 1, 0])?,
        b: operand::<S>(weight.at(), [1, x.width, 0])?,
        c: operand::<S>(y.at(), [out, 1, 0])?,
        accumulate: false,
    };
    let in_parts = T::NAME != S::NAME && bias.is_none() && matmul.k > 0;
    if in_parts && device.multiplies(&in_three(&matmul, 0, 0)) {
        linear_in_parts::<T>(device, &matmul)?;
        return Ok(y);
    }
    // A bias that is added later would be a second rounding: the kernel adds it to the sum
    multiply(device, &matmul, bias.map(CudaBuffer::at))?;
    Ok(y)
}

/// A product whose weight is of accumulators, by products of elements alone: tensor cores multiply no others. The weight is the sum of three elements at each
/// place, what comes of each is exact, and they are added in accumulators.
fn linear_in_parts<T: CudaElement>(device: &CudaDevice, matmul: &Matmul) -> Result<()> {
    let (rows, out) = (matmul.m, matmul.n);
    let parts = split_in_three::<T>(device, matmul.b.at, out * matmul.k)?;
    let sums: CudaBuffer<Accum<T>> = device.room(rows * 3 * out)?;
    multiply(device, &in_three(matmul, parts.at(), sums.at()), None)?;
    join_three::<T>(device, &sums, matmul.c.at, [rows, out])
}

/// The product with three parts of a weight, which lie one behind the other.
fn in_three(matmul: &Matmul, parts: Address, sums: Address) -> Matmul {
    let n = 3 * matmul.n;
    Matmul {
        n,
        b: Operand {
            at: parts,
            number: matmul.a.number,
            ..matmul.b
        },
        c: Operand {
            at: sums,
            row_stride: n,
            ..matmul.c
        },
        ..*matmul
    }
}

/// `y[r, h, :] = x[r, h, :] M_h`.
pub(super) fn head_product<T: CudaElement>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, T>,
    weight: &CudaBuffer<T>,
    matrices: HeadMatrices,
) -> Result<CudaBuffer<T>> {
    let n = matrices.columns;
    let y = device.room(x.rows * x.heads * n)?;
    let matmul = Matmul {
        m: x.rows,
        n,
        k: x.width,
        batch: x.heads,
        a: operand::<T>(x.buffer.place(x.offset), [x.row_stride, 1, x.head_stride])?,
        b: operand::<T>(
            weight.place(matrices.offset),
            [matrices.k_stride, matrices.n_stride, matrices.head_stride],
        )?,
        c: operand::<T>(y.at(), [x.heads * n, 1, n])?,
        accumulate: false,
    };
    multiply(device, &matmul, None)?;
    Ok(y)
}

/// `M_h[k, n] += Σ_r x[r, h, k] · dy[r, h, n]`.
pub(super) fn outer_products<T: CudaElement, S: Scalar>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, T>,
    dy: &Strided<'_, Cuda<T>, S>,
    into: &CudaBuffer<Accum<T>>,
    matrices: HeadMatrices,
) -> Result<()> {
    let matmul = Matmul {
        m: x.width,
        n: dy.width,
        k: x.rows,
        batch: x.heads,
        a: operand::<T>(x.buffer.place(x.offset), [1, x.row_stride, x.head_stride])?,
        b: operand::<S>(
            dy.buffer.place(dy.offset),
            [dy.row_stride, 1, dy.head_stride],
        )?,
        c: operand::<Accum<T>>(
            into.place(matrices.offset),
            [matrices.k_stride, matrices.n_stride, matrices.head_stride],
        )?,
        accumulate: true,
    };
    multiply(device, &matmul, None)
}

/// `dx = dy W`, rounded once.
pub(super) fn accum_linear_backward<T: CudaElement>(
    device: &CudaDevice,
    dy: &CudaBuffer<Accum<T>>,
    weight: &CudaBuffer<Accum<T>>,
    (rows, out, input): (usize, usize, usize),
) -> Result<CudaBuffer<T>> {
    let dx: CudaBuffer<Accum<T>> = device.room(rows * input)?;
    let matmul = Matmul {
        m: rows,
        n: input,
        k: out,
        batch: 1,
        a: operand::<Accum<T>>(dy.at(), [out, 1, 0])?,
        b: operand::<Accum<T>>(weight.at(), [input, 1, 0])?,
        c: operand::<Accum<T>>(dx.at(), [input, 1, 0])?,
        accumulate: false,
    };
    multiply(device, &matmul, None)?;
    narrowed::<T>(device, &dx)
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::cuda::tests::{Dice, device};

    #[test]
    fn a_weight_in_parts_is_all_of_it() {
        let (device, dice) = (device(), &mut Dice::new());
        let [rows, input, out] = [5, 70, 9];
        let mut draw = |len: usize| -> Vec<f32> {
            let numbers = (0..len).map(|_| dice.below(1 << 24) as f32 / 8e6 - 1.0);
            numbers.collect()
        };
        let x: Vec<bf16> = draw(rows * input).into_iter().map(bf16::from_f32).collect();
        let weight = draw(out * input);
        let upload = (device.upload(&x), device.upload(&weight));
        let (x_there, weight_there) = (upload.0.expect("room"), upload.1.expect("room"));
        let y: CudaBuffer<f32> = device.room(rows * out).expect("room");
        let matmul = Matmul {
            m: rows,
            n: out,
            k: input,
            batch: 1,
            a: operand::<bf16>(x_there.at(), [input, 1, 0]).expect("a type"),
            b: operand::<f32>(weight_there.at(), [1, input, 0]).expect("a type"),
            c: operand::<f32>(y.at(), [out, 1, 0]).expect("a type"),
            accumulate: false,
        };
        linear_in_parts::<bf16>(&device, &matmul).expect("runs");
        for (i, found) in device.download(&y).expect("values").into_iter().enumerate() {
            let (x, weight) = (&x[i / out * input..], &weight[i % out * input..]);
            let products = x.iter().zip(weight).take(input);
            let products = products.map(|(x, w)| x.to_f64() * f64::from(*w));
            let wanted: f64 = products.sum();
            // A weight of one part would be off by a thousandth
            let off = (f64::from(found) - wanted).abs();
            assert!(off < 1e-5, "{i}: {found}, wanted {wanted}");
        }
    }
}
