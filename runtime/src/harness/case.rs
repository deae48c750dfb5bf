//! An input: hidden states, positions, and which of its rows belong to which request.

use std::ops::Range;
use std::path::Path;

use super::error::DriveError;
use super::given::Given;
use super::job::Input;
use crate::proof::Request;
use crate::weights::generator::Recipe;
use crate::weights::{Shard, Stored};
use crate::{Error, Mask};

/// A `[batch, seq, width]` input.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) batch: usize,
    pub(super) seq: usize,
    pub(super) width: usize,
    /// `[batch * seq, width]`.
    pub(super) hidden: Vec<f64>,
    /// One per row; 0 on padded ones.
    pub(super) positions: Vec<u32>,
    /// Rows of each request: neighbours within one row of the batch, without padding.
    pub(super) requests: Vec<Range<usize>>,
    /// What `forward` is told about them.
    pub(super) mask: Mask,
    /// Columns per call that the input asks for.
    pub(super) chunks: Option<Vec<usize>>,
    /// What earlier layers hand over.
    pub(super) given: Given,
}

impl Case {
    /// The input of a job for a layer of width `width`.
    pub(super) fn load(input: &Input, width: usize) -> Result<Self, DriveError> {
        match *input {
            Input::Io { ref path } => Self::read(path, width),
            Input::Random {
                batch,
                prompt,
                steps,
                seed,
            } => Self::random(batch, prompt, steps, seed, width),
        }
    }

    /// Rows `[batch * seq]` of a random input.
    fn random(
        batch: usize,
        prompt: usize,
        steps: usize,
        seed: u64,
        width: usize,
    ) -> Result<Self, DriveError> {
        let seq = prompt
            .checked_add(steps)
            .filter(|&seq| u32::try_from(seq).is_ok());
        let elements =
            seq.and_then(|seq| crate::weights::generator::elements(&[batch, seq, width]));
        let (Some(seq), Some(elements)) = (seq, elements) else {
            return Err(Error::Overflow { what: "the input" }.into());
        };
        let hidden = Recipe::for_hidden_states(seed).values("hidden_states", elements);
        let mut chunks = vec![prompt];
        chunks.resize(1 + steps, 1);
        chunks.retain(|&chunk| chunk > 0);
        Ok(Self {
            batch,
            seq,
            width,
            hidden: hidden.into_iter().map(f64::from).collect(),
            positions: (0..batch).flat_map(|_| 0..seq as u32).collect(),
            requests: (0..batch)
                .map(|b| b * seq..(b + 1) * seq)
                .filter(|rows| !rows.is_empty())
                .collect(),
            mask: Mask::dense(batch, seq),
            chunks: Some(chunks),
            given: Given::default(),
        })
    }

    /// A golden case's input.
    fn read(path: &Path, width: usize) -> Result<Self, DriveError> {
        let io = IoFile::open(path)?;
        let hidden = io.get("hidden_states")?;
        let &[batch, seq, found] = hidden.shape.as_slice() else {
            return Err(io.wrong(
                "hidden_states",
                format!("has shape {:?}, wanted [batch, seq, hidden]", hidden.shape),
            ));
        };
        if found != width {
            return Err(io.wrong(
                "hidden_states",
                format!("is {found} wide, the layer {width}"),
            ));
        }
        let Some(values) = hidden.floats() else {
            return Err(io.wrong(
                "hidden_states",
                format!("is {}, wanted a float", hidden.dtype),
            ));
        };
        let (ids, mask) = io.sequences(batch, seq)?;
        let requests = runs(&ids, seq);
        Ok(Self {
            batch,
            seq,
            width,
            hidden: values,
            positions: io.positions(batch, seq, &ids, &requests)?,
            given: Given::read(&io, batch, seq, &requests)?,
            requests,
            mask,
            chunks: io.chunks()?,
        })
    }

