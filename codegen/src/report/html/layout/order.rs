//! The order within ranks: few crossings.

use super::{Link, Ranked};

/// How often ranks are put in order, downwards and upwards in turn.
const SWEEPS: usize = 24;

/// Puts every rank in an order with few crossings: each item at the mean of its neighbours' places, in one direction and then in the other,
/// and what was best in the end.
pub(super) fn order(ranked: &mut Ranked) {
    let mut best = (crossings(ranked), ranked.ranks.clone());
    for sweep in 0..SWEEPS {
        let count = ranked.ranks.len();
        let downwards = sweep % 2 == 0;
        for step in 1..count {
            let rank = if downwards { step } else { count - 1 - step };
            arrange(ranked, rank, downwards);
        }
        let found = crossings(ranked);
        if found < best.0 {
            best = (found, ranked.ranks.clone());
        }
    }
    ranked.ranks = best.1;
}

/// Sorts a rank by the mean place of what its items are linked to, above or below. One that is linked to nothing stays where it is.
fn arrange(ranked: &mut Ranked, rank: usize, by_upper: bool) {
    let places = places(ranked);
    let mean = |item: usize| {
        let links = if by_upper {
            &ranked.into[item]
        } else {
            &ranked.out[item]
        };
        let ends = links.iter().map(|link| match by_upper {
            true => leaving(ranked, &places, &ranked.links[*link]),
            false => arriving(ranked, &places, &ranked.links[*link]),
        });
        let ends: Vec<f64> = ends.collect();
        match ends.len() {
            0 => places[item],
            count => ends.iter().sum::<f64>() / count as f64,
        }
    };
    let row = ranked.ranks[rank].iter();
    let mut keyed: Vec<(f64, usize)> = row.map(|item| (mean(*item), *item)).collect();
    keyed.sort_by(|one, other| one.0.total_cmp(&other.0));
    ranked.ranks[rank] = keyed.into_iter().map(|(_, item)| item).collect();
}

/// Each item's place in its rank, between 0 and 1: ranks differ in how many items they have.
fn places(ranked: &Ranked) -> Vec<f64> {
    let mut places = vec![0.0; ranked.items.len()];
    for row in &ranked.ranks {
        for (place, item) in row.iter().enumerate() {
            places[*item] = (place as f64 + 0.5) / row.len() as f64;
        }
    }
    places
}

/// Where a link leaves: ports of one box are less than a place apart.
fn leaving(ranked: &Ranked, places: &[f64], link: &Link) -> f64 {
    places[link.from] + within(ranked, link.from, link.leaves)
}

/// Where a link arrives.
fn arriving(ranked: &Ranked, places: &[f64], link: &Link) -> f64 {
    places[link.to] + within(ranked, link.to, link.arrives)
}

fn within(ranked: &Ranked, item: usize, offset: f64) -> f64 {
    let found = ranked.items[item];
    let row = ranked.ranks[found.rank].len() as f64;
    offset / found.width.max(1.0) / row * 0.9
}

/// How many links cross.
fn crossings(ranked: &Ranked) -> usize {
    let places = places(ranked);
    let ends = ranked.links.iter().map(|link| {
        (
            ranked.items[link.from].rank,
            leaving(ranked, &places, link),
            arriving(ranked, &places, link),
        )
    });
    let ends: Vec<(usize, f64, f64)> = ends.collect();
    let mut count = 0;
    for (i, one) in ends.iter().enumerate() {
        let beside = ends[i + 1..].iter().filter(|other| other.0 == one.0);
        count += beside
            .filter(|other| (one.1 - other.1) * (one.2 - other.2) < 0.0)
            .count();
    }
    count
}
