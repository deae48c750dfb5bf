//! Who sees whom, as kernels read it.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::super::{CudaBuffer, CudaDevice};
use crate::error::{Error, Result};
use crate::segments::Segments;

/// A row of the query tensor, and what it sees: keys counted from its segment's first. A row outside all segments sees nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct QueryRow {
    /// The first key that it sees.
    pub(super) seen_from: i64,
    /// One past the last.
    pub(super) seen_to: i64,
    /// Row of the key tensor of its segment's first key.
    pub(super) first_key_row: i64,
    /// That key's index in the sequence.
    pub(super) first_key: i64,
    /// Byte `given + key` of the dense masks says whether it sees a key that lies in its range.
    pub(super) given: i64,
    /// Its segment's number.
    pub(super) segment: i64,
    /// The sequence's number.
    pub(super) sequence: i64,
    /// Its own index in the sequence.
    pub(super) index: i64,
}

/// All rows of a query tensor, and the dense masks of those that have one.
#[derive(Debug)]
pub(super) struct QueryRows {
    rows: Vec<QueryRow>,
    given: Option<Vec<u8>>,
}

/// Some neighbours, and which visits are theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Span {
    first: i64,
    count: i64,
    first_visit: i64,
    end_visit: i64,
}

/// Rows of queries that may matter to a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Visit {
    first: i64,
    end: i64,
}

/// Spans in order, with their visits.
#[derive(Debug, Default)]
pub(super) struct Spans {
    spans: Vec<Span>,
    visits: Vec<Visit>,
}

/// A table on the device; of dense masks there may be none.
pub(super) type RowsOnDevice = (CudaBuffer<QueryRow>, Option<CudaBuffer<u8>>);

impl QueryRows {
    /// The rows of `queries` rows that segments cut up.
    ///
    /// # Errors
    /// When two segments have a query in common: it would have two answers.
    pub(super) fn new(segments: &Segments, queries: usize) -> Result<Self> {
        let mut rows = vec![QueryRow::zeroed(); queries];
        let mut taken = vec![false; queries];
        let mut given: Option<Vec<u8>> = None;
        for (number, segment) in segments.list().iter().enumerate() {
            for (i, at) in segment.queries.clone().enumerate() {
                if std::mem::replace(&mut taken[at], true) {
                    return Err(Error::Device("segments share queries".to_owned()));
                }
                let seen = segments.visible(segment, i);
                let mut place = 0;
                if let Some(line) = segments.given(segment, i) {
                    let bytes = given.get_or_insert_default();
                    place = bytes.len() as i64 - seen.start as i64;
                    bytes.extend(line[seen.clone()].iter().map(|&sees| u8::from(sees)));
                }
                rows[at] = QueryRow {
                    seen_from: seen.start as i64,
                    seen_to: seen.end as i64,
                    first_key_row: segment.keys.start as i64,
                    first_key: segment.first_key as i64,
                    given: place,
                    segment: number as i64,
                    sequence: segment.sequence as i64,
                    index: (segment.first_query + i) as i64,
                };
            }
        }
        Ok(Self { rows, given })
    }

    /// Copies them to the device.
    pub(super) fn upload(&self, device: &CudaDevice) -> Result<RowsOnDevice> {
        let given = self.given.as_ref().map(|given| device.upload(given));
        Ok((device.upload(&self.rows)?, given.transpose()?))
    }

    /// Rows of the key tensor that a row's range covers.
    fn key_rows(&self, query: usize) -> Range<usize> {
        let row = &self.rows[query];
        (row.first_key_row + row.seen_from) as usize..(row.first_key_row + row.seen_to) as usize
    }
}

impl Spans {
    /// At most `most` neighbouring keys of the same segments each; their visits are the rows that may see some of them, a range of each
    /// segment: every row between is looked at as well.
    pub(super) fn of_keys(segments: &Segments, rows: &QueryRows, most: usize) -> Self {
        let mut ends: Vec<usize> = segments
            .list()
            .iter()
            .filter(|segment| !segment.keys.is_empty())
            .flat_map(|segment| [segment.keys.start, segment.keys.end])
            .collect();
        ends.sort_unstable();
        ends.dedup();
        let mut spans = Self::default();
        // The span of each key
        let mut span_of = vec![0; ends.last().copied().unwrap_or(0)];
        for pair in ends.windows(2) {
            for first in (pair[0]..pair[1]).step_by(most) {
                let end = pair[1].min(first + most);
                span_of[first..end].fill(spans.spans.len());
                spans.push(first..end);
            }
        }
        let mut visits: Vec<(usize, Visit)> = Vec::new();
        for segment in segments.list() {
            if segment.keys.is_empty() || segment.queries.is_empty() {
                continue;
            }
            let base = span_of[segment.keys.start];
            let count = span_of[segment.keys.end - 1] + 1 - base;
            let seen = |query: usize| {
                let keys = rows.key_rows(query);
                if keys.is_empty() {
                    return 0..0;
                }
                span_of[keys.start] - base..span_of[keys.end - 1] + 1 - base
            };
            let first = first_to_cover(count, segment.queries.clone(), seen);
            let last = first_to_cover(count, segment.queries.clone().rev(), seen);
            for (i, (first, last)) in first.into_iter().zip(last).enumerate() {
                if let (Some(first), Some(last)) = (first, last) {
                    let (first, end) = (first as i64, last as i64 + 1);
                    visits.push((base + i, Visit { first, end }));
                }
            }
        }
        spans.place(visits);
        spans
    }

