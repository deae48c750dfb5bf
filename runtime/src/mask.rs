//! Masks of whole sequences: dense, padded, packed.

use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result, expect_count, product};
use crate::segments::{Segment, Segments};
use crate::visibility::Visibility;

/// Whether the layer was generated for sequences with padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Padding is an error.
    Refused,
    /// Padded rows see nothing and nothing sees them.
    Allowed,
}

/// How the rows of a `[batch · seq, h]` input fall into sequences, and what else is known of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    kind: Kind,
    blocks: Option<Arc<[u32]>>,
}

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
    Visible {
        batch: usize,
        seq: usize,
        bits: Arc<[bool]>,
    },
}

impl From<Kind> for Mask {
    fn from(kind: Kind) -> Self {
        Self { kind, blocks: None }
    }
}

impl Mask {
    /// `batch` sequences of `seq` tokens.
    pub fn dense(batch: usize, seq: usize) -> Self {
        Kind::Dense { batch, seq }.into()
    }

    /// `batch` sequences of up to `seq` tokens; `real[b * seq + s]` is false for padding, which may stand on either side.
    pub fn padded(batch: usize, seq: usize, real: &[bool]) -> Self {
        Kind::Padded {
            batch,
            seq,
            real: real.to_vec(),
        }
        .into()
    }

    /// Packed sequences: neighbours in a row of the batch with equal ids belong together; 0 is padding.
    pub fn segment_ids(batch: usize, seq: usize, ids: &[u32]) -> Self {
        Kind::SegmentIds {
            batch,
            seq,
            ids: ids.to_vec(),
        }
        .into()
    }

    /// Packed sequences: sequence `i` is rows `cu_seqlens[i] .. cu_seqlens[i + 1]`.
    pub fn cu_seqlens(cu_seqlens: &[u32]) -> Self {
        Kind::CuSeqlens(cu_seqlens.to_vec()).into()
    }

    /// `batch` sequences of `seq` tokens, of which query `q` sees key `k` where `bits[(b * seq + q) * keys + k]` is true. There are as
    /// many keys as queries, or as many as a context has tokens.
    pub fn visible(batch: usize, seq: usize, bits: &[bool]) -> Self {
        Kind::Visible {
            batch,
            seq,
            bits: bits.into(),
        }
        .into()
    }

    /// An id for each row: neighbours with the same one see each other, whatever else they see; 0 belongs to no block.
    #[must_use]
    pub fn with_blocks(self, ids: &[u32]) -> Self {
        Self {
            blocks: Some(ids.into()),
            ..self
        }
    }

    /// The mask's sequences over `rows` rows, each seeing itself.
    ///
    /// # Errors
    /// When the mask speaks of another number of rows; has padding though `padding` is [`Padding::Refused`]; splits a sequence or a
    /// block, so that its tokens are not neighbours; or says less or more than a layer of this visibility is told.
    pub fn segments(
        &self,
        rows: usize,
        visibility: Visibility,
        padding: Padding,
    ) -> Result<Segments> {
        self.across(rows, self, rows, visibility, padding)
    }

    /// The mask's sequences over `rows` rows, each seeing the sequence of `context` with the same number, over `context_rows` rows.
    ///
    /// # Errors
    /// As [`Mask::segments`], of either mask; when the masks have different numbers of sequences.
    pub fn across(
        &self,
        rows: usize,
        context: &Self,
        context_rows: usize,
        visibility: Visibility,
        padding: Padding,
    ) -> Result<Segments> {
        let queries = self.sequences(rows)?;
        let keys = context.sequences(context_rows)?;
        for (sequences, rows) in [(&queries, rows), (&keys, context_rows)] {
            refuse_padding(sequences, rows, visibility, padding)?;
        }
        expect_count("sequences of the context", keys.len(), queries.len())?;
        let mut list = Vec::with_capacity(queries.len());
        let mut line = 0;
        for (sequence, (queries, keys)) in queries.into_iter().zip(keys).enumerate() {
            let stride = keys.len();
            let start = line;
            line += product("a dense mask", &[queries.len(), stride])?;
            if !queries.is_empty() {
                list.push(Segment {
                    shift: keys.len() as i64 - queries.len() as i64,
                    queries,
                    keys,
                    first_query: 0,
                    first_key: 0,
                    sequence,
                    line: (start, stride),
                });
            }
        }
        let given = match &self.kind {
            Kind::Visible { bits, .. } => {
                expect_count("entries of the mask", bits.len(), line)?;
                Some(bits)
            }
            _ => None,
        };
        if let Some(ids) = &self.blocks {
            expect_count("blocks of the mask", ids.len(), rows)?;
        }
        Segments::new(list, visibility, rows, context_rows)
            .with_input(self.blocks.as_deref(), given)
    }

    /// The rows of each sequence, of one that is all padding none.
    fn sequences(&self, rows: usize) -> Result<Vec<Range<usize>>> {
        let (batch, seq) = match &self.kind {
            Kind::CuSeqlens(ends) => return packed(ends, rows),
            Kind::Dense { batch, seq }
            | Kind::Padded { batch, seq, .. }
            | Kind::SegmentIds { batch, seq, .. }
            | Kind::Visible { batch, seq, .. } => (*batch, *seq),
        };
        expect_count(
            "rows that the mask speaks of",
            batch_rows(batch, seq)?,
            rows,
        )?;
        match &self.kind {
            Kind::Padded { real, .. } => {
                let ids: Vec<u32> = real.iter().map(|&real| u32::from(real)).collect();
                let mut sequences = runs(&ids, batch, seq)?;
                // Numbers stay those of the batch's rows where one is all padding
                for row in 0..if seq == 0 { 0 } else { batch } {
                    if sequences
                        .get(row)
                        .is_none_or(|run| run.start >= (row + 1) * seq)
                    {
                        sequences.insert(row, row * seq..row * seq);
                    }
                }
                Ok(sequences)
            }
            Kind::SegmentIds { ids, .. } => runs(ids, batch, seq),
            _ => Ok((0..rows)
                .step_by(seq.max(1))
                .map(|start| start..start + seq)
                .collect()),
        }
    }
}

fn refuse_padding(
    sequences: &[Range<usize>],
    rows: usize,
    visibility: Visibility,
    padding: Padding,
) -> Result<()> {
    let covered: usize = sequences.iter().map(Range::len).sum();
    if padding == Padding::Refused && covered < rows {
        return Err(Error::BadMask(format!(
            "{} of {rows} rows are padding, and this layer was generated without it; give the spec `attn_mask_type: {}`",
            rows - covered,
            if visibility.is_causal() {
                "padding_causal"
            } else {
                "padding"
            }
        )));
    }
    Ok(())
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
