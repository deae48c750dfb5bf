//! A picture's boxes and lines in their places, as the template prints them.
//!
//! Each card is laid out by itself: its ops between the names of what enters at its upper edge and what leaves at its lower one. Then cards
//! are laid out as boxes with ports. Both times it is the same layout, and lines meet at the ports.

mod card;
mod text;

use serde::Serialize;

use super::figure::{Box, Figure, Kind, Line, Part};
use super::layout::{Gaps, Net, Node, Pin, Point, Target, layout};
use card::Inside;
pub(super) use card::class;

/// Room around everything.
const MARGIN: f64 = 10.0;

const GAPS: Gaps = Gaps {
    boxes: 30.0,
    ranks: 30.0,
    lines: 12.0,
    widest: 1210.0,
};

/// How wide ranks may be where two pictures stand side by side.
const HALF: f64 = 745.0;

/// What `show_graph.html.tera` prints, in pixels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Drawing {
    /// What names of elements in it begin with.
    pub(super) id: String,
    /// The function that it shows.
    name: &'static str,
    /// What it shows, as a sentence.
    label: String,
    width: f64,
    height: f64,
    edges: Vec<Edge>,
    cards: Vec<Card>,
}

/// A line, with the point of its arrow.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Edge {
    value: usize,
    kind: &'static str,
    path: String,
    tip: String,
}

/// A part.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Card {
    id: String,
    kind: &'static str,
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    /// What it is for, as a class and in words.
    group: &'static str,
    eyebrow: String,
    /// Its share of the function's work.
    share: String,
    title: String,
    formula: Vec<Vec<String>>,
    ports: Vec<Port>,
    pub(super) ops: Vec<OpBox>,
    frees: Vec<Freed>,
}

/// The name of what enters a card.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Port {
    name: String,
    value: usize,
    is_saved: bool,
    x: f64,
    y: f64,
    width: f64,
}

/// A box.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct OpBox {
    id: String,
    /// The row of the table that has its numbers; `None` where it is no op.
    row: Option<String>,
    class: String,
    /// All there is to it, as a sentence.
    label: String,
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
    title: String,
    about: Option<String>,
    results: Vec<ResultLine>,
    chips: Vec<ChipText>,
    /// What it reads, in words, for where no lines are drawn.
    takes: String,
    makes: String,
    reads: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ResultLine {
    name: String,
    shape: String,
    dtype: &'static str,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ChipText {
    class: &'static str,
    text: String,
}

/// What gives memory back.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Freed {
    id: String,
    name: String,
    reads: String,
}

/// Draws a picture; `id` is what names of its elements begin with. A narrow one has room for another beside it.
pub(super) fn drawing(figure: &Figure, id: &str, is_narrow: bool) -> Drawing {
    let insides: Vec<Inside> = figure
        .parts
        .iter()
        .map(|part| card::inside(figure, part))
        .collect();
    let nodes: Vec<Node> = insides
        .iter()
        .map(|inside| Node {
            width: inside.width,
            height: inside.height,
            pin: Pin::Free,
        })
        .collect();
    let (nets, values) = between(figure, &insides);
    let widest = if is_narrow { HALF } else { GAPS.widest };
    let placed = layout(&nodes, &nets, Gaps { widest, ..GAPS });
    let mut edges = Vec::new();
    for ((routes, net), value) in placed.routes.iter().zip(&nets).zip(&values) {
        debug_assert_eq!(routes.len(), net.to.len());
        let origin = Point {
            x: MARGIN,
            y: MARGIN,
        };
        edges.extend(
            routes
                .iter()
                .map(|points| edge(figure, *value, points, origin, true)),
        );
    }
    let mut cards = Vec::new();
    for (at, (part, inside)) in figure.parts.iter().zip(&insides).enumerate() {
        let corner = placed.corners[at];
        let origin = Point {
            x: corner.x + MARGIN,
            y: corner.y + MARGIN,
        };
        let inner = inside.ways.iter();
        edges.extend(inner.map(|way| edge(figure, way.value, &way.points, origin, way.ends)));
        cards.push(card::card(
            figure,
            part,
            inside,
            origin,
            &format!("{id}-{at}"),
            id,
        ));
    }
    let ops = figure.ops().len();
    let steps = figure
        .parts
        .iter()
        .filter(|part| part.kind == Kind::Step)
        .count();
    Drawing {
        id: id.to_owned(),
        name: figure.name,
        label: format!("Dataflow of {}: {ops} ops in {steps} steps", figure.name),
        width: placed.width + 2.0 * MARGIN,
        height: placed.height + 2.0 * MARGIN,
        edges,
        cards,
    }
}

