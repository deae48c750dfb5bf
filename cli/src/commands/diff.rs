//! `mla-gen diff A B`

use mla_codegen::report;
use mla_spec::compare::{self, Difference, Fact, Topic};
use mla_spec::{Checked, CheckedModel};
use serde_json::{Value, json};

use crate::args::{Diff, MessageFormat};
use crate::failure::Failure;
use crate::source::{self, Described};
use crate::talk;

/// What differs, and where.
struct Comparison {
    /// How messages name the two.
    names: [String; 2],
    parts: Vec<Part>,
}

/// Layers that differ alike.
struct Part {
    /// Which attentions of two models; `None` of two layers.
    attentions: Option<Vec<usize>>,
    differences: Vec<Difference>,
}

/// Prints what differs between two specs or configs; fails where the mathematics do.
pub(crate) fn diff(args: &Diff) -> Result<(), Failure> {
    let left = source::described(&args.left, &args.config)?;
    let right = source::described(&args.right, &args.config)?;
    let comparison = Comparison {
        names: [left.shown().to_owned(), right.shown().to_owned()],
        parts: match (&left, &right) {
            (Described::Layer(left), Described::Layer(right)) => {
                vec![layers(&left.checked, &right.checked)]
            }
            (Described::Model(_, left), Described::Model(_, right)) => models(left, right),
            (model @ Described::Model(..), _) | (_, model) => {
                return Err(Failure::Usage(format!(
                    "`{}` is a model and the other one is a layer: choose an attention with `--layer`",
                    model.shown()
                )));
            }
        },
    };
    talk::data(&match args.message_format {
        MessageFormat::Human => comparison.text(),
        MessageFormat::Json => comparison.json(),
    })?;
    match comparison.same_mathematics() {
        true => Ok(()),
        false => Err(Failure::Check("the mathematics differ".to_owned())),
    }
}

fn layers(left: &Checked, right: &Checked) -> Part {
    Part {
        attentions: None,
        differences: compare::differences(
            &report::comparable_facts(left),
            &report::comparable_facts(right),
        ),
    }
}

/// Attention by attention, those that differ alike together.
fn models(left: &CheckedModel, right: &CheckedModel) -> Vec<Part> {
    let facts = |model: &CheckedModel| -> Vec<Vec<Fact>> {
        let layers = model.layers.iter();
        layers
            .map(|layer| report::comparable_facts(&layer.checked))
            .collect()
    };
    let (left_facts, right_facts) = (facts(left), facts(right));
    let mut parts: Vec<Part> = Vec::new();
    for (index, (at_left, at_right)) in left.indices.iter().zip(&right.indices).enumerate() {
        let (Some(left), Some(right)) = (
            left_facts.get(at_left.layer),
            right_facts.get(at_right.layer),
        ) else {
            continue;
        };
        let mut differences = compare::differences(left, right);
        differences.extend(sources(
            "keys picked by attention",
            at_left.topk_source,
            at_right.topk_source,
        ));
        differences.extend(sources(
            "latents of attention",
            at_left.kv_source,
            at_right.kv_source,
        ));
        differences.sort_by_key(|difference| difference.topic);
        match parts
            .iter_mut()
            .find(|part| part.differences == differences)
        {
            Some(part) => part.attentions.get_or_insert_default().push(index),
            None => parts.push(Part {
                attentions: Some(vec![index]),
                differences,
            }),
        }
    }
    let [many_left, many_right] = [left, right].map(|model| model.indices.len());
    if many_left != many_right {
        parts.push(Part {
            attentions: None,
            differences: vec![Difference {
                topic: Topic::Mathematics,
                name: "attentions".to_owned(),
                left: Some(many_left.to_string()),
                right: Some(many_right.to_string()),
            }],
        });
    }
    parts
}

/// Whose picks or latents an attention uses.
fn sources(name: &str, left: Option<usize>, right: Option<usize>) -> Option<Difference> {
    let shown = |source: Option<usize>| source.map(|source| source.to_string());
    (left != right).then(|| Difference {
        topic: Topic::Mathematics,
        name: name.to_owned(),
        left: shown(left),
        right: shown(right),
    })
}

impl Comparison {
    fn same_mathematics(&self) -> bool {
        let mut differences = self.parts.iter().flat_map(|part| &part.differences);
        differences.all(|difference| difference.topic != Topic::Mathematics)
    }

    fn text(&self) -> String {
        let mut text = format!("a  {}\nb  {}\n", self.names[0], self.names[1]);
        for part in &self.parts {
            if let Some(attentions) = &part.attentions {
                let noun = if attentions.len() == 1 {
                    "attention"
                } else {
                    "attentions"
                };
                text.push_str(&format!("\n{noun} {}\n", ranges(attentions)));
            }
            for topic in Topic::ALL {
                text.push_str(&section(topic, &part.differences));
            }
        }
        text
    }

    fn json(&self) -> String {
        let part = |part: &Part| {
            let of_topic = |topic: Topic| -> Value {
                let differences = part.differences.iter();
                differences
                    .filter(|difference| difference.topic == topic)
                    .map(|difference| {
                        json!({ "name": difference.name, "a": difference.left, "b": difference.right })
                    })
                    .collect()
            };
            let mut object: serde_json::Map<String, Value> = Topic::ALL
                .into_iter()
                .map(|topic| (topic.name().to_owned(), of_topic(topic)))
                .collect();
            if let Some(attentions) = &part.attentions {
                object.insert("attentions".to_owned(), json!(attentions));
            }
            Value::Object(object)
        };
        let parts: Vec<Value> = self.parts.iter().map(part).collect();
        let whole = json!({
            "a": self.names[0],
            "b": self.names[1],
            "same_mathematics": self.same_mathematics(),
            "differences": parts,
        });
        format!("{whole:#}\n")
    }
}

/// A heading, and below it the values side by side.
fn section(topic: Topic, differences: &[Difference]) -> String {
    let of_topic: Vec<_> = differences
        .iter()
        .filter(|difference| difference.topic == topic)
        .collect();
    if of_topic.is_empty() {
        return format!("\n{}: no difference\n", topic.name());
    }
    let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "—".to_owned());
    let mut rows = vec![["".to_owned(), "a".to_owned(), "b".to_owned()]];
    rows.extend(of_topic.into_iter().map(|difference| {
        [
            difference.name.clone(),
            side(&difference.left),
            side(&difference.right),
        ]
    }));
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let (names, lefts) = (width(0), width(1));
    let mut text = format!("\n{}\n", topic.name());
    for [name, left, right] in &rows {
        let line = format!("  {name:<names$}  {left:<lefts$}  {right}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `0 to 2, 5`.
fn ranges(indices: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &index in indices {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == index => *last = index,
            _ => ranges.push((index, index)),
        }
    }
    let shown: Vec<_> = ranges
        .into_iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            _ => format!("{first} to {last}"),
        })
        .collect();
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range() {
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0 to 2, 5, 7 to 8");
    }

    #[test]
    fn values_stand_side_by_side() {
        let differences = [Difference {
            topic: Topic::Mathematics,
            name: "softmax scale".to_owned(),
            left: Some("0.135233779".to_owned()),
            right: None,
        }];
        let wanted =
            "\nmathematics\n                 a            b\n  softmax scale  0.135233779  —\n";
        assert_eq!(section(Topic::Mathematics, &differences), wanted);
        assert_eq!(
            section(Topic::Layout, &differences),
            "\nlayout: no difference\n"
        );
    }
}
