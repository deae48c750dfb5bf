//! Reports as text.

use std::fmt;

use mla_spec::Phase;

use super::{CacheReport, Expansion, Group, LayerRow, ModelReport, PhaseReport, Report, Work};
use crate::plan::cost::Lengths;
use crate::plan::print;

impl Report {
    /// The report as text; only one phase where one is given.
    pub fn text(&self, phase: Option<Phase>) -> String {
        let mut text = self.head();
        for one in self
            .phases
            .iter()
            .filter(|one| phase.is_none_or(|phase| one.phase == phase))
        {
            text.push_str(&format!("\n{one}"));
        }
        if let Some(training) = &self.training
            && phase.is_none_or(|phase| phase == Phase::Train)
        {
            text.push_str(&format!("\n{training}"));
        }
        let changes = self
            .changes
            .iter()
            .filter(|change| phase.is_none_or(|phase| change.phase == phase));
        let mut last = "";
        for change in changes {
            if change.pass != last {
                text.push_str(&format!("\npass {}\n", change.pass));
                last = change.pass;
            }
            let side = |sign: &str, ops: &[String]| match ops {
                [] => String::new(),
                ops => format!(" {sign} {}", ops.join(", ")),
            };
            let (gone, new) = (side("-", &change.gone), side("+", &change.new));
            let line = format!(
                "  {}:{gone}{}{new}",
                print::phase(change.phase),
                if gone.is_empty() || new.is_empty() {
                    ""
                } else {
                    ";"
                }
            );
            text.push_str(&format!("{line}\n"));
        }
        text
    }

    fn head(&self) -> String {
        let mut text = format!("{}: {}\n", self.name, self.module);
        for (name, value, doc) in &self.sizes {
            text.push_str(&format!("  {name} = {value}  {doc}\n"));
        }
        for fact in &self.facts {
            text.push_str(&format!("  {fact}\n"));
        }
        let count: u128 = self.parameters.iter().map(|module| module.count).sum();
        let bytes: u128 = self.parameters.iter().map(|module| module.bytes).sum();
        text.push_str(&format!(
            "\nparameters: {}, {}\n",
            grouped(count),
            readable(bytes, "B")
        ));
        for module in &self.parameters {
            let share = percent(module.count, count);
            let count = grouped(module.count);
            text.push_str(&format!(
                "  {:<26} {count:>15} {share:>6}  {}\n",
                module.slot, module.doc
            ));
        }
        if let Some(cache) = &self.cache {
            text.push_str(&format!("\n{cache}"));
        }
        if let Some(forms) = &self.forms {
            text.push_str(&format!(
                "\nforms: {} FLOP per query, key and head as MHA, {} as MQA ({:.1} times)",
                forms.expanded_pair,
                forms.absorbed_pair,
                forms.absorbed_pair as f64 / forms.expanded_pair as f64
            ));
            text.push_str(&match forms.crossover {
                Some(tokens) => {
                    format!("; over a long context they cost the same at {tokens:.1} new tokens\n")
                }
                None => "; MQA is never dearer\n".to_owned(),
            });
        }
        text
    }
}

