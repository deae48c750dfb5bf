//! The book's pages on the language, in Markdown.

use std::fmt::Write;

use super::find::{given, takes, words};
use super::pages::{PAGES, Page, Part, page_of, specimen};
use super::{Filling, Given, Key, Section, Value, Word, modules};
use crate::explain;

/// What stands at the head of each page. It says how to make them again.
const HEAD: &str = "<!-- Generated: BLESS=1 cargo test -p mla-spec --test reference -->\n";

/// Codes that are about other systems' configs.
const IMPORTING: std::ops::Range<u16> = 700..900;

/// The pages: names of files below the book's `src/language/`, and their texts.
pub fn pages() -> Vec<(&'static str, String)> {
    PAGES.iter().map(|page| (page.file, text(page))).collect()
}

fn text(page: &Page) -> String {
    let mut text = format!("{HEAD}\n# {}\n\n{}", page.title, page.intro);
    let specimen = specimen(page);
    if !specimen.is_empty() {
        let _ = write!(text, "```yaml\n{specimen}```\n");
    }
    if page.file == "modules.md" {
        text.push_str(&modules_table());
    }
    for part in page.parts {
        let _ = write!(text, "\n## {}\n\n{}\n\n", part.title, part.section.about);
        text.push_str(&summary(page, part));
        for key in part.section.keys() {
            if home(key)
                .is_some_and(|(home, first)| home.file == page.file && std::ptr::eq(first, part))
            {
                tell(&mut text, page, "", key, 3);
            }
        }
    }
    text
}

/// The first page and part that have a key.
fn home(key: &Key) -> Option<(&'static Page, &'static Part)> {
    PAGES.iter().find_map(|page| {
        let part = page
            .parts
            .iter()
            .find(|part| part.section.keys().any(|other| is_same(key, other)))?;
        Some((page, part))
    })
}

fn is_same(key: &Key, other: &Key) -> bool {
    key.name == other.name && key.means == other.means
}

/// A line for each key of a part.
fn summary(page: &Page, part: &Part) -> String {
    let mut text = "| key | takes | | meaning |\n|---|---|---|---|\n".to_owned();
    for key in part.section.keys() {
        let link = match home(key) {
            Some((home, _)) => link(page, home, key.name),
            None => format!("`{}`", key.name),
        };
        let _ = writeln!(
            text,
            "| {link} | {} | {} | {} |",
            short(key.value),
            status(key.given),
            cell(key.means)
        );
    }
    text
}

/// A link to what is told of a key on a page.
fn link(from: &Page, to: &Page, name: &str) -> String {
    let file = if from.file == to.file { "" } else { to.file };
    format!("[`{name}`]({file}#{})", anchor(name))
}

/// The anchor of a heading, as mdBook and GitHub make it of the heading's text.
///
/// ```
/// assert_eq!(mla_spec::reference::anchor("MLA0106: `rope` lacks a key"), "mla0106-rope-lacks-a-key");
/// ```
pub fn anchor(heading: &str) -> String {
    heading
        .trim()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '_' | '-' => Some(letter),
            _ if letter.is_alphanumeric() => Some(letter),
            _ => None,
        })
        .flat_map(char::to_lowercase)
        .collect()
}

fn status(given: Given) -> String {
    match given {
        Given::Required => "required".to_owned(),
        Given::Optional => String::new(),
        Given::Default(value) => format!("default `{value}`"),
        Given::When(condition) => cell(condition),
    }
}

/// Text of a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// What a key takes, for a table.
fn short(value: Value) -> String {
    match value {
        Value::Words(words) if words.len() > 3 => format!("one of {} words", words.len()),
        Value::List(words) if words.len() > 3 => format!("list of {} words", words.len()),
        Value::Slot(_) => "a module".to_owned(),
        value => cell(&takes(value)),
    }
}

