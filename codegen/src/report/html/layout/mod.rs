//! Where boxes stand and which way lines go: a layered layout.
//!
//! Boxes get ranks by the longest path that leads to them, an order within their rank by barycentres, and places that keep lines short.
//! A line that passes ranks has a bend in each, which takes room as a box does: so no line ever crosses a box.
//!
//! There are crates for this. `rust-sugiyama` answers with the places of boxes alone, not with the ways of lines around them, and places of
//! ports are not its subject; `layout-rs` owns the drawing as well. What is needed here is less than what either would want adapted.

mod order;
mod place;
mod rank;
mod route;
mod straight;

/// A box to be placed, in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Node {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) pin: Pin,
}

/// Whether a box has to stand in a rank of its own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pin {
    /// It stands where its lines let it.
    Free,
    /// It stands above all others that are not pinned so.
    First,
    /// It stands below all others that are not pinned so.
    Last,
}

/// Lines from one box to others. Boxes are numbered so that every line leads from a lower to a higher number.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Net {
    pub(super) from: usize,
    /// Where lines leave the box's lower edge, from its left end.
    pub(super) port: f64,
    pub(super) to: Vec<Target>,
}

/// Where a line ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Target {
    pub(super) node: usize,
    /// Where it meets the box's upper edge, from its left end; `None` where that is left to the layout.
    pub(super) port: Option<f64>,
}

/// How much room there is at least.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Gaps {
    /// Between boxes of a rank.
    pub(super) boxes: f64,
    /// Between ranks.
    pub(super) ranks: f64,
    /// Around a line.
    pub(super) lines: f64,
    /// How wide the boxes of a rank may be together: a box for which there is no room stands further down.
    pub(super) widest: f64,
}

impl Gaps {
    /// Between two neighbours of a rank: lines need less room.
    fn between(self, one_bends: bool, other_bends: bool) -> f64 {
        match (one_bends, other_bends) {
            (true, true) => self.lines,
            (false, false) => self.boxes,
            _ => (self.lines + self.boxes) / 2.0,
        }
    }
}

/// A point, from the upper left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
}

/// A finished layout.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub(super) width: f64,
    pub(super) height: f64,
    /// The upper left corner of each box.
    pub(super) corners: Vec<Point>,
    /// For each net and each of its targets the points that the line passes: straight down where two stand below each other, else a curve.
    pub(super) routes: Vec<Vec<Vec<Point>>>,
}

/// What stands in a rank: a box, or a bend of a line that passes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Item {
    rank: usize,
    width: f64,
    height: f64,
    is_bend: bool,
}

/// A piece of a line between neighbouring ranks.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Link {
    from: usize,
    /// Where it leaves, from the middle of what it leaves.
    leaves: f64,
    to: usize,
    /// Where it arrives, from the middle of what it meets.
    arrives: f64,
    net: usize,
}

/// Boxes and bends in their ranks. The boxes come first, under their own numbers.
struct Ranked {
    items: Vec<Item>,
    links: Vec<Link>,
    /// The links that lead to each item, and those that lead away from it.
    into: Vec<Vec<usize>>,
    out: Vec<Vec<usize>>,
    /// The items of each rank, from left to right.
    ranks: Vec<Vec<usize>>,
}

