//! Where the values of one of a layer's tensors come from: a stored tensor, its block scales, and how it is turned.

use std::ops::Range;

use rayon::prelude::*;

use super::coded::{CodedTensor, Values};
use super::naming::Form;
use super::stored::{DType, Stored};
use crate::Scalar;
use crate::narrow::E4m3;

/// A wanted tensor, found. Its parts fit each other.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Full name in the checkpoint.
    pub(super) name: String,
    pub(super) stored: Stored,
    pub(super) scales: Option<Scales>,
    pub(super) form: Form,
    /// The wanted shape.
    pub(super) shape: Vec<usize>,
}

/// One scale per block of an fp8 weight: `w = w8 · scale` (features K-02).
#[derive(Debug, Clone)]
pub(super) struct Scales {
    values: Vec<f32>,
    /// Rows and columns of a block.
    block: [usize; 2],
    /// Blocks side by side.
    columns: usize,
}

impl Scales {
    /// The scales `stored` of a weight `[rows, columns]`. The block's sides are read off the shapes: the powers of two that
    /// cover the weight with exactly so many blocks, the last ones perhaps cut. `None` where there are none, or the scales are of a
    /// type that scales are not kept in.
    pub(super) fn of(stored: &Stored, weight: &[usize]) -> Option<Self> {
        let (&[blocks_down, blocks_across], &[rows, columns]) = (&stored.shape[..], weight) else {
            return None;
        };
        Some(Self {
            block: [side(rows, blocks_down)?, side(columns, blocks_across)?],
            values: stored.scales()?,
            columns: blocks_across,
        })
    }
}

/// Rows and columns per block where nothing else is said.
const USUAL_BLOCK: usize = 128;

/// The shape of the scales that an fp8 weight usually has.
pub(super) fn usual_scales(weight: &[usize]) -> Vec<usize> {
    weight
        .iter()
        .map(|side| side.div_ceil(USUAL_BLOCK))
        .collect()
}

/// The power of two that cuts `length` into `blocks` pieces, the last one perhaps shorter. There is at most one unless
/// `blocks` is 1, where every one that is long enough means the same.
fn side(length: usize, blocks: usize) -> Option<usize> {
    (0..usize::BITS - 1)
        .map(|bits| 1 << bits)
        .find(|&side| length.div_ceil(side) == blocks)
}

impl Source {
    /// The values in the wanted shape, row-major, each rounded once to `S`; an fp8 value's product with its scale is rounded to
    /// `f32` before. `None` where only all tensors of a group can be read, or the element type is no float.
    pub(super) fn read<S: Scalar>(&self) -> Option<Vec<S>> {
        match self.form {
            Form::Same => self.rows(0, self.shape.first().copied()),
            Form::Rows { first, .. } => self.rows(first, self.shape.first().copied()),
            Form::Transposed => {
                let [rows, columns] = self.shape[..] else {
                    return None;
                };
                Some(transposed(&self.stored.floats()?, rows, columns))
            }
            Form::Grouped { .. } => None,
        }
    }

    /// All rows of the stored tensor, as they stand there.
    pub(super) fn whole<S: Scalar>(&self) -> Option<Vec<S>> {
        self.rows(0, self.stored.shape.first().copied())
    }

    /// What [`read`](Self::read) reads, codes with their scales apart.
    pub(super) fn coded(&self) -> Option<CodedTensor> {
        let first = match self.form {
            Form::Same => Some(0),
            Form::Rows { first, .. } => Some(first),
            Form::Transposed | Form::Grouped { .. } => None,
        };
        let codes = first.and_then(|first| self.codes(first, *self.shape.first()?));
        self.as_coded(&self.shape, codes, || self.read())
    }

    /// What [`whole`](Self::whole) reads, codes with their scales apart.
    pub(super) fn whole_coded(&self) -> Option<CodedTensor> {
        let shape = &self.stored.shape;
        let codes = shape.first().and_then(|&rows| self.codes(0, rows));
        self.as_coded(shape, codes, || self.whole())
    }

    /// Some rows' codes.
    fn codes(&self, first: usize, rows: usize) -> Option<Values> {
        let scales = self.scales.clone()?;
        let codes = self.stored.rows(first, rows)?.data().to_vec();
        Some(Values::Codes {
            codes,
            scales,
            first,
        })
    }

    fn as_coded(
        &self,
        shape: &[usize],
        codes: Option<Values>,
        numbers: impl FnOnce() -> Option<Vec<f32>>,
    ) -> Option<CodedTensor> {
        Some(CodedTensor {
            name: self.name.clone(),
            shape: shape.to_vec(),
            values: match codes {
                Some(codes) => codes,
                None => Values::Numbers(numbers()?),
            },
        })
    }

    /// `count` rows of the stored tensor, or the one value of a tensor without rows.
    fn rows<S: Scalar>(&self, first: usize, count: Option<usize>) -> Option<Vec<S>> {
        let part = match count {
            Some(count) => self.stored.rows(first, count)?,
            None => self.stored.clone(),
        };
        match &self.scales {
            None => part.floats(),
            Some(scales) => Some(scales.apply(first, &part)),
        }
    }
}

impl Scales {
    /// The scale of a code of the stored tensor.
    pub(super) fn at(&self, row: usize, column: usize) -> f32 {
        self.values[row / self.block[0] * self.columns + column / self.block[1]]
    }

    /// The one scale of some columns of a row; `None` where they have several.
    pub(super) fn of_columns(&self, row: usize, columns: &Range<usize>) -> Option<f32> {
        let last = columns.end.checked_sub(1)?;
        let is_one = columns.start / self.block[1] == last / self.block[1];
        is_one.then(|| self.at(row, columns.start))
    }

    /// `part`, rows `first ..` of the weight, times the scales.
    fn apply<S: Scalar>(&self, first: usize, part: &Stored) -> Vec<S> {
        let columns = part.shape.last().copied().unwrap_or(0);
        let mut values = vec![S::default(); part.data().len()];
        if columns == 0 {
            return values;
        }
        let rows = values
            .par_chunks_mut(columns)
            .zip(part.data().par_chunks(columns));
        rows.enumerate().for_each(|(row, (values, codes))| {
            let scales = &self.values[(first + row) / self.block[0] * self.columns..];
            let blocks = values
                .chunks_mut(self.block[1])
                .zip(codes.chunks(self.block[1]));
            for ((values, codes), &scale) in blocks.zip(scales) {
                for (value, &code) in values.iter_mut().zip(codes) {
                    *value = S::from_f32(E4m3(code).decode() * scale);
                }
            }
        });
        values
    }
}

/// A `[columns, rows]` matrix as `[rows, columns]`.
fn transposed<S: Scalar>(values: &[S], rows: usize, columns: usize) -> Vec<S> {
    let mut turned = vec![S::default(); values.len()];
    if columns > 0 {
        turned
            .par_chunks_mut(columns)
            .enumerate()
            .for_each(|(row, turned)| {
                for (column, value) in turned.iter_mut().enumerate() {
                    *value = values[column * rows + row];
                }
            });
    }
    turned
}

/// Whether weights of this type are dequantised by block scales.
pub(super) fn takes_scales(dtype: &DType) -> bool {
    *dtype == DType::F8E4m3
}
