//! Characters as tokens, and batches of them.

use super::Fault;
use super::random::Random;

/// Thirty-eight of Shakespeare's sonnets.
pub(crate) const SONNETS: &str = include_str!("../sonnets.txt");

/// A character's token is its place here.
const ALPHABET: &[u8] = b"\n !'(),-.:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// How many tokens there are.
pub(crate) const VOCABULARY: usize = ALPHABET.len();

/// A text's tokens.
pub(crate) fn encode(text: &str) -> Result<Vec<usize>, Fault> {
    let token = |(at, character): (usize, char)| {
        let known = |&known: &u8| char::from(known) == character;
        ALPHABET.iter().position(known).ok_or_else(|| {
            format!("the character {character:?} at byte {at} is not in the alphabet").into()
        })
    };
    text.char_indices().map(token).collect()
}

/// The text of tokens; what is none is left out.
pub(crate) fn decode(tokens: &[usize]) -> String {
    let characters = tokens.iter().filter_map(|&token| ALPHABET.get(token));
    characters.map(|&byte| char::from(byte)).collect()
}

/// One in so many characters of a text, the last ones, are kept for judging.
const HELD_OUT: usize = 10;

/// A text's tokens, in two parts.
#[derive(Debug)]
pub(crate) struct Corpus {
    tokens: Vec<usize>,
    learnt: usize,
}

impl Corpus {
    pub(crate) fn of(text: &str) -> Result<Self, Fault> {
        let tokens = encode(text)?;
        Ok(Self {
            learnt: tokens.len() - tokens.len() / HELD_OUT,
            tokens,
        })
    }

    /// What is learnt from.
    pub(crate) fn learnt(&self) -> &[usize] {
        &self.tokens[..self.learnt]
    }

    /// What is not, so that it tells what was learnt.
    pub(crate) fn held_out(&self) -> &[usize] {
        &self.tokens[self.learnt..]
    }
}

/// Runs of tokens, one after the other, and what follows each token.
#[derive(Debug)]
pub(crate) struct Batch {
    /// What the model reads.
    pub(crate) tokens: Vec<usize>,
    /// What it should say after each of them.
    pub(crate) targets: Vec<usize>,
    /// Tokens of a run.
    pub(crate) length: usize,
}

impl Batch {
    /// `runs` runs of `length` tokens, from random places of `text`.
    pub(crate) fn drawn(
        text: &[usize],
        runs: usize,
        length: usize,
        random: &mut Random,
    ) -> Result<Self, Fault> {
        // The last token of a run has a target behind it
        let places = text.len().checked_sub(length).filter(|&places| places > 0);
        let places = places.ok_or_else(|| too_short(text, length))?;
        Ok(Self::at(
            text,
            (0..runs).map(|_| random.below(places)),
            length,
        ))
    }

    /// All of `text` in runs of `length` tokens that follow each other; what is left over at its end is left out.
    pub(crate) fn whole(text: &[usize], length: usize) -> Result<Self, Fault> {
        let runs = text.len().saturating_sub(1) / length.max(1);
        if runs == 0 {
            return Err(too_short(text, length));
        }
        Ok(Self::at(text, (0..runs).map(|run| run * length), length))
    }

    fn at(text: &[usize], starts: impl Iterator<Item = usize>, length: usize) -> Self {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for start in starts {
            tokens.extend_from_slice(&text[start..start + length]);
            targets.extend_from_slice(&text[start + 1..start + 1 + length]);
        }
        Self {
            tokens,
            targets,
            length,
        }
    }
}

fn too_short(text: &[usize], length: usize) -> Fault {
    format!(
        "a text of {} characters is too short for runs of {length}",
        text.len()
    )
    .into()
}
