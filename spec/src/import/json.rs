//! JSON text to the spanned tree of [`crate::node`].
//!
//! serde_json judges the text: what it accepts is JSON, no deeper than its recursion limit, with every number finite.
//! The scanner below only finds out where each value stands, so it may rely on that.

use std::collections::HashMap;

use super::codes;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::node::{Entry, Node, NodeKind, Scalar};
use crate::span::{Place, Sources, Span, Spanned, TextId};

/// Reads a JSON text. Refuses what is no JSON, and repeated keys, of which readers keep different ones.
pub(super) fn parse(sources: &mut Sources, name: &str, text: &str) -> Result<Node, Diagnostics> {
    let id = sources.add_text(name, text);
    let mut diagnostics = Diagnostics::new();
    if let Err(error) = serde_json::from_str::<serde_json::Value>(text) {
        diagnostics.push(not_json(sources, id, text, &error));
        return Err(diagnostics);
    }
    let mut scanner = Scanner {
        sources,
        id,
        text,
        at: 0,
        diagnostics,
    };
    let node = scanner.value();
    let diagnostics = scanner.diagnostics;
    if diagnostics.has_errors() {
        Err(diagnostics)
    } else {
        Ok(node)
    }
}

fn not_json(
    sources: &mut Sources,
    id: TextId,
    text: &str,
    error: &serde_json::Error,
) -> Diagnostic {
    let line_start = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum::<usize>();
    let at = floor_boundary(
        text,
        (line_start + error.column().saturating_sub(1)).min(text.len()),
    );
    let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
    let span = sources.add_place(Place::Text {
        text: id,
        range: at..end,
    });
    let message = error.to_string();
    let reason = message.split(" at line ").next().unwrap_or(&message);
    Diagnostic::error(codes::NOT_JSON, format!("the config is not JSON: {reason}"), span, "reading stops here")
        .help("give the checkpoint's `config.json` as it is; comments, trailing commas, `NaN` and `Infinity` are not JSON")
}

/// The nearest character boundary at or before `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at)
        .rev()
        .find(|&index| text.is_char_boundary(index))
        .unwrap_or(0)
}

/// Walks a text that is known to be JSON.
struct Scanner<'a> {
    sources: &'a mut Sources,
    id: TextId,
    text: &'a str,
    at: usize,
    diagnostics: Diagnostics,
}

