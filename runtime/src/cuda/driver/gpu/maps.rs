//! The driver's own encoding of tensors for the copy engine.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};

use super::super::{NumberType, Swizzle, TensorMap, Tiling};
use super::OrFail;
use crate::error::Result;

/// A tensor and its tiles, encoded. The thread has entered a device.
///
/// # Errors
/// There are no such tiles, or the device has no copy engine.
pub(super) fn encoded(tiling: &Tiling<'_>) -> Result<TensorMap> {
    tiling.check()?;
    let bytes = tiling.number.bytes();
    let lens: Vec<u64> = tiling.axes.iter().map(|axis| axis.len as u64).collect();
    let strides: Vec<u64> = (tiling.axes.iter().skip(1))
        .map(|axis| (axis.stride * bytes) as u64)
        .collect();
    let tile: Vec<u32> = tiling.axes.iter().map(|axis| axis.tile as u32).collect();
    let every = vec![1_u32; tile.len()];
    let mut map = MaybeUninit::<CUtensorMap>::uninit();
    // SAFETY: the arrays have an element for each axis, that of strides one fewer. The address is written down, and nothing is read there
    unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            data_type(tiling.number),
            tile.len() as u32,
            std::ptr::without_provenance_mut::<c_void>(tiling.at as usize),
            lens.as_ptr(),
            strides.as_ptr(),
            tile.as_ptr(),
            every.as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle(tiling.swizzle),
            // A row of a tile is 128 bytes at most: more of it at a time brings what the next tile may ask for, and may not
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()
    .or_fail(|| format!("describing {tiling:?} to the copy engine"))?;
    // SAFETY: the driver has written it
    Ok(TensorMap(unsafe { map.assume_init() }.opaque))
}

fn data_type(number: NumberType) -> CUtensorMapDataType {
    match number {
        NumberType::E4m3 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        NumberType::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        NumberType::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        NumberType::F32 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        NumberType::F64 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
    }
}

fn swizzle(swizzle: Swizzle) -> CUtensorMapSwizzle {
    match swizzle {
        Swizzle::None => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        Swizzle::Rows32 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        Swizzle::Rows64 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        Swizzle::Rows128 => CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    }
}
