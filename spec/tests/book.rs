//! The book: its summary and links, and the blocks in it that need nothing but the language. The command's tests run its console blocks,
//! those of `mla-tests` compile its Rust.

#[path = "book/blocks.rs"]
#[allow(unreachable_pub, reason = "a file that several tests read")]
mod blocks;

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use blocks::Block;
use mla_spec::{Body, Severity, Sources, check, check_model, explain, read, reference};

const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// Its specs are tested as the book's are.
const README: &str = "../../../README.md";

/// Blocks that nothing runs: the chapter, the first words, and why.
const UNTESTED: &[(&str, &str, &str)] = &[
    (
        "first-layer.md",
        "$ cargo install --path cli",
        "compiles the command, which the tests have",
    ),
    (
        "first-layer.md",
        "$ mla-gen run my_layer.yaml",
        "compiles the runtime: minutes",
    ),
    (
        "first-layer.md",
        "$ cargo run --example first",
        "compiles the runtime: minutes",
    ),
    (
        "first-layer.md",
        "$ mla-gen run my_layer.yaml --weights",
        "compiles the runtime: minutes",
    ),
    (
        "generated-code.md",
        "$ cargo test",
        "compiles the runtime: minutes",
    ),
    (
        "training.md",
        "$ mla-gen run --grad",
        "compiles the runtime: minutes",
    ),
    ("editors.md", "$ mla-gen check --watch", "does not end"),
    ("cuda.md", "$ pip install", "an installation"),
    ("cuda.md", "$ mla-gen build", "wants NVRTC"),
    ("cuda.md", "$ mla-gen bench", "wants a GPU"),
    ("cuda.md", "use mla_runtime::{Cuda", "wants a GPU"),
    ("engines.md", "import torch", "wants a GPU and torch"),
    (
        "extending.md",
        "$ BLESS=1 cargo test",
        "compiles the workspace: minutes",
    ),
    (
        "extending.md",
        "mla: 1\nname: NormedValues",
        "of a language with the slot that the chapter adds",
    ),
];

fn all() -> Vec<Block> {
    let chapters = blocks::chapters(PACKAGE);
    chapters
        .iter()
        .flat_map(|(name, text)| blocks::blocks(name, text))
        .collect()
}

fn of(language: &str) -> Vec<Block> {
    let blocks = all().into_iter();
    blocks
        .filter(|block| block.language == language && !block.has("untested"))
        .collect()
}

/// Codes of the errors in a spec.
fn refusals(text: &str) -> BTreeSet<String> {
    let mut sources = Sources::default();
    let found = match read::yaml(&mut sources, "spec.yaml", text) {
        Ok(document) => match document.body {
            Body::Layer(_) => check(&document).1,
            _ => check_model(&document).1,
        },
        Err(found) => found,
    };
    found
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(|diagnostic| diagnostic.code.to_string())
        .collect()
}

