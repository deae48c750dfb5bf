//! A card: its heading, what enters it, its boxes.

use super::super::figure::{Box, Figure, Kind, Line, Part};
use super::super::layout::{Gaps, Layout, Net, Node, Pin, Point, Target, layout};
use super::text::{self, CHIP, FORMULA, LINE, TITLE};
use super::{Card, ChipText, Freed, OpBox, Port, ResultLine, indices, is_card, names, sentence};
use crate::plan::print;
use crate::report::text::percent;
use crate::report::work::Group;

/// Room inside a card, and inside a box.
const PADDING: f64 = 14.0;
const BOX_PADDING: f64 = 10.0;
const BOX_ABOVE: f64 = 7.0;

/// Least widths.
const NARROWEST_CARD: f64 = 250.0;
const NARROWEST_BOX: f64 = 96.0;

/// Height of a name at the upper edge.
const PORT: f64 = 18.0;

const GAPS: Gaps = Gaps {
    boxes: 18.0,
    ranks: 22.0,
    lines: 12.0,
    widest: 640.0,
};

/// A card as it is laid out, from its upper left corner.
pub(super) struct Inside {
    pub(super) width: f64,
    pub(super) height: f64,
    /// The values that come from other cards, and where they meet the upper edge; `None` where that is left open.
    pub(super) enters: Vec<(usize, Option<f64>)>,
    /// The values that other cards read, and where they leave the lower edge.
    pub(super) leaves: Vec<(usize, f64)>,
    /// Lines inside.
    pub(super) ways: Vec<Way>,
    /// Where each name at the upper edge stands, and how wide it is.
    ports: Vec<(usize, Point, f64)>,
    /// Where each box stands, and its size.
    boxes: Vec<(Point, [f64; 2])>,
    formula: Vec<Vec<String>>,
}

/// A line inside a card.
pub(super) struct Way {
    pub(super) value: usize,
    pub(super) points: Vec<Point>,
    /// Whether it ends at a box, rather than at the card's edge.
    pub(super) ends: bool,
}

/// Lays out a part.
pub(super) fn inside(figure: &Figure, part: &Part) -> Inside {
    match is_card(part) {
        true => step(figure, part),
        false => single(part),
    }
}

/// A box that stands by itself.
fn single(part: &Part) -> Inside {
    let sizes: Vec<[f64; 2]> = part.boxes.iter().map(size).collect();
    let [width, height] = sizes.first().copied().unwrap_or([NARROWEST_BOX, LINE]);
    let makes: Vec<usize> = part
        .boxes
        .iter()
        .flat_map(|one| one.makes.clone())
        .collect();
    let reads = part.boxes.iter().flat_map(|one| one.reads.clone());
    Inside {
        width,
        height,
        enters: reads.map(|value| (value, None)).collect(),
        leaves: ports(&makes, width),
        ways: Vec::new(),
        ports: Vec::new(),
        boxes: vec![(Point { x: 0.0, y: 0.0 }, [width, height])],
        formula: Vec::new(),
    }
}

/// A card: heading, names of what enters, boxes.
fn step(figure: &Figure, part: &Part) -> Inside {
    let entering = entering(part);
    let leaving = leaving(figure, part);
    let (nodes, nets, values) = graph(figure, part, &entering, &leaving);
    let placed = layout(&nodes, &nets, GAPS);
    let width = card_width(figure, part, &placed);
    let formula: Vec<Vec<String>> = part
        .formula
        .iter()
        .map(|clause| text::wrapped(clause, width - 2.0 * PADDING, text::formula))
        .collect();
    let top = heading(part, &formula, width);
    let left = ((width - placed.width) / 2.0).round();
    let shifted = |point: &Point| Point {
        x: point.x + left,
        y: point.y + top,
    };
    let first = part.boxes.len();
    let corner = |at: usize| shifted(&placed.corners[entering.len() + at]);
    let ports = entering
        .iter()
        .enumerate()
        .map(|(i, value)| (*value, shifted(&placed.corners[i]), nodes[i].width));
    let ports: Vec<(usize, Point, f64)> = ports.collect();
    let boxes = (0..first)
        .map(|i| (corner(i), size(&part.boxes[i])))
        .collect();
    let ends = leaving.iter().enumerate().map(|(i, value)| {
        let node = entering.len() + first + i;
        (*value, shifted(&placed.corners[node]).x)
    });
    let mut ways = Vec::new();
    for ((value, net), routes) in values.iter().zip(&nets).zip(&placed.routes) {
        ways.extend(net.to.iter().zip(routes).map(|(target, points)| Way {
            value: *value,
            points: points.iter().map(shifted).collect(),
            ends: target.node < entering.len() + first,
        }));
    }
    let height = top + placed.height;
    let enters = ports
        .iter()
        .map(|(value, corner, width)| (*value, Some(corner.x + width / 2.0)));
    Inside {
        width,
        height: if leaving.is_empty() {
            height + PADDING
        } else {
            height
        },
        enters: enters.collect(),
        leaves: ends.collect(),
        ways,
        ports,
        boxes,
        formula,
    }
}

