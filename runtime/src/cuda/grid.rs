//! How kernels are spread over a device.

use super::kernels::Kernel;
use crate::error::{Error, Result};

/// How a kernel is spread over a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grid {
    /// Blocks along x, y and z.
    blocks: [usize; 3],
    /// Bytes of shared memory of each block, besides what the kernel declares.
    pub(super) shared: u32,
    /// Whether all blocks run at the same time.
    pub(super) together: bool,
    /// Whether the kernel reads weights before the one before has ended.
    pub(super) reads_ahead: bool,
}

impl From<[usize; 3]> for Grid {
    fn from(blocks: [usize; 3]) -> Self {
        Self::sharing(blocks, 0)
    }
}

impl Grid {
    /// With more shared memory for each block.
    pub(super) fn sharing(blocks: [usize; 3], bytes: u32) -> Self {
        Self {
            blocks,
            shared: bytes,
            together: false,
            reads_ahead: false,
        }
    }

    /// The same, of blocks that wait for each other: of no more than the device holds at once.
    pub(super) fn together(self) -> Self {
        Self {
            together: true,
            ..self
        }
    }

    /// The same, of a kernel that reads weights ahead, and then waits for the one before.
    pub(super) fn reading_ahead(self) -> Self {
        Self {
            reads_ahead: true,
            ..self
        }
    }

    /// Blocks as the driver takes them; `None` where there are none.
    pub(super) fn blocks(&self, kernel: &Kernel<'_>) -> Result<Option<[u32; 3]>> {
        if self.blocks.contains(&0) {
            return Ok(None);
        }
        let mut blocks = [0; 3];
        for (axis, (wanted, most)) in self.blocks.into_iter().zip(MOST_BLOCKS).enumerate() {
            let fits = u32::try_from(wanted).ok().filter(|&wanted| wanted <= most);
            blocks[axis] = fits.ok_or_else(|| {
                Error::Device(format!(
                    "kernel `{}`: a grid of {:?} blocks is too large",
                    kernel.entry, self.blocks
                ))
            })?;
        }
        Ok(Some(blocks))
    }
}

/// Blocks along x, y and z.
const MOST_BLOCKS: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
