//! `[rows, width]` tensors whose width is known at run time only: what code over many layers passes around.

use std::marker::PhantomData;
use std::ops::Deref;

use crate::backend::{Backend, Strided};
use crate::error::{Error, Result, expect_count, product};
use crate::rows::Rows;
use crate::weights::generator::Recipe;

/// An owned, contiguous `[rows, width]` tensor.
#[derive(Debug)]
pub struct Tensor<B: Backend> {
    pub(crate) device: B::Device,
    pub(crate) buffer: B::Buffer<B::Elem>,
    pub(crate) rows: usize,
    pub(crate) width: usize,
}

impl<B: Backend> Tensor<B> {
    /// The tensor of these values, row by row.
    ///
    /// # Errors
    /// When their number is not a multiple of `width`, or `width` is 0 and there are values.
    pub fn from_vec(device: &B::Device, values: Vec<B::Elem>, width: usize) -> Result<Self> {
        let rows = values.len().checked_div(width).unwrap_or(0);
        if rows * width != values.len() {
            return Err(Error::shape(
                "a tensor's values",
                &[values.len()],
                &[rows, width],
            ));
        }
        Ok(Self {
            device: device.clone(),
            buffer: B::upload(device, values)?,
            rows,
            width,
        })
    }

    /// The first rows of the generated tensor called `name`, rounded to the element type. A CUDA device makes them itself, by the kernels
    /// `random`, which no layer brings along.
    ///
    /// # Errors
    /// When there is no room for them, or there are no such kernels.
    pub fn generated(
        device: &B::Device,
        recipe: &Recipe,
        name: &str,
        [rows, width]: [usize; 2],
    ) -> Result<Self> {
        let len = product("a generated tensor", &[rows, width])?;
        Ok(Self {
            device: device.clone(),
            buffer: B::generated(device, recipe, name, len)?,
            rows,
            width,
        })
    }

    /// The values on the host, row by row.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<B::Elem>> {
        B::download(&self.device, &self.buffer)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The device that holds it.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// A copy of its own, as rows.
    ///
    /// # Errors
    /// When the device refuses it, or `W` is not the tensor's width.
    pub fn to_rows<const W: usize>(&self) -> Result<Rows<B, W>> {
        expect_count("columns of a tensor", self.width, W)?;
        let all = Strided {
            buffer: &self.buffer,
            offset: 0,
            rows: self.rows,
            heads: 1,
            width: W,
            row_stride: W,
            head_stride: W,
        };
        Ok(Rows {
            device: self.device.clone(),
            buffer: B::copy(&self.device, all)?,
            rows: self.rows,
        })
    }

    /// The same values as rows whose width is part of their type, for as long as the tensor is borrowed: the same memory where the backend can say so, a
    /// copy elsewhere.
    ///
    /// # Errors
    /// When the device refuses a copy, or `W` is not the tensor's width.
    pub fn lend_rows<const W: usize>(&self) -> Result<LentRows<'_, B, W>> {
        expect_count("columns of a tensor", self.width, W)?;
        // SAFETY: what is lent borrows the tensor, and hands out references alone
        let buffer = unsafe { B::lend(&self.device, &self.buffer)? };
        Ok(LentRows {
            rows: Rows {
                device: self.device.clone(),
                buffer,
                rows: self.rows,
            },
            lender: PhantomData,
        })
    }
}

/// A tensor's values as rows, `[rows, W]`.
#[derive(Debug)]
pub struct LentRows<'a, B: Backend, const W: usize> {
    rows: Rows<B, W>,
    lender: PhantomData<&'a Tensor<B>>,
}

impl<B: Backend, const W: usize> Deref for LentRows<'_, B, W> {
    type Target = Rows<B, W>;

    fn deref(&self) -> &Rows<B, W> {
        &self.rows
    }
}
