//! The memory plan: parameters, what a token leaves in the cache, what training keeps.

use mla_spec::Activation;

use super::table::{Entry, Table, Value, table};
use crate::report::text::{grouped, readable};
use crate::report::{CacheReport, KeptReport, Report, ScheduleReport};

/// Lengths at which a cache's size is given.
const CONTEXTS: [u64; 3] = [4096, 32_768, 131_072];

/// What a layer holds, as tables; those with nothing in them are left out.
pub(super) fn tables(reports: &[&Report]) -> Vec<Table> {
    let all = [
        parameters(reports),
        cached(reports),
        workspaces(reports),
        kept(reports),
        schedules(reports),
    ];
    all.into_iter().filter(Table::is_some).collect()
}

fn parameters(reports: &[&Report]) -> Table {
    let of = |report: &&Report| {
        let count: u128 = report.parameters.iter().map(|module| module.count).sum();
        let bytes: u128 = report.parameters.iter().map(|module| module.bytes).sum();
        let modules = report.parameters.iter().map(|module| {
            let cells = vec![
                Value::Number(grouped(module.count)),
                Value::Number(readable(module.bytes, "B")),
                Value::Share(module.count, count),
            ];
            let amount = Some(module.count as f64);
            Entry::new(module.slot, cells, amount).with_doc(module.doc.replace('`', ""))
        });
        let mut rows: Vec<Entry> = modules.collect();
        let total = vec![
            Value::Number(grouped(count)),
            Value::Number(readable(bytes, "B")),
            Value::Number(String::new()),
        ];
        rows.push(Entry::new("all parameters", total, Some(count as f64)).total());
        rows
    };
    table(
        "Parameters",
        "module",
        &["numbers", "memory", "share"],
        reports.iter().map(of).collect(),
        "",
    )
}

fn cached(reports: &[&Report]) -> Table {
    let of = |report: &&Report| report.cache.as_ref().map_or_else(Vec::new, cache_rows);
    table(
        "Cache",
        "what is cached",
        &["per token", "share"],
        reports.iter().map(of).collect(),
        "Of one layer and one request; lengths are tokens in the cache.",
    )
}

fn cache_rows(cache: &CacheReport) -> Vec<Entry> {
    let all = cache.bytes_per_token();
    let parts = cache.parts.iter().map(|part| {
        let cells = vec![
            Value::Number(format!("{} B", part.bytes)),
            Value::Share(part.bytes.into(), all.into()),
        ];
        Entry::new(part.what.clone(), cells, Some(part.bytes as f64))
    });
    let mut rows: Vec<Entry> = parts.collect();
    let line = |label: String, bytes: u64, text: String| {
        let cells = vec![Value::Number(text), Value::Number(String::new())];
        Entry::new(label, cells, Some(bytes as f64))
    };
    rows.push(line("a token".to_owned(), all, format!("{all} B")).total());
    for tokens in CONTEXTS {
        let bytes = all * tokens;
        rows.push(line(
            format!("{} tokens", grouped(tokens.into())),
            bytes,
            readable(bytes.into(), "B"),
        ));
    }
    if let Some((latent, naive)) = cache.kinds {
        for (what, bytes) in [
            ("a latent cache in bf16", latent),
            ("a naive cache in bf16", naive),
        ] {
            rows.push(line(what.to_owned(), bytes, format!("{bytes} B")));
        }
    }
    rows
}

fn workspaces(reports: &[&Report]) -> Table {
    let of = |report: &&Report| {
        let mut rows = Vec::new();
        for phase in &report.phases {
            let Some(expansion) = phase.expansion else {
                continue;
            };
            let name = super::figure::function(phase.phase);
            let chunk = u128::from(expansion.chunk) * expansion.token;
            for (what, bytes) in [
                (
                    format!("keys and values of {} cached tokens", expansion.chunk),
                    chunk,
                ),
                ("a new token's keys and values".to_owned(), expansion.token),
                ("what a new token merges".to_owned(), expansion.merged),
            ] {
                let cells = vec![Value::Number(readable(bytes, "B"))];
                rows.push(Entry::new(
                    format!("{name}: {what}"),
                    cells,
                    Some(bytes as f64),
                ));
            }
        }
        rows
    };
    table(
        "Workspace",
        "what latents are expanded to",
        &["memory"],
        reports.iter().map(of).collect(),
        "Beside what goes in and comes out, whatever the batch.",
    )
}

fn kept(reports: &[&Report]) -> Table {
    let of = |report: &&Report| {
        let kept = report.training.as_ref().map(|training| &training.kept);
        kept.map_or_else(Vec::new, |kept| kept_rows(kept))
    };
    table(
        "What training keeps, per token",
        "value",
        &["memory", "share", "made by"],
        reports.iter().map(of).collect(),
        "From forward_train to backward, in the order in which it is made.",
    )
}

fn kept_rows(kept: &[KeptReport]) -> Vec<Entry> {
    let all: u128 = kept.iter().map(|kept| kept.bytes).sum();
    let values = kept.iter().filter(|kept| kept.bytes > 0).map(|kept| {
        let part = kept.part.map_or("kept in any case", Activation::word);
        let place = if kept.offloaded { ", on the host" } else { "" };
        let cells = vec![
            Value::Number(format!("{} B", grouped(kept.bytes))),
            Value::Share(kept.bytes, all),
            Value::Words(format!("{part}{place}")),
        ];
        Entry::new(kept.name.clone(), cells, Some(kept.bytes as f64))
    });
    let mut rows: Vec<Entry> = values.collect();
    let total = vec![
        Value::Number(format!("{} B", grouped(all))),
        Value::Number(String::new()),
        Value::Words(String::new()),
    ];
    rows.push(Entry::new("a token", total, Some(all as f64)).total());
    rows
}

fn schedules(reports: &[&Report]) -> Table {
    let of = |report: &&Report| {
        let training = report.training.as_ref();
        training.map_or_else(Vec::new, |training| {
            training.choices.iter().map(schedule).collect()
        })
    };
    table(
        "What computing again would save",
        "computed again",
        &["kept per token", "extra work", "chosen"],
        reports.iter().map(of).collect(),
        "A schedule changes what is kept, never a bit of a gradient.",
    )
}

fn schedule(choice: &ScheduleReport) -> Entry {
    let words: Vec<&str> = choice.recompute.iter().map(|part| part.word()).collect();
    let label = match words.is_empty() {
        true => "nothing".to_owned(),
        false => words.join(", "),
    };
    let chosen = if choice.chosen { "✓ the spec's" } else { "" };
    let cells = vec![
        Value::Number(format!("{} B", grouped(choice.bytes))),
        Value::Number(readable(choice.extra_flops, "FLOP")),
        Value::Words(chosen.to_owned()),
    ];
    Entry::new(label, cells, Some(choice.bytes as f64))
}
