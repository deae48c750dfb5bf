//! What was timed, as a table.

use std::fmt::Write as _;

use mla_spec::Checked;

use super::work;
use crate::driver::job::{self, Ceilings, Report, Timing};

/// A device's ceilings, each call, and each of its kernels.
pub(super) fn text(checked: &Checked, report: &Report) -> String {
    let mut text = checked.layer.name.clone();
    if let Some(device) = &report.device {
        let _ = write!(text, " on {} ({})", device.name, device.arch);
    }
    text.push('\n');
    if let Some(ceilings) = &report.ceilings {
        let _ = writeln!(text, "\n{}", ceilings.text);
    }
    for timing in &report.timings {
        text.push('\n');
        call(checked, timing, report.ceilings.as_ref(), &mut text);
        kernels(timing, report.ceilings.as_ref(), &mut text);
    }
    text
}

/// The name of a phase, as the layer's function is called.
fn name(phase: job::Phase) -> &'static str {
    match phase {
        job::Phase::Forward => "forward",
        job::Phase::Prefill => "prefill",
        job::Phase::Decode => "decode",
        job::Phase::ForwardTrain => "forward_train",
        job::Phase::Backward => "forward_train + backward",
    }
}

/// One call.
fn call(checked: &Checked, timing: &Timing, ceilings: Option<&Ceilings>, text: &mut String) {
    let bench = timing.bench;
    let tokens = bench.requests * bench.new;
    let _ = write!(
        text,
        "{}, {} x {} tokens over {} cached: {} a call, {:.0} tokens/s",
        name(bench.phase),
        bench.requests,
        bench.new,
        bench.cached,
        readable(timing.call_seconds),
        tokens as f64 / timing.call_seconds
    );
    if let Some(seconds) = timing.device_seconds {
        let _ = write!(text, "; {} on the device", readable(seconds));
    }
    text.push('\n');
    let seconds = timing.device_seconds.unwrap_or(timing.call_seconds);
    let work = work::of(checked, timing);
    let _ = write!(
        text,
        "  {}B, {}FLOP: {}B/s, {}FLOP/s",
        scaled(work.bytes as f64),
        scaled(work.flops as f64),
        scaled(work.bytes as f64 / seconds),
        scaled(work.flops as f64 / seconds)
    );
    if let Some(ceilings) = ceilings {
        let floor = ceilings.floor(work);
        let _ = write!(
            text,
            "; floor {}, {:.0} % of it",
            readable(floor),
            100.0 * floor / seconds
        );
    }
    text.push('\n');
}

const HEAD: [&str; 7] = [
    "kernel", "count", "us", "GB/s", "TFLOP/s", "floor us", "of floor",
];

/// Each kernel.
fn kernels(timing: &Timing, ceilings: Option<&Ceilings>, text: &mut String) {
    if timing.commands.is_empty() {
        return;
    }
    let mut rows = vec![HEAD.map(str::to_owned)];
    for timed in &timing.commands {
        let seconds = timed.seconds.max(1e-9);
        let floor = ceilings.map(|ceilings| ceilings.floor(timed.work));
        let rate = |amount: u64, unit: f64, digits: usize| match amount {
            0 => "-".to_owned(),
            amount => format!("{:.digits$}", amount as f64 / seconds / unit),
        };
        rows.push([
            timed.name.clone(),
            timed.count.to_string(),
            format!("{:.1}", seconds * 1e6),
            rate(timed.work.bytes, 1e9, 0),
            rate(timed.work.flops, 1e12, 1),
            floor.map_or("-".to_owned(), |floor| format!("{:.1}", floor * 1e6)),
            floor.map_or("-".to_owned(), |floor| {
                format!("{:.0} %", 100.0 * floor / seconds)
            }),
        ]);
    }
    for line in super::super::aligned(&rows).lines() {
        let _ = writeln!(text, "  {line}");
    }
}

/// Three digits of a number, and the prefix of its unit.
fn scaled(number: f64) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (unit, prefix) = prefixes
        .into_iter()
        .find(|(unit, _)| number >= *unit)
        .unwrap_or((1.0, ""));
    let shown = number / unit;
    let digits = match shown {
        s if s >= 100.0 => 0,
        s if s >= 10.0 => 1,
        _ => 2,
    };
    format!("{shown:.digits$} {prefix}")
}

/// Three digits of a time.
fn readable(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 0.1 => format!("{:.0} ms", s * 1e3),
        s if s >= 1e-3 => format!("{:.2} ms", s * 1e3),
        s => format!("{:.1} us", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let written = [0.0, 12.0, 1234.0, 5.678e7, 4.39e12, 9.9e14].map(scaled);
        assert_eq!(
            written,
            ["0.00 ", "12.0 ", "1.23 k", "56.8 M", "4.39 T", "990 T"]
        );
        let written = [2.5, 0.25, 0.0125, 0.000_123_4].map(readable);
        assert_eq!(written, ["2.50 s", "250 ms", "12.50 ms", "123.4 us"]);
    }
}
