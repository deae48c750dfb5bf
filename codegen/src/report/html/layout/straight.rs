//! Long lines that go straight down.
//!
//! Least squares spread a line's way sideways over all ranks that it passes, a little in each. A reader follows a line more easily that goes
//! straight down for as long as it can, so in the end each line's bends move below each other where their neighbours let them.

use super::{Gaps, Ranked};

/// Moves the bends of every net onto as few verticals as there is room for.
pub(super) fn straighten(ranked: &Ranked, gaps: Gaps, middles: &mut [f64]) {
    let count = ranked
        .links
        .iter()
        .map(|link| link.net + 1)
        .max()
        .unwrap_or(0);
    for net in 0..count {
        let bends = bends(ranked, net);
        let mut start = 0;
        while start < bends.len() {
            let (end, room) = run(ranked, gaps, middles, &bends[start..]);
            let x = nearest(ranked, middles, net, &bends[start..start + end], room);
            for bend in &bends[start..start + end] {
                middles[*bend] = x;
            }
            start += end;
        }
    }
}

/// A net's bends, from above.
fn bends(ranked: &Ranked, net: usize) -> Vec<usize> {
    let links = ranked.links.iter().filter(|link| link.net == net);
    let ends = links
        .map(|link| link.to)
        .filter(|item| ranked.items[*item].is_bend);
    let mut bends: Vec<usize> = ends.collect();
    bends.sort_by_key(|bend| ranked.items[*bend].rank);
    bends
}

/// How many of the bends, from the first on, can stand below each other, and between which places.
fn run(ranked: &Ranked, gaps: Gaps, middles: &[f64], bends: &[usize]) -> (usize, [f64; 2]) {
    let mut room = [f64::NEG_INFINITY, f64::INFINITY];
    for (count, bend) in bends.iter().enumerate() {
        let own = around(ranked, gaps, middles, *bend);
        let both = [room[0].max(own[0]), room[1].min(own[1])];
        if count > 0 && both[0] > both[1] {
            return (count, room);
        }
        room = both;
    }
    (bends.len(), room)
}

/// Where a bend may stand between its neighbours.
fn around(ranked: &Ranked, gaps: Gaps, middles: &[f64], bend: usize) -> [f64; 2] {
    let item = ranked.items[bend];
    let row = &ranked.ranks[item.rank];
    let at = row.iter().position(|other| *other == bend).unwrap_or(0);
    let apart = |other: usize| {
        let other = ranked.items[other];
        (item.width + other.width) / 2.0 + gaps.between(item.is_bend, other.is_bend)
    };
    let left = at.checked_sub(1).map(|left| row[left]);
    let right = row.get(at + 1).copied();
    [
        left.map_or(f64::NEG_INFINITY, |left| middles[left] + apart(left)),
        right.map_or(f64::INFINITY, |right| middles[right] - apart(right)),
    ]
}

/// A place in the room: below where the line comes from, else above where it goes on to, else as near as can be.
fn nearest(ranked: &Ranked, middles: &[f64], net: usize, bends: &[usize], room: [f64; 2]) -> f64 {
    let own = ranked.links.iter().filter(|link| link.net == net);
    let mut wanted = Vec::new();
    for link in own {
        if bends.first() == Some(&link.to) {
            wanted.insert(0, middles[link.from] + link.leaves);
        } else if bends.last() == Some(&link.from) {
            wanted.push(middles[link.to] + link.arrives);
        }
    }
    let fits = wanted
        .iter()
        .copied()
        .find(|x| room[0] <= *x && *x <= room[1]);
    let first = wanted.first().copied().unwrap_or(0.0);
    // A single bend that already stands too close to a neighbour has no room at all
    fits.unwrap_or_else(|| first.min(room[1]).max(room[0].min(room[1])))
}