/// What other parts made.
fn entering(part: &Part) -> Vec<usize> {
    let own: Vec<usize> = part
        .boxes
        .iter()
        .flat_map(|one| one.makes.clone())
        .collect();
    let mut entering: Vec<usize> = Vec::new();
    for value in part.boxes.iter().flat_map(|one| &one.reads) {
        if !own.contains(value) && !entering.contains(value) {
            entering.push(*value);
        }
    }
    entering
}

/// What other parts read.
fn leaving(figure: &Figure, part: &Part) -> Vec<usize> {
    let others = figure
        .parts
        .iter()
        .filter(|other| !std::ptr::eq(*other, part));
    let others: Vec<usize> = others
        .flat_map(|other| &other.boxes)
        .flat_map(|one| one.reads.clone())
        .collect();
    let own = part.boxes.iter().flat_map(|one| one.makes.clone());
    own.filter(|value| others.contains(value)).collect()
}

/// Names, boxes and ends of lines as nodes, in this order; what goes between them, and which value each net is.
fn graph(
    figure: &Figure,
    part: &Part,
    entering: &[usize],
    leaving: &[usize],
) -> (Vec<Node>, Vec<Net>, Vec<usize>) {
    let mut nodes: Vec<Node> = entering
        .iter()
        .map(|value| Node {
            width: text::port(&figure.values[*value].name),
            height: PORT,
            pin: Pin::First,
        })
        .collect();
    nodes.extend(part.boxes.iter().map(|one| {
        let [width, height] = size(one);
        Node {
            width,
            height,
            pin: Pin::Free,
        }
    }));
    nodes.extend(leaving.iter().map(|_| Node {
        width: 0.0,
        height: 0.0,
        pin: Pin::Last,
    }));
    let (mut nets, mut values) = (Vec::new(), Vec::new());
    let mut push = |from: usize, port: f64, value: usize, to: Vec<Target>| {
        if !to.is_empty() {
            nets.push(Net { from, port, to });
            values.push(value);
        }
    };
    let first = entering.len();
    let readers = |value: usize, behind: usize| {
        let own = part.boxes.iter().enumerate().skip(behind);
        own.filter(move |(_, one)| one.reads.contains(&value))
            .map(move |(i, _)| Target {
                node: first + i,
                port: None,
            })
    };
    for (from, value) in entering.iter().enumerate() {
        push(
            from,
            nodes[from].width / 2.0,
            *value,
            readers(*value, 0).collect(),
        );
    }
    for (i, one) in part.boxes.iter().enumerate() {
        for (value, port) in ports(&one.makes, nodes[first + i].width) {
            let end = leaving.iter().position(|left| *left == value);
            let end = end.map(|end| Target {
                node: first + part.boxes.len() + end,
                port: Some(0.0),
            });
            push(
                first + i,
                port,
                value,
                readers(value, i + 1).chain(end).collect(),
            );
        }
    }
    (nodes, nets, values)
}

/// Where values leave a lower edge: evenly spread.
fn ports(values: &[usize], width: f64) -> Vec<(usize, f64)> {
    let count = values.len() as f64;
    let places = values.iter().enumerate();
    places
        .map(|(i, value)| (*value, (width * (i as f64 + 0.5) / count).round()))
        .collect()
}

fn card_width(figure: &Figure, part: &Part, placed: &Layout) -> f64 {
    let title = text::title(&title(part)) + 2.0 * PADDING;
    let over = text::eyebrow(&eyebrow(part)) + text::eyebrow(&share(figure, part));
    let widest = (placed.width.max(over) + 2.0 * PADDING).max(NARROWEST_CARD);
    // A long title breaks rather than widen the card
    let even = |width: f64| (width / 2.0).ceil() * 2.0;
    even(widest.max(title.min(NARROWEST_CARD)))
}

/// Height of all above the names of what enters.
fn heading(part: &Part, formula: &[Vec<String>], width: f64) -> f64 {
    let titles = text::wrapped(&title(part), width - 2.0 * PADDING, text::title).len();
    let lines: usize = formula.iter().map(Vec::len).sum();
    let frees = text::rows(
        part.frees.iter().map(|one| text::chip(&freed(one))),
        width - 2.0 * PADDING - text::chip("frees"),
    );
    // Eyebrow, title, formulas, what is freed, and the room around them
    10.0 + LINE + TITLE * titles as f64 + FORMULA * lines as f64 + CHIP * frees as f64 + 10.0
}

/// A card without a title of its own is called after what it is for.
fn title(part: &Part) -> String {
    let group = part.group.map_or("", Group::name);
    match part.title.as_str() {
        "" => group.to_owned(),
        title => title.to_owned(),
    }
}

/// The name of what an op gives back.
fn freed(one: &Box) -> String {
    let name = one.line.rsplit(' ').next().unwrap_or("");
    name.to_owned()
}