impl Scanner<'_> {
    fn value(&mut self) -> Node {
        self.skip_space();
        let start = self.at;
        let kind = match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => NodeKind::Scalar(Scalar::Str(self.string())),
            _ => NodeKind::Scalar(self.word()),
        };
        // A composite is shown by its opening bracket: the whole of it may be a whole file.
        let end = if matches!(kind, NodeKind::Scalar(_)) {
            self.at
        } else {
            start + 1
        };
        Node {
            kind,
            span: self.span(start, end),
        }
    }

    fn object(&mut self) -> NodeKind {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: HashMap<String, Span> = HashMap::new();
        self.at += 1;
        while self.another(b'}') {
            let start = self.at;
            let name = self.string();
            let key = Spanned::new(name, self.span(start, self.at));
            self.skip_space();
            self.at += 1; // the colon
            let value = self.value();
            match seen.get(&key.value) {
                Some(first) => {
                    let message = format!("`{}` is given twice", key.value);
                    let twice =
                        Diagnostic::error(codes::DUPLICATE_KEY, message, key.span, "given again");
                    self.diagnostics.push(
                        twice
                            .and(*first, "first given here")
                            .help("keep one of them"),
                    );
                }
                None => {
                    seen.insert(key.value.clone(), key.span);
                    entries.push(Entry { key, value });
                }
            }
        }
        NodeKind::Map(entries)
    }

    fn array(&mut self) -> NodeKind {
        let mut items = Vec::new();
        self.at += 1;
        while self.another(b']') {
            items.push(self.value());
        }
        NodeKind::Seq(items)
    }

    /// Steps over space and a comma to the next item; false, and past the bracket, where `close` ends the list.
    fn another(&mut self, close: u8) -> bool {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' => self.at += 1,
                _ if byte == close => {
                    self.at += 1;
                    return false;
                }
                _ => return true,
            }
        }
        false
    }

    fn string(&mut self) -> String {
        let start = self.at;
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += match byte {
                b'\\' => 2,
                _ => 1,
            };
            if byte == b'"' {
                break;
            }
        }
        self.at = self.at.min(self.text.len());
        serde_json::from_str(&self.text[start..self.at]).unwrap_or_default()
    }

    fn word(&mut self) -> Scalar {
        let start = self.at;
        while self
            .peek()
            .is_some_and(|byte| !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n'))
        {
            self.at += 1;
        }
        let word = &self.text[start..self.at];
        match word {
            "true" => Scalar::Bool(true),
            "false" => Scalar::Bool(false),
            "null" => Scalar::Null,
            _ => word
                .parse()
                .map(Scalar::Int)
                .or_else(|_| word.parse().map(Scalar::Float))
                .unwrap_or(Scalar::Null),
        }
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn span(&mut self, start: usize, end: usize) -> Span {
        self.sources.add_place(Place::Text {
            text: self.id,
            range: start..end,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_at(sources: &Sources, span: Span) -> String {
        match sources.place(span) {
            Some(Place::Text { text, range }) => {
                sources.text(*text).unwrap().content[range.clone()].to_owned()
            }
            other => panic!("no text at {other:?}"),
        }
    }

    #[test]
    fn values_know_where_they_stand() {
        let mut sources = Sources::default();
        let text = "{ \"a\\\"ö\" : [1, 2.5e1 ,true,null, -3, 18446744073709551615], \"b\":{}, \"c\":\"x\" }\n";
        let node = parse(&mut sources, "t", text).unwrap();
        let NodeKind::Map(entries) = &node.kind else {
            panic!("not a map")
        };
        assert_eq!(
            entries
                .iter()
                .map(|entry| entry.key.value.as_str())
                .collect::<Vec<_>>(),
            ["a\"ö", "b", "c"]
        );
        let NodeKind::Seq(items) = &entries[0].value.kind else {
            panic!("not a list")
        };
        let scalars: Vec<_> = items.iter().map(|item| item.kind.clone()).collect();
        let expected = [
            Scalar::Int(1),
            Scalar::Float(25.0),
            Scalar::Bool(true),
            Scalar::Null,
            Scalar::Int(-3),
            Scalar::Float(18446744073709551615.0),
        ];
        assert_eq!(scalars, expected.map(NodeKind::Scalar));
        let shown: Vec<_> = items
            .iter()
            .map(|item| text_at(&sources, item.span))
            .collect();
        assert_eq!(
            shown,
            ["1", "2.5e1", "true", "null", "-3", "18446744073709551615"]
        );
        assert_eq!(text_at(&sources, entries[2].key.span), "\"c\"");
    }

    #[test]
    fn what_is_no_json_is_placed() {
        for (text, shown) in [
            ("{\"a\": NaN}", "N"),
            ("", ""),
            ("{\"ö\": 1e999}", "9"),
            ("{\"a\":1,}", "}"),
        ] {
            let mut sources = Sources::default();
            let diagnostics = parse(&mut sources, "t", text).unwrap_err();
            let first = diagnostics.iter().next().unwrap();
            assert_eq!(first.code, codes::NOT_JSON);
            assert_eq!(text_at(&sources, first.primary.span), shown, "{text}");
        }
        let deep = "[".repeat(100_000);
        assert!(parse(&mut Sources::default(), "t", &deep).is_err());
    }

    #[test]
    fn a_large_object_takes_no_longer_per_key() {
        let keys: Vec<_> = (0..200_000)
            .map(|index| format!("\"k{index}\":0"))
            .collect();
        let text = format!("{{{}}}", keys.join(","));
        assert!(parse(&mut Sources::default(), "t", &text).is_ok());
    }

    #[test]
    fn a_repeated_key_is_refused() {
        let diagnostics = parse(
            &mut Sources::default(),
            "t",
            "{\"a\": {\"b\": 1, \"b\": 2}}",
        )
        .unwrap_err();
        assert_eq!(
            diagnostics.iter().map(|one| one.code).collect::<Vec<_>>(),
            [codes::DUPLICATE_KEY]
        );
    }
}
