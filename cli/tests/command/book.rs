//! The book's console blocks, each run in a folder with its chapter's files; its C and its Python are looked at by a compiler of theirs.
//!
//! `BLESS=1` writes what commands print into the chapters, but for blocks in which something is left out.

#[path = "../../../spec/tests/book/blocks.rs"]
#[allow(unreachable_pub, reason = "a file that several tests read")]
pub(crate) mod blocks;

use std::path::Path;
use std::process::Command;

use super::room::{Room, checkout};
use blocks::Block;

pub(crate) const PACKAGE: &str = env!("CARGO_MANIFEST_DIR");

/// What stands for lines that are left out.
const LEFT_OUT: &str = "…";

/// Programs that console blocks may run beside `mla-gen`.
const PROGRAMS: [&str; 4] = ["mla-gen", "cat", "head", "ls"];

#[test]
#[cfg(unix)]
fn commands_print_what_the_book_shows() {
    let mut seen = 0;
    for (name, text) in blocks::chapters(PACKAGE) {
        let room = Room::new();
        let mut blessed = text.clone();
        // Where the blocks behind the last one begin
        let mut at = 0;
        for block in blocks::blocks(&name, &text) {
            at += blessed[at..].find(&block.text).unwrap();
            if let Some(file) = block.value("file") {
                room.write(file, &block.text);
            }
            let runs = block.language == "console" && !block.has("untested");
            if !runs {
                continue;
            }
            let printed = run(&room, &block);
            seen += 1;
            if printed == block.text || agrees(&block.text, &printed) {
                continue;
            }
            let whole = !block.text.lines().any(|line| line == LEFT_OUT);
            if std::env::var_os("BLESS").is_some() && whole {
                blessed.replace_range(at..at + block.text.len(), &printed);
                at += printed.len();
                continue;
            }
            panic!(
                "{}: BLESS=1 cargo test -p mla-gen book\nshown:\n{}\nprinted:\n{printed}",
                block.place(),
                block.text
            );
        }
        if blessed != text {
            std::fs::write(blocks::source(PACKAGE).join(&name), blessed).unwrap();
        }
    }
    assert!(seen > 15, "{seen}");
}

/// The commands of a block, each followed by what it prints.
fn run(room: &Room, block: &Block) -> String {
    let mut text = String::new();
    let program = Path::new(env!("CARGO_BIN_EXE_mla-gen"));
    let folder = program.parent().unwrap().to_str().unwrap();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    for line in block.text.lines() {
        let Some(command) = line.strip_prefix("$ ") else {
            continue;
        };
        let first = command.split(' ').next().unwrap_or_default();
        assert!(PROGRAMS.contains(&first), "{}: `{first}`", block.place());
        let output = Command::new("sh")
            .args(["-c", &format!("{{ {command}; }} 2>&1")])
            .env("PATH", &path)
            .current_dir(room.path("."))
            .output()
            .unwrap();
        text.push_str(&format!("$ {command}\n"));
        text.push_str(&String::from_utf8(output.stdout).unwrap());
    }
    text
}

/// Whether what was printed is what is shown, lines left out.
fn agrees(shown: &str, printed: &str) -> bool {
    let mut parts = shown.split("…\n");
    let Some(mut rest) = parts.next().and_then(|first| printed.strip_prefix(first)) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    for (index, part) in parts.iter().enumerate() {
        if index + 1 == parts.len() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

/// Cargo reads each piece of a manifest behind a package's name, beside a folder that stands for the checkout.
#[test]
fn manifests_are_read_by_cargo() {
    let mut seen = 0;
    for (name, text) in blocks::chapters(PACKAGE) {
        for block in blocks::blocks(&name, &text) {
            if block.language != "toml" {
                continue;
            }
            let room = Room::new();
            let head = "[package]\nname = \"book\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
            room.write(
                "book/Cargo.toml",
                &format!("{head}[workspace]\n{}", block.text),
            );
            room.write(
                "mla-gen/runtime/Cargo.toml",
                &head.replace("book", "mla-runtime"),
            );
            room.write("mla-gen/runtime/src/lib.rs", "");
            room.write("book/src/lib.rs", "");
            let output = Command::new(env!("CARGO"))
                .args([
                    "metadata",
                    "--no-deps",
                    "--offline",
                    "--format-version",
                    "1",
                ])
                .current_dir(room.path("book"))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && !said.contains("unused"),
                "{}\n{said}",
                block.place()
            );
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn what_is_left_out_may_be_anything() {
    assert!(agrees("a\n…\nd\n", "a\nb\nc\nd\n"));
    assert!(agrees("…\nb\n…\n", "a\nb\nc\n"));
    assert!(!agrees("a\n…\nd\n", "a\nb\n"));
    assert!(!agrees("a\n", "a\nb\n"));
}

/// Runs a compiler over a text that it reads from stdin.
fn looked_at(program: &str, words: &[&str], block: &Block, text: &str) {
    use std::io::Write;
    use std::process::Stdio;
    let started = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match started {
        Err(error) => return println!("skipped: no `{program}` ({error})"),
        Ok(child) => child,
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", block.place());
}

#[test]
fn c_and_python_are_c_and_python() {
    let header = checkout("cli/src/driver/mla.h");
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    for (name, text) in blocks::chapters(PACKAGE) {
        for block in blocks::blocks(&name, &text) {
            match block.language.as_str() {
                "c" => {
                    let flags = [
                        "-fsyntax-only",
                        "-Wall",
                        "-Werror",
                        "-std=c11",
                        "-include",
                        &header,
                        "-x",
                        "c",
                        "-",
                    ];
                    looked_at(&compiler, &flags, &block, &block.text);
                }
                "python" => {
                    let compile = "import sys; compile(sys.stdin.read(), 'book', 'exec')";
                    looked_at("python3", &["-c", compile], &block, &block.text);
                }
                _ => {}
            }
        }
    }
}
