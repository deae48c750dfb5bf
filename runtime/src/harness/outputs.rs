//! Output tensors with the names and axes of a golden case.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::{Dtype, tensor::TensorView};

use super::case::Case;
use super::error::DriveError;
use super::job::{Layout, Rope};
use super::recorder::Recorded;

/// Tensors collected row by row, in whatever order calls produce them. Rows that no call produces, padded ones, stay 0.
#[derive(Debug)]
pub(super) struct Outputs {
    batch: usize,
    seq: usize,
    rope: Rope,
    /// First column of each row's sequence.
    starts: Vec<usize>,
    /// By name: shape of one row, and all rows `[batch * seq, ..]`.
    rows: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
    /// Tensors without rows.
    whole: BTreeMap<String, (Vec<usize>, Vec<f64>)>,
}

/// A tensor as it is written.
pub(super) struct Output {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<f64>,
}

impl Outputs {
    pub(super) fn new(case: &Case, rope: Rope) -> Self {
        Self {
            batch: case.batch,
            seq: case.seq,
            rope,
            starts: starts(case),
            rows: BTreeMap::new(),
            whole: BTreeMap::new(),
        }
    }

    /// Adds rows: row `i` of `values`, of shape `row_shape`, is row `rows[i]` of the input; `None` for padding.
    pub(super) fn put(
        &mut self,
        name: &str,
        row_shape: &[usize],
        rows: &[Option<usize>],
        values: &[f64],
    ) {
        let width: usize = row_shape.iter().product();
        let total = self.batch * self.seq * width;
        let (_, all) = self
            .rows
            .entry(name.to_owned())
            .or_insert_with(|| (row_shape.to_vec(), vec![0.0; total]));
        for (row, values) in rows.iter().zip(values.chunks_exact(width.max(1))) {
            if let Some(target) = row.and_then(|row| all.get_mut(row * width..(row + 1) * width)) {
                target.copy_from_slice(values);
            }
        }
    }

    /// Adds a tensor without rows.
    pub(super) fn put_whole(&mut self, name: String, shape: Vec<usize>, values: Vec<f64>) {
        self.whole.insert(name, (shape, values));
    }

    /// Adds a number for each head.
    pub(super) fn put_per_head(&mut self, name: &str, values: &[f64]) {
        self.put_whole(name.to_owned(), vec![values.len()], values.to_vec());
    }

    /// Adds what probes recorded during a call whose rows are `rows`.
    pub(super) fn record(
        &mut self,
        recorded: Vec<Recorded>,
        rows: &[Option<usize>],
    ) -> Result<(), DriveError> {
        for Recorded {
            name,
            shape,
            values,
        } in recorded
        {
            let Some((&first, row_shape)) = shape
                .split_first()
                .filter(|(first, _)| **first == rows.len())
            else {
                return Err(DriveError::Job(format!(
                    "probe `{name}` has shape {shape:?}, wanted {} rows",
                    rows.len()
                )));
            };
            debug_assert_eq!(first * row_shape.iter().product::<usize>(), values.len());
            match name {
                "mid.max_logit" => self.largest(name, row_shape, rows, &values),
                "mid.attn_out" | "mid.attn_raw" => {
                    self.put(name, &[row_shape.iter().product()], rows, &values);
                }
                "indexer.selection" => self.selected(row_shape, rows, &values),
                "indexer.scores" => self.scores(row_shape, rows, &values),
                _ => self.put(name, row_shape, rows, &values),
            }
        }
        Ok(())
    }

    /// The largest value of each column over real rows.
    fn largest(&mut self, name: &str, row_shape: &[usize], rows: &[Option<usize>], values: &[f64]) {
        let width: usize = row_shape.iter().product();
        let (_, all) = self
            .whole
            .entry(name.to_owned())
            .or_insert_with(|| (row_shape.to_vec(), vec![f64::NEG_INFINITY; width]));
        for (_, row) in rows
            .iter()
            .zip(values.chunks_exact(width.max(1)))
            .filter(|(row, _)| row.is_some())
        {
            for (largest, value) in all.iter_mut().zip(row) {
                // Nothing is larger than a NaN, and it must show
                if *value > *largest || value.is_nan() {
                    *largest = *value;
                }
            }
        }
    }

    /// `indexer.selected` `[row, seq]`: 1 where a row attends to a column of the padded input.
    fn selected(&mut self, row_shape: &[usize], rows: &[Option<usize>], positions: &[f64]) {
        let width: usize = row_shape.iter().product();
        for (row, positions) in rows.iter().zip(positions.chunks_exact(width.max(1))) {
            let Some(row) = *row else { continue };
            let mut columns = vec![0.0; self.seq];
            for position in positions.iter().filter(|position| **position >= 0.0) {
                if let Some(column) = columns.get_mut(self.starts[row] + *position as usize) {
                    *column = 1.0;
                }
            }
            self.put("indexer.selected", &[self.seq], &[Some(row)], &columns);
        }
    }

