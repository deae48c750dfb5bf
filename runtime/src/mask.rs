//! Masks of whole sequences: dense, padded, packed.

use std::ops::Range;

use crate::error::{Error, Result, expect_count};
use crate::segments::{Segment, Segments};

/// What a query sees of its own sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Keys up to its own.
    Causal,
    /// All keys.
    Full,
}

/// Whether the layer was generated for sequences with padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Padding is an error.
    Refused,
    /// Padded rows see nothing and nothing sees them.
    Allowed,
}

/// How the rows of a `[batch · seq, h]` input fall into sequences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Dense {
        batch: usize,
        seq: usize,
    },
    Padded {
        batch: usize,
        seq: usize,
        real: Vec<bool>,
    },
    SegmentIds {
        batch: usize,
        seq: usize,
        ids: Vec<u32>,
    },
    CuSeqlens(Vec<u32>),
}

impl Mask {
    /// `batch` sequences of `seq` tokens.
    pub fn dense(batch: usize, seq: usize) -> Self {
        Self(Kind::Dense { batch, seq })
    }

    /// `batch` sequences of up to `seq` tokens; `real[b * seq + s]` is false for padding, which may stand on either side.
    pub fn padded(batch: usize, seq: usize, real: &[bool]) -> Self {
        Self(Kind::Padded {
            batch,
            seq,
            real: real.to_vec(),
        })
    }

    /// Packed sequences: neighbours in a row of the batch with equal ids belong together; 0 is padding.
    pub fn segment_ids(batch: usize, seq: usize, ids: &[u32]) -> Self {
        Self(Kind::SegmentIds {
            batch,
            seq,
            ids: ids.to_vec(),
        })
    }

    /// Packed sequences: sequence `i` is rows `cu_seqlens[i] .. cu_seqlens[i + 1]`.
    pub fn cu_seqlens(cu_seqlens: &[u32]) -> Self {
        Self(Kind::CuSeqlens(cu_seqlens.to_vec()))
    }

    /// The mask's sequences over `rows` rows.
    ///
    /// # Errors
    /// When the mask speaks of another number of rows; has padding though `padding` is [`Padding::Refused`]; or splits a sequence, so
    /// that its tokens are not neighbours.
    pub fn segments(
        &self,
        rows: usize,
        visibility: Visibility,
        padding: Padding,
    ) -> Result<Segments> {
        let sequences = match &self.0 {
            Kind::Dense { batch, seq } => {
                expect_count(
                    "rows that the mask speaks of",
                    batch_rows(*batch, *seq)?,
                    rows,
                )?;
                (0..rows)
                    .step_by((*seq).max(1))
                    .map(|start| start..start + seq)
                    .collect()
            }
            Kind::Padded { batch, seq, real } => {
                expect_count(
                    "rows that the mask speaks of",
                    batch_rows(*batch, *seq)?,
                    rows,
                )?;
                let ids: Vec<u32> = real.iter().map(|&real| u32::from(real)).collect();
                runs(&ids, *batch, *seq)?
            }
            Kind::SegmentIds { batch, seq, ids } => {
                expect_count(
                    "rows that the mask speaks of",
                    batch_rows(*batch, *seq)?,
                    rows,
                )?;
                runs(ids, *batch, *seq)?
            }
            Kind::CuSeqlens(ends) => packed(ends, rows)?,
        };
        let covered: usize = sequences.iter().map(Range::len).sum();
        if padding == Padding::Refused && covered < rows {
            return Err(Error::BadMask(format!(
                "{} of {rows} rows are padding, and this layer was generated without it; give the spec `attn_mask_type: {}`",
                rows - covered,
                match visibility {
                    Visibility::Causal => "padding_causal",
                    Visibility::Full => "padding",
                }
            )));
        }
        let list = sequences
            .into_iter()
            .filter(|sequence| !sequence.is_empty())
            .map(|sequence| Segment {
                queries: sequence.clone(),
                keys: sequence,
            })
            .collect();
        Ok(Segments::new(list, visibility, rows, rows))
    }
}

fn batch_rows(batch: usize, seq: usize) -> Result<usize> {
    batch.checked_mul(seq).ok_or(Error::Overflow {
        what: "the mask's batch times its sequence length",
    })
}

/// The runs of equal, non-zero ids in each row of the batch.
fn runs(ids: &[u32], batch: usize, seq: usize) -> Result<Vec<Range<usize>>> {
    expect_count("entries of the mask", ids.len(), batch * seq)?;
    let mut all = Vec::new();
    if seq == 0 {
        return Ok(all);
    }
    for (b, row) in ids.chunks_exact(seq).enumerate() {
        let mut seen: Vec<u32> = Vec::new();
        let mut start = 0;
        for run in row.chunk_by(PartialEq::eq) {
            let id = run[0];
            if id != 0 {
                seen.push(id);
                all.push(b * seq + start..b * seq + start + run.len());
            }
            start += run.len();
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        if seen.len() < count {
            return Err(Error::BadMask(format!(
                "a sequence in row {b} of the batch has a hole: its tokens have to be neighbours, padding on either side"
            )));
        }
    }
    Ok(all)
}

fn packed(ends: &[u32], rows: usize) -> Result<Vec<Range<usize>>> {
    let (Some(&first), Some(&last)) = (ends.first(), ends.last()) else {
        return Err(Error::BadMask(
            "`cu_seqlens` is empty, wanted 0 and the end of each sequence".to_owned(),
        ));
    };
    if first != 0 {
        return Err(Error::BadMask(format!(
            "`cu_seqlens` starts at {first}, wanted 0"
        )));
    }
    if let Some(pair) = ends.windows(2).find(|pair| pair[0] > pair[1]) {
        return Err(Error::BadMask(format!(
            "`cu_seqlens` falls from {} to {}",
            pair[0], pair[1]
        )));
    }
    if last as usize > rows {
        return Err(Error::BadMask(format!(
            "`cu_seqlens` ends at {last}, but there are {rows} rows"
        )));
    }
    Ok(ends
        .windows(2)
        .map(|pair| pair[0] as usize..pair[1] as usize)
        .collect())
}
