//! Shows diagnostics to programs, in the shape of rustc's `--error-format=json`.

use std::ops::Range;

use serde::Serialize;

use super::{labels, one_line, placed, text, unplaced};
use crate::diagnostic::{Diagnostic, Diagnostics, Label, Severity};
use crate::explain;
use crate::span::{Sources, Text};

/// A message as rustc writes it, one to a line. Fields that a spec's diagnostics never fill are `null` or empty, so that readers of rustc's find
/// them.
#[derive(Serialize)]
struct Message {
    #[serde(rename = "$message_type", skip_serializing_if = "Option::is_none")]
    message_type: Option<&'static str>,
    message: String,
    code: Option<ErrorCode>,
    level: &'static str,
    spans: Vec<Place>,
    children: Vec<Message>,
    rendered: Option<String>,
}

#[derive(Serialize)]
struct ErrorCode {
    code: String,
    explanation: Option<String>,
}

/// A place. Lines and columns count from 1, columns in characters; `column_end` and `byte_end` are those of the first character behind it.
#[derive(Serialize)]
struct Place {
    file_name: String,
    byte_start: usize,
    byte_end: usize,
    line_start: usize,
    line_end: usize,
    column_start: usize,
    column_end: usize,
    is_primary: bool,
    text: Vec<Line>,
    label: Option<String>,
    suggested_replacement: Option<String>,
    suggestion_applicability: Option<String>,
    expansion: Option<()>,
}

/// A line of a place, and which of its columns belong to it.
#[derive(Serialize)]
struct Line {
    text: String,
    highlight_start: usize,
    highlight_end: usize,
}

/// Every diagnostic as an object of its own line. What [`text`] shows of one is its field `rendered`.
pub fn json(diagnostics: &Diagnostics, sources: &Sources) -> String {
    let mut lines = String::new();
    for diagnostic in diagnostics.iter() {
        // Strings and numbers alone: nothing in a message can fail to be written
        if let Ok(line) = serde_json::to_string(&message(diagnostic, sources)) {
            lines.push_str(&line);
            lines.push('\n');
        }
    }
    lines
}

fn message(diagnostic: &Diagnostic, sources: &Sources) -> Message {
    let code = diagnostic.code.to_string();
    let mut alone = Diagnostics::new();
    alone.push(diagnostic.clone());
    let notes = unplaced(diagnostic, sources)
        .map(|label| &label.text)
        .chain(&diagnostic.notes);
    let notes = notes.map(|note| child("note", note));
    let help = diagnostic.help.iter().map(|help| child("help", help));
    Message {
        message_type: Some("diagnostic"),
        message: one_line(&diagnostic.message),
        level: match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        spans: labels(diagnostic)
            .enumerate()
            .filter_map(|(number, label)| place(label, number == 0, sources))
            .collect(),
        children: notes.chain(help).collect(),
        rendered: Some(text(&alone, sources, false)),
        code: Some(ErrorCode {
            explanation: explain::explain(&code),
            code,
        }),
    }
}

fn child(level: &'static str, message: &str) -> Message {
    Message {
        message_type: None,
        message: one_line(message),
        code: None,
        level,
        spans: Vec::new(),
        children: Vec::new(),
        rendered: None,
    }
}

fn place(label: &Label, is_primary: bool, sources: &Sources) -> Option<Place> {
    let (_, text, range) = placed(label.span, sources)?;
    let (line_start, column_start) = line_and_column(text, range.start);
    let (line_end, column_end) = line_and_column(text, range.end);
    Some(Place {
        file_name: text.name.clone(),
        byte_start: range.start,
        byte_end: range.end,
        line_start,
        line_end,
        column_start,
        column_end,
        is_primary,
        text: lines(text, &range),
        label: (!label.text.is_empty()).then(|| one_line(&label.text)),
        suggested_replacement: None,
        suggestion_applicability: None,
        expansion: None,
    })
}

/// Both from 1; `at` is on a character's boundary.
fn line_and_column(text: &Text, at: usize) -> (usize, usize) {
    let before = &text.content[..at];
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}