/// A box's size.
fn size(one: &Box) -> [f64; 2] {
    let about = one.about.iter().map(|about| text::mono(about));
    let results = one.results.iter().map(|made| {
        let parts = [made.name.as_str(), made.shape.as_str(), made.dtype];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        text::mono(&parts.join("  "))
    });
    let chips = one.chips.iter().map(|chip| text::chip(&chip.text));
    let widths = about.chain(results).chain(chips.clone());
    let widest = widths.fold(text::mono(&one.title), f64::max);
    let width = (widest + 2.0 * BOX_PADDING).max(NARROWEST_BOX);
    let width = (width / 2.0).ceil() * 2.0;
    let lines = 1 + usize::from(one.about.is_some()) + one.results.len();
    let rows = text::rows(chips, width - 2.0 * BOX_PADDING + 6.0);
    let height = 2.0 * BOX_ABOVE + LINE * lines as f64 + CHIP * rows as f64;
    [width, height]
}

/// A card as the template prints it.
pub(super) fn card(
    figure: &Figure,
    part: &Part,
    inside: &Inside,
    origin: Point,
    id: &str,
    drawing: &str,
) -> Card {
    let ports = inside.ports.iter().map(|(value, corner, width)| Port {
        name: figure.values[*value].name.clone(),
        value: *value,
        is_saved: figure.values[*value].kind == Line::Saved,
        x: corner.x,
        y: corner.y,
        width: *width,
    });
    let boxes = part.boxes.iter().zip(&inside.boxes).enumerate();
    let ops = boxes.map(|(at, (one, (corner, size)))| {
        let own = one
            .op
            .map_or_else(|| format!("{id}-{at}"), |op| format!("{drawing}-op{op}"));
        op_box(figure, part, one, (*corner, *size), own, drawing)
    });
    let frees = part.frees.iter().map(|one| Freed {
        id: one
            .op
            .map_or_else(String::new, |op| format!("{drawing}-op{op}")),
        name: names(figure, &one.reads),
        reads: indices(&one.reads),
    });
    Card {
        id: id.to_owned(),
        kind: match part.kind {
            Kind::Step => "step",
            Kind::Given => "given",
            Kind::Store => "store",
            Kind::Returned => "returned",
        },
        x: origin.x,
        y: origin.y,
        width: inside.width,
        height: inside.height,
        group: class(part.group),
        eyebrow: eyebrow(part),
        share: share(figure, part),
        title: match is_card(part) {
            true => title(part),
            false => String::new(),
        },
        formula: inside.formula.clone(),
        ports: ports.collect(),
        ops: ops.collect(),
        frees: frees.collect(),
    }
}

fn op_box(
    figure: &Figure,
    part: &Part,
    one: &Box,
    (corner, [width, height]): (Point, [f64; 2]),
    id: String,
    drawing: &str,
) -> OpBox {
    let mut classes: Vec<&str> = vec![match part.kind {
        Kind::Step => "inner",
        Kind::Given => "given",
        Kind::Store => "store",
        Kind::Returned => "returned",
    }];
    classes.extend((one.is_view && is_card(part)).then_some("view"));
    let marks = one.chips.iter().map(|chip| chip.kind.class());
    classes.extend(marks.filter(|class| ["differs", "only"].contains(class)));
    OpBox {
        id,
        row: one.op.map(|op| format!("{drawing}-row{op}")),
        class: classes.join(" "),
        label: sentence(figure, one),
        x: corner.x,
        y: corner.y,
        width,
        height,
        title: one.title.clone(),
        about: one.about.clone(),
        results: one
            .results
            .iter()
            .map(|made| ResultLine {
                name: made.name.clone(),
                shape: made.shape.clone(),
                dtype: made.dtype,
            })
            .collect(),
        chips: one
            .chips
            .iter()
            .map(|chip| ChipText {
                class: chip.kind.class(),
                text: chip.text.clone(),
            })
            .collect(),
        takes: names(figure, &one.reads),
        makes: indices(&one.makes),
        reads: indices(&one.reads),
    }
}

/// What a card is for, and for which requests.
fn eyebrow(part: &Part) -> String {
    let group = part.group.map_or("", Group::name);
    match part.requests {
        None => group.to_owned(),
        Some(form) => format!("{group} · {} only", print::form(form)),
    }
}

/// A card's share of the function's work, where it has one worth mentioning.
fn share(figure: &Figure, part: &Part) -> String {
    let share = |own: u128, all: u128, what: &str| {
        let is_some = all > 0 && own * 200 >= all;
        is_some.then(|| format!("{} {what}", percent(own, all)))
    };
    let parts = [
        share(part.work.flops, figure.total.flops, "FLOP"),
        share(part.work.bytes, figure.total.bytes, "bytes"),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join(" · ")
}

/// The class that colours a group.
pub(in super::super) fn class(group: Option<Group>) -> &'static str {
    match group {
        None => "none",
        Some(Group::Projections) => "projections",
        Some(Group::Up) => "up",
        Some(Group::Indexer) => "indexer",
        Some(Group::Attention) => "attention",
        Some(Group::Cache) => "cache",
        Some(Group::Output) => "output",
    }
}
