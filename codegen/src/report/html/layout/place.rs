//! Where in its rank each item stands: lines as straight as the order allows.

use super::{Gaps, Ranked, straight};

/// How often places are improved, downwards and upwards in turn; in the later ones, lines on both sides count.
const SWEEPS: usize = 96;
const ONE_SIDED: usize = 24;

/// How much more a link between bends counts than one at a box: a crooked long line is harder to follow than a crooked short one.
const STRAIGHT: f64 = 6.0;

/// The horizontal middle of every item; the leftmost item begins at 0.
pub(super) fn middles(ranked: &Ranked, gaps: Gaps) -> Vec<f64> {
    let mut middles = vec![0.0; ranked.items.len()];
    for row in &ranked.ranks {
        let begins = starts(ranked, row, gaps);
        for (item, start) in row.iter().zip(begins) {
            middles[*item] = start;
        }
    }
    let count = ranked.ranks.len();
    let room = room(ranked, gaps);
    for sweep in 0..SWEEPS {
        for step in 0..count {
            let rank = if sweep % 2 == 0 {
                step
            } else {
                count - 1 - step
            };
            let side = match sweep % 2 {
                _ if sweep >= ONE_SIDED => Side::Both,
                0 => Side::Above,
                _ => Side::Below,
            };
            settle(ranked, rank, side, (gaps, room), &mut middles);
        }
    }
    straight::straighten(ranked, gaps, &mut middles);
    let left = |(item, middle): (usize, &f64)| middle - ranked.items[item].width / 2.0;
    let lefts = middles.iter().enumerate().map(left);
    let leftmost = lefts.fold(f64::INFINITY, f64::min);
    middles.iter().map(|middle| middle - leftmost).collect()
}

/// Which neighbours an item is drawn to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Above,
    Below,
    Both,
}

/// Moves a rank's items to where their links would be straight, as far as order, gaps and room allow.
fn settle(
    ranked: &Ranked,
    rank: usize,
    side: Side,
    (gaps, room): (Gaps, f64),
    middles: &mut [f64],
) {
    let row = &ranked.ranks[rank];
    let starts = starts(ranked, row, gaps);
    let most = (room - end(ranked, row, &starts)).max(0.0);
    let wanted: Vec<(f64, f64)> = row
        .iter()
        .zip(&starts)
        .map(|(item, start)| {
            let (middle, weight) = wanted(ranked, *item, side, middles);
            (middle - start, weight)
        })
        .collect();
    for ((item, start), shift) in row.iter().zip(starts).zip(ascending(&wanted)) {
        middles[*item] = start + shift.clamp(0.0, most);
    }
}

/// How wide everything may be: as wide as is allowed, or as the rank that takes the most.
fn room(ranked: &Ranked, gaps: Gaps) -> f64 {
    let rows = ranked.ranks.iter();
    let ends = rows.map(|row| end(ranked, row, &starts(ranked, row, gaps)));
    ends.fold(gaps.widest, f64::max)
}

/// Where a rank ends, whose items stand at these middles.
fn end(ranked: &Ranked, row: &[usize], middles: &[f64]) -> f64 {
    let last = row.last().zip(middles.last());
    last.map_or(0.0, |(item, middle)| {
        middle + ranked.items[*item].width / 2.0
    })
}

/// The middle that an item's links want, and how much they want it.
fn wanted(ranked: &Ranked, item: usize, side: Side, middles: &[f64]) -> (f64, f64) {
    let (mut sum, mut weights) = (0.0, 0.0);
    let mut draw = |other: usize, here: f64, there: f64| {
        let both_bend = ranked.items[item].is_bend && ranked.items[other].is_bend;
        let weight = if both_bend { STRAIGHT } else { 1.0 };
        sum += weight * (middles[other] + there - here);
        weights += weight;
    };
    if side != Side::Below {
        let links = ranked.into[item].iter().map(|link| &ranked.links[*link]);
        links.for_each(|link| draw(link.from, link.arrives, link.leaves));
    }
    if side != Side::Above {
        let links = ranked.out[item].iter().map(|link| &ranked.links[*link]);
        links.for_each(|link| draw(link.to, link.leaves, link.arrives));
    }
    match weights {
        // What no line holds stands with the others of its rank, wherever they go
        0.0 => (mean_of_row(ranked, item, middles), 0.01),
        weights => (sum / weights, weights),
    }
}

