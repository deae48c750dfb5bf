//! Queries and keys as the copy engine takes them, 64 columns at a time.

use bytemuck::Zeroable;

use super::super::super::driver::{Axis, NumberType, Swizzle, TensorMap, Tiling};
use super::super::super::{Cuda, CudaDevice, CudaElement};
use crate::backend::Strided;
use crate::element::Scalar;
use crate::error::Result;

/// Columns of a tile, which are 128 bytes.
const COLUMNS: usize = 64;

/// `heads` heads of `at_once` queries.
pub(super) fn queries<T: CudaElement>(
    device: &CudaDevice,
    q: &Strided<'_, Cuda<T>, T>,
    heads: usize,
    at_once: usize,
) -> Result<TensorMap> {
    tiles(
        device,
        q,
        &[
            axis(q.heads, q.head_stride, heads),
            axis(q.rows, q.row_stride, at_once),
        ],
    )
}

/// `at_once` rows of keys of one head.
pub(super) fn keys<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    k: &Strided<'_, Cuda<T>, E>,
    at_once: usize,
) -> Result<TensorMap> {
    tiles(device, k, &[axis(k.rows, k.row_stride, at_once)])
}

fn axis(len: usize, stride: usize, tile: usize) -> Axis {
    // Of what there is one there is no next, and the engine wants a stride all the same
    let stride = if len > 1 { stride } else { COLUMNS };
    Axis { len, stride, tile }
}

/// What is without width has no map, and no kernel asks for it.
fn tiles<T: CudaElement, S: Scalar>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, S>,
    outer: &[Axis],
) -> Result<TensorMap> {
    if x.width == 0 || outer.iter().any(|axis| axis.len == 0) {
        return Ok(TensorMap::zeroed());
    }
    let mut axes = vec![Axis {
        len: x.width,
        stride: 1,
        tile: COLUMNS,
    }];
    axes.extend_from_slice(outer);
    device.tensor_map(&Tiling {
        at: x.buffer.place(x.offset),
        number: NumberType::Bf16,
        axes: &axes,
        swizzle: Swizzle::Rows128,
    })
}