#[test]
fn specs_are_accepted_or_refused_as_the_text_says() {
    let mut seen = 0;
    let readme = std::fs::read_to_string(Path::new(PACKAGE).join("../README.md")).unwrap();
    let readme = blocks::blocks(README, &readme).into_iter();
    let specs = of("yaml")
        .into_iter()
        .chain(readme.filter(|block| block.language == "yaml"));
    for block in specs.filter(|block| !block.has("other")) {
        let whole = match block.has("excerpt") {
            true => explain::whole(&block.text),
            false => block.text.clone(),
        };
        let place = block.place();
        let known = ["excerpt", "wrong"];
        let codes: BTreeSet<String> = block
            .words
            .iter()
            .filter(|word| word.starts_with("MLA"))
            .cloned()
            .collect();
        for word in &block.words {
            let is_known = known.contains(&word.as_str()) || codes.contains(word);
            assert!(is_known || word.starts_with("file="), "{place}: `{word}`");
        }
        assert_eq!(block.has("wrong"), !codes.is_empty(), "{place}");
        assert_eq!(refusals(&whole), codes, "{place}\n{whole}");
        let chapter =
            std::fs::read_to_string(blocks::source(PACKAGE).join(&block.chapter)).unwrap();
        let shown: String = chapter
            .lines()
            .filter(|line| !line.starts_with("```"))
            .collect();
        for code in &codes {
            assert!(
                shown.contains(code.as_str()),
                "{place}: the text doesn't name {code}"
            );
        }
        seen += 1;
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn every_block_is_of_a_kind_that_is_tested() {
    let kinds = [
        "yaml", "console", "rust", "json", "toml", "c", "python", "diff", "text",
    ];
    for block in all() {
        let place = block.place();
        assert!(
            kinds.contains(&block.language.as_str()),
            "{place}: `{}`",
            block.language
        );
        if block.language == "rust" {
            assert!(!block.has("ignore") || block.has("untested"), "{place}");
        }
    }
}

#[test]
fn what_is_not_tested_is_known() {
    let mut wanted: Vec<_> = UNTESTED.to_vec();
    for block in all().iter().filter(|block| block.has("untested")) {
        let found = wanted.iter().position(|(chapter, start, _)| {
            block.chapter == *chapter && block.text.starts_with(start)
        });
        match found {
            Some(index) => drop(wanted.remove(index)),
            None => panic!("{} is tested by nobody, and not listed here", block.place()),
        }
    }
    assert!(wanted.is_empty(), "no longer there: {wanted:?}");
}

#[test]
fn json_is_json() {
    for block in of("json") {
        // A line each where messages are shown
        let whole: Result<serde_json::Value, _> = serde_json::from_str(&block.text);
        let lines = || {
            block
                .text
                .lines()
                .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok())
        };
        assert!(whole.is_ok() || lines(), "{}", block.place());
    }
}

/// A patch's lines stand in the file that it names, where it says and as it says.
#[test]
fn patches_apply() {
    for block in of("diff") {
        let place = block.place();
        let mut lines = block.text.lines();
        let old = lines.next().and_then(|line| line.strip_prefix("--- a/"));
        let new = lines.next().and_then(|line| line.strip_prefix("+++ b/"));
        let (Some(old), Some(new)) = (old, new) else {
            panic!("{place}: begins with `--- a/FILE` and `+++ b/FILE`");
        };
        assert_eq!(old, new, "{place}");
        let path = Path::new(PACKAGE).join("..").join(old);
        let mut text = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{place}: {}: {error}", path.display()));
        for hunk in hunks(lines) {
            let (before, after) = hunk;
            let places = text.matches(&before).count();
            assert_eq!(
                places, 1,
                "{place}: lines that stand {places} times in {old}:\n{before}"
            );
            text = text.replacen(&before, &after, 1);
        }
    }
}

/// Text before and behind each change.
fn hunks<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<(String, String)> {
    let mut hunks: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line.starts_with("@@") {
            hunks.push(Default::default());
            continue;
        }
        let Some((before, after)) = hunks.last_mut() else {
            panic!("a hunk begins with `@@`: {line}");
        };
        let (sides, text) = match line.split_at_checked(1) {
            Some(("-", text)) => ([true, false], text),
            Some(("+", text)) => ([false, true], text),
            Some((" ", text)) => ([true, true], text),
            _ => ([true, true], ""),
        };
        for (side, is_there) in [before, after].into_iter().zip(sides) {
            if is_there {
                side.push_str(text);
                side.push('\n');
            }
        }
    }
    hunks
}

#[test]
fn the_summary_has_every_chapter_once() {
    let summary = std::fs::read_to_string(blocks::source(PACKAGE).join("SUMMARY.md")).unwrap();
    let mut listed: Vec<String> = links(&summary).into_iter().collect();
    listed.sort();
    let files: Vec<String> = blocks::chapters(PACKAGE)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name != "SUMMARY.md")
        .collect();
    assert_eq!(listed, files);
}

/// Targets of a text's links.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        }
        if in_block {
            continue;
        }
        for part in line.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                found.push(target.to_owned());
            }
        }
    }
    found
}

/// Anchors of a text's headings; the second of a name ends with `-1`.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found: Vec<String> = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        }
        if !in_block && line.starts_with('#') {
            let anchor = reference::anchor(line.trim_start_matches('#'));
            let same = found.iter().filter(|other| **other == anchor).count();
            found.push(anchor.clone());
            if same > 0 {
                found.push(format!("{anchor}-{same}"));
            }
        }
    }
    found.into_iter().collect()
}

/// A chapter's text, with what it includes.
fn included(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let mut whole = String::new();
    for line in text.lines() {
        let file = line
            .strip_prefix("{{#include ")
            .and_then(|rest| rest.strip_suffix("}}"));
        match file {
            Some(file) => whole.push_str(&included(&plain(&path.parent()?.join(file)))?),
            None => whole.push_str(line),
        }
        whole.push('\n');
    }
    Some(whole)
}

/// A path without `..` in it.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir if plain.file_name().is_some() => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn links_lead_somewhere() {
    let source = std::fs::canonicalize(blocks::source(PACKAGE)).unwrap();
    let mut seen = 0;
    for (name, text) in blocks::chapters(PACKAGE) {
        let chapter = source.join(&name);
        for link in links(&text) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let path = match file {
                "" => chapter.clone(),
                file => plain(&chapter.parent().unwrap().join(file)),
            };
            assert!(
                path.starts_with(&source),
                "{name}: {link} leads out of the book"
            );
            let text = included(&path).unwrap_or_else(|| panic!("{name}: {link} leads nowhere"));
            let there = anchor.is_empty() || anchors(&text).contains(anchor);
            assert!(there, "{name}: {link}: there is no such heading");
            seen += 1;
        }
    }
    assert!(seen > 300, "{seen}");
}
