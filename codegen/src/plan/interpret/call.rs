//! What a call is given.

use std::ops::Range;

use super::Error;
use super::array::Array;
use super::cache::{Cache, Piece};
use super::visible::{Key, Query};

/// What a call takes besides hidden states and positions, where the program asks for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// The other sequences that a cross attention attends to. Cached phases take it where they fill the cache.
    pub context: Option<Context<'a>>,
    /// Arbitrary masks: for each row of the call, which keys of its sequence (by index, cached ones included) it sees.
    pub visible: Option<&'a [Vec<bool>]>,
    /// Bidirectional blocks: for each row of the call its block, 0 for none.
    pub blocks: Option<&'a [u32]>,
    /// Another layer's selection: for each row of the call, indices of keys in its sequence.
    pub selection: Option<&'a [Vec<usize>]>,
    /// Another layer's latents and rotated keys (`forward`).
    pub shared_kv: Option<&'a SharedKv>,
    /// Another layer's cache, which holds the call's tokens already (`prefill`, `decode`).
    pub source: Option<&'a Cache>,
    /// What is added to scaled logits.
    pub bias: Option<&'a Bias>,
    /// Drops probabilities; nothing is dropped without one.
    pub dropout_seed: Option<u64>,
}

/// The sequences that a cross attention attends to.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// `[tokens, CONTEXT_HIDDEN_SIZE]`.
    pub rows: &'a [f64],
    /// Which rows go with which of the call's sequences, in their order. Other rows are padding.
    pub sequences: &'a [Range<usize>],
}

/// Latents and rotated keys of a call's tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SharedKv {
    /// `[tokens, r_kv]`.
    pub latent: Vec<f64>,
    /// `[tokens, d_r]`, in the order in which the giving layer holds rotated keys.
    pub k_rope: Vec<f64>,
}

/// What is added to scaled logits, the same for all sequences.
#[derive(Debug, Clone, PartialEq)]
pub struct Bias {
    /// `[heads, queries, keys]`, queries and keys by their index in a sequence.
    pub values: Vec<f64>,
    /// `H`, or 1 where all heads get the same.
    pub heads: usize,
    /// Queries.
    pub queries: usize,
    /// Keys.
    pub keys: usize,
}

impl Bias {
    /// The value at (head, query, key).
    pub(super) fn at(&self, (head, query, key): (usize, usize, usize)) -> f64 {
        let head = if self.heads == 1 { 0 } else { head };
        self.values[(head * self.queries + query) * self.keys + key]
    }

    fn check(&self) -> Result<(), Error> {
        let wanted = self.heads * self.queries * self.keys;
        let found = self.values.len();
        if found == wanted {
            return Ok(());
        }
        Err(Error::WrongLength {
            what: "bias".to_owned(),
            found,
            wanted,
        })
    }
}

/// Where each row of a call stands; padding stands nowhere.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Queries(pub(super) Vec<Option<Query>>);

/// Where each key stands.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Keys(pub(super) Vec<Key>);

/// A call's arguments.
pub(super) struct Call<'a> {
    pub(super) hidden: &'a [f64],
    pub(super) positions: Vec<u32>,
    pub(super) queries: Queries,
    /// The call's own tokens among themselves: every row is a key of its own.
    pub(super) sequences: Vec<Range<usize>>,
    pub(super) pieces: &'a [Piece],
    /// Tokens that each piece's request had cached before.
    pub(super) cached: Vec<usize>,
    pub(super) cache: &'a mut Cache,
    pub(super) extras: Extras<'a>,
}

impl Queries {
    /// The rows of whole sequences.
    pub(super) fn of(sequences: &[Range<usize>], rows: usize) -> Result<Self, Error> {
        let mut queries = vec![None; rows];
        for (sequence, range) in sequences.iter().enumerate() {
            for (index, row) in range.clone().enumerate() {
                let query = queries.get_mut(row).ok_or(Error::WrongLength {
                    what: "sequences".to_owned(),
                    found: range.end,
                    wanted: rows,
                })?;
                *query = Some(Query {
                    sequence,
                    index,
                    at: index as i64,
                });
            }
        }
        Ok(Self(queries))
    }
}

impl Call<'_> {
    /// Refuses extras of the wrong length.
    pub(super) fn check(&self) -> Result<(), Error> {
        let rows = self.positions.len();
        let lengths = [
            ("visible", self.extras.visible.map(<[_]>::len)),
            ("blocks", self.extras.blocks.map(<[_]>::len)),
            ("selection", self.extras.selection.map(<[_]>::len)),
        ];
        for (what, found) in lengths {
            if let Some(found) = found.filter(|found| *found != rows) {
                return Err(Error::WrongLength {
                    what: what.to_owned(),
                    found,
                    wanted: rows,
                });
            }
        }
        self.extras.bias.map_or(Ok(()), Bias::check)
    }

    /// The call's own tokens as keys, and their rows.
    pub(super) fn own_keys(&self) -> (Vec<usize>, Keys) {
        let (mut rows, mut keys) = (Vec::new(), Keys::default());
        for (row, query) in self.queries.0.iter().enumerate() {
            if let Some(Query {
                sequence, index, ..
            }) = *query
            {
                rows.push(row);
                keys.0.push(Key {
                    sequence,
                    index,
                    row: Some(row),
                });
            }
        }
        (rows, keys)
    }

    /// Cached keys, those of the call's own tokens with their rows.
    pub(super) fn recognised(&self, mut keys: Keys) -> Keys {
        for key in &mut keys.0 {
            let (rows, cached) = (&self.sequences[key.sequence], self.cached[key.sequence]);
            let new = key.index.checked_sub(cached);
            key.row = new.map(|new| rows.start + new);
        }
        keys
    }

    /// Sequences of so many keys of something else, and the queries standing among them.
    pub(super) fn among_others(&self, lengths: &[usize]) -> (Queries, Keys) {
        let mut keys = Keys::default();
        for (sequence, &length) in lengths.iter().enumerate() {
            let key = |index| Key {
                sequence,
                index,
                row: None,
            };
            keys.0.extend((0..length).map(key));
        }
        let mut queries = self.queries.clone();
        for (rows, &length) in self.sequences.iter().zip(lengths) {
            for (i, row) in rows.clone().enumerate() {
                if let Some(query) = &mut queries.0[row] {
                    query.at = length as i64 - rows.len() as i64 + i as i64;
                }
            }
        }
        (queries, keys)
    }
}

/// Some rows of an array.
pub(super) fn picked(x: &Array, rows: &[usize]) -> Array {
    let all: Vec<&[f64]> = rows.iter().map(|&row| x.row(row)).collect();
    Array::stack(&all, x.heads, x.dim)
}