    /// At most `most` neighbouring indices of queries in their sequences; their visits are the rows that have them, in the order of the
    /// segments.
    pub(super) fn of_queries(segments: &Segments, queries: usize, most: usize) -> Self {
        let mut spans = Self::default();
        for first in (0..queries).step_by(most) {
            spans.push(first..queries.min(first + most));
        }
        let mut visits = Vec::new();
        for segment in segments.list() {
            let end = segment.first_query + segment.queries.len();
            let mut index = segment.first_query;
            while index < end {
                let next = end.min((index / most + 1) * most);
                let row =
                    |index: usize| (segment.queries.start + index - segment.first_query) as i64;
                let (first, end) = (row(index), row(next));
                visits.push((index / most, Visit { first, end }));
                index = next;
            }
        }
        spans.place(visits);
        spans
    }

    fn push(&mut self, range: Range<usize>) {
        self.spans.push(Span {
            first: range.start as i64,
            count: range.len() as i64,
            first_visit: 0,
            end_visit: 0,
        });
    }

    /// Gives spans their visits, each named by its span's number.
    fn place(&mut self, mut visits: Vec<(usize, Visit)>) {
        // Stable: a span's visits stay in order
        visits.sort_by_key(|&(span, _)| span);
        for run in visits.chunk_by(|a, b| a.0 == b.0) {
            let Some(span) = self.spans.get_mut(run[0].0) else {
                continue;
            };
            span.first_visit = self.visits.len() as i64;
            self.visits.extend(run.iter().map(|&(_, visit)| visit));
            span.end_visit = self.visits.len() as i64;
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Copies them to the device.
    pub(super) fn upload(
        &self,
        device: &CudaDevice,
    ) -> Result<(CudaBuffer<Span>, CudaBuffer<Visit>)> {
        Ok((device.upload(&self.spans)?, device.upload(&self.visits)?))
    }
}

/// For each of `count` places the first of some queries whose range has it. Each place is looked at about once, however long ranges are.
fn first_to_cover(
    count: usize,
    queries: impl Iterator<Item = usize>,
    range: impl Fn(usize) -> Range<usize>,
) -> Vec<Option<usize>> {
    let mut first = vec![None; count];
    // A place that is not behind the next one without a query; that one is its own
    let mut next: Vec<usize> = (0..=count).collect();
    for query in queries {
        let range = range(query);
        let mut at = range.start;
        while at < range.end {
            // Follow to the next free place, halving the way for those that come later
            while next[at] != at {
                next[at] = next[next[at]];
                at = next[at];
            }
            if at < range.end {
                first[at] = Some(query);
                next[at] = at + 1;
            }
        }
    }
    first
}

#[cfg(test)]
#[allow(
    clippy::single_range_in_vec_init,
    reason = "rows that see one run of keys"
)]
mod tests {
    use super::*;
    use crate::Visibility;
    use crate::cuda::tests::segment;

    fn visits(spans: &Spans) -> Vec<(Range<i64>, Vec<Range<i64>>)> {
        let of = |span: &Span| {
            let own = span.first_visit as usize..span.end_visit as usize;
            let visits = spans.visits[own].iter();
            (
                span.first..span.first + span.count,
                visits.map(|visit| visit.first..visit.end).collect(),
            )
        };
        spans.spans.iter().map(of).collect()
    }

    #[test]
    fn keys_are_visited_by_the_rows_that_may_see_them() {
        // The second and third segment share some keys
        let list = vec![
            segment(0, 0..5, 0..5),
            segment(0, 5..8, 5..9),
            segment(0, 8..9, 7..9),
        ];
        let visibility = Visibility::CAUSAL.window(Some(1), None);
        let segments = Segments::new(list, visibility, 10, 9);
        let rows = QueryRows::new(&segments, 10).expect("no query twice");
        assert_eq!(rows.rows[9], QueryRow::zeroed());
        let spans = Spans::of_keys(&segments, &rows, 3);
        assert_eq!(
            visits(&spans),
            [
                (0..3, vec![0..4]),
                (3..5, vec![3..5]),
                (5..7, vec![5..7]),
                (7..9, vec![6..8, 8..9]),
            ]
        );
    }

    #[test]
    fn indices_are_visited_by_the_rows_that_have_them() {
        let list = vec![segment(0, 0..5, 0..5), segment(0, 6..9, 5..9)];
        let segments = Segments::new(list, Visibility::CAUSAL, 9, 9);
        let spans = Spans::of_queries(&segments, 6, 4);
        assert_eq!(
            visits(&spans),
            [(0..4, vec![0..4, 6..9]), (4..6, vec![4..5])]
        );
    }

    #[test]
    fn segments_that_share_queries_are_refused() {
        let list = vec![segment(0, 0..5, 0..5), segment(0, 4..9, 5..9)];
        let segments = Segments::new(list, Visibility::CAUSAL, 9, 9);
        assert!(QueryRows::new(&segments, 9).is_err());
    }
}

/// How much the queries of some segments see.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// Queries, each with a key that it sees.
    pub(super) pairs: usize,
    /// Keys that some query of their segment sees; with a choice of keys, as often as they are chosen.
    pub(super) keys: usize,
}

impl Seen {
    /// Of segments' queries, each of which sees `chosen` keys at most.
    pub(super) fn of(segments: &Segments, chosen: Option<usize>) -> Self {
        let mut seen = Self::default();
        for segment in segments.list() {
            let (mut first, mut end) = (usize::MAX, 0);
            for query in 0..segment.queries.len() {
                let visible = segments.visible(segment, query);
                let count = chosen.map_or(visible.len(), |most| most.min(visible.len()));
                seen.pairs += count;
                if chosen.is_some() {
                    seen.keys += count;
                } else if !visible.is_empty() {
                    (first, end) = (first.min(visible.start), end.max(visible.end));
                }
            }
            seen.keys += end.saturating_sub(first);
        }
        seen
    }
}