    /// What the requests' rows hold, for a session.
    pub(super) fn session_requests(&self) -> Vec<Request> {
        let request = |rows: &Range<usize>| Request {
            hidden: self.hidden[rows.start * self.width..rows.end * self.width].to_vec(),
            positions: self.positions[rows.clone()].to_vec(),
        };
        self.requests.iter().map(request).collect()
    }

    /// Of each request, the rows that lie in `columns` of the padded input.
    pub(super) fn rows_in(&self, columns: &Range<usize>) -> Vec<Range<usize>> {
        let cut = |rows: &Range<usize>| {
            let first = rows.start / self.seq * self.seq;
            let start = rows.start.max(first + columns.start).min(rows.end);
            start..rows.end.min(first + columns.end).max(start)
        };
        self.requests.iter().map(cut).collect()
    }
}

/// Runs of equal ids, 0 excepted, within each row of `seq`.
fn runs(ids: &[u32], seq: usize) -> Vec<Range<usize>> {
    let mut all = Vec::new();
    for (b, row) in ids.chunks(seq.max(1)).enumerate() {
        let mut start = b * seq;
        for run in row.chunk_by(PartialEq::eq) {
            if run[0] != 0 {
                all.push(start..start + run.len());
            }
            start += run.len();
        }
    }
    all
}

/// A shape and its whole numbers.
pub(super) type Integers = (Vec<usize>, Vec<i64>);

/// An open `io.safetensors`.
pub(super) struct IoFile<'a> {
    path: &'a Path,
    pub(super) shard: Shard,
}

impl<'a> IoFile<'a> {
    pub(super) fn open(path: &'a Path) -> Result<Self, DriveError> {
        let shard = Shard::open(path)?;
        Ok(Self { path, shard })
    }

    pub(super) fn wrong(&self, tensor: &str, problem: String) -> DriveError {
        DriveError::Input {
            path: self.path.to_owned(),
            problem: format!("tensor `{tensor}` {problem}"),
        }
    }

    pub(super) fn get(&self, tensor: &str) -> Result<&Stored, DriveError> {
        self.shard
            .tensors
            .get(tensor)
            .ok_or_else(|| self.wrong(tensor, "is missing".to_owned()))
    }

    /// The values of a tensor of this shape.
    pub(super) fn floats(&self, tensor: &str, shape: &[usize]) -> Result<Vec<f64>, DriveError> {
        let stored = self.get(tensor)?;
        if stored.shape != shape {
            let problem = format!("has shape {:?}, wanted {shape:?}", stored.shape);
            return Err(self.wrong(tensor, problem));
        }
        let wrong = || self.wrong(tensor, format!("is {}, wanted a float", stored.dtype));
        stored.floats().ok_or_else(wrong)
    }

    /// A tensor of whole numbers, if it is there, with its shape.
    pub(super) fn integers(&self, tensor: &str) -> Result<Option<Integers>, DriveError> {
        let Some(stored) = self.shard.tensors.get(tensor) else {
            return Ok(None);
        };
        match stored.integers() {
            Some(values) => Ok(Some((stored.shape.clone(), values))),
            None => Err(self.wrong(
                tensor,
                format!("is {}, wanted I64, I32, U8 or BOOL", stored.dtype),
            )),
        }
    }

    /// A `[batch, seq]` tensor of whole numbers, if it is there; one row stands for all.
    fn per_token(
        &self,
        tensor: &str,
        batch: usize,
        seq: usize,
    ) -> Result<Option<Vec<i64>>, DriveError> {
        match self.integers(tensor)? {
            None => Ok(None),
            Some((shape, values)) if shape == [batch, seq] => Ok(Some(values)),
            Some((shape, values)) if shape == [1, seq] || shape == [seq] => {
                Ok(Some(values.repeat(batch)))
            }
            Some((shape, _)) => Err(self.wrong(
                tensor,
                format!("has shape {shape:?}, wanted [{batch}, {seq}]"),
            )),
        }
    }

