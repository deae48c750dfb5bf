//! `[rows, W]` tensors whose width is part of their type.

use crate::attended::PerHead;
use crate::backend::{Backend, GradientOps, Place, Strided};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count, finite, product};
use crate::heads::Heads;
use crate::tensor::Tensor;

/// An owned, contiguous `[rows, W]` tensor.
#[derive(Debug)]
pub struct Rows<B: Backend, const W: usize> {
    pub(crate) device: B::Device,
    pub(crate) buffer: B::Buffer<B::Elem>,
    pub(crate) rows: usize,
}

/// A borrowed `[rows, W]` window: columns of a wider tensor, perhaps.
#[derive(Debug)]
pub struct RowsView<'a, B: Backend, const W: usize> {
    pub(crate) device: &'a B::Device,
    buffer: &'a B::Buffer<B::Elem>,
    offset: usize,
    row_stride: usize,
    rows: usize,
}

impl<B: Backend, const W: usize> Clone for RowsView<'_, B, W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend, const W: usize> Copy for RowsView<'_, B, W> {}

impl<B: Backend, const W: usize> Rows<B, W> {
    /// The tensor of these values, row by row.
    ///
    /// # Errors
    /// When their number is not a multiple of `W`.
    pub fn from_vec(device: &B::Device, values: Vec<B::Elem>) -> Result<Self> {
        Self::try_from(Tensor::from_vec(device, values, W)?)
    }

    /// The tensor of these values rounded to the element type.
    ///
    /// # Errors
    /// As [`Rows::from_vec`].
    pub fn from_f32(device: &B::Device, values: &[f32]) -> Result<Self> {
        Self::from_vec(
            device,
            values
                .iter()
                .map(|&value| Scalar::from_f32(value))
                .collect(),
        )
    }

    /// The tensor of these values rounded to the element type.
    ///
    /// # Errors
    /// As [`Rows::from_vec`].
    pub fn from_f64(device: &B::Device, values: &[f64]) -> Result<Self> {
        Self::from_vec(
            device,
            values
                .iter()
                .map(|&value| Scalar::from_f64(value))
                .collect(),
        )
    }

