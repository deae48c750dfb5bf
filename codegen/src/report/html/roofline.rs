//! A function's groups of ops under a device's roofs, and what was measured.
//!
//! Both axes are logarithmic. Places are shares of the plot's width and height, so that it is drawn at any size with text of one size.

use serde::Serialize;

use super::measured::{Kernel, Measured};
use crate::plan::cost::microseconds;
use crate::plan::machine::{Machine, Roof};
use crate::report::text::readable;
use crate::report::work::{Group, Work};

/// What `show_roofline.html.tera` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Plot {
    id: String,
    label: String,
    device: String,
    /// The roof, in a square of 100.
    roof: String,
    x_ticks: Vec<Tick>,
    y_ticks: Vec<Tick>,
    points: Vec<Point>,
    /// What stands at the points, row by row.
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Tick {
    at: String,
    from_top: String,
    text: String,
}

/// A point with its sign.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Point {
    class: String,
    sign: String,
    x: String,
    y: String,
    /// How many signs it stands clear of, so that none covers another.
    level: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    sign: String,
    class: String,
    name: String,
    intensity: String,
    rate: String,
    time: String,
    bound: String,
}

/// A group of ops: what it does, and how long that takes at least, by which roof.
pub(super) type Floor = (Group, Work, Roof, f64);

/// What a device reaches: bytes and operations a second.
#[derive(Debug, Clone, PartialEq)]
struct Roofs {
    device: String,
    read: f64,
    products: f64,
}

/// Something with a place in the plot.
struct Spot {
    class: &'static str,
    sign: String,
    name: String,
    work: Work,
    seconds: f64,
    bound: String,
}

impl Spot {
    fn intensity(&self) -> f64 {
        self.work.intensity()
    }

    fn rate(&self) -> f64 {
        self.work.flops as f64 / self.seconds
    }

    /// Logarithms know no 0.
    fn is_drawn(&self) -> bool {
        self.work.flops > 0 && self.work.bytes > 0 && self.seconds > 0.0
    }
}

/// At most so many kernels of a measured call get a sign.
const KERNELS: usize = 10;

/// The plot of a function; `id` names it. Where something was measured, the roofs are that device's own if it told them.
pub(super) fn plot(
    id: &str,
    name: &str,
    machine: &Machine,
    floors: &[Floor],
    measured: &[&Measured],
) -> Plot {
    let roofs = roofs(machine, measured);
    let mut spots: Vec<Spot> = floors
        .iter()
        .enumerate()
        .map(|(i, (group, work, roof, seconds))| Spot {
            class: super::draw::class(Some(*group)),
            sign: (i + 1).to_string(),
            name: group.name().to_owned(),
            work: *work,
            seconds: *seconds,
            bound: roof.name().to_owned(),
        })
        .collect();
    for (i, call) in measured.iter().enumerate() {
        spots.extend(calls(i, call, &roofs));
    }
    let drawn: Vec<&Spot> = spots.iter().filter(|spot| spot.is_drawn()).collect();
    let axes = Axes::around(&roofs, &drawn);
    Plot {
        id: id.to_owned(),
        label: format!(
            "Roofline of {name} on {}: {} groups of ops, {} measured",
            roofs.device,
            floors.len(),
            measured.len()
        ),
        device: format!(
            "{}: {}/s from memory, {}/s of products",
            roofs.device,
            readable(roofs.read as u128, "B"),
            readable(roofs.products as u128, "FLOP")
        ),
        roof: axes.roof(&roofs),
        x_ticks: axes.ticks(axes.x, |power| amount(power, "")),
        y_ticks: axes.ticks(axes.y, |power| amount(power, "FLOP/s")),
        points: points(&drawn, &axes),
        rows: spots.iter().map(row).collect(),
    }
}

/// A measured call, and those of its kernels that take longest.
fn calls(index: usize, call: &Measured, roofs: &Roofs) -> Vec<Spot> {
    let floor = |work: Work, seconds: f64| {
        let least = (work.bytes as f64 / roofs.read).max(work.flops as f64 / roofs.products);
        format!("{:.0} % of the roof", 100.0 * least / seconds.max(1e-12))
    };
    // Signs of the second call and of those behind it are numbered
    let numbered = |sign: char| match index {
        0 => sign.to_string(),
        more => format!("{sign}{}", more + 1),
    };
    let mut spots = vec![Spot {
        class: "measured",
        sign: numbered('M'),
        name: format!("measured: {}", call.what),
        work: call.work,
        seconds: call.seconds,
        bound: floor(call.work, call.seconds),
    }];
    let mut kernels: Vec<&Kernel> = call.kernels.iter().collect();
    // Names break ties, so that the order is the file's in no case
    kernels.sort_by(|one, other| {
        other
            .seconds
            .total_cmp(&one.seconds)
            .then_with(|| one.name.cmp(&other.name))
    });
    let signs = ('a'..='z').take(KERNELS);
    spots.extend(kernels.into_iter().zip(signs).map(|(kernel, sign)| Spot {
        class: "kernel",
        sign: numbered(sign),
        name: format!("{} × {}", kernel.name, kernel.count),
        work: kernel.work,
        seconds: kernel.seconds,
        bound: floor(kernel.work, kernel.seconds),
    }));
    spots
}

fn roofs(machine: &Machine, measured: &[&Measured]) -> Roofs {
    let told = measured.iter().find_map(|call| call.device.as_ref());
    match told {
        Some(device) if is_rate(device.read) && is_rate(device.products) => Roofs {
            device: device.name.clone(),
            read: device.read,
            products: device.products,
        },
        _ => Roofs {
            device: machine.name.to_owned(),
            read: machine.read,
            products: machine.bf16,
        },
    }
}

