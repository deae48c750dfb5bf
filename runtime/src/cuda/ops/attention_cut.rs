//! How attention's work is cut into blocks.

use std::ops::Range;

use super::args::THREADS;

/// Into how many parts what a row sees is cut, so that a large device has something to do: a matter of shapes only, since lengths change
/// when a recorded graph runs again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    pub(super) batch_invariant: bool,
    /// Whether keys are a cache's.
    pub(super) paged: bool,
    /// How many keys a row selects.
    pub(super) selected: Option<usize>,
    /// Keys that there are, of all sequences.
    pub(super) keys: usize,
}

impl Cut {
    /// Two to each multiprocessor of an H200.
    const WANTED: usize = 2 * 132;
    /// A shorter part is not worth a block of its own.
    const SHORTEST: usize = 256;
    /// Parts of what a row sees where nothing is known of its length.
    const ANY_LENGTH: usize = 8;

    /// `groups`: blocks for all heads of a row.
    pub(super) fn splits(self, rows: usize, groups: usize) -> usize {
        let (blocks, most) = match (self.batch_invariant, self.selected) {
            (false, selected) => (
                rows * groups,
                selected.unwrap_or(self.keys) / Self::SHORTEST,
            ),
            // A full batch must not hold too many parts, nor a single row have too few
            (true, Some(selected)) => (groups, (selected / Self::SHORTEST).min(Self::ANY_LENGTH)),
            (true, None) if self.paged => (groups, Self::ANY_LENGTH),
            // Whole sequences have rows enough
            (true, None) => (groups, 1),
        };
        (Self::WANTED / blocks).min(most).clamp(1, THREADS)
    }
}

/// Rows, as many at a time as there is room for the parts of; all of them where each is one part. `line`: bytes of a row's results.
pub(super) fn rows_at_once(
    rows: usize,
    splits: usize,
    line: usize,
) -> impl Iterator<Item = Range<usize>> {
    /// Bytes of parts that are held at a time. Tests have few rows, and still see them apart.
    const PARTS: usize = if cfg!(test) { 16 << 10 } else { 512 << 20 };
    let at_once = match splits {
        1 => rows,
        _ => PARTS / (splits * line).max(1),
    };
    let at_once = at_once.max(1);
    (0..rows)
        .step_by(at_once)
        .map(move |start| start..rows.min(start + at_once))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_rows_nor_a_caches_room_decide_on_parts_where_they_must_not() {
        let cut = |batch_invariant, paged, selected, keys| Cut {
            batch_invariant,
            paged,
            selected,
            keys,
        };
        let (one, many) = ((1, 8), (64, 8));
        let paged = |invariant, keys| cut(invariant, true, None, keys);
        let of = |cut: Cut, (rows, groups)| cut.splits(rows, groups);
        assert_eq!(of(paged(false, 8192), one), 32);
        assert_eq!(of(paged(false, 512), one), 2);
        assert_eq!(of(paged(false, 8192), many), 1);
        for (keys, rows) in [(8192, one), (512, one), (8192, many)] {
            assert_eq!(of(paged(true, keys), rows), 8);
            assert_eq!(of(cut(true, false, None, keys), rows), 1);
            assert_eq!(of(cut(true, true, Some(2048), keys), rows), 8);
            assert_eq!(of(cut(true, true, Some(512), keys), rows), 2);
        }
        assert_eq!(of(cut(false, true, Some(2048), 1 << 20), many), 1);
    }

    #[test]
    fn rows_come_some_at_a_time_where_they_have_parts() {
        let all: Vec<_> = rows_at_once(9, 2, 2 << 10).collect();
        assert_eq!(all, [0..4, 4..8, 8..9]);
        assert!(rows_at_once(9, 1, 1 << 30).eq(std::iter::once(0..9)));
        assert_eq!(rows_at_once(2, 2, 1 << 30).count(), 2);
    }
}
