//! What differs between two layers: facts about each, derived from what is proved of it, laid side by side.
//!
//! A fact of [`Topic::Mathematics`] says what is computed, so that two layers whose facts of that topic agree compute the
//! same, up to rounding, of weights that say the same. Numbers are derived before they are compared: YaRN of a factor of 1
//! turns as plain rope does. [`facts`] knows the layer and its schedule; whoever plans a layer knows its weights.

mod layer;
mod modules;
mod rope;
mod schedule;
mod training;

use crate::layer::Checked;

/// What a fact is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// What is computed.
    Mathematics,
    /// How weights and caches order what they hold.
    Layout,
    /// How it is computed: the `build` section, and arithmetic.
    Schedule,
    /// The tensors that the layer is loaded from.
    Weights,
}

impl Topic {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 4] = [
        Self::Mathematics,
        Self::Layout,
        Self::Schedule,
        Self::Weights,
    ];

    /// The heading.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mathematics => "mathematics",
            Self::Layout => "layout",
            Self::Schedule => "schedule",
            Self::Weights => "weights",
        }
    }
}

/// What a fact says.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Words, or whole numbers.
    Text(String),
    /// Numbers that were derived, and what is shown of them.
    Numbers {
        /// Equal where the relative difference is below rounding's.
        numbers: Vec<f64>,
        /// What they were derived from.
        shown: String,
    },
}

impl Value {
    /// What is shown of it.
    pub fn shown(&self) -> &str {
        match self {
            Self::Text(shown) | Self::Numbers { shown, .. } => shown,
        }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Numbers { numbers: left, .. }, Self::Numbers { numbers: right, .. }) => {
                left.len() == right.len()
                    && left
                        .iter()
                        .zip(right)
                        .all(|(left, right)| close(*left, *right))
            }
            (left, right) => left == right,
        }
    }
}

/// Whether two numbers differ by no more than a few roundings.
fn close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-12 * left.abs().max(right.abs())
}

/// One thing that is so of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// What it is about.
    pub topic: Topic,
    /// What it is called; facts of two layers are compared by topic and name.
    pub name: String,
    /// What it says.
    pub value: Value,
}

/// A fact that is not the same of both layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What it is about.
    pub topic: Topic,
    /// What the fact is called.
    pub name: String,
    /// What it says of the first layer; `None` where there is no such thing in it.
    pub left: Option<String>,
    /// What it says of the second one.
    pub right: Option<String>,
}

/// Everything that is so of a layer and its schedule, its weights apart.
pub fn facts(checked: &Checked) -> Vec<Fact> {
    let mut facts = Facts::default();
    layer::add(&mut facts, &checked.layer);
    schedule::add(&mut facts, checked);
    facts.list
}

/// The facts that differ, topic by topic, in the order of the first layer's and then of the second one's own.
///
/// ```
/// use mla_spec::{Sources, check, compare, explain, read};
/// let facts = |text: &str| {
///     let document = read::yaml(&mut Sources::default(), "spec.yaml", text).unwrap();
///     compare::facts(&check(&document).0.unwrap())
/// };
/// let base = facts(explain::BASE);
/// assert!(compare::differences(&base, &base).is_empty());
/// let narrower = facts(&explain::BASE.replace("v_head_dim: 128", "v_head_dim: 64"));
/// let found = compare::differences(&base, &narrower);
/// assert_eq!(found[0].topic, compare::Topic::Mathematics);
/// assert_eq!(found[0].left.as_deref(), Some("128"));
/// ```
pub fn differences(left: &[Fact], right: &[Fact]) -> Vec<Difference> {
    let of = |facts: &[Fact], wanted: &Fact| {
        let found = facts
            .iter()
            .find(|fact| fact.topic == wanted.topic && fact.name == wanted.name);
        found.cloned()
    };
    let shown = |fact: &Fact| Some(fact.value.shown().to_owned());
    let named = |fact: &Fact, left, right| Difference {
        topic: fact.topic,
        name: fact.name.clone(),
        left,
        right,
    };
    let mut differences = Vec::new();
    for fact in left {
        match of(right, fact) {
            None => differences.push(named(fact, shown(fact), None)),
            Some(other) if !fact.value.says_the_same(&other.value) => {
                differences.push(named(fact, shown(fact), shown(&other)));
            }
            Some(_) => {}
        }
    }
    let only = right.iter().filter(|fact| of(left, fact).is_none());
    differences.extend(only.map(|fact| named(fact, None, shown(fact))));
    differences.sort_by_key(|difference| difference.topic);
    differences
}

/// Facts being collected.
#[derive(Default)]
struct Facts {
    list: Vec<Fact>,
}

impl Facts {
    fn add(&mut self, topic: Topic, name: &str, value: Value) {
        self.list.push(Fact {
            topic,
            name: name.to_owned(),
            value,
        });
    }

    fn mathematics(&mut self, name: &str, value: impl ToString) {
        self.add(Topic::Mathematics, name, Value::Text(value.to_string()));
    }

    /// A fact of the mathematics where there is something to say.
    fn mathematics_if_any(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.mathematics(name, value);
        }
    }

    /// A derived number of the mathematics.
    fn number(&mut self, name: &str, number: f64) {
        let shown = significant(number);
        let numbers = vec![number];
        self.add(Topic::Mathematics, name, Value::Numbers { numbers, shown });
    }

    fn layout(&mut self, name: &str, value: impl ToString) {
        self.add(Topic::Layout, name, Value::Text(value.to_string()));
    }

    fn schedule(&mut self, name: &str, value: impl ToString) {
        self.add(Topic::Schedule, name, Value::Text(value.to_string()));
    }
}

/// A number to nine digits that mean something.
fn significant(number: f64) -> String {
    let places = match number {
        0.0 => 0,
        number => (8 - number.abs().log10().floor() as i32).clamp(0, 17) as usize,
    };
    let fixed = format!("{number:.places$}");
    match fixed.contains('.') {
        true => fixed.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => fixed,
    }
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_to_nine_digits() {
        for (number, shown) in [
            (1.0, "1"),
            (0.0, "0"),
            (0.13523377886, "0.135233779"),
            (163_840.0, "163840"),
            (-2.5, "-2.5"),
            (1e-30, "0"),
        ] {
            assert_eq!(significant(number), shown);
        }
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        let of = |number: f64| Value::Numbers {
            numbers: vec![number],
            shown: String::new(),
        };
        assert!(of(0.1 + 0.2).says_the_same(&of(0.3)));
        assert!(!of(0.3).says_the_same(&of(0.300_000_01)));
        assert!(!of(1.0).says_the_same(&Value::Text(String::new())));
    }
}