impl fmt::Display for CacheReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self
            .parts
            .iter()
            .map(|part| format!("{} {}", part.what, part.bytes))
            .collect();
        writeln!(
            f,
            "cache: {} B per token ({})",
            self.bytes_per_token(),
            parts.join(", ")
        )?;
        if let Some((latent, naive)) = self.kinds {
            writeln!(
                f,
                "  in bf16, a latent cache takes {latent} B and a naive one {naive} B, {:.1} times as much",
                naive as f64 / latent as f64
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for PhaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {}",
            print::phase(self.phase),
            print::choice(self.form, &self.reason)
        )?;
        let of = |lengths: Lengths| {
            let tokens = if lengths.new == 1 {
                "token that meets"
            } else {
                "tokens that meet"
            };
            format!("{} new {tokens} {}", lengths.new, lengths.met)
        };
        let lengths = match self.parts {
            None => format!("{}, per request", of(self.lengths)),
            Some([expanded, absorbed]) => format!(
                "{} in the expanded form and {} in the absorbed one, two requests",
                of(expanded),
                of(absorbed)
            ),
        };
        writeln!(
            f,
            "  at {lengths}; FLOPs are those of products, bytes what can't be avoided"
        )?;
        if let Some(expansion) = self.expansion {
            writeln!(f, "  {expansion}")?;
        }
        for (formula, ops) in &self.steps {
            if !formula.is_empty() {
                writeln!(f, "  # {formula}")?;
            }
            for op in ops {
                let line = format!("  {:<76} {}", op.line, op.work);
                writeln!(f, "{}", line.trim_end())?;
            }
        }
        let total = self.total();
        writeln!(
            f,
            "  {:<24} {:>12} {:>7} {:>12} {:>7} {:>11}",
            "", "FLOP", "", "bytes", "", "FLOP/byte"
        )?;
        for (group, work) in &self.groups {
            row(f, group.name(), *work, total)?;
        }
        row(f, "total", total, total)?;
        let (indexer, attention) = (self.of(Group::Indexer), self.of(Group::Attention));
        if indexer.flops > 0 {
            writeln!(
                f,
                "  the indexer takes {} of its and attention's FLOPs, {} of their bytes",
                percent(indexer.flops, indexer.flops + attention.flops),
                percent(indexer.bytes, indexer.bytes + attention.bytes)
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Expansion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            chunk,
            token,
            merged,
        } = *self;
        write!(
            f,
            "workspace: {} for keys and values of {chunk} cached tokens at a time, whatever the batch; per new token {} for its own and {} for what is merged",
            readable(u128::from(chunk) * token, "B"),
            readable(token, "B"),
            readable(merged, "B")
        )
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, work: Work, total: Work) -> fmt::Result {
    writeln!(
        f,
        "  {name:<24} {:>12} {:>7} {:>12} {:>7} {:>11.2}",
        readable(work.flops, "FLOP"),
        percent(work.flops, total.flops),
        readable(work.bytes, "B"),
        percent(work.bytes, total.bytes),
        work.intensity()
    )
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flops = match self.flops {
            0 => String::new(),
            flops => readable(flops, "FLOP"),
        };
        let bytes = match self.bytes {
            0 => String::new(),
            bytes => readable(bytes, "B"),
        };
        write!(f, "{flops:>12} {bytes:>10}")
    }
}

impl fmt::Display for ModelReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parameters: u128 = self.rows.iter().map(|row| row.parameters).sum();
        let cache: u64 = self.rows.iter().map(|row| row.cache_bytes).sum();
        writeln!(
            f,
            "{}: {} attentions, {} parameters, {cache} B cached per token",
            self.name,
            self.rows.len(),
            grouped(parameters)
        )?;
        writeln!(
            f,
            "  {:>5}  {:>5}  {:<20} {:>15} {:>12}  attends to",
            "index", "stage", "layer", "parameters", "cache B/token"
        )?;
        for row in &self.rows {
            writeln!(f, "{}", line(row).trim_end())?;
        }
        Ok(())
    }
}

fn line(row: &LayerRow) -> String {
    let picked = row.topk_source.map(|index| format!("what {index} picks"));
    let latents = row.kv_source.map(|index| format!("the latents of {index}"));
    let others: Vec<String> = picked.into_iter().chain(latents).collect();
    format!(
        "  {:>5}  {:>5}  {:<20} {:>15} {:>12}  {}",
        row.index,
        row.stage,
        row.layer,
        grouped(row.parameters),
        row.cache_bytes,
        others.join(", ")
    )
}

/// `12 345 678`.
pub(super) fn grouped(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

pub(super) fn percent(part: u128, all: u128) -> String {
    if all == 0 {
        return String::new();
    }
    format!("{:.1}%", 100.0 * part as f64 / all as f64)
}

/// `3.42 GFLOP`, `1.15 kB`: three digits, in steps of 1000.
pub(super) fn readable(number: u128, unit: &str) -> String {
    let prefixes = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let value = number as f64;
    let Some((scale, prefix)) = prefixes.iter().find(|(scale, _)| value >= *scale) else {
        return format!("{number} {unit}");
    };
    let scaled = value / scale;
    let digits = if scaled < 10.0 {
        2
    } else {
        usize::from(scaled < 100.0)
    };
    format!("{scaled:.digits$} {prefix}{unit}")
}
