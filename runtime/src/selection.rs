//! Which few keys a query attends to: what an indexer selects and sparse attention reads.

use crate::backend::{Backend, Chosen};
use crate::error::{Error, Result, expect_count, product};
use crate::segments::Segments;

/// Marks the end of a query's list where it selects fewer than `K` keys.
const NONE: i32 = -1;

/// At most `K` keys for each query: `[rows, K]` positions, ascending, -1 behind the last one.
///
/// A position counts tokens of the query's own sequence from 0, those in the cache included, whatever block they lie in (features L-12).
#[derive(Debug)]
pub struct Selection<B: Backend, const K: usize> {
    pub(crate) device: B::Device,
    pub(crate) indices: B::Indices,
    pub(crate) rows: usize,
}

impl<B: Backend, const K: usize> Selection<B, K> {
    /// The selection of `[rows, K]` positions, row by row.
    ///
    /// # Errors
    /// When their number is not a multiple of `K`; a row does not ascend, names a position twice or one below -1, or has a position
    /// behind -1.
    pub fn from_vec(device: &B::Device, positions: Vec<i32>) -> Result<Self> {
        const { assert!(K > 0, "a selection has room for at least one key") };
        let rows = positions.len() / K;
        expect_count("positions of a selection", positions.len(), rows * K)?;
        for (row, positions) in positions.chunks_exact(K).enumerate() {
            ascending(row, positions)?;
        }
        Self::trusted(device, rows, positions)
    }

    /// The selection of a list of positions for each query, in any order.
    ///
    /// # Errors
    /// When a list has more than `K` positions, names one twice, or one that does not fit in 31 bits.
    pub fn from_lists<L: AsRef<[u32]>>(device: &B::Device, lists: &[L]) -> Result<Self> {
        let mut positions = Vec::with_capacity(product("a selection", &[lists.len(), K])?);
        for (row, list) in lists.iter().map(AsRef::as_ref).enumerate() {
            if list.len() > K {
                return Err(Error::BadSelection(format!(
                    "row {row} selects {} keys, at most {K} are possible",
                    list.len()
                )));
            }
            let mut sorted = Vec::with_capacity(K);
            for &position in list {
                sorted.push(i32::try_from(position).map_err(|_| {
                    Error::BadSelection(format!("row {row} selects key {position}, beyond 31 bits"))
                })?);
            }
            sorted.sort_unstable();
            sorted.resize(K, NONE);
            positions.extend(sorted);
        }
        Self::from_vec(device, positions)
    }

    /// The selection of positions that already are as [`Selection`] says.
    pub(crate) fn trusted(device: &B::Device, rows: usize, positions: Vec<i32>) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            indices: B::upload_indices(device, positions)?,
            rows,
        })
    }

    /// The selection as one for the queries of these segments.
    pub(crate) fn of(&self, segments: &Segments) -> Result<Chosen<'_, B>> {
        expect_count("rows of a selection", self.rows, segments.queries())?;
        Ok(Chosen {
            indices: &self.indices,
            width: K,
        })
    }

    /// A copy of its own.
    ///
    /// # Errors
    /// When the device refuses it.
    pub fn copied(&self) -> Result<Self> {
        Self::trusted(&self.device, self.rows, self.to_vec()?)
    }

    /// Number of queries.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The positions on the host, row by row.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<i32>> {
        B::download_indices(&self.device, &self.indices)
    }
}

/// Refuses a row that is not positions in ascending order and then -1 only.
fn ascending(row: usize, positions: &[i32]) -> Result<()> {
    let used = positions
        .iter()
        .position(|&position| position == NONE)
        .unwrap_or(positions.len());
    let (used, rest) = positions.split_at(used);
    if let Some(position) = used.iter().find(|&&position| position < NONE) {
        return Err(Error::BadSelection(format!(
            "row {row} selects {position}, neither a position nor -1"
        )));
    }
    if let Some(pair) = used.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(Error::BadSelection(format!(
            "row {row} selects {} and then {}: positions have to ascend",
            pair[0], pair[1]
        )));
    }
    if let Some(position) = rest.iter().find(|&&position| position != NONE) {
        return Err(Error::BadSelection(format!(
            "row {row} selects {position} behind -1: -1 comes last"
        )));
    }
    Ok(())
}
