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
    chips(other, ["B", "A"], |i| {
        of(i, &turned).map(|j| seen[j].clone())
    });
}

/// What a reader compares of a box.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    key: String,
    /// What it makes, what it uses, how things lie in memory.
    facts: [String; 3],
    reads: Vec<String>,
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
    let reads = one.reads.iter().map(|id| figure.values[*id].name.clone());
    let chips = one.chips.iter();
    let chips = chips.filter(|chip| !matches!(chip.kind, ChipKind::Pass));
    let chips: Vec<&str> = chips.map(|chip| chip.text.as_str()).collect();
    Seen {
        key: one.key.clone(),
        facts: [
            made.join(", "),
            one.about.clone().unwrap_or_default(),
            chips.join(", "),
        ],
        reads: reads.collect(),
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
    let mut texts: Vec<String> = differing
        .map(|(own, other)| match other.is_empty() {
            true => format!("not {own}"),
            false => other.clone(),
        })
        .collect();
    let only = |one: &Seen, other: &Seen, verb: &str| {
        let own = one.reads.iter().filter(|name| !other.reads.contains(name));
        let names: Vec<&str> = own.map(String::as_str).collect();
        (!names.is_empty()).then(|| format!("{verb} {}", names.join(", ")))
    };
    texts.extend(only(other, own, "also reads"));
    texts.extend(only(own, other, "does not read"));
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
