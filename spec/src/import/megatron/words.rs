//! A command line as it stands in a script: words, each with its place.

use std::collections::HashMap;
use std::ops::Range;

/// A word of a command line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Without quotes.
    pub(super) text: String,
    pub(super) range: Range<usize>,
    /// Number of its line, where a backslash at the end joins the next one to it.
    pub(super) line: usize,
}

impl Word {
    /// The name of a flag, without dashes: `hidden-size` of `--hidden-size`.
    pub(super) fn flag(&self) -> Option<&str> {
        let name = self.text.strip_prefix("--")?;
        name.starts_with(|c: char| c.is_ascii_alphabetic())
            .then_some(name)
    }
}

/// The words of a text that are arguments: what starts a program, up to its name, is not, nor are lists that stand elsewhere.
pub(super) fn of_arguments(text: &str) -> Vec<Word> {
    let mut words = words(text);
    let started: HashMap<usize, usize> = words
        .iter()
        .filter(|word| word.text.ends_with(".py"))
        .map(|program| (program.line, program.range.end))
        .collect();
    words.retain(|word| {
        let program = started.get(&word.line);
        program.is_none_or(|end| word.range.end > *end) && !word.text.contains("[@]")
    });
    words
}

/// The words of a text. Quotes, brackets of shell arrays around words, and backslashes before line ends are taken away;
/// what follows a `#` at the beginning of a word is a comment, to its line's end.
fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let (mut rest, mut line) = (0, 0);
    while let Some(start) = text[rest..]
        .find(|c: char| !c.is_whitespace())
        .map(|at| rest + at)
    {
        let joined = text[..rest].ends_with('\\');
        let breaks = text[rest..start].matches('\n').count();
        line += breaks.saturating_sub(usize::from(joined));
        let end = text[start..]
            .find(char::is_whitespace)
            .map_or(text.len(), |at| start + at);
        if text[start..].starts_with('#') {
            rest = text[start..].find('\n').map_or(text.len(), |at| start + at);
            continue;
        }
        words.extend(word(text, start..end, line));
        rest = end;
    }
    words
}

/// The word in a range, `None` where nothing but punctuation is left of it.
fn word(text: &str, range: Range<usize>, line: usize) -> Option<Word> {
    let written = &text[range.clone()];
    let quotes = ['"', '\''];
    // An array's brackets stand outside of a list's, `[0]*3+[1]*58`, and of a pattern's, `([0]*3+[1]*58)`.
    let opened = written.trim_start_matches(quotes);
    let closed = opened.trim_end_matches(['"', '\'', '\\', ';']);
    let bare = if closed.starts_with('(') || !closed.contains('(') {
        let opens = closed.matches('(').count();
        let closes = closed.matches(')').count();
        match opens.cmp(&closes) {
            std::cmp::Ordering::Less => closed.trim_end_matches(')'),
            std::cmp::Ordering::Greater => closed.trim_start_matches('('),
            std::cmp::Ordering::Equal => closed,
        }
    } else {
        closed
    };
    let bare = bare.trim_matches(quotes);
    if bare.is_empty() {
        return None;
    }
    let start = range.start + written.find(bare).unwrap_or(0);
    Some(Word {
        text: bare.to_owned(),
        range: start..start + bare.len(),
        line,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        words(text).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn a_script_is_its_words() {
        let script = "MODEL_ARGS=\" \\\n    --hidden-size 7168 \\\n#   --bf16 \\\n    --moe-layer-freq ([0]*3+[1]*58) \\\n    --window-size \"(127,0)\" \\\n\"\n";
        let wanted = [
            "MODEL_ARGS=",
            "--hidden-size",
            "7168",
            "--moe-layer-freq",
            "([0]*3+[1]*58)",
            "--window-size",
            "(127,0)",
        ];
        assert_eq!(texts(script), wanted);
        assert_eq!(
            texts("ARGS=(\n    --a 1\n    --b [0]*3+[1]*58)"),
            ["ARGS=(", "--a", "1", "--b", "[0]*3+[1]*58"]
        );
        assert_eq!(texts("( --a 'ö' )"), ["--a", "ö"]);
    }

    #[test]
    fn what_starts_the_program_is_no_argument() {
        let script = "A=(\n --a 1\n)\ntorchrun --n 8 \\\n run.py ${A[@]} --b 2\n";
        let found: Vec<_> = of_arguments(script)
            .into_iter()
            .map(|word| word.text)
            .collect();
        assert_eq!(found, ["A=(", "--a", "1", "--b", "2"]);
    }

    #[test]
    fn words_know_where_they_stand() {
        let lines: Vec<_> = words("--a 1 \\\n 2\n--b 3\n")
            .iter()
            .map(|word| word.line)
            .collect();
        assert_eq!(lines, [0, 0, 0, 1, 1]);
        let text = "  \"--name\" 'x y'";
        let found = words(text);
        let shown: Vec<_> = found.iter().map(|word| &text[word.range.clone()]).collect();
        assert_eq!(shown, ["--name", "x", "y"]);
    }
}
