//! Tensors as the emulator's own copy engine sees them: what `copies.hpp` reads.

use bytemuck::{Pod, Zeroable};

use super::super::{Swizzle, TensorMap, Tiling};
use crate::error::{Error, Result};

/// By which such a map is known, `KNOWN` of `copies.hpp`.
const KNOWN: u64 = 0x6d6c_612d_6d61_7021;

/// `TensorMap` of `copies.hpp`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Map {
    known: u64,
    at: u64,
    strides: [u64; 5],
    lens: [u32; 5],
    tile: [u32; 5],
    axes: u32,
    element: u32,
    swizzle: u32,
    unused: [u32; 5],
}

/// A tensor and its tiles, encoded.
///
/// # Errors
/// There are no such tiles.
pub(super) fn encoded(tiling: &Tiling<'_>) -> Result<TensorMap> {
    tiling.check()?;
    let mut map = Map {
        known: KNOWN,
        at: tiling.at,
        axes: tiling.axes.len() as u32,
        element: tiling.number.bytes() as u32,
        swizzle: match tiling.swizzle {
            Swizzle::None => 0,
            Swizzle::Rows32 => 32,
            Swizzle::Rows64 => 64,
            Swizzle::Rows128 => 128,
        },
        ..Map::zeroed()
    };
    for (i, axis) in tiling.axes.iter().enumerate() {
        let len = u32::try_from(axis.len);
        map.lens[i] =
            len.map_err(|_| Error::Device(format!("an axis of {} elements", axis.len)))?;
        map.strides[i] = (axis.stride * tiling.number.bytes()) as u64;
        map.tile[i] = axis.tile as u32;
    }
    Ok(TensorMap(bytemuck::cast(map)))
}
