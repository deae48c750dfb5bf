//! Heights, and the points that lines pass.

use super::{Gaps, Layout, Net, Point, Ranked, place};

/// How much of its way sideways a line gets as room between ranks, and how much room it gets at most besides the least.
const SLOPE: f64 = 0.09;
const MOST: f64 = 34.0;

/// Lines keep so far from a box's corners.
const CORNER: f64 = 14.0;

/// How far ends of lines on one box are apart.
const APART: f64 = 16.0;

/// The finished layout; the first `count` items are boxes.
pub(super) fn routed(
    ranked: &Ranked,
    middles: &[f64],
    count: usize,
    nets: &[Net],
    gaps: Gaps,
) -> Layout {
    let arrivals = arrivals(ranked, middles, nets);
    let (tops, bottoms) = levels(ranked, middles, gaps);
    let boxes = ranked.items.iter().zip(middles).take(count);
    let corners = boxes.map(|(item, middle)| Point {
        x: (middle - item.width / 2.0).round(),
        y: tops[item.rank],
    });
    let rights = ranked.items.iter().zip(middles);
    let width = rights
        .map(|(item, middle)| middle + item.width / 2.0)
        .fold(0.0, f64::max);
    let routes = nets.iter().enumerate().map(|(index, net)| {
        let of = |target: usize| line(ranked, middles, &arrivals, [&tops, &bottoms], index, target);
        net.to.iter().map(|target| of(target.node)).collect()
    });
    Layout {
        width: width.ceil(),
        height: bottoms.last().copied().unwrap_or(0.0),
        corners: corners.collect(),
        routes: routes.collect(),
    }
}

/// Where each rank begins and ends. Ranks stand further apart where lines between them go far sideways.
fn levels(ranked: &Ranked, middles: &[f64], gaps: Gaps) -> (Vec<f64>, Vec<f64>) {
    let (mut tops, mut bottoms) = (Vec::new(), Vec::new());
    let mut y = 0.0;
    for (rank, row) in ranked.ranks.iter().enumerate() {
        let height = row.iter().map(|item| ranked.items[*item].height);
        let height = height.fold(0.0, f64::max);
        tops.push(y);
        bottoms.push(y + height);
        let leaving = ranked
            .links
            .iter()
            .filter(|link| ranked.items[link.from].rank == rank);
        let sideways = leaving.map(|link| {
            let shift = middles[link.from] + link.leaves - middles[link.to] - link.arrives;
            (shift.abs() * SLOPE).min(MOST)
        });
        y += height + (gaps.ranks + sideways.fold(0.0, f64::max)).round();
    }
    (tops, bottoms)
}

/// Where each link arrives. Ends that no port holds are spread over their box's upper edge, in the order in which they come.
fn arrivals(ranked: &Ranked, middles: &[f64], nets: &[Net]) -> Vec<f64> {
    let ends = ranked.links.iter();
    let mut arrivals: Vec<f64> = ends.map(|link| middles[link.to] + link.arrives).collect();
    let is_free = |link: &super::Link| {
        let targets = nets[link.net].to.iter();
        let mut targets = targets.filter(|target| target.node == link.to);
        targets.any(|target| target.port.is_none())
    };
    for (index, item) in ranked.items.iter().enumerate() {
        let links = ranked.links.iter().enumerate();
        let mut free: Vec<(f64, usize)> = links
            .filter(|(_, link)| link.to == index && !item.is_bend && is_free(link))
            .map(|(at, link)| (middles[link.from] + link.leaves, at))
            .collect();
        free.sort_by(|one, other| one.0.total_cmp(&other.0));
        let wanted: Vec<f64> = free.iter().map(|(x, _)| *x).collect();
        let half = (item.width / 2.0 - CORNER).max(0.0);
        let middle = middles[index];
        let placed = place::spread(&wanted, middle - half, middle + half, APART);
        for ((_, at), x) in free.into_iter().zip(placed) {
            arrivals[at] = x;
        }
    }
    arrivals
}

/// The points of a net's line to one target, from the source's lower edge to the target's upper one.
fn line(
    ranked: &Ranked,
    middles: &[f64],
    arrivals: &[f64],
    [tops, bottoms]: [&[f64]; 2],
    net: usize,
    target: usize,
) -> Vec<Point> {
    // From the target upwards: only one link of a net leads to each of its bends
    let mut points = Vec::new();
    let mut to = target;
    while let Some((at, link)) =
        (ranked.links.iter().enumerate()).find(|(_, link)| link.net == net && link.to == to)
    {
        let from = ranked.items[link.from];
        let x = middles[link.from] + link.leaves;
        points.push((arrivals[at], tops[ranked.items[to].rank]));
        points.push((x, bottoms[from.rank]));
        if !from.is_bend {
            points.push((x, tops[from.rank] + from.height));
            break;
        }
        to = link.from;
    }
    let round = |(x, y): (f64, f64)| Point {
        x: (x * 2.0).round() / 2.0,
        y,
    };
    let mut points: Vec<Point> = points.into_iter().rev().map(round).collect();
    points.dedup();
    points
}
