//! Where two layers differ, box by box.

use super::figure::{Box, Chip, ChipKind, Figure};

/// Marks what only one of two pictures has, and what one has in another way. Both are pictures of the same function.
pub(super) fn mark(one: &mut Figure, other: &mut Figure) {
    let (seen, also) = (seen(one), seen(other));
    let pairs = common(&seen, &also);
    let of = |index: usize, pairs: &[(usize, usize)]| {
        pairs.iter().find(|pair| pair.0 == index).map(|pair| pair.1)
    };
    let turned: Vec<(usize, usize)> = pairs.iter().map(|(a, b)| (*b, *a)).collect();
    chips(one, ["A", "B"], |i| of(i, &pairs).map(|j| also[j].clone()));
    chips(other, ["B", "A"], |i| of(i, &turned).map(|j| seen[j].clone()));
}

/// What a reader compares of a box.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    key: String,
    /// What it makes, what it uses and reads, how things lie in memory.
    facts: [String; 4],
}

fn seen(figure: &Figure) -> Vec<Seen> {
    let parts = figure.parts.iter();
    let boxes = parts.flat_map(|part| part.boxes.iter().chain(&part.frees));
    boxes.map(|one| of_box(figure, one)).collect()
}

fn of_box(figure: &Figure, one: &Box) -> Seen {
    let made = one.results.iter();
    let made: Vec<String> = made
        .map(|made| format!("{} {}", made.shape, made.dtype).trim().to_owned())
        .collect();
    let reads = one.reads.iter().map(|id| figure.values[*id].name.as_str());
    let reads: Vec<&str> = reads.collect();
    let chips = one.chips.iter();
    let chips = chips.filter(|chip| !matches!(chip.kind, ChipKind::Pass));
    let chips: Vec<&str> = chips.map(|chip| chip.text.as_str()).collect();
    let reads = match reads.is_empty() {
        true => String::new(),
        false => format!("reads {}", reads.join(", ")),
    };
    Seen {
        key: one.key.clone(),
        facts: [
            made.join(", "),
            one.about.clone().unwrap_or_default(),
            reads,
            chips.join(", "),
        ],
    }
}

/// Adds a chip to each box of which the other picture has none, or another one. `names` are this layer's and the other's.
fn chips(figure: &mut Figure, names: [&str; 2], other: impl Fn(usize) -> Option<Seen>) {
    let own = seen(figure);
    for (index, one) in figure.boxes_mut().enumerate() {
        let chip = match other(index) {
            None => Some(Chip::new(ChipKind::Only, format!("only in {}", names[0]))),
            Some(also) => difference(&own[index], &also)
                .map(|text| Chip::new(ChipKind::Differs, format!("≠ {}: {text}", names[1]))),
        };
        one.chips.extend(chip);
    }
}

/// What the other one has in another way.
fn difference(own: &Seen, other: &Seen) -> Option<String> {
    let pairs = own.facts.iter().zip(&other.facts);
    let differing = pairs.filter(|(own, other)| own != other);
    let texts: Vec<&str> = differing
        .map(|(_, other)| if other.is_empty() { "none of it" } else { other })
        .collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// The longest common subsequence of keys, as pairs of places.
fn common(one: &[Seen], other: &[Seen]) -> Vec<(usize, usize)> {
    let mut longest = vec![vec![0_usize; other.len() + 1]; one.len() + 1];
    for i in (0..one.len()).rev() {
        for j in (0..other.len()).rev() {
            longest[i][j] = match one[i].key == other[j].key {
                true => longest[i + 1][j + 1] + 1,
                false => longest[i + 1][j].max(longest[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, Vec::new());
    while i < one.len() && j < other.len() {
        if one[i].key == other[j].key {
            pairs.push((i, j));
            (i, j) = (i + 1, j + 1);
        } else if longest[i + 1][j] >= longest[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}