fn mean_of_row(ranked: &Ranked, item: usize, middles: &[f64]) -> f64 {
    let row = ranked.ranks[ranked.items[item].rank].iter();
    let others: Vec<f64> = row
        .filter(|other| **other != item)
        .map(|other| middles[*other])
        .collect();
    match others.len() {
        0 => middles[item],
        count => others.iter().sum::<f64>() / count as f64,
    }
}

/// The middles of a rank's items where each stands as far to the left as it can.
fn starts(ranked: &Ranked, row: &[usize], gaps: Gaps) -> Vec<f64> {
    let mut starts = Vec::with_capacity(row.len());
    let mut end = 0.0;
    let mut was_bend = true;
    for (place, item) in row.iter().enumerate() {
        let item = ranked.items[*item];
        if place > 0 {
            end += gaps.between(was_bend, item.is_bend);
        }
        starts.push(end + item.width / 2.0);
        end += item.width;
        was_bend = item.is_bend;
    }
    starts
}

/// The ascending numbers that are nearest to the wanted ones, by weighted squares: neighbours that would overtake each other move together
/// (isotonic regression, by pooling adjacent violators).
fn ascending(wanted: &[(f64, f64)]) -> Vec<f64> {
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for (value, weight) in wanted {
        pools.push((*value, *weight, 1));
        while let [.., one, other] = pools[..]
            && one.0 > other.0
        {
            let weight = one.1 + other.1;
            let mean = (one.0 * one.1 + other.0 * other.1) / weight;
            pools.truncate(pools.len() - 2);
            pools.push((mean, weight, one.2 + other.2));
        }
    }
    let spread = |(value, _, count): (f64, f64, usize)| std::iter::repeat_n(value, count);
    pools.into_iter().flat_map(spread).collect()
}

/// Numbers between `from` and `to`, at least `gap` apart where there is room, near the wanted ones, which ascend.
pub(super) fn spread(wanted: &[f64], from: f64, to: f64, gap: f64) -> Vec<f64> {
    let steps = wanted.len().saturating_sub(1).max(1) as f64;
    let gap = gap.min((to - from).max(0.0) / steps);
    let shifted = wanted.iter().enumerate();
    let shifted: Vec<(f64, f64)> = shifted
        .map(|(i, value)| (value - gap * i as f64, 1.0))
        .collect();
    let most = to - gap * wanted.len().saturating_sub(1) as f64;
    let placed = ascending(&shifted).into_iter().enumerate();
    placed
        .map(|(i, value)| value.min(most).max(from) + gap * i as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_would_overtake_move_together() {
        let even = |values: &[f64]| -> Vec<(f64, f64)> {
            values.iter().map(|value| (*value, 1.0)).collect()
        };
        assert_eq!(ascending(&even(&[1.0, 2.0, 5.0])), [1.0, 2.0, 5.0]);
        assert_eq!(ascending(&even(&[3.0, 1.0, 5.0])), [2.0, 2.0, 5.0]);
        assert_eq!(ascending(&[(4.0, 3.0), (0.0, 1.0)]), [3.0, 3.0]);
    }

    #[test]
    fn ends_of_lines_are_spread_within_a_box() {
        assert_eq!(spread(&[50.0], 10.0, 90.0, 12.0), [50.0]);
        assert_eq!(spread(&[-5.0, 200.0], 10.0, 90.0, 12.0), [10.0, 90.0]);
        assert_eq!(spread(&[50.0, 50.0], 10.0, 90.0, 12.0), [44.0, 56.0]);
        let tight = spread(&[0.0, 0.0, 0.0], 10.0, 20.0, 12.0);
        assert_eq!(tight, [10.0, 15.0, 20.0]);
    }
}
