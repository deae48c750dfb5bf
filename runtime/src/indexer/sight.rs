//! What segments let an indexer's queries choose.

use crate::backend::Sight;
use crate::error::{Error, Result};
use crate::segments::{Segment, Segments};

/// Keys are rows of a tensor.
pub(crate) fn of_rows(segments: &Segments) -> Vec<Sight<'_>> {
    sights(segments, |segment| segment.keys.start)
}

/// Keys lie in a cache, in pages that say where.
pub(crate) fn of_cached(segments: &Segments) -> Vec<Sight<'_>> {
    sights(segments, |_| 0)
}

/// Keys are rows of a tensor that holds the keys of all segments, one segment after the other.
pub(crate) fn of_gathered(segments: &Segments) -> Vec<Sight<'_>> {
    let mut next = 0;
    sights(segments, |segment| {
        let first = next;
        next += segment.keys.len();
        first
    })
}

fn sights(segments: &Segments, mut first_row: impl FnMut(&Segment) -> usize) -> Vec<Sight<'_>> {
    let sight = |segment: &Segment| {
        let queries = 0..segment.queries.len();
        let visible = queries.clone().map(|i| segments.visible(segment, i));
        let given = queries.filter_map(|i| segments.given(segment, i));
        let first = (first_row(segment), segment.first_key);
        Sight::new(
            segment.queries.clone(),
            first,
            visible.collect(),
            given.collect(),
        )
    };
    segments.list().iter().map(sight).collect()
}

/// The largest number of keys that a sight speaks of.
pub(super) fn most_keys(sights: &[Sight<'_>]) -> usize {
    let ends = |sight: &Sight<'_>| {
        let ends = (0..sight.queries.len()).map(|i| sight.visible(i).end);
        ends.max().map_or(0, |end| sight.first_position + end)
    };
    sights.iter().map(ends).max().unwrap_or(0)
}

/// Refuses positions that a selection can't hold.
pub(super) fn within_positions(sights: &[Sight<'_>]) -> Result<()> {
    let most = most_keys(sights);
    if i32::try_from(most).is_err() {
        return Err(Error::BadSelection(format!(
            "a sequence of {most} tokens has positions beyond 31 bits"
        )));
    }
    Ok(())
}
