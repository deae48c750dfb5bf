//! Queries of an indexer as codes of e4m3: rounded as a cache rounds keys, each head's scale a part of its weight.

use bytemuck::{Pod, Zeroable};

use super::super::super::super::driver::Address;
use super::super::super::super::kernels::Kernel;
use super::super::super::super::{Cuda, CudaBuffer, CudaDevice, CudaElement, Work};
use super::super::super::args::Window;
use super::maps::Queries;
use crate::backend::Strided;
use crate::error::Result;

/// Heads of a block of the kernel: one to a warp.
const HEADS: usize = 4;

/// `EncodeQueries` of `index_fp8.cuh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct EncodeQueries {
    q: Window,
    weights: Address,
    codes: Address,
    scaled: Address,
}

/// Codes of queries, `[rows, heads, width]`, and weights times the codes' scales, `[rows, heads]`.
#[derive(Debug)]
pub(super) struct Rounded {
    codes: CudaBuffer<u8>,
    pub(super) weights: CudaBuffer<f32>,
}

impl Rounded {
    /// Room for them.
    pub(super) fn room<T: CudaElement>(
        device: &CudaDevice,
        q: &Strided<'_, Cuda<T>, T>,
    ) -> Result<Self> {
        Ok(Self {
            codes: device.room(q.rows * q.heads * q.width)?,
            weights: device.room(q.rows * q.heads)?,
        })
    }

    /// As kernels take them.
    pub(super) fn queries<T: CudaElement>(&self, q: &Strided<'_, Cuda<T>, T>) -> Queries {
        Queries {
            at: self.codes.at(),
            rows: q.rows,
            heads: q.heads,
            width: q.width,
            row_stride: q.heads * q.width,
            head_stride: q.width,
        }
    }

    /// Queues the rounding of queries of 64 or 128 numbers a head, which have one scale each. `weights`: of their heads, in f32.
    pub(super) fn fill<T: CudaElement>(
        &self,
        device: &CudaDevice,
        power_of_two: bool,
        q: &Strided<'_, Cuda<T>, T>,
        weights: Address,
    ) -> Result<()> {
        let args = EncodeQueries {
            q: q.into(),
            weights,
            codes: self.codes.at(),
            scaled: self.weights.at(),
        };
        let dims = [q.width, usize::from(power_of_two)];
        let kernel = Kernel::of::<T>("index_fp8", "encode_index_queries", &dims);
        let numbers = q.rows * q.heads * q.width;
        let work = Work::moving(numbers * (size_of::<T>() + 1) + 2 * self.weights.bytes());
        let blocks = (q.rows * q.heads).div_ceil(HEADS);
        device.launch(&kernel, [blocks, 1, 1], work, &args)
    }
}
