//! The lightning indexer's choice of keys (features 1.L): `I(t, u) = scale · Σ_j w_j(t) · relu(Q_j(t) · K(u))`, and for each query the
//! keys with the largest scores.
//!
//! Scores are computed in the accumulation type: `f32`, or `f64` for `f64`. They are never all there at once: whatever the number of
//! keys, a thread holds the logits of 512 (query, head) rows times 256 keys, and twice as many candidates as are selected for each of
//! those queries (features L-17). Which keys are selected is exact and depends on nothing but the numbers: ties go to the lower position
//! (L-10), a score of -∞ is never selected (L-11), one that is a NaN only where no number is left, so that it shows, and a query that
//! sees no more keys than it may select takes all of them, unscored (L-09).

mod loss;
mod pools;
mod queries;
mod sight;

pub use loss::{
    IndexerGradients, IndexerLoss, LossEpsilon, LossReduction, loss_absorbed, loss_expanded,
    loss_grouped,
};
pub(crate) use pools::Lines;
pub use pools::{KeyPools, SelectingPools, select_pools};
pub use queries::IndexQueries;
pub(crate) use sight::{of_cached, of_gathered};

use crate::attended::PerHead;
use crate::backend::{
    Accum, Backend, BytesIndexing, Indexing, Pages, QueryRounding, Sight, Strided,
};
use crate::cache::{CacheFormat, Entries};
use crate::element::Scalar;
use crate::error::{Error, Result, expect_count, finite, product};
use crate::heads::Heads;
use crate::rows::RowsView;
use crate::segments::Segments;
use crate::selection::Selection;

/// How keys are scored, and which are selected whatever their scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Selecting {
    /// Multiplies every score: `hi^-1/2 · di^-1/2`, for `hi` heads of width `di`, unless the weights hold some of it already.
    pub scale: f64,
    /// Whether a head's product below 0 counts as 0 (features L-07).
    pub relu: bool,
    /// So many of the first keys that a query sees are always selected, and count among the `K` (features L-15).
    pub initial: usize,
    /// So many of the last ones as well.
    pub local: usize,
}

impl Selecting {
    fn checked(&self, most: usize) -> Result<()> {
        finite("the scale of an indexer", self.scale)?;
        let forced = self.initial.checked_add(self.local);
        if forced.is_none_or(|forced| forced > most) {
            return Err(Error::BadConstant(format!(
                "{} initial and {} local keys are always selected, but only {most} are selected",
                self.initial, self.local
            )));
        }
        Ok(())
    }
}

/// An indexer's queries and their heads' weights.
pub(crate) struct Asking<'a, B: Backend> {
    device: &'a B::Device,
    q: Strided<'a, B, B::Elem>,
    weights: &'a B::Buffer<Accum<B>>,
}

impl<'a, B: Backend> Asking<'a, B> {
    pub(crate) fn new<const HI: usize, const DI: usize>(
        q: &'a Heads<B, HI, DI>,
        weights: &'a PerHead<B, HI>,
    ) -> Result<Self> {
        expect_count("rows of an indexer's weights", weights.rows(), q.rows())?;
        Ok(Self {
            device: &q.device,
            q: q.view().strided(),
            weights: &weights.buffer,
        })
    }

