//! `[rows, H, D]` tensors whose heads and head width are part of their type.

use crate::backend::{Backend, GradientOps, Place, Strided};
use crate::error::{Error, Result, expect_count, finite, product};
use crate::rows::{Rows, RowsView};
use crate::tensor::Tensor;

/// An owned, contiguous `[rows, H, D]` tensor.
#[derive(Debug)]
pub struct Heads<B: Backend, const H: usize, const D: usize> {
    pub(crate) device: B::Device,
    pub(crate) buffer: B::Buffer<B::Elem>,
    pub(crate) rows: usize,
}

/// A borrowed `[rows, H, D]` window: the same part of every head, perhaps.
#[derive(Debug)]
pub struct HeadsView<'a, B: Backend, const H: usize, const D: usize> {
    pub(crate) device: &'a B::Device,
    buffer: &'a B::Buffer<B::Elem>,
    offset: usize,
    rows: usize,
    row_stride: usize,
    head_stride: usize,
}

impl<B: Backend, const H: usize, const D: usize> Clone for HeadsView<'_, B, H, D> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend, const H: usize, const D: usize> Copy for HeadsView<'_, B, H, D> {}

impl<B: Backend, const H: usize, const D: usize> Heads<B, H, D> {
    /// The device that holds it.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The whole tensor, borrowed.
    pub fn view(&self) -> HeadsView<'_, B, H, D> {
        HeadsView {
            device: &self.device,
            buffer: &self.buffer,
            offset: 0,
            rows: self.rows,
            row_stride: H * D,
            head_stride: D,
        }
    }

    /// Values `OFFSET .. OFFSET + WIDTH` of every head. That they lie inside is proved by the compiler.
    pub fn part<const OFFSET: usize, const WIDTH: usize>(&self) -> HeadsView<'_, B, H, WIDTH> {
        self.view().part::<OFFSET, WIDTH>()
    }

    /// `rows` rows of zeros.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn zeros(device: &B::Device, rows: usize) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            buffer: B::zeros(device, product("heads of zeros", &[rows, H, D])?)?,
            rows,
        })
    }

    /// The same values as rows of all heads side by side, borrowed. That `H * D == W` is proved by the compiler.
    pub fn as_rows<const W: usize>(&self) -> RowsView<'_, B, W> {
        const { assert!(H * D == W, "heads times head width is not the row's width") };
        RowsView::whole(&self.device, &self.buffer, self.rows)
    }

    /// A copy of its own.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn copied(&self) -> Result<Self> {
        self.view().to_heads()
    }

    /// Adds `other`, summed in the accumulation type.
    ///
    /// # Errors
    /// When it has another number of rows, or the device refuses.
    pub fn add<'a>(&mut self, other: impl Into<HeadsView<'a, B, H, D>>) -> Result<()>
    where
        B: 'a,
    {
        self.add_part::<0, D>(other)
    }

    /// Adds `other` to values `OFFSET .. OFFSET + WIDTH` of every head, summed in the accumulation type. That they lie inside is proved by
    /// the compiler.
    ///
    /// # Errors
    /// As [`Heads::add`].
    pub fn add_part<'a, const OFFSET: usize, const WIDTH: usize>(
        &mut self,
        other: impl Into<HeadsView<'a, B, H, WIDTH>>,
    ) -> Result<()>
    where
        B: 'a,
    {
        const { assert!(OFFSET + WIDTH <= D, "part beyond the head's width") };
        let other = other.into();
        expect_count("rows to be added", other.rows(), self.rows)?;
        let place = Place {
            stride: H * D,
            offset: OFFSET,
            head_stride: D,
        };
        B::Gradients::add(&self.device, other.strided(), &mut self.buffer, place)
    }

    /// Every value times `by`.
    ///
    /// # Errors
    /// When `by` is not finite, or the device refuses.
    pub fn scaled(mut self, by: f64) -> Result<Self> {
        B::scale(&self.device, &mut self.buffer, finite("a factor", by)?)?;
        Ok(self)
    }

    /// The same values as rows of all heads side by side. That `H * D == W` is proved by the compiler.
    pub fn into_rows<const W: usize>(self) -> Rows<B, W> {
        const { assert!(H * D == W, "heads times head width is not the row's width") };
        Rows {
            device: self.device,
            buffer: self.buffer,
            rows: self.rows,
        }
    }

    /// The values on the host: row by row, head by head.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<B::Elem>> {
        B::download(&self.device, &self.buffer)
    }
}

impl<'a, B: Backend, const H: usize, const D: usize> From<&'a Heads<B, H, D>>
    for HeadsView<'a, B, H, D>
{
    fn from(heads: &'a Heads<B, H, D>) -> Self {
        heads.view()
    }
}

impl<B: Backend, const H: usize, const D: usize> TryFrom<Tensor<B>> for Heads<B, H, D> {
    type Error = Error;

    /// Rows of `H * D` columns as heads.
    fn try_from(tensor: Tensor<B>) -> Result<Self> {
        expect_count("columns of a tensor", tensor.width, H * D)?;
        Ok(Self {
            device: tensor.device,
            buffer: tensor.buffer,
            rows: tensor.rows,
        })
    }
}

impl<'a, B: Backend, const H: usize, const D: usize> HeadsView<'a, B, H, D> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values `OFFSET .. OFFSET + WIDTH` of every head. That they lie inside is proved by the compiler.
    pub fn part<const OFFSET: usize, const WIDTH: usize>(&self) -> HeadsView<'a, B, H, WIDTH> {
        const { assert!(OFFSET + WIDTH <= D, "part beyond the head's width") };
        HeadsView {
            device: self.device,
            buffer: self.buffer,
            offset: self.offset + OFFSET,
            rows: self.rows,
            row_stride: self.row_stride,
            head_stride: self.head_stride,
        }
    }

    /// A contiguous copy.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn to_heads(&self) -> Result<Heads<B, H, D>> {
        let buffer = B::copy(self.device, self.strided())?;
        Ok(Heads {
            device: self.device.clone(),
            buffer,
            rows: self.rows,
        })
    }

    /// Heads of `WIDE` values, zeros but for these, which begin at value `OFFSET`: what a gradient of that part says of the whole head.
    /// That they lie inside is proved by the compiler.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn spread<const OFFSET: usize, const WIDE: usize>(&self) -> Result<Heads<B, H, WIDE>> {
        let len = product("heads of zeros", &[self.rows, H, WIDE])?;
        let mut wide = Heads {
            device: self.device.clone(),
            buffer: B::zeros(self.device, len)?,
            rows: self.rows,
        };
        wide.add_part::<OFFSET, D>(*self)?;
        Ok(wide)
    }

    /// The values on the host: row by row, head by head.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<B::Elem>> {
        self.to_heads()?.to_vec()
    }

    pub(crate) fn strided(&self) -> Strided<'a, B, B::Elem> {
        Strided {
            buffer: self.buffer,
            offset: self.offset,
            rows: self.rows,
            heads: H,
            width: D,
            row_stride: self.row_stride,
            head_stride: self.head_stride,
        }
    }
}
