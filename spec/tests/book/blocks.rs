//! The book's chapters and their fenced blocks. Tests of other crates, and a build script, read this file too.
//!
//! What stands behind a block's language says what becomes of it:
//!
//! | words | meaning |
//! |---|---|
//! | `yaml` | a whole spec, accepted |
//! | `yaml excerpt` | what differs from a valid spec, accepted |
//! | `yaml wrong CODE …` | refused with these codes and no others; `excerpt` may stand before |
//! | `yaml other` | another system's file, which a console block reads |
//! | `file=NAME` | the chapter's file of that name, from here on |
//! | `console` | commands behind `$`, run in a folder with the chapter's files, and what they print; a line `…` stands for any lines |
//! | `untested` | shown and not run: a test lists all of these |

use std::path::{Path, PathBuf};

/// A fenced block.
#[derive(Debug, Clone)]
pub struct Block {
    /// The chapter's file, below the book's `src`.
    pub chapter: String,
    /// Line of its first fence, from 1.
    pub line: usize,
    /// `yaml`, `console`, …
    pub language: String,
    /// What stands behind the language.
    pub words: Vec<String>,
    /// Its lines, with line ends.
    pub text: String,
}

impl Block {
    /// Whether a word stands behind the language.
    pub fn has(&self, word: &str) -> bool {
        self.words.iter().any(|other| other == word)
    }

    /// What stands behind `KEY=`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.words
            .iter()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// How messages name it.
    pub fn place(&self) -> String {
        format!("docs/book/src/{}:{}", self.chapter, self.line)
    }
}

/// The folder of the book's chapters; `package` is a crate's folder in the checkout.
pub fn source(package: &str) -> PathBuf {
    Path::new(package).join("../docs/book/src")
}

/// Every chapter's file below `src`, and its text, by name.
pub fn chapters(package: &str) -> Vec<(String, String)> {
    let source = source(package);
    let mut chapters = Vec::new();
    let mut folders = vec![source.clone()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.strip_prefix(&source).unwrap_or(&path);
                let name = name.to_string_lossy().replace('\\', "/");
                let text = std::fs::read_to_string(&path)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                chapters.push((name, text));
            }
        }
    }
    chapters.sort();
    chapters
}

/// The blocks of a chapter.
pub fn blocks(chapter: &str, text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for (index, line) in text.lines().enumerate() {
        let ticks = line.len() - line.trim_start_matches('`').len();
        match &mut open {
            Some((fence, block)) if ticks >= *fence && line.trim_start_matches('`').is_empty() => {
                blocks.push(block.clone());
                open = None;
            }
            Some((_, block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            None if ticks >= 3 => {
                let info = &line[ticks..];
                let mut words = info.split([' ', ',']).filter(|word| !word.is_empty());
                let block = Block {
                    chapter: chapter.to_owned(),
                    line: index + 1,
                    language: words.next().unwrap_or_default().to_owned(),
                    words: words.map(str::to_owned).collect(),
                    text: String::new(),
                };
                open = Some((ticks, block));
            }
            None => {}
        }
    }
    assert!(
        open.is_none(),
        "docs/book/src/{chapter}: a block has no end"
    );
    blocks
}

/// The last file of a name in a chapter.
#[allow(dead_code, reason = "not every reader of this file wants one")]
pub fn file(package: &str, chapter: &str, name: &str) -> String {
    let path = source(package).join(chapter);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let blocks = blocks(chapter, &text);
    let mut named = blocks
        .iter()
        .filter(|block| block.value("file") == Some(name));
    match named.next_back() {
        Some(block) => block.text.clone(),
        None => panic!("docs/book/src/{chapter} has no file {name}"),
    }
}