    /// Which sequence each row belongs to, 0 for padding, and the mask that says so.
    fn sequences(&self, batch: usize, seq: usize) -> Result<(Vec<u32>, Mask), DriveError> {
        let real: Option<Vec<bool>> = self
            .per_token("attention_mask", batch, seq)?
            .map(|values| values.into_iter().map(|value| value != 0).collect());
        let segments = self.per_token("segment_ids", batch, seq)?;
        let packed = match (segments, self.integers("cu_seqlens")?) {
            (Some(ids), _) => Some(self.renumbered(&ids, seq)),
            (None, Some((_, ends))) if batch == 1 => Some(self.ids_of_cu_seqlens(&ends, seq)?),
            (None, Some(_)) => {
                return Err(self.wrong("cu_seqlens", format!("needs batch 1, found {batch}")));
            }
            (None, None) => None,
        };
        Ok(match (packed, real) {
            (None, None) => (vec![1; batch * seq], Mask::dense(batch, seq)),
            (None, Some(real)) => (
                real.iter().map(|&real| u32::from(real)).collect(),
                Mask::padded(batch, seq, &real),
            ),
            (Some(mut ids), real) => {
                for (id, real) in ids.iter_mut().zip(real.into_iter().flatten()) {
                    *id *= u32::from(real);
                }
                let mask = Mask::segment_ids(batch, seq, &ids);
                (ids, mask)
            }
        })
    }

    /// Segment ids of any sign and size as 1, 2, … per row: 0 is a segment in the file, and padding in a mask.
    fn renumbered(&self, ids: &[i64], seq: usize) -> Vec<u32> {
        let mut numbered = Vec::with_capacity(ids.len());
        for row in ids.chunks(seq.max(1)) {
            let mut seen: Vec<i64> = Vec::new();
            for id in row {
                let number = seen
                    .iter()
                    .position(|known| known == id)
                    .unwrap_or_else(|| {
                        seen.push(*id);
                        seen.len() - 1
                    });
                numbered.push(number as u32 + 1);
            }
        }
        numbered
    }

    fn ids_of_cu_seqlens(&self, ends: &[i64], seq: usize) -> Result<Vec<u32>, DriveError> {
        let (mut ids, mut id) = (Vec::new(), 0);
        for &end in ends {
            let end = usize::try_from(end)
                .ok()
                .filter(|&end| end >= ids.len() && end <= seq);
            let Some(end) = end else {
                return Err(self.wrong(
                    "cu_seqlens",
                    format!("is {ends:?}, wanted rising numbers up to {seq}"),
                ));
            };
            ids.resize(end, id);
            id += 1;
        }
        ids.resize(seq, 0);
        Ok(ids)
    }

    /// Rope positions; where the file has none, each request counts from 0.
    fn positions(
        &self,
        batch: usize,
        seq: usize,
        ids: &[u32],
        requests: &[Range<usize>],
    ) -> Result<Vec<u32>, DriveError> {
        let mut positions = vec![0; ids.len()];
        let Some(written) = self.per_token("position_ids", batch, seq)? else {
            for rows in requests {
                for (position, row) in (0..).zip(rows.clone()) {
                    positions[row] = position;
                }
            }
            return Ok(positions);
        };
        for row in requests.iter().cloned().flatten() {
            let position = u32::try_from(written[row]);
            positions[row] = position.map_err(|_| {
                self.wrong(
                    "position_ids",
                    format!("has {}, wanted 0 to {}", written[row], u32::MAX),
                )
            })?;
        }
        Ok(positions)
    }

    /// `decode.chunks`, if it is there.
    fn chunks(&self) -> Result<Option<Vec<usize>>, DriveError> {
        let Some((_, values)) = self.integers("decode.chunks")? else {
            return Ok(None);
        };
        let chunks: Result<Vec<usize>, _> =
            values.iter().map(|&value| usize::try_from(value)).collect();
        chunks
            .map(Some)
            .map_err(|_| self.wrong("decode.chunks", format!("is {values:?}, wanted lengths")))
    }
}