/// The lines that a range crosses.
fn lines(text: &Text, range: &Range<usize>) -> Vec<Line> {
    let mut all = Vec::new();
    let mut start = 0;
    for line in text.content.split_inclusive('\n') {
        let end = start + line.len();
        let last = end == text.content.len();
        if (range.start < end || last) && range.end.max(range.start + 1) > start {
            let shown = line.trim_end_matches(['\n', '\r']);
            let column = |at: usize| {
                shown
                    .get(..at.clamp(start, start + shown.len()) - start)
                    .map_or(1, |before| before.chars().count() + 1)
            };
            all.push(Line {
                text: shown.to_owned(),
                highlight_start: column(range.start),
                highlight_end: column(range.end),
            });
        }
        start = end;
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{json, line_and_column, lines};
    use crate::check;
    use crate::read;
    use crate::span::{Sources, Text};

    fn said(spec: &str) -> Vec<Value> {
        let mut sources = Sources::default();
        let found = match read::yaml(&mut sources, "layer.yaml", spec) {
            Ok(document) => check::check(&document).1,
            Err(found) => found,
        };
        let lines = json(&found, &sources);
        let lines = lines.lines();
        lines
            .map(|line| serde_json::from_str(line).expect("an object to a line"))
            .collect()
    }

    #[test]
    fn places_are_counted_as_rustc_counts_them() {
        let spec =
            crate::explain::BASE.replace("qk_rope_head_dim: 64", "qk_rope_head_dim: 7 # ünten");
        let all = said(&spec);
        let odd = &all[0];
        assert_eq!(odd["code"]["code"], "MLA0106");
        assert_eq!(odd["level"], "error");
        assert_eq!(odd["$message_type"], "diagnostic");
        let place = &odd["spans"][0];
        let at = spec.find("7 # ").expect("there");
        assert_eq!(place["byte_start"], at);
        assert_eq!(place["byte_end"], at + 1);
        assert_eq!(place["line_start"], 10);
        assert_eq!(place["column_start"], 21);
        assert_eq!(place["column_end"], 22);
        assert_eq!(place["is_primary"], true);
        assert_eq!(place["text"][0]["text"], "  qk_rope_head_dim: 7 # ünten");
        assert_eq!(place["text"][0]["highlight_start"], 21);
        let rendered = odd["rendered"].as_str().expect("a text");
        assert!(rendered.starts_with("error[MLA0106]: "), "{rendered}");
        let why = odd["code"]["explanation"].as_str().expect("a text");
        assert!(why.contains("why: "), "{why}");
    }

    #[test]
    fn columns_count_characters_and_lines_that_a_place_crosses_are_all_there() {
        let text = Text {
            name: "a".to_owned(),
            content: "x: 1\nname: [\"ä\",\n  b]\nlast".to_owned(),
        };
        let start = text.content.find('[').expect("there");
        let end = text.content.find(']').expect("there") + 1;
        assert_eq!(line_and_column(&text, start), (2, 7));
        assert_eq!(line_and_column(&text, end), (3, 5));
        let crossed = lines(&text, &(start..end));
        let seen: Vec<_> = crossed
            .iter()
            .map(|line| (line.text.as_str(), line.highlight_start, line.highlight_end))
            .collect();
        assert_eq!(seen, [("name: [\"ä\",", 7, 12), ("  b]", 1, 5)]);
        let end = text.content.len();
        assert_eq!(lines(&text, &(end..end))[0].text, "last");
        assert_eq!(lines(&text, &(0..0))[0].text, "x: 1");
    }

    #[test]
    fn remedies_are_children_and_nothing_is_said_of_what_is_right() {
        assert!(said(crate::explain::BASE).is_empty());
        let all = said(&crate::explain::BASE.replace("kv_layernorm", "kv_layernorn"));
        let children = all
            .iter()
            .flat_map(|one| one["children"].as_array().expect("a list"));
        let helps: Vec<&Value> = children.filter(|child| child["level"] == "help").collect();
        assert!(
            helps.iter().any(|help| help["message"]
                .as_str()
                .expect("a text")
                .contains("kv_layernorm")),
            "{all:#?}"
        );
    }

    #[test]
    fn a_text_that_ends_too_early_has_a_place() {
        for spec in [
            "",
            "mla: 1",
            "mla: [1,",
            "a: b: c",
            "\u{feff}mla: 1\n",
            "name: \"\r\n",
        ] {
            for one in said(spec) {
                assert!(one["message"].is_string(), "{spec:?}");
            }
        }
    }
}