/// Whether something can be that fast.
fn is_rate(rate: f64) -> bool {
    (1.0..1e30).contains(&rate)
}

/// Powers of ten at the ends of both axes.
struct Axes {
    x: [i32; 2],
    y: [i32; 2],
}

impl Axes {
    /// Axes that show every point, and where the roof turns.
    fn around(roofs: &Roofs, spots: &[&Spot]) -> Self {
        let ridge = roofs.products / roofs.read;
        let intensities = spots.iter().map(|spot| spot.intensity());
        let rates = spots.iter().map(|spot| spot.rate());
        let x = span(intensities.chain([ridge, 1.0, ridge * 8.0]));
        let y = span(rates.chain([roofs.products, roofs.read * 10_f64.powi(x[0])]));
        Self { x, y }
    }

    /// A place from the left, in percent.
    fn across(&self, intensity: f64) -> f64 {
        share(intensity, self.x)
    }

    /// A place from the bottom, in percent.
    fn up(&self, rate: f64) -> f64 {
        share(rate, self.y)
    }

    /// The roof from the left: as fast as memory, then as fast as products.
    fn roof(&self, roofs: &Roofs) -> String {
        let start = 10_f64.powi(self.x[0]);
        let ridge = roofs.products / roofs.read;
        format!(
            "M0 {:.2}L{:.2} {:.2}L100 {:.2}",
            100.0 - self.up(start * roofs.read),
            self.across(ridge),
            100.0 - self.up(roofs.products),
            100.0 - self.up(roofs.products)
        )
    }

    fn ticks(&self, ends: [i32; 2], text: impl Fn(i32) -> String) -> Vec<Tick> {
        let ticks = ends[0]..=ends[1];
        ticks
            .map(|power| {
                let at = share(10_f64.powi(power), ends);
                Tick {
                    at: format!("{at:.2}"),
                    from_top: format!("{:.2}", 100.0 - at),
                    text: text(power),
                }
            })
            .collect()
    }
}

fn share(value: f64, ends: [i32; 2]) -> f64 {
    let [from, to] = ends.map(f64::from);
    100.0 * (value.log10() - from) / (to - from)
}

/// The powers of ten around some numbers; no machine and no work is beyond these.
fn span(values: impl Iterator<Item = f64>) -> [i32; 2] {
    let logarithms = values.map(|value| value.log10().clamp(-12.0, 30.0));
    let (low, high) = logarithms.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
        (low.min(value), high.max(value))
    });
    [
        low.floor() as i32,
        (high.ceil() as i32).max(low.floor() as i32 + 1),
    ]
}

/// `1`, `10 k`, `100 TFLOP/s`.
fn amount(power: i32, unit: &str) -> String {
    if power < 0 {
        return format!("{} {unit}", 10_f64.powi(power)).trim().to_owned();
    }
    let prefixes = ["", "k", "M", "G", "T", "P", "E"];
    let step = (power / 3).clamp(0, 6);
    let number = 10_u64.pow((power - 3 * step).clamp(0, 18).unsigned_abs());
    let prefix = prefixes.get(step.unsigned_abs() as usize).unwrap_or(&"");
    format!("{number} {prefix}{unit}").trim().to_owned()
}

/// Signs whose points are closer than this share of the narrowest plot would cover each other.
const CLOSE: f64 = 8.0;

fn points(spots: &[&Spot], axes: &Axes) -> Vec<Point> {
    let place = |spot: &Spot| (axes.across(spot.intensity()), axes.up(spot.rate()));
    let is_measured = |spot: &Spot| ["measured", "kernel"].contains(&spot.class);
    let mut taken: Vec<(bool, [f64; 2], usize)> = Vec::new();
    let mut points = Vec::new();
    for spot in spots {
        let (x, y) = place(spot);
        let measured = is_measured(spot);
        // Signs of groups hang from the roof, those of what was measured stand beside their points
        let near = |level: usize| {
            taken.iter().any(|(kind, other, used)| {
                let is_beside = !measured || (y - other[1]).abs() < CLOSE;
                *kind == measured && *used == level && is_beside && (x - other[0]).abs() < CLOSE
            })
        };
        let level = (0..).find(|level| !near(*level)).unwrap_or(0);
        taken.push((measured, [x, y], level));
        let side = if measured { "beside" } else { "below" };
        points.push(Point {
            class: format!("{} {side}", spot.class),
            sign: spot.sign.clone(),
            x: format!("{x:.2}"),
            y: format!("{y:.2}"),
            level,
        });
    }
    points
}

fn row(spot: &Spot) -> Row {
    let is_drawn = spot.is_drawn();
    let or_none = |text: String| if is_drawn { text } else { "–".to_owned() };
    Row {
        sign: spot.sign.clone(),
        class: spot.class.to_owned(),
        name: spot.name.clone(),
        intensity: or_none(format!("{:.2}", spot.intensity())),
        rate: or_none(format!("{}/s", readable(spot.rate() as u128, "FLOP"))),
        time: microseconds(spot.seconds),
        bound: spot.bound.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_powers_of_ten_around_all_points() {
        assert_eq!(span([0.5, 300.0].into_iter()), [-1, 3]);
        assert_eq!(span([10.0].into_iter()), [1, 2]);
        assert_eq!(span([0.0, f64::INFINITY].into_iter()), [-12, 30]);
        assert_eq!(amount(-1, ""), "0.1");
        assert_eq!(amount(4, ""), "10 k");
        assert_eq!(amount(14, "FLOP/s"), "100 TFLOP/s");
        assert_eq!(share(10.0, [0, 2]), 50.0);
    }
}
