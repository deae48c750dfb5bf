//! How the work is shared out.

use std::ops::Range;

use super::super::tasks::Task;
use crate::segments::Segments;

/// Shares of each thread where there is much to share: a thread that is slow gives some away.
const SHARES: usize = 4;

/// Tasks that read the same head of the same segment's keys, one behind the other.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cpu) struct Piece {
    /// Which tasks.
    pub(in crate::cpu) tasks: Range<usize>,
    /// Whether these are all that read those keys.
    pub(in crate::cpu) whole: bool,
}

/// Shares of about equal work, each some pieces, in the order of the tasks. Tasks that read the same keys have to be neighbours.
///
/// Where there are many different keys each share gets all tasks of some. Where there are few, as where all heads share one, there are
/// as many shares as threads, and the gradients of some keys come in as many parts.
pub(in crate::cpu) fn shares(
    tasks: &[Task],
    same_keys: impl Fn(&Task, &Task) -> bool,
    threads: usize,
) -> Vec<Vec<Piece>> {
    let units: Vec<&[Task]> = tasks.chunk_by(same_keys).collect();
    let cut_units = threads > 1 && units.len() < SHARES * threads;
    let count = match threads {
        1 => 1,
        _ if cut_units => threads,
        _ => SHARES * threads,
    };
    let work = |tasks: &[Task]| tasks.iter().map(work).sum::<usize>();
    let total = work(tasks).max(1) as u128;
    let mut shares: Vec<Vec<Piece>> = (0..count).map(|_| Vec::new()).collect();
    let (mut first, mut before) = (0, 0);
    for unit in units {
        // A share takes what lies with its middle in it
        let items = unit.chunks(if cut_units { 1 } else { unit.len() });
        let of: Vec<usize> = items
            .map(|item| {
                let own = work(item);
                let share = (2 * before + own) as u128 * count as u128 / (2 * total);
                before += own;
                (share as usize).min(count - 1)
            })
            .collect();
        let whole = of.first() == of.last();
        let tasks_per_item = if cut_units { 1 } else { unit.len() };
        for run in of.chunk_by(PartialEq::eq) {
            let tasks = first..first + run.len() * tasks_per_item;
            first = tasks.end;
            shares[run[0]].push(Piece { tasks, whole });
        }
    }
    shares
}

/// What a task takes, in pairs of rows and keys; reading rows counts as some keys.
fn work(task: &Task) -> usize {
    task.len() * (task.keys.len() + 32)
}

/// Whether no two segments have a query or a key in common.
pub(in crate::cpu) fn apart(segments: &Segments) -> [bool; 2] {
    let sorted = |range: fn(&crate::Segment) -> &Range<usize>| {
        let mut ranges: Vec<&Range<usize>> = segments.list().iter().map(range).collect();
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| range.start);
        ranges.windows(2).all(|pair| pair[0].end <= pair[1].start)
    };
    [
        sorted(|segment| &segment.queries),
        sorted(|segment| &segment.keys),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(units: usize, each: usize) -> Vec<Task> {
        (0..units * each)
            .map(|i| Task {
                segment: i / each,
                queries: i..i + 1,
                heads: 0..1,
                keys: 0..100,
            })
            .collect()
    }

    fn shared(units: usize, each: usize, threads: usize) -> Vec<Vec<Piece>> {
        let tasks = tasks(units, each);
        let shares = shares(&tasks, |a, b| a.segment == b.segment, threads);
        let order = shares
            .iter()
            .flatten()
            .flat_map(|piece| piece.tasks.clone());
        assert!(order.eq(0..tasks.len()));
        shares
    }

    #[test]
    fn many_units_stay_whole() {
        for (units, threads) in [(16, 2), (9, 2), (5, 1), (1, 1), (64, 3)] {
            let shares = shared(units, 3, threads);
            assert!(shares.iter().flatten().all(|piece| piece.whole));
            let most = shares.iter().map(Vec::len).max();
            assert!(most <= Some(units.div_ceil(shares.len()) + 1));
        }
    }

    #[test]
    fn few_units_are_cut_into_equal_shares() {
        let whole = |tasks: Range<usize>| Piece { tasks, whole: true };
        let part = |tasks: Range<usize>| Piece {
            tasks,
            whole: false,
        };
        assert_eq!(shared(1, 8, 2), [[part(0..4)], [part(4..8)]]);
        assert_eq!(
            shared(3, 2, 2),
            [[whole(0..2), part(2..3)], [part(3..4), whole(4..6)]]
        );
        assert_eq!(shared(2, 2, 2), [[whole(0..2)], [whole(2..4)]]);
        let shares = shared(1, 2, 4);
        assert_eq!(shares.iter().flatten().count(), 2);
    }
}