/// Everything about a key, below a heading of this depth, and about the keys below it.
fn tell(text: &mut String, page: &Page, above: &str, key: &Key, depth: usize) {
    let name = format!("{above}{}", key.name);
    let _ = write!(text, "\n{} `{name}`\n\n", "#".repeat(depth));
    let _ = write!(
        text,
        "`{}` · {}\n\n{}",
        takes(key.value),
        given(key.given),
        key.means
    );
    if !key.detail.is_empty() {
        let _ = write!(text, " {}", key.detail);
    }
    text.push('\n');
    text.push_str(&words_table(words(key.value)));
    if let Value::Slot(fillings) = key.value {
        text.push_str(&fillings_of(page, fillings));
    }
    if !key.formula.is_empty() {
        let _ = write!(text, "\n```text\n{}\n```\n", key.formula);
    }
    if !key.example.is_empty() {
        let _ = write!(text, "\n```yaml excerpt\n{}```\n", key.example);
    }
    text.push_str(&footer(key));
    if let Value::Table(section) = key.value {
        match page_of(section).filter(|other| other.file != page.file) {
            Some(other) => {
                let _ = write!(text, "\nIts keys: [{}]({}).\n", other.title, other.file);
            }
            None => below(text, page, &name, section, depth),
        }
    }
}

/// The keys of a mapping that has no page of its own.
fn below(text: &mut String, page: &Page, name: &str, section: &Section, depth: usize) {
    for key in section.keys() {
        tell(text, page, &format!("{name}."), key, (depth + 1).min(5));
    }
}

/// Where the key comes from, and the codes that are about it.
fn footer(key: &Key) -> String {
    let mut text = String::new();
    let quoted = format!("`{}`", key.name);
    let of_slot_or_param = key.name.contains('_') || key.name.len() > 5;
    let codes: Vec<String> = explain::all()
        .filter(|rule| !IMPORTING.contains(&rule.code.0))
        .filter(|rule| {
            of_slot_or_param && (rule.title.contains(&quoted) || rule.rule.contains(&quoted))
        })
        .map(|rule| {
            let heading = format!("{}: {}", rule.code, rule.title);
            format!("[{}](../diagnostics.md#{})", rule.code, anchor(&heading))
        })
        .collect();
    if !key.source.is_empty() {
        let _ = write!(text, "\nSource: {}\n", key.source);
    }
    if !codes.is_empty() {
        let _ = write!(text, "\nRefusals: {}.\n", codes.join(", "));
    }
    text
}

fn words_table(words: &[Word]) -> String {
    let with_formula = words.iter().any(|word| !word.formula.is_empty());
    let mut text = match (words, with_formula) {
        ([], _) => return String::new(),
        (_, true) => "\n| word | meaning | formula |\n|---|---|---|\n".to_owned(),
        (_, false) => "\n| word | meaning |\n|---|---|\n".to_owned(),
    };
    for word in words {
        let formula = match (with_formula, word.formula) {
            (false, _) => String::new(),
            (true, "") => "  |".to_owned(),
            (true, formula) => format!(" `{}` |", cell(&formula.replace('\n', " "))),
        };
        let _ = writeln!(text, "| `{}` | {} |{formula}", word.word, cell(word.means));
    }
    text
}

/// What may fill a slot, and what each module takes there.
fn fillings_of(page: &Page, fillings: &[Filling]) -> String {
    let mut text = String::new();
    let on_modules = |heading: &str, shown: &str| {
        let file = if page.file == "modules.md" {
            ""
        } else {
            "modules.md"
        };
        format!("[`{shown}`]({file}#{})", anchor(heading))
    };
    for filling in fillings {
        let modules: Vec<String> = filling
            .modules
            .iter()
            .map(|word| on_modules("Modules", word.word))
            .collect();
        let in_sparse = filling.params.iter().chain(filling.submodules).count() > 3
            || !filling.submodules.is_empty()
            || filling.params.iter().any(|key| key.name == "topk");
        let takes = if in_sparse {
            let file = if page.file == "sparse-attention.md" {
                ""
            } else {
                "sparse-attention.md"
            };
            format!("; see [sparse attention]({file}#sparse-attention)")
        } else if filling.params.is_empty() {
            "; no parameters".to_owned()
        } else {
            let params: Vec<String> = filling
                .params
                .iter()
                .map(|key| on_modules(key.name, key.name))
                .collect();
            format!("; parameters: {}", params.join(", "))
        };
        let _ = write!(text, "\nFilled with {}{takes}.\n", modules.join(", "));
    }
    text
}

fn modules_table() -> String {
    format!("\n## Modules\n{}", words_table(modules::ALL))
}
