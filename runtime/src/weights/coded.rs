//! Rows of checkpoints' tensors on their way to blocks of codes: as the checkpoint has them, or as numbers that are rounded.

use std::ops::Range;

use super::blocks;
use super::source::Scales;
use crate::error::{Error, Result};
use crate::narrow::E4m3;

/// Rows of several tensors, all of them as long, in the order in which they make one weight.
#[derive(Debug)]
pub(crate) struct CodedRows {
    tensors: Vec<CodedTensor>,
    /// The tensor of each row, and its row there.
    rows: Vec<(usize, usize)>,
    columns: usize,
}

/// A tensor of a checkpoint.
#[derive(Debug)]
pub(crate) struct CodedTensor {
    /// Its name, for errors.
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) values: Values,
}

#[derive(Debug)]
pub(super) enum Values {
    /// Codes and their scales, which count from a row of the stored tensor.
    Codes {
        codes: Vec<u8>,
        scales: Scales,
        first: usize,
    },
    Numbers(Vec<f32>),
}

/// Rows and columns of a weight that have one scale.
#[derive(Debug)]
pub(super) struct Part {
    /// Row by row.
    pub(super) codes: Vec<u8>,
    pub(super) columns: usize,
    pub(super) scale: f32,
}

impl CodedTensor {
    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }

    pub(crate) fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// The values of a row, from the first column on.
    fn numbers(&self, row: usize, columns: &Range<usize>, width: usize) -> Vec<f32> {
        let here = row * width + columns.start..row * width + columns.end;
        match &self.values {
            Values::Numbers(numbers) => numbers[here].to_vec(),
            Values::Codes {
                codes,
                scales,
                first,
            } => {
                let at = columns.clone().zip(&codes[here]);
                let number = |(column, &code)| E4m3(code).decode() * scales.at(first + row, column);
                at.map(number).collect()
            }
        }
    }

    /// The one scale of some columns of a row, where the checkpoint has it.
    fn scale(&self, row: usize, columns: &Range<usize>) -> Option<f32> {
        match &self.values {
            Values::Codes { scales, first, .. } => scales.of_columns(first + row, columns),
            Values::Numbers(_) => None,
        }
    }
}

impl CodedRows {
    /// `rows` of `tensors`: of each, which one it is of, and where it stands there.
    pub(crate) fn new(
        tensors: Vec<CodedTensor>,
        rows: Vec<(usize, usize)>,
        columns: usize,
    ) -> Self {
        Self {
            tensors,
            rows,
            columns,
        }
    }

    /// All rows of `tensors`, one below the other.
    pub(crate) fn stacked(tensors: Vec<CodedTensor>, columns: usize) -> Self {
        let each = tensors.iter().map(CodedTensor::rows).enumerate();
        let rows = each.flat_map(|(tensor, rows)| (0..rows).map(move |row| (tensor, row)));
        let rows = rows.collect();
        Self::new(tensors, rows, columns)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows.len()
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The weight as it lies in memory.
    ///
    /// # Errors
    /// A number is none, or has no end; there is no room.
    pub(crate) fn pack(&self) -> Result<Vec<u8>> {
        blocks::pack(self)
    }

    /// Some rows and columns with one scale: as the checkpoint has them, where it has one for all of them; otherwise rounded, the largest to the largest code.
    pub(super) fn part(&self, rows: Range<usize>, columns: Range<usize>) -> Result<Part> {
        let rows = &self.rows[rows];
        let mut scales = rows
            .iter()
            .map(|&(tensor, row)| self.tensors[tensor].scale(row, &columns));
        let first = scales.next().flatten();
        let same = |scale: &Option<f32>| scale.map(f32::to_bits) == first.map(f32::to_bits);
        let part = match first.filter(|_| scales.all(|scale| same(&scale))) {
            Some(scale) => Part {
                codes: self.codes(rows, &columns),
                columns: columns.len(),
                scale,
            },
            None => self.rounded(rows, &columns),
        };
        self.refuse_endless(rows, &columns, &part)?;
        Ok(part)
    }

    /// The codes that the checkpoint has.
    fn codes(&self, rows: &[(usize, usize)], columns: &Range<usize>) -> Vec<u8> {
        let mut all = Vec::with_capacity(rows.len() * columns.len());
        for &(tensor, row) in rows {
            if let Values::Codes { codes, .. } = &self.tensors[tensor].values {
                let start = row * self.columns;
                all.extend_from_slice(&codes[start + columns.start..start + columns.end]);
            }
        }
        all
    }

    fn rounded(&self, rows: &[(usize, usize)], columns: &Range<usize>) -> Part {
        let of_row = |&(tensor, row): &(usize, usize)| {
            self.tensors[tensor].numbers(row, columns, self.columns)
        };
        let numbers: Vec<f32> = rows.iter().flat_map(of_row).collect();
        // A number that is none is the largest here, and seen in what comes of it
        let largest = numbers.iter().fold(0.0_f32, |largest, x| {
            if x.abs() > largest || x.is_nan() {
                x.abs()
            } else {
                largest
            }
        });
        let scale = match largest / E4m3::MAX {
            scale if scale < f32::MIN_POSITIVE => f32::MIN_POSITIVE,
            scale => scale,
        };
        let codes = numbers.iter().map(|&x| E4m3::encode(x / scale).0).collect();
        Part {
            codes,
            columns: columns.len(),
            scale,
        }
    }

    /// Refuses what is no number, or has no end: products of codes know neither.
    fn refuse_endless(
        &self,
        rows: &[(usize, usize)],
        columns: &Range<usize>,
        part: &Part,
    ) -> Result<()> {
        let is_nan = |code: &u8| E4m3(*code).decode().is_nan();
        let found = match part.codes.iter().position(is_nan) {
            Some(at) => at,
            None if part.scale.is_finite() => return Ok(()),
            None => 0,
        };
        let Some(&(tensor, row)) = rows.get(found / part.columns.max(1)) else {
            return Ok(());
        };
        let column = columns.start + found % part.columns.max(1);
        Err(Error::Tensor {
            name: self.tensors[tensor].name.clone(),
            reason: format!(
                "a number around row {row}, column {column} is NaN or infinite, and blocks of codes hold neither: build the layer with `weights: numbers`, \
                 or mend the checkpoint"
            ),
        })
    }
}
