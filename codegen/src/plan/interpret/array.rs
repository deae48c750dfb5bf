//! Plain arrays in `f64`.

use std::ops::Range;

/// `[rows, heads, dim]`, row-major; rows without heads have one.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Array {
    pub(super) rows: usize,
    pub(super) heads: usize,
    pub(super) dim: usize,
    pub(super) data: Vec<f64>,
}

impl Array {
    pub(super) fn zeros(rows: usize, heads: usize, dim: usize) -> Self {
        Self {
            rows,
            heads,
            dim,
            data: vec![0.0; rows * heads * dim],
        }
    }

    /// An array whose vector at `(row, head)` is `vector(row, head)`.
    pub(super) fn build(
        (rows, heads, dim): (usize, usize, usize),
        vector: impl Fn(usize, usize) -> Vec<f64>,
    ) -> Self {
        let positions = (0..rows).flat_map(|row| (0..heads).map(move |head| (row, head)));
        let data = positions
            .flat_map(|(row, head)| vector(row, head))
            .collect();
        Self {
            rows,
            heads,
            dim,
            data,
        }
    }

    /// The vector of one head in one row.
    pub(super) fn at(&self, row: usize, head: usize) -> &[f64] {
        let start = (row * self.heads + head) * self.dim;
        &self.data[start..start + self.dim]
    }

    pub(super) fn at_mut(&mut self, row: usize, head: usize) -> &mut [f64] {
        let start = (row * self.heads + head) * self.dim;
        &mut self.data[start..start + self.dim]
    }

    /// All heads of one row.
    pub(super) fn row(&self, row: usize) -> &[f64] {
        let width = self.row_width();
        &self.data[row * width..(row + 1) * width]
    }

    /// How many elements all heads of a row have.
    pub(super) fn row_width(&self) -> usize {
        self.heads * self.dim
    }

    /// Every vector changed by itself.
    pub(super) fn map(&self, change: impl Fn(&[f64]) -> Vec<f64>) -> Self {
        Self::build((self.rows, self.heads, self.dim), |row, head| {
            change(self.at(row, head))
        })
    }

    /// Every vector as a row of its own.
    pub(super) fn vectors(self) -> Self {
        let rows = self.rows * self.heads;
        Self {
            rows,
            heads: 1,
            ..self
        }
    }

    /// The reverse of [`Array::vectors`].
    pub(super) fn grouped(self, heads: usize) -> Self {
        let rows = self.rows / heads.max(1);
        Self {
            rows,
            heads,
            ..self
        }
    }

    /// Some elements of every vector.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        let shape = (self.rows, self.heads, range.len());
        Self::build(shape, |row, head| {
            self.at(row, head)[range.clone()].to_vec()
        })
    }

    /// The same values, each row cut into `heads` vectors.
    pub(super) fn cut(self, heads: usize) -> Self {
        let dim = self.heads * self.dim / heads.max(1);
        Self { heads, dim, ..self }
    }

    /// One row below the other.
    pub(super) fn stack(rows: &[&[f64]], heads: usize, dim: usize) -> Self {
        Self {
            rows: rows.len(),
            heads,
            dim,
            data: rows.concat(),
        }
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
