//! Which rank each box stands in, and the bends of lines that pass ranks.

use super::{Gaps, Item, Link, Net, Node, Pin, Ranked};

/// Boxes and bends in their ranks, in the order of their numbers.
pub(super) fn ranked(nodes: &[Node], nets: &[Net], gaps: Gaps) -> Ranked {
    let ranks = longest_paths(nodes, nets, gaps);
    let items = nodes.iter().zip(&ranks).map(|(node, rank)| Item {
        rank: *rank,
        width: node.width,
        height: node.height,
        is_bend: false,
    });
    let count = ranks.iter().max().map_or(0, |last| last + 1);
    let mut ranked = Ranked {
        items: items.collect(),
        links: Vec::new(),
        into: Vec::new(),
        out: Vec::new(),
        ranks: vec![Vec::new(); count],
    };
    for (index, net) in nets.iter().enumerate() {
        bend(&mut ranked, index, net, gaps);
    }
    for (index, item) in ranked.items.iter().enumerate() {
        ranked.ranks[item.rank].push(index);
    }
    ranked.into = vec![Vec::new(); ranked.items.len()];
    ranked.out = ranked.into.clone();
    for (index, link) in ranked.links.iter().enumerate() {
        ranked.into[link.to].push(index);
        ranked.out[link.from].push(index);
    }
    ranked
}

/// The longest path that leads to each box, or a longer one where the rank is full. One that no line leads to stands just above what it leads to, rather than at the top.
fn longest_paths(nodes: &[Node], nets: &[Net], gaps: Gaps) -> Vec<usize> {
    let has_first = nodes.iter().any(|node| node.pin == Pin::First);
    let least = |node: &Node| usize::from(has_first && node.pin != Pin::First);
    let mut ranks: Vec<usize> = nodes.iter().map(least).collect();
    let mut is_met = vec![false; nodes.len()];
    let mut widths: Vec<f64> = Vec::new();
    // Numbers only grow along lines
    for node in 0..nodes.len() {
        if nodes[node].pin == Pin::Free {
            ranks[node] = with_room(
                &mut widths,
                ranks[node],
                nodes[node].width + gaps.boxes,
                gaps,
            );
        }
        for target in targets(nets, node) {
            ranks[target] = ranks[target].max(ranks[node] + 1);
            is_met[target] = true;
        }
    }
    for node in (0..nodes.len()).filter(|node| !is_met[*node]) {
        if nodes[node].pin == Pin::Free
            && let Some(nearest) = targets(nets, node).map(|target| ranks[target]).min()
        {
            let width = nodes[node].width + gaps.boxes;
            let mut lower = (ranks[node] + 1..nearest).rev();
            let found = lower.find(|rank| has_room(&widths, *rank, width, gaps));
            if let Some(rank) = found {
                widths[ranks[node]] -= width;
                ranks[node] = with_room(&mut widths, rank, width, gaps);
            }
        }
    }
    let free = nodes.iter().zip(&ranks);
    let free = free.filter(|(node, _)| node.pin != Pin::Last);
    let below = free.map(|(_, rank)| rank + 1).max().unwrap_or(0);
    for (node, rank) in nodes.iter().zip(&mut ranks) {
        if node.pin == Pin::Last {
            *rank = below;
        }
    }
    ranks
}

/// The first rank from `rank` on that has room for so much.
fn with_room(widths: &mut Vec<f64>, mut rank: usize, width: f64, gaps: Gaps) -> usize {
    loop {
        if widths.len() <= rank {
            widths.resize(rank + 1, 0.0);
        }
        if has_room(widths, rank, width, gaps) {
            widths[rank] += width;
            return rank;
        }
        rank += 1;
    }
}

/// Whether so much more stands in a rank; what is too wide for any stands alone.
fn has_room(widths: &[f64], rank: usize, width: f64, gaps: Gaps) -> bool {
    let taken = widths.get(rank).copied().unwrap_or(0.0);
    taken <= 0.0 || taken + width <= gaps.widest + gaps.boxes
}

fn targets(nets: &[Net], from: usize) -> impl Iterator<Item = usize> {
    let own = nets.iter().filter(move |net| net.from == from);
    own.flat_map(|net| &net.to).map(|target| target.node)
}

/// Cuts a net into pieces between neighbouring ranks. Its lines share their bends, so that a value that many read is one line for as long as
/// it can be.
fn bend(ranked: &mut Ranked, index: usize, net: &Net, gaps: Gaps) {
    let source = ranked.items[net.from];
    // What the net's line to the next rank leaves, for each rank from the source's on
    let mut trunk = vec![(net.from, net.port - source.width / 2.0)];
    for target in &net.to {
        let item = ranked.items[target.node];
        while source.rank + trunk.len() < item.rank {
            let (from, leaves) = trunk[trunk.len() - 1];
            let to = ranked.items.len();
            ranked.items.push(Item {
                rank: source.rank + trunk.len(),
                width: gaps.lines,
                height: 0.0,
                is_bend: true,
            });
            ranked.links.push(Link {
                from,
                leaves,
                to,
                arrives: 0.0,
                net: index,
            });
            trunk.push((to, 0.0));
        }
        let (from, leaves) = trunk[item.rank - source.rank - 1];
        ranked.links.push(Link {
            from,
            leaves,
            to: target.node,
            arrives: target.port.map_or(0.0, |port| port - item.width / 2.0),
            net: index,
        });
    }
}
