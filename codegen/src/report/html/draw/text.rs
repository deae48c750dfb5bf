//! How much room text takes. Fonts are the reader's own, so widths are those of wide ones.

/// Height of a line.
pub(super) const LINE: f64 = 17.0;

/// Height of a line of formulas, of a title.
pub(super) const FORMULA: f64 = 18.0;
pub(super) const TITLE: f64 = 22.0;

/// Height of a row of chips, and of the names at a card's upper edge.
pub(super) const CHIP: f64 = 21.0;

/// Width of monospaced characters of 11.5 px: 0.6 em, and a little.
pub(super) fn mono(text: &str) -> f64 {
    7.05 * width(text)
}

/// Width of a title of 13.5 px.
pub(super) fn title(text: &str) -> f64 {
    7.4 * width(text)
}

/// Width of a formula of 12.5 px.
pub(super) fn formula(text: &str) -> f64 {
    6.7 * width(text)
}

/// Width of a part of the line above a title, of 10.5 px, with the gap between two.
pub(super) fn eyebrow(text: &str) -> f64 {
    6.5 * width(text) + 6.0
}

/// Width of a chip's text of 10.5 px, with its border and the gap to the next.
pub(super) fn chip(text: &str) -> f64 {
    5.75 * width(text) + 16.0
}

/// Width of a name at a card's upper edge, with its border.
pub(super) fn port(text: &str) -> f64 {
    (6.6 * width(text) + 16.0).max(34.0)
}

/// Characters that take room: combining marks take none.
fn width(text: &str) -> f64 {
    let is_mark = |c: &char| ('\u{300}'..='\u{36f}').contains(c);
    text.chars().filter(|c| !is_mark(c)).count() as f64
}

/// Breaks a text into lines of at most so many pixels, between words.
pub(super) fn wrapped(text: &str, most: f64, measure: impl Fn(&str) -> f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if measure(&format!("{line} {word}")) <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// How many rows things of these widths take, one beside the other.
pub(super) fn rows(widths: impl Iterator<Item = f64>, most: f64) -> usize {
    let (mut rows, mut end) = (0, f64::INFINITY);
    for width in widths {
        if end + width > most {
            rows += 1;
            end = 0.0;
        }
        end += width;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        let of_ten = |text: &str| 10.0 * width(text);
        assert_eq!(wrapped("a bc def g", 40.0, of_ten), ["a bc", "def", "g"]);
        assert_eq!(wrapped("abcdefgh i", 40.0, of_ten), ["abcdefgh", "i"]);
        assert_eq!(width("q\u{303}"), 1.0, "a tilde stands above");
    }

    #[test]
    fn things_beside_each_other_take_rows() {
        assert_eq!(rows([30.0, 30.0, 50.0].into_iter(), 60.0), 2);
        assert_eq!(rows([].into_iter(), 60.0), 0);
        assert_eq!(rows([90.0].into_iter(), 60.0), 1);
    }
}