    /// `rows` rows of zeros.
    ///
    /// # Errors
    /// When there is no room for them.
    pub fn zeros(device: &B::Device, rows: usize) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            buffer: B::zeros(device, product("rows of zeros", &[rows, W])?)?,
            rows,
        })
    }

    /// The values on the host, row by row.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<B::Elem>> {
        B::download(&self.device, &self.buffer)
    }

    /// The device that holds it.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The whole tensor, borrowed.
    pub fn view(&self) -> RowsView<'_, B, W> {
        RowsView {
            device: &self.device,
            buffer: &self.buffer,
            offset: 0,
            row_stride: W,
            rows: self.rows,
        }
    }

    /// Columns `OFFSET .. OFFSET + WIDTH`. That they lie inside is proved by the compiler.
    pub fn columns<const OFFSET: usize, const WIDTH: usize>(&self) -> RowsView<'_, B, WIDTH> {
        self.view().columns::<OFFSET, WIDTH>()
    }

    /// A copy of its own.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn copied(&self) -> Result<Self> {
        self.view().to_rows()
    }

    /// Rows of `WIDE` values, zeros but for these, which begin at column `OFFSET`: what a gradient of those columns says of the whole row.
    /// That they lie inside is proved by the compiler.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn spread<const OFFSET: usize, const WIDE: usize>(&self) -> Result<Rows<B, WIDE>> {
        self.view().spread::<OFFSET, WIDE>()
    }

    /// Adds `other`, summed in the accumulation type.
    ///
    /// # Errors
    /// When it has another number of rows, or the device refuses.
    pub fn add<'a>(&mut self, other: impl Into<RowsView<'a, B, W>>) -> Result<()>
    where
        B: 'a,
    {
        self.add_columns::<0, W>(other)
    }

    /// Adds `other` to columns `OFFSET .. OFFSET + WIDTH`, summed in the accumulation type. That they lie inside is proved by the compiler.
    ///
    /// # Errors
    /// As [`Rows::add`].
    pub fn add_columns<'a, const OFFSET: usize, const WIDTH: usize>(
        &mut self,
        other: impl Into<RowsView<'a, B, WIDTH>>,
    ) -> Result<()>
    where
        B: 'a,
    {
        const { assert!(OFFSET + WIDTH <= W, "columns beyond the row's width") };
        let other = other.into();
        expect_count("rows to be added", other.rows(), self.rows)?;
        let place = Place {
            stride: W,
            offset: OFFSET,
            head_stride: 0,
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

    /// The same values as `H` heads of `D` columns each. That `H * D == W` is proved by the compiler.
    pub fn into_heads<const H: usize, const D: usize>(self) -> Heads<B, H, D> {
        const { assert!(H * D == W, "heads times head width is not the row's width") };
        Heads {
            device: self.device,
            buffer: self.buffer,
            rows: self.rows,
        }
    }
}

impl<'a, B: Backend, const W: usize> RowsView<'a, B, W> {
    /// All of a contiguous buffer.
    pub(crate) fn whole(
        device: &'a B::Device,
        buffer: &'a B::Buffer<B::Elem>,
        rows: usize,
    ) -> Self {
        Self {
            device,
            buffer,
            offset: 0,
            row_stride: W,
            rows,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns `OFFSET .. OFFSET + WIDTH`. That they lie inside is proved by the compiler.
    pub fn columns<const OFFSET: usize, const WIDTH: usize>(&self) -> RowsView<'a, B, WIDTH> {
        const { assert!(OFFSET + WIDTH <= W, "columns beyond the row's width") };
        RowsView {
            device: self.device,
            buffer: self.buffer,
            offset: self.offset + OFFSET,
            row_stride: self.row_stride,
            rows: self.rows,
        }
    }

    /// A contiguous copy.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn to_rows(&self) -> Result<Rows<B, W>> {
        let buffer = B::copy(self.device, self.strided())?;
        Ok(Rows {
            device: self.device.clone(),
            buffer,
            rows: self.rows,
        })
    }

    /// As [`Rows::spread`].
    ///
    /// # Errors
    /// As [`Rows::spread`].
    pub fn spread<const OFFSET: usize, const WIDE: usize>(&self) -> Result<Rows<B, WIDE>> {
        let mut wide = Rows::zeros(self.device, self.rows)?;
        wide.add_columns::<OFFSET, W>(*self)?;
        Ok(wide)
    }

    /// The values in the accumulation type, one per head.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_per_head(&self) -> Result<PerHead<B, W>> {
        Ok(PerHead {
            device: self.device.clone(),
            buffer: B::widened(self.device, self.strided())?,
            rows: self.rows,
        })
    }

    /// The values on the host, row by row.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<B::Elem>> {
        self.to_rows()?.to_vec()
    }

    pub(crate) fn strided(&self) -> Strided<'a, B, B::Elem> {
        Strided {
            buffer: self.buffer,
            offset: self.offset,
            rows: self.rows,
            heads: 1,
            width: W,
            row_stride: self.row_stride,
            head_stride: 0,
        }
    }
}

impl<'a, B: Backend, const W: usize> From<&'a Rows<B, W>> for RowsView<'a, B, W> {
    fn from(rows: &'a Rows<B, W>) -> Self {
        rows.view()
    }
}

impl<B: Backend, const W: usize> TryFrom<Tensor<B>> for Rows<B, W> {
    type Error = Error;

    fn try_from(tensor: Tensor<B>) -> Result<Self> {
        expect_count("columns of a tensor", tensor.width, W)?;
        Ok(Self {
            device: tensor.device,
            buffer: tensor.buffer,
            rows: tensor.rows,
        })
    }
}

impl<B: Backend, const W: usize> From<Rows<B, W>> for Tensor<B> {
    fn from(rows: Rows<B, W>) -> Self {
        Tensor {
            device: rows.device,
            buffer: rows.buffer,
            rows: rows.rows,
            width: W,
        }
    }
}