    /// `indexer.scores` `[row, seq]`: scores of the row's own sequence in the columns of the padded input, -∞ elsewhere.
    fn scores(&mut self, row_shape: &[usize], rows: &[Option<usize>], scores: &[f64]) {
        let width: usize = row_shape.iter().product();
        for (row, scores) in rows.iter().zip(scores.chunks_exact(width.max(1))) {
            let Some(row) = *row else { continue };
            let mut columns = vec![f64::NEG_INFINITY; self.seq];
            for (column, score) in columns[self.starts[row]..].iter_mut().zip(scores) {
                *column = *score;
            }
            self.put("indexer.scores", &[self.seq], &[Some(row)], &columns);
        }
    }

    /// The output's rows, `[batch * seq, h]`.
    pub(super) fn output(&self) -> &[f64] {
        self.rows.get("output").map_or(&[], |(_, values)| values)
    }

    /// All tensors with their final axes and rope order.
    pub(super) fn finish(self) -> BTreeMap<String, Output> {
        let Self {
            batch,
            seq,
            rope,
            starts: _,
            rows,
            whole,
        } = self;
        let rope_width = rows
            .get("mid.k_pe")
            .map_or(0, |(shape, _)| shape.iter().product());
        let mut finished: BTreeMap<String, Output> = whole
            .into_iter()
            .map(|(name, (shape, values))| (name, Output { shape, values }))
            .collect();
        for (name, (row_shape, mut values)) in rows {
            let output = match (name.as_str(), row_shape.as_slice()) {
                ("mid.q", &[heads, width]) => {
                    reorder(&mut values, width, rope_width, rope);
                    heads_first(
                        batch,
                        seq,
                        heads,
                        width,
                        &values,
                        &[batch, heads, seq, width],
                    )
                }
                ("mid.lse", &[heads]) => {
                    heads_first(batch, seq, heads, 1, &values, &[batch, heads, seq])
                }
                (_, row_shape) => {
                    if matches!(
                        name.as_str(),
                        "mid.k_pe" | "cache.k_pe" | "grad.shared_kv.k_pe"
                    ) {
                        let width = row_shape.iter().product();
                        reorder(&mut values, width, width, rope);
                    }
                    Output {
                        shape: [&[batch, seq], row_shape].concat(),
                        values,
                    }
                }
            };
            finished.insert(name, output);
        }
        finished
    }
}

/// First column of each row's sequence.
fn starts(case: &Case) -> Vec<usize> {
    let mut starts = vec![0; case.batch * case.seq];
    for rows in &case.requests {
        starts[rows.clone()].fill(rows.start % case.seq.max(1));
    }
    starts
}

/// `[batch, seq, heads, width]` -> `[batch, heads, seq, width]`, called `shape`.
fn heads_first(
    batch: usize,
    seq: usize,
    heads: usize,
    width: usize,
    values: &[f64],
    shape: &[usize],
) -> Output {
    let mut turned = Vec::with_capacity(values.len());
    for b in 0..batch {
        for h in 0..heads {
            for s in 0..seq {
                let start = ((b * seq + s) * heads + h) * width;
                turned.extend_from_slice(&values[start..start + width]);
            }
        }
    }
    Output {
        shape: shape.to_vec(),
        values: turned,
    }
}

/// Reorders the last `rope_width` of every `width` values from `rope.found` to `rope.wanted`.
pub(super) fn reorder(values: &mut [f64], width: usize, rope_width: usize, rope: Rope) {
    if width == 0 || rope_width > width {
        return;
    }
    let half = rope_width / 2;
    let source = |i: usize| match (rope.found, rope.wanted) {
        (Layout::Interleaved, Layout::Half) if i < half => 2 * i,
        (Layout::Interleaved, Layout::Half) => 2 * (i - half) + 1,
        (Layout::Half, Layout::Interleaved) => i / 2 + (i % 2) * half,
        _ => i,
    };
    for vector in values.chunks_exact_mut(width) {
        let part = &mut vector[width - rope_width..];
        let before = part.to_vec();
        for (i, value) in part.iter_mut().enumerate() {
            *value = before[source(i)];
        }
    }
}

/// Writes tensors as F32, or F64 where the layer computed in it.
pub(super) fn write(
    path: &Path,
    tensors: &BTreeMap<String, Output>,
    double: bool,
) -> Result<(), DriveError> {
    let io = |source| DriveError::Io {
        path: path.to_owned(),
        source,
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let output = |source| DriveError::Output {
        path: path.to_owned(),
        source,
    };
    let bytes: Vec<Vec<u8>> = tensors
        .values()
        .map(|tensor| match double {
            true => tensor
                .values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            false => tensor
                .values
                .iter()
                .flat_map(|&value| (value as f32).to_le_bytes())
                .collect(),
        })
        .collect();
    let dtype = if double { Dtype::F64 } else { Dtype::F32 };
    let views: Result<Vec<(&String, TensorView<'_>)>, _> = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, tensor), bytes)| {
            Ok((name, TensorView::new(dtype, tensor.shape.clone(), bytes)?))
        })
        .collect();
    safetensors::serialize_to_file(views.map_err(output)?, None, path).map_err(output)
}
