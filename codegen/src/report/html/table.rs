//! Numbers in columns: one layer's, or two layers' side by side.

use serde::Serialize;

use crate::report::text::percent;

/// What `show_table.html.tera` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Table {
    caption: String,
    /// What rows are about, then each column.
    head: Vec<Column>,
    rows: Vec<Row>,
    note: String,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Column {
    name: String,
    is_text: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    /// Names the row, for links to it; empty where nothing links to it.
    id: String,
    /// Where its name leads to; empty where it leads nowhere.
    href: String,
    head: String,
    doc: String,
    is_total: bool,
    cells: Vec<Cell>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Cell {
    text: String,
    /// Length of its bar in percent; `None` where it has none.
    bar: Option<String>,
    /// Words rather than numbers.
    is_text: bool,
}

/// A row of one layer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Entry {
    pub(super) label: String,
    pub(super) doc: String,
    pub(super) cells: Vec<Value>,
    /// What two layers are compared by.
    pub(super) amount: Option<f64>,
    pub(super) is_total: bool,
    pub(super) id: String,
    pub(super) href: String,
}

/// What stands in a cell.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(String),
    Words(String),
    /// A part of a whole, with a bar.
    Share(u128, u128),
}

impl Entry {
    pub(super) fn new(label: impl Into<String>, cells: Vec<Value>, amount: Option<f64>) -> Self {
        Self {
            label: label.into(),
            cells,
            amount,
            ..Self::default()
        }
    }

    pub(super) fn with_doc(mut self, doc: impl Into<String>) -> Self {
        self.doc = doc.into();
        self
    }

    pub(super) fn total(mut self) -> Self {
        self.is_total = true;
        self
    }
}

/// A table of what one layer has, or two have: rows of the same label stand in one line. `columns` are those of one layer.
pub(super) fn table(
    caption: impl Into<String>,
    about: &str,
    columns: &[&str],
    layers: Vec<Vec<Entry>>,
    note: impl Into<String>,
) -> Table {
    let two = layers.len() == 2;
    let mut head = vec![about.to_owned()];
    for (layer, _) in layers.iter().enumerate() {
        let named = columns.iter().map(|column| match two {
            true => format!("{} {column}", ["A", "B"][layer]),
            false => (*column).to_owned(),
        });
        head.extend(named);
    }
    head.extend(two.then(|| "B : A".to_owned()));
    let rows = labels(&layers).into_iter().map(|label| {
        let of = |layer: &Vec<Entry>| layer.iter().find(|entry| entry.label == label).cloned();
        let entries: Vec<Option<Entry>> = layers.iter().map(of).collect();
        row(label, columns.len(), &entries)
    });
    let rows: Vec<Row> = rows.collect();
    let is_text = |at: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.cells.get(at.checked_sub(1)?));
        let filled = cells.filter(|cell| !["–", ""].contains(&cell.text.as_str()));
        filled.map(|cell| cell.is_text).next().unwrap_or(false)
    };
    let head = head.into_iter().enumerate().map(|(at, name)| Column {
        name,
        is_text: is_text(at),
    });
    Table {
        caption: caption.into(),
        head: head.collect(),
        rows,
        note: note.into(),
    }
}

impl Table {
    /// Whether there is anything in it.
    pub(super) fn is_some(&self) -> bool {
        !self.rows.is_empty()
    }
}

/// All labels; those that only the second layer has stand behind their predecessor there.
fn labels(layers: &[Vec<Entry>]) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for layer in layers {
        let mut at = 0;
        for entry in layer {
            match all.iter().position(|label| *label == entry.label) {
                Some(found) => at = found + 1,
                None => {
                    all.insert(at, entry.label.clone());
                    at += 1;
                }
            }
        }
    }
    all
}

fn row(label: String, columns: usize, entries: &[Option<Entry>]) -> Row {
    let mut cells = Vec::new();
    for entry in entries {
        match entry {
            Some(entry) => cells.extend(entry.cells.iter().map(cell)),
            None => cells.extend((0..columns).map(|_| cell(&Value::Number("–".to_owned())))),
        }
    }
    if let [one, other] = entries {
        cells.push(words(&ratio(one.as_ref(), other.as_ref())));
    }
    let first = entries.iter().flatten().next();
    Row {
        id: first.map_or_else(String::new, |entry| entry.id.clone()),
        href: first.map_or_else(String::new, |entry| entry.href.clone()),
        doc: first.map_or_else(String::new, |entry| entry.doc.clone()),
        is_total: first.is_some_and(|entry| entry.is_total),
        head: label,
        cells,
    }
}

/// How much of the first the second one is.
fn ratio(one: Option<&Entry>, other: Option<&Entry>) -> String {
    let (one, other) = match (one, other) {
        (Some(one), Some(other)) => (one, other),
        (Some(_), None) => return "only A".to_owned(),
        (None, _) => return "only B".to_owned(),
    };
    match (one.amount, other.amount) {
        (Some(a), Some(b)) if a == b => "same".to_owned(),
        (Some(a), Some(b)) if a > 0.0 && b / a >= 10.0 => format!("≠ ×{:.1}", b / a),
        (Some(a), Some(b)) if a > 0.0 => format!("≠ ×{:.3}", b / a),
        _ if one.cells == other.cells => "same".to_owned(),
        _ => "≠".to_owned(),
    }
}

fn cell(value: &Value) -> Cell {
    match value {
        Value::Number(text) => Cell {
            text: text.clone(),
            bar: None,
            is_text: false,
        },
        Value::Words(text) => words(text),
        Value::Share(part, all) => {
            let share = match all {
                0 => 0.0,
                all => 100.0 * *part as f64 / *all as f64,
            };
            Cell {
                text: percent(*part, *all),
                bar: Some(format!("{share:.1}")),
                is_text: false,
            }
        }
    }
}

fn words(text: &str) -> Cell {
    Cell {
        text: text.to_owned(),
        bar: None,
        is_text: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_two_layers_meet() {
        let entry = |label: &str, amount: f64| {
            Entry::new(label, vec![Value::Number(amount.to_string())], Some(amount))
        };
        let layers = vec![
            vec![entry("a", 1.0), entry("c", 2.0)],
            vec![entry("a", 1.0), entry("b", 5.0), entry("c", 3.0)],
        ];
        let table = table("t", "what", &["n"], layers, "");
        let head: Vec<&str> = table
            .head
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        assert_eq!(head, ["what", "A n", "B n", "B : A"]);
        let last = |row: &Row| row.cells[2].text.clone();
        let rows: Vec<(String, String)> = table
            .rows
            .iter()
            .map(|row| (row.head.clone(), last(row)))
            .collect();
        let wanted = [("a", "same"), ("b", "only B"), ("c", "≠ ×1.500")];
        assert_eq!(rows, wanted.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
}
