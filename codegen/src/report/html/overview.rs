//! What a page says of layers as a whole.

use mla_spec::Phase;
use serde::Serialize;

use super::layer::Layer;
use super::table::{Entry, Table, Value, table};
use super::{LETTERS, figure};
use crate::plan::print;
use crate::report::text::{grouped, readable};
use crate::report::{PhaseReport, Report};

/// A layer's name, and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Head {
    letter: &'static str,
    name: String,
    module: &'static str,
    source: String,
    dtype: &'static str,
}

/// A sentence about a layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Fact {
    text: String,
    /// Whether the other layer has none like it.
    is_own: bool,
}

pub(super) fn heads(layers: &[Layer]) -> Vec<Head> {
    let heads = layers.iter().zip(LETTERS).map(|(layer, letter)| Head {
        letter,
        name: layer.report.name.clone(),
        module: layer.report.module,
        source: layer.source.to_owned(),
        dtype: figure::element(layer.program.build.dtype),
    });
    heads.collect()
}

/// The numbers that people ask for first.
pub(super) fn table_of(reports: &[&Report]) -> Table {
    let of = |report: &&Report| {
        let mut rows = Vec::new();
        let mut push = |label: String, text: String, amount: f64| {
            rows.push(Entry::new(label, vec![Value::Number(text)], Some(amount)));
        };
        let count: u128 = report.parameters.iter().map(|module| module.count).sum();
        let bytes: u128 = report.parameters.iter().map(|module| module.bytes).sum();
        push("parameters".to_owned(), readable(count, ""), count as f64);
        push(
            "memory of parameters".to_owned(),
            readable(bytes, "B"),
            bytes as f64,
        );
        if let Some(cache) = &report.cache {
            let bytes = cache.bytes_per_token();
            push(
                "cache per token".to_owned(),
                format!("{} B", grouped(bytes.into())),
                bytes as f64,
            );
        }
        for phase in &report.phases {
            let name = print::phase(phase.phase);
            let work = phase.total();
            push(
                format!("{name}: work"),
                readable(work.flops, "FLOP"),
                work.flops as f64,
            );
            push(
                format!("{name}: traffic"),
                readable(work.bytes, "B"),
                work.bytes as f64,
            );
        }
        if let Some(training) = &report.training {
            let [forward, backward] = training.flops;
            let kept: u128 = training.kept.iter().map(|kept| kept.bytes).sum();
            push(
                "train: forward".to_owned(),
                readable(forward, "FLOP"),
                forward as f64,
            );
            push(
                "train: backward".to_owned(),
                readable(backward, "FLOP"),
                backward as f64,
            );
            push(
                "train: kept per token".to_owned(),
                readable(kept, "B"),
                kept as f64,
            );
        }
        if let Some(forms) = &report.forms {
            let per_pair = |what: &str| format!("a pair of query and key, {what}");
            for (what, flops) in [("MHA", forms.expanded_pair), ("MQA", forms.absorbed_pair)] {
                push(per_pair(what), format!("{flops} FLOP"), flops as f64);
            }
            if let Some(tokens) = forms.crossover {
                push(
                    "MHA pays from".to_owned(),
                    format!("{tokens:.1} tokens"),
                    tokens,
                );
            }
        }
        if let Some((indexer, both)) = indexer_share(report) {
            push("indexer's share of work".to_owned(), indexer, both);
        }
        rows
    };
    table(
        "At a glance",
        "what",
        &[""],
        reports.iter().map(of).collect(),
        "",
    )
}

/// The indexer's share of its and attention's work, where the last phase has one.
fn indexer_share(report: &Report) -> Option<(String, f64)> {
    use crate::report::Group;
    let share = |phase: &PhaseReport| {
        let (indexer, attention) = (phase.of(Group::Indexer), phase.of(Group::Attention));
        let both = indexer.flops + attention.flops;
        let share = 100.0 * indexer.flops as f64 / both.max(1) as f64;
        (indexer.flops > 0).then(|| {
            (
                format!("{share:.1} %, {}", print::phase(phase.phase)),
                share,
            )
        })
    };
    report.phases.iter().rev().find_map(share)
}

/// The sizes that specs state.
pub(super) fn sizes(reports: &[&Report]) -> Table {
    let of = |report: &&Report| {
        let sizes = report.sizes.iter();
        let entry = |(name, value, doc): &(&str, u32, &str)| {
            let cells = vec![Value::Number(grouped((*value).into()))];
            Entry::new(*name, cells, Some(f64::from(*value))).with_doc(*doc)
        };
        sizes.map(entry).collect()
    };
    table(
        "Sizes",
        "name",
        &["value"],
        reports.iter().map(of).collect(),
        "",
    )
}

/// What else is known, a sentence each.
pub(super) fn facts(reports: &[&Report]) -> Vec<Vec<Fact>> {
    let own = |at: usize, text: &String| {
        let mut others = reports.iter().enumerate().filter(|(other, _)| *other != at);
        reports.len() > 1 && others.all(|(_, report)| !report.facts.contains(text))
    };
    let of = |(at, report): (usize, &&Report)| {
        let facts = report.facts.iter().map(|text| Fact {
            text: text.clone(),
            is_own: own(at, text),
        });
        facts.collect()
    };
    reports.iter().enumerate().map(of).collect()
}

/// What passes took away and put in its place; a table for each layer.
pub(super) fn passes(reports: &[&Report], phase: Option<Phase>) -> Vec<Table> {
    let of = |(report, letter): (&&Report, &str)| {
        let changes = report.changes.iter();
        let changes = changes.filter(|change| phase.is_none_or(|phase| change.phase == phase));
        let rows = changes.map(|change| {
            let list = |ops: &[String]| match ops {
                [] => "nothing".to_owned(),
                ops => ops.join(", "),
            };
            let cells = vec![
                Value::Words(list(&change.gone)),
                Value::Words(list(&change.new)),
            ];
            let label = format!("{}, {}", change.pass, print::phase(change.phase));
            Entry::new(label, cells, None)
        });
        let caption = match reports.len() {
            1 => "What passes changed".to_owned(),
            _ => format!("What passes changed in {letter}"),
        };
        table(
            caption,
            "pass",
            &["took away", "put in its place"],
            vec![rows.collect()],
            "",
        )
    };
    let tables = reports.iter().zip(LETTERS).map(of);
    tables.filter(Table::is_some).collect()
}
