//! Tensors in the device's memory as Hopper's copy engine sees them: which tiles it takes from them, and how these lie in shared memory.

use bytemuck::{Pod, Zeroable};

use super::{Address, NumberType};
use crate::error::{Error, Result};

/// What a kernel hands to the copy engine: 128 bytes of its parameter, whose meaning is the hardware's. `copies.cuh` calls it the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct TensorMap(pub(crate) [u64; 16]);

/// How a tile's 16-byte chunks are exchanged, as `tile.cuh` says: the tile's rows are as many bytes, or fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Swizzle {
    /// They lie row by row.
    None,
    /// As in rows of 32 bytes.
    Rows32,
    /// As in rows of 64 bytes.
    Rows64,
    /// As in rows of 128 bytes.
    Rows128,
}

impl Swizzle {
    /// The most bytes that a tile's rows may have.
    fn span(self) -> usize {
        match self {
            Self::None => usize::MAX,
            Self::Rows32 => 32,
            Self::Rows64 => 64,
            Self::Rows128 => 128,
        }
    }
}

/// One axis of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Axis {
    /// How many elements.
    pub(crate) len: usize,
    /// Elements from one to the next; 1 of the innermost axis.
    pub(crate) stride: usize,
    /// How many of them a tile has.
    pub(crate) tile: usize,
}

impl Axis {
    /// One that is not the innermost. Of what there is one there is no next, and the engine wants a stride all the same.
    pub(crate) fn outer(number: NumberType, len: usize, stride: usize, tile: usize) -> Self {
        let stride = if len > 1 {
            stride
        } else {
            Swizzle::Rows128.span() / number.bytes()
        };
        Self { len, stride, tile }
    }
}

/// A tensor and its tiles. What a tile has beyond the tensor's end is zeros.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiling<'a> {
    /// The first element.
    pub(crate) at: Address,
    /// What it holds.
    pub(crate) number: NumberType,
    /// Its axes, the innermost first: one to five.
    pub(crate) axes: &'a [Axis],
    /// How tiles lie in shared memory.
    pub(crate) swizzle: Swizzle,
}

impl Tiling<'_> {
    /// Bytes of a tile in shared memory.
    pub(crate) fn tile_bytes(&self) -> usize {
        let elements: usize = self.axes.iter().map(|axis| axis.tile).product();
        elements * self.number.bytes()
    }

    /// Refuses what the copy engine refuses, and says why: the driver calls all of it an invalid value.
    ///
    /// # Errors
    /// An address, a length or a stride is none that the engine can use.
    pub(crate) fn check(&self) -> Result<()> {
        let refused = |what: String| Err(Error::Device(format!("the copy engine: {what}")));
        let [inner, outer @ ..] = self.axes else {
            return refused("a tensor without axes has no tiles".to_owned());
        };
        if outer.len() > 4 {
            return refused(format!(
                "a tensor of {} axes; it knows five",
                self.axes.len()
            ));
        }
        if !self.at.is_multiple_of(16) {
            return refused(format!("{:#x} is no multiple of 16", self.at));
        }
        if inner.stride != 1 {
            return refused(format!(
                "a stride of {} along the innermost axis",
                inner.stride
            ));
        }
        let bytes = self.number.bytes();
        for axis in outer {
            if !(axis.stride * bytes).is_multiple_of(16) {
                return refused(format!(
                    "a stride of {} bytes is no multiple of 16",
                    axis.stride * bytes
                ));
            }
        }
        for axis in self.axes {
            if axis.len == 0 || !(1..=256).contains(&axis.tile) {
                return refused(format!(
                    "tiles of {} of {} elements; 1 to 256 are known",
                    axis.tile, axis.len
                ));
            }
        }
        let row = inner.tile * bytes;
        if !row.is_multiple_of(16) || row > self.swizzle.span() {
            return refused(format!(
                "tiles with rows of {row} bytes, swizzled as {:?}",
                self.swizzle
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache's rows of 576 numbers, 64 tokens by 64 numbers at a time.
    const AXES: [Axis; 2] = [
        Axis {
            len: 576,
            stride: 1,
            tile: 64,
        },
        Axis {
            len: 1000,
            stride: 576,
            tile: 64,
        },
    ];

    fn tiling(axes: &[Axis]) -> Tiling<'_> {
        Tiling {
            at: 4096,
            number: NumberType::Bf16,
            axes,
            swizzle: Swizzle::Rows128,
        }
    }

    #[test]
    fn a_map_is_as_large_as_kernels_take_it() {
        assert_eq!((size_of::<TensorMap>(), align_of::<TensorMap>()), (128, 64));
    }

    #[test]
    fn what_the_engine_cannot_do_is_refused_with_its_reason() {
        let good = tiling(&AXES);
        assert!(good.check().is_ok());
        assert_eq!(good.tile_bytes(), 8192);
        let refused = |change: &dyn Fn(&mut Tiling<'_>, &mut [Axis; 2]), reason: &str| {
            let mut axes = AXES;
            let mut changed = tiling(&[]);
            change(&mut changed, &mut axes);
            changed.axes = &axes;
            let error = changed.check().expect_err(reason).to_string();
            assert!(error.contains(reason), "{error}");
        };
        refused(&|tiling, _| tiling.at = 4104, "multiple of 16");
        refused(&|_, axes| axes[0].stride = 2, "innermost");
        refused(&|_, axes| axes[1].stride = 577, "1154 bytes");
        refused(&|_, axes| axes[1].tile = 257, "257 of 1000");
        refused(&|_, axes| axes[1].len = 0, "64 of 0");
        refused(&|_, axes| axes[0].tile = 128, "rows of 256 bytes");
        refused(&|_, axes| axes[0].tile = 4, "rows of 8 bytes");
        refused(&|tiling, _| tiling.swizzle = Swizzle::Rows64, "Rows64");
        assert!(tiling(&[]).check().is_err());
        assert!(tiling(&[AXES[0]; 6]).check().is_err());
    }
}
