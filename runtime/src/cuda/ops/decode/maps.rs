//! Queries and keys as the copy engine takes them, by tiles of 64 columns.

use bytemuck::Zeroable;

use super::super::super::driver::{Axis, NumberType, Swizzle, TensorMap, Tiling};
use super::super::super::{Cuda, CudaDevice, CudaElement};
use crate::backend::Strided;
use crate::element::Scalar;
use crate::error::Result;

/// Columns of a tile, which are 128 bytes.
const COLUMNS: usize = 64;

/// `heads` heads of `at_once` queries, of `tiles` tiles of columns.
pub(super) fn queries<T: CudaElement>(
    device: &CudaDevice,
    q: &Strided<'_, Cuda<T>, T>,
    heads: usize,
    at_once: usize,
    tiles: usize,
) -> Result<TensorMap> {
    tiles_of(
        device,
        q,
        &[
            axis(q.heads, q.head_stride, heads),
            axis(q.rows, q.row_stride, at_once),
        ],
        Some(tiles),
    )
}

/// `at_once` rows of keys of one head, of `tiles` tiles of columns.
pub(super) fn keys<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    k: &Strided<'_, Cuda<T>, E>,
    at_once: usize,
    tiles: usize,
) -> Result<TensorMap> {
    let rows = axis(k.rows, k.row_stride, at_once);
    tiles_of(device, k, &[rows], Some(tiles))
}

/// The same of their rotated part, which is one tile at most: kernels know no axis of tiles there.
pub(super) fn rotated_keys<T: CudaElement, E: Scalar>(
    device: &CudaDevice,
    k_rope: &Strided<'_, Cuda<T>, E>,
    at_once: usize,
) -> Result<TensorMap> {
    let rows = axis(k_rope.rows, k_rope.row_stride, at_once);
    tiles_of(device, k_rope, &[rows], None)
}

fn axis(len: usize, stride: usize, tile: usize) -> Axis {
    Axis::outer(NumberType::Bf16, len, stride, tile)
}

/// What is without width has no map, and no kernel asks for it. Its `tiles` of columns are the last axis, so that they come to lie one after the other.
fn tiles_of<T: CudaElement, S: Scalar>(
    device: &CudaDevice,
    x: &Strided<'_, Cuda<T>, S>,
    outer: &[Axis],
    tiles: Option<usize>,
) -> Result<TensorMap> {
    if x.width == 0 || outer.iter().any(|axis| axis.len == 0) {
        return Ok(TensorMap::zeroed());
    }
    let mut axes = vec![Axis {
        len: x.width.min(COLUMNS),
        stride: 1,
        tile: COLUMNS,
    }];
    axes.extend_from_slice(outer);
    axes.extend(tiles.map(|tiles| axis(x.width.div_ceil(COLUMNS), COLUMNS, tiles)));
    device.tensor_map(&Tiling {
        at: x.buffer.place(x.offset),
        number: NumberType::Bf16,
        axes: &axes,
        swizzle: Swizzle::Rows128,
    })
}
