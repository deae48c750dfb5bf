//! The losses as a drawing that needs nothing else: SVG, legible on white and on black.

use std::fmt::Write;

use crate::tiny::model::Losses;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 440.0;
/// The plot's sides: left, top, right, bottom.
const PLOT: [f64; 4] = [64.0, 56.0, 836.0, 384.0];
/// Marks on an axis, at most.
const MARKS: f64 = 8.0;

/// Without variables, which not every program that shows drawings knows.
const STYLE: &str = "
.paper { fill: #ffffff }
text { fill: #1f2328; font: 13px system-ui, sans-serif }
.title { font-size: 16px; font-weight: 600 }
.grid { stroke: #d5d9de; stroke-width: 1 }
.guess { stroke: #1f2328; stroke-width: 1; stroke-dasharray: 5 5 }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round }
.each { stroke-width: 1; opacity: 0.3 }
.model { stroke: #0b66c2 }
.indexer { stroke: #b3500a }
@media (prefers-color-scheme: dark) {
  .paper { fill: #14171a }
  text { fill: #e4e7eb }
  .grid { stroke: #3a4047 }
  .guess { stroke: #e4e7eb }
  .model { stroke: #62b0ff }
  .indexer { stroke: #ff9e57 }
}
";

/// The curves of what each step lost. `guess` is what a model loses that has learnt nothing.
pub(crate) fn svg(history: &[Losses], guess: f64) -> String {
    let model: Vec<f64> = history.iter().map(|losses| losses.model).collect();
    let indexer: Vec<f64> = history.iter().map(|losses| losses.indexer).collect();
    let finite = model.iter().chain(&indexer).filter(|x| x.is_finite());
    let most = finite.copied().fold(guess, f64::max);
    let axes = Axes {
        steps: (history.len() as f64).max(1.0),
        most: most * 1.04,
    };
    let mut out = String::new();
    // Writing to a string can't fail
    let _ = draw(&mut out, &axes, guess, &model, &indexer);
    out
}

fn draw(
    out: &mut String,
    axes: &Axes,
    guess: f64,
    model: &[f64],
    indexer: &[f64],
) -> std::fmt::Result {
    let [left, top, right, bottom] = PLOT;
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title">"#
    )?;
    writeln!(
        out,
        r#"<title id="title">Loss by step</title><style>{STYLE}</style>"#
    )?;
    writeln!(
        out,
        r#"<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>"#
    )?;
    writeln!(
        out,
        r#"<text class="title" x="{left}" y="28">Training loss</text>"#
    )?;
    key(out, right - 350.0, "model", "model, per character")?;
    key(out, right - 160.0, "indexer", "indexer, per query")?;

    for mark in marks(axes.most) {
        let y = axes.y(mark);
        writeln!(
            out,
            r#"<line class="grid" x1="{left}" y1="{y:.1}" x2="{right}" y2="{y:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{mark}</text>"#,
            left - 8.0,
            y + 4.5
        )?;
    }
    for mark in marks(axes.steps) {
        let x = axes.x(mark);
        writeln!(
            out,
            r#"<line class="grid" x1="{x:.1}" y1="{bottom}" x2="{x:.1}" y2="{:.1}"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{mark}</text>"#,
            bottom + 5.0,
            bottom + 20.0
        )?;
    }
    let (middle, height) = ((left + right) / 2.0, (top + bottom) / 2.0);
    writeln!(
        out,
        r#"<text x="{middle}" y="{:.1}" text-anchor="middle">step</text>"#,
        bottom + 42.0
    )?;
    writeln!(
        out,
        r#"<text x="18" y="{height}" text-anchor="middle" transform="rotate(-90 18 {height})">loss, nats</text>"#
    )?;
    let y = axes.y(guess);
    writeln!(
        out,
        r#"<line class="guess" x1="{left}" y1="{y:.1}" x2="{right}" y2="{y:.1}"/><text x="{right}" y="{:.1}" text-anchor="end">guessing, {guess:.2}</text>"#,
        y - 7.0
    )?;
    for (values, class) in [(indexer, "indexer"), (model, "model")] {
        curve(out, axes, values, &format!("curve each {class}"))?;
        let smooth = smoothed(values, values.len() / 120);
        curve(out, axes, &smooth, &format!("curve {class}"))?;
    }
    writeln!(out, "</svg>")
}

/// What a colour means.
fn key(out: &mut String, x: f64, class: &str, text: &str) -> std::fmt::Result {
    writeln!(
        out,
        r#"<line class="curve {class}" x1="{x}" y1="24" x2="{}" y2="24"/><text x="{}" y="28.5">{text}</text>"#,
        x + 22.0,
        x + 28.0
    )
}

/// Values by step, counted from 1; it breaks where one is no number.
fn curve(out: &mut String, axes: &Axes, values: &[f64], class: &str) -> std::fmt::Result {
    let mut path = String::new();
    let mut pen = 'M';
    for (step, &value) in values.iter().enumerate() {
        if !value.is_finite() {
            pen = 'M';
            continue;
        }
        let (x, y) = (axes.x(step as f64 + 1.0), axes.y(value));
        write!(path, "{pen}{x:.1} {y:.1}")?;
        pen = 'L';
    }
    writeln!(out, r#"<path class="{class}" d="{path}"/>"#)
}

/// Where numbers stand.
struct Axes {
    steps: f64,
    most: f64,
}

impl Axes {
    fn x(&self, step: f64) -> f64 {
        let [left, _, right, _] = PLOT;
        left + (right - left) * step / self.steps
    }

    fn y(&self, loss: f64) -> f64 {
        let [_, top, _, bottom] = PLOT;
        bottom - (bottom - top) * loss / self.most
    }
}

/// Round numbers from 0 to `most`: multiples of 1, 2 or 5 times a power of ten.
fn marks(most: f64) -> impl Iterator<Item = f64> {
    let unit = 10_f64.powf((most / MARKS).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|by| by * unit);
    let step = steps.into_iter().find(|step| most / step <= MARKS);
    let step = step.unwrap_or(most);
    (0..=(most / step) as usize).map(move |mark| {
        // Whole numbers of tenths, hundredths: a product alone would show its rounding
        let scale = (1.0 / unit).max(1.0).round();
        (mark as f64 * step * scale).round() / scale
    })
}

/// Means over each value and up to `beside` ones on either side.
fn smoothed(values: &[f64], beside: usize) -> Vec<f64> {
    let mean = |at: usize| {
        let end = values.len().min(at + beside + 1);
        let some = &values[at.saturating_sub(beside)..end];
        some.iter().sum::<f64>() / some.len() as f64
    };
    (0..values.len()).map(mean).collect()
}