    /// The best keys of the sights.
    pub(crate) fn select<E: Scalar, const K: usize>(
        &self,
        k: Strided<'_, B, E>,
        sights: &[Sight<'_>],
        pages: Option<&Pages>,
        selecting: &Selecting,
    ) -> Result<Selection<B, K>> {
        Ok(Selection {
            device: self.device.clone(),
            indices: self.indices(k, sights, pages, selecting, K)?,
            rows: self.q.rows,
        })
    }

    /// The best keys of the sights among those of a cache of bytes, where they are; `None` where they have to be decoded.
    pub(crate) fn select_coded<F: CacheFormat, const K: usize>(
        &self,
        entries: &Entries<B, F>,
        sights: &[Sight<'_>],
        pages: &Pages,
        selecting: &Selecting,
        rounding: Option<QueryRounding<'_, B>>,
    ) -> Result<Option<Selection<B, K>>> {
        self.check(sights, selecting, K)?;
        let indexing = BytesIndexing {
            q: self.q,
            weights: self.weights,
            sights,
            pages,
            scale: selecting.scale,
            relu: selecting.relu,
            initial: selecting.initial,
            local: selecting.local,
            rounding,
        };
        let indices = entries.select(&indexing, K)?;
        Ok(indices.map(|indices| Selection {
            device: self.device.clone(),
            indices,
            rows: self.q.rows,
        }))
    }

    /// The `most` best keys of the sights, on the host.
    pub(crate) fn best<E: Scalar>(
        &self,
        k: Strided<'_, B, E>,
        sights: &[Sight<'_>],
        pages: Option<&Pages>,
        selecting: &Selecting,
        most: usize,
    ) -> Result<Vec<i32>> {
        B::download_indices(
            self.device,
            &self.indices(k, sights, pages, selecting, most)?,
        )
    }

    fn indices<E: Scalar>(
        &self,
        k: Strided<'_, B, E>,
        sights: &[Sight<'_>],
        pages: Option<&Pages>,
        selecting: &Selecting,
        most: usize,
    ) -> Result<B::Indices> {
        self.check(sights, selecting, most)?;
        let indexing = self.indexing(k, sights, pages, selecting);
        B::index_select(self.device, &indexing, most)
    }

    /// Refuses what no selection can be made of.
    fn check(&self, sights: &[Sight<'_>], selecting: &Selecting, most: usize) -> Result<()> {
        selecting.checked(most)?;
        product("a selection", &[self.q.rows, most, size_of::<i32>()])?;
        sight::within_positions(sights)
    }

    pub(crate) fn device(&self) -> &B::Device {
        self.device
    }

    pub(crate) fn rows(&self) -> usize {
        self.q.rows
    }

    /// The scores of all keys.
    pub(crate) fn scores(
        &self,
        k: Strided<'_, B, B::Elem>,
        sights: &[Sight<'_>],
        selecting: &Selecting,
    ) -> Result<Scores<B>> {
        selecting.checked(usize::MAX)?;
        let width = sight::most_keys(sights);
        product("scores", &[self.q.rows, width, size_of::<Accum<B>>()])?;
        let indexing = self.indexing(k, sights, None, selecting);
        Ok(Scores {
            device: self.device.clone(),
            values: B::index_scores(self.device, &indexing, width)?,
            rows: self.q.rows,
            width,
        })
    }

    fn indexing<'s, E: Scalar>(
        &self,
        k: Strided<'s, B, E>,
        sights: &'s [Sight<'s>],
        pages: Option<&'s Pages>,
        selecting: &Selecting,
    ) -> Indexing<'s, B, E>
    where
        'a: 's,
    {
        Indexing {
            q: self.q,
            weights: self.weights,
            k,
            sights,
            pages,
            scale: selecting.scale,
            relu: selecting.relu,
            initial: selecting.initial,
            local: selecting.local,
        }
    }
}

/// The `K` best keys of each query among those that it sees: `q` `[queries, HI, DI]`, weights `[queries, HI]`, `k` `[keys, DI]`.
///
/// # Errors
/// When the rows of `q` and `weights` are not the segments' queries or those of `k` not their keys, the scale is not finite, more keys
/// are always selected than `K`, or a sequence is longer than 31 bits count.
pub fn select<'a, B, const HI: usize, const DI: usize, const K: usize>(
    q: &Heads<B, HI, DI>,
    k: impl Into<RowsView<'a, B, DI>>,
    weights: &PerHead<B, HI>,
    segments: &Segments,
    selecting: &Selecting,
) -> Result<Selection<B, K>>
where
    B: Backend + 'a,
{
    let k = k.into();
    expect_count("rows of an indexer's queries", q.rows(), segments.queries())?;
    expect_count("rows of an indexer's keys", k.rows(), segments.keys())?;
    let sights = sight::of_rows(segments);
    Asking::new(q, weights)?.select(k.strided(), &sights, None, selecting)
}

/// The score of every query and key, for probes and tests: this is as large as a matrix of queries by keys.
///
/// # Errors
/// As [`select`].
pub fn scores<'a, B, const HI: usize, const DI: usize>(
    q: &Heads<B, HI, DI>,
    k: impl Into<RowsView<'a, B, DI>>,
    weights: &PerHead<B, HI>,
    segments: &Segments,
    selecting: &Selecting,
) -> Result<Scores<B>>
where
    B: Backend + 'a,
{
    let k = k.into();
    expect_count("rows of an indexer's queries", q.rows(), segments.queries())?;
    expect_count("rows of an indexer's keys", k.rows(), segments.keys())?;
    let sights = sight::of_rows(segments);
    Asking::new(q, weights)?.scores(k.strided(), &sights, selecting)
}

/// Scores `[rows, width]` in the accumulation type, `width` the length of the longest sequence: column `u` is the key at position `u` of
/// the row's own sequence, -∞ where the query does not see it.
#[derive(Debug)]
pub struct Scores<B: Backend> {
    device: B::Device,
    values: B::Buffer<Accum<B>>,
    rows: usize,
    width: usize,
}

impl<B: Backend> Scores<B> {
    /// Number of queries.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The scores on the host, row by row.
    ///
    /// # Errors
    /// When the device refuses the copy.
    pub fn to_vec(&self) -> Result<Vec<Accum<B>>> {
        B::download(&self.device, &self.values)
    }
}