/// Places boxes and lines.
pub(super) fn layout(nodes: &[Node], nets: &[Net], gaps: Gaps) -> Layout {
    let mut ranked = rank::ranked(nodes, nets, gaps);
    order::order(&mut ranked);
    let middles = place::middles(&ranked, gaps);
    route::routed(&ranked, &middles, nodes.len(), nets, gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAPS: Gaps = Gaps {
        boxes: 20.0,
        ranks: 30.0,
        lines: 8.0,
        widest: f64::INFINITY,
    };

    fn node(width: f64, height: f64) -> Node {
        Node {
            width,
            height,
            pin: Pin::Free,
        }
    }

    fn net(from: usize, to: &[usize]) -> Net {
        let target = |node: &usize| Target {
            node: *node,
            port: None,
        };
        Net {
            from,
            port: 10.0,
            to: to.iter().map(target).collect(),
        }
    }

    /// Whether a line between two points goes through the inside of a box.
    fn enters(a: Point, b: Point, corner: Point, node: &Node) -> bool {
        let (left, right) = (a.x.min(b.x), a.x.max(b.x));
        left < corner.x + node.width - 1.0
            && right > corner.x + 1.0
            && a.y.min(b.y) < corner.y + node.height - 1.0
            && a.y.max(b.y) > corner.y + 1.0
    }

    #[test]
    fn boxes_stand_apart_and_lines_go_around_them() {
        let nodes: Vec<Node> = (0..9)
            .map(|i| {
                node(
                    60.0 + 17.0 * f64::from(i % 4),
                    20.0 + 9.0 * f64::from(i % 3),
                )
            })
            .collect();
        let nets = [
            net(0, &[1, 2, 3, 8]),
            net(1, &[4, 7]),
            net(2, &[5]),
            net(3, &[6, 7]),
            net(4, &[7]),
            net(5, &[7, 8]),
            net(6, &[8]),
            net(7, &[8]),
        ];
        let drawn = layout(&nodes, &nets, GAPS);
        for (i, a) in drawn.corners.iter().enumerate() {
            assert!(a.x >= 0.0 && a.x + nodes[i].width <= drawn.width);
            assert!(a.y >= 0.0 && a.y + nodes[i].height <= drawn.height);
            for (j, b) in drawn.corners.iter().enumerate().skip(i + 1) {
                let beside = a.x + nodes[i].width <= b.x || b.x + nodes[j].width <= a.x;
                let below = a.y + nodes[i].height <= b.y || b.y + nodes[j].height <= a.y;
                assert!(beside || below, "{i} and {j} overlap");
            }
        }
        for points in drawn.routes.iter().flatten() {
            for pair in points.windows(2) {
                assert!(pair[0].y <= pair[1].y, "lines lead down");
                for (corner, node) in drawn.corners.iter().zip(&nodes) {
                    assert!(!enters(pair[0], pair[1], *corner, node), "{points:?}");
                }
            }
        }
        assert_eq!(drawn, layout(&nodes, &nets, GAPS), "the same each time");
    }

    #[test]
    fn what_is_pinned_stands_first_and_last() {
        let pinned = |pin| Node {
            pin,
            ..node(12.0, 0.0)
        };
        let nodes = [
            pinned(Pin::First),
            pinned(Pin::First),
            node(80.0, 30.0),
            node(80.0, 30.0),
            pinned(Pin::Last),
            pinned(Pin::Last),
        ];
        let nets = [net(0, &[2]), net(1, &[3]), net(2, &[3, 5]), net(3, &[4])];
        let drawn = layout(&nodes, &nets, GAPS);
        let tops: Vec<f64> = drawn.corners.iter().map(|corner| corner.y).collect();
        assert!(tops[0] == tops[1] && tops[4] == tops[5], "{tops:?}");
        assert!(tops[2] > tops[0] && tops[4] > tops[3], "{tops:?}");
    }

    #[test]
    fn a_rank_is_no_wider_than_it_may_be() {
        let nodes = [
            node(50.0, 10.0),
            node(80.0, 10.0),
            node(80.0, 10.0),
            node(80.0, 10.0),
        ];
        let gaps = Gaps {
            widest: 190.0,
            ..GAPS
        };
        let drawn = layout(&nodes, &[net(0, &[1, 2, 3])], gaps);
        let tops: Vec<f64> = drawn.corners.iter().map(|corner| corner.y).collect();
        assert!(tops[1] == tops[2] && tops[3] > tops[2], "{tops:?}");
    }

    #[test]
    fn nothing_is_laid_out_as_nothing() {
        let drawn = layout(&[], &[], GAPS);
        assert_eq!((drawn.width, drawn.height), (0.0, 0.0));
    }
}