/// What goes from card to card, and which value each is.
fn between(figure: &Figure, insides: &[Inside]) -> (Vec<Net>, Vec<usize>) {
    let (mut nets, mut values) = (Vec::new(), Vec::new());
    for (from, inside) in insides.iter().enumerate() {
        let drawn = |value: &usize| figure.values[*value].kind != Line::Saved;
        for (value, port) in inside.leaves.iter().filter(|(value, _)| drawn(value)) {
            let to = insides.iter().enumerate().filter_map(|(node, other)| {
                let (_, port) = other
                    .enters
                    .iter()
                    .find(|(entering, _)| entering == value)?;
                Some(Target { node, port: *port })
            });
            let to: Vec<Target> = to.collect();
            if !to.is_empty() {
                nets.push(Net {
                    from,
                    port: *port,
                    to,
                });
                values.push(*value);
            }
        }
    }
    (nets, values)
}

/// A line; one that goes on beyond a card's edge has no arrow there.
fn edge(figure: &Figure, value: usize, points: &[Point], origin: Point, ends: bool) -> Edge {
    let shifted = points.iter().map(|point| Point {
        x: point.x + origin.x,
        y: point.y + origin.y,
    });
    let points: Vec<Point> = shifted.collect();
    let kind = match figure.values[value].kind {
        Line::Data | Line::Saved => "data",
        Line::Guide => "guide",
        Line::Store => "store",
    };
    Edge {
        value,
        kind,
        path: path(&points),
        tip: points
            .last()
            .filter(|_| ends)
            .map_or_else(String::new, |end| tip(*end)),
    }
}

/// Straight down, or a curve that begins and ends straight down.
fn path(points: &[Point]) -> String {
    let Some(first) = points.first() else {
        return String::new();
    };
    let mut path = format!("M{} {}", first.x, first.y);
    for pair in points.windows(2) {
        let [from, to] = [pair[0], pair[1]];
        if from.x == to.x {
            path.push_str(&format!("V{}", to.y));
        } else {
            let middle = ((from.y + to.y) / 2.0).round();
            path.push_str(&format!(
                "C{} {middle} {} {middle} {} {}",
                from.x, to.x, to.x, to.y
            ));
        }
    }
    path
}

fn tip(end: Point) -> String {
    let Point { x, y } = end;
    format!("M{} {}L{x} {y}L{} {}Z", x - 3.5, y - 6.5, x + 3.5, y - 6.5)
}

/// The names of what a box reads.
fn names(figure: &Figure, values: &[usize]) -> String {
    let mut names: Vec<&str> = values
        .iter()
        .map(|id| figure.values[*id].name.as_str())
        .collect();
    names.dedup();
    names.join(", ")
}

/// Indices as an attribute.
fn indices(values: &[usize]) -> String {
    let words: Vec<String> = values.iter().map(usize::to_string).collect();
    words.join(" ")
}

/// All there is to say of a box, for those who do not see it.
fn sentence(figure: &Figure, one: &Box) -> String {
    let mut text = one.title.clone();
    if let Some(about) = &one.about {
        text.push_str(&format!(" {about}"));
    }
    let made = one.results.iter().map(|made| {
        let parts = [made.name.as_str(), made.shape.as_str(), made.dtype];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        parts.join(" ")
    });
    let made: Vec<String> = made.collect();
    if !made.is_empty() {
        text.push_str(&format!("; makes {}", made.join(", ")));
    }
    if !one.reads.is_empty() {
        text.push_str(&format!("; reads {}", names(figure, &one.reads)));
    }
    for chip in &one.chips {
        text.push_str(&format!("; {}", chip.text));
    }
    text
}

/// Whether a part is drawn as a card around its boxes.
fn is_card(part: &Part) -> bool {
    part.kind == Kind::Step
}
