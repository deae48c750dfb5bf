//! Invalid layers in Rust: each is refused at the right token, and rustc shows what a person has reviewed.
//!
//! `TRYBUILD=overwrite cargo test -p mla-tests --test ui` writes the `.stderr` files anew; read the difference before you
//! commit it. They are blessed with the compiler that rust-toolchain.toml pins: another one words and lays out its errors
//! in its own way, so that with it only codes and primary places are compared.

mod rust_layers;

use std::path::Path;
use std::process::Command;

use mla_spec::Code;
use mla_spec::read::OTHER_NAME;
use rust_layers::{Found, files, stem};

/// What a `.stderr` file shows: codes with their places, and how many more errors a spec file has.
#[derive(Debug, Default, PartialEq)]
struct Shown {
    errors: Vec<(Code, (usize, usize))>,
    left_out: usize,
}

#[test]
fn each_error_stands_where_its_text_says() {
    let mut wrong = Vec::new();
    let files = files("ui");
    assert!(files.len() >= 200, "{} invalid layers", files.len());
    for path in files {
        let text = std::fs::read_to_string(path.with_extension("stderr")).unwrap_or_default();
        let shown = shown(&text.replace("\r\n", "\n"), stem(&path));
        let layers = rust_layers::read(&path);
        layers.iter().for_each(|layer| {
            assert_eq!(
                layer.document.is_some(),
                layer.errors.iter().all(of_the_checks),
                "{}",
                path.display()
            );
        });
        let found: Vec<Found> = layers.into_iter().flat_map(|layer| layer.errors).collect();
        let mut expected = Shown {
            left_out: shown.left_out,
            ..Shown::default()
        };
        expected
            .errors
            .extend(found.iter().map(|found| (found.code, found.at)));
        expected
            .errors
            .truncate(found.len().saturating_sub(shown.left_out));
        if found.is_empty() || shown != expected {
            wrong.push(format!(
                "{}:\n  found {expected:?}\n  shown {shown:?}",
                path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What was read is checked, what was not is not: nobody hears of mistakes that follow from others.
fn of_the_checks(error: &Found) -> bool {
    (101..700).contains(&error.code.0) || error.code == OTHER_NAME
}

/// Reads the codes and primary places off the errors of a `.stderr` file. An error without a code is not one of ours,
/// and counts as code 0.
fn shown(text: &str, stem: &str) -> Shown {
    let mut shown = Shown::default();
    let place = format!("ui/{stem}.rs:");
    let mut codes = Vec::new();
    for line in text.lines() {
        if line.starts_with("error") {
            codes.clear();
        }
        if let Some((_, at)) = line
            .split_once(" --> ")
            .and_then(|(_, rest)| rest.split_once(&place))
        {
            let at = at.split_once(':').expect("line and column");
            let at = (
                at.0.parse().expect("a line"),
                at.1.parse().expect("a column"),
            );
            if codes.is_empty() {
                codes.push(Code(0));
            }
            shown.errors.extend(codes.drain(..).map(|code| (code, at)));
        }
        codes.extend(code_in(line));
        shown.left_out += left_out_in(line).unwrap_or(0);
    }
    shown
}

/// The code in `[MLA0123]`.
fn code_in(line: &str) -> Option<Code> {
    let (_, rest) = line.split_once("[MLA")?;
    let (digits, _) = rest.split_once(']')?;
    digits.parse().ok().map(Code)
}

/// The number in `and 3 more: run ...`.
fn left_out_in(line: &str) -> Option<usize> {
    let (number, _) = line
        .trim_start()
        .strip_prefix("and ")?
        .split_once(" more: run")?;
    number.parse().ok()
}

#[test]
fn no_text_is_left_over() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ui");
    for entry in std::fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("a folder entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "stderr")
        {
            assert!(
                path.with_extension("rs").exists(),
                "{} belongs to no layer",
                path.display()
            );
        }
    }
}

#[test]
fn rustc_shows_what_was_reviewed() {
    let (pinned, present) = (pinned_compiler(), present_compiler());
    if present != pinned {
        eprintln!(
            "rustc is {present}, the texts are of {pinned}: only codes and primary places were compared"
        );
        return;
    }
    trybuild::TestCases::new().compile_fail("ui/*.rs");
}

/// `channel` of rust-toolchain.toml.
fn pinned_compiler() -> String {
    let text = include_str!("../../rust-toolchain.toml");
    let channel = text
        .lines()
        .find_map(|line| line.strip_prefix("channel = "));
    channel
        .expect("a compiler is pinned")
        .trim_matches('"')
        .to_owned()
}

/// The version in `rustc 1.2.3 (0123abc 2020-02-02)`.
fn present_compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("--version")
        .output()
        .expect("rustc runs");
    let text = String::from_utf8(output.stdout).expect("rustc writes UTF-8");
    text.split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned()
}
