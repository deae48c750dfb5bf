//! A cache without pages: what was written, request by request. Everything is kept as `f64`, whatever `build.cache.format` says: the
//! oracle is what a cache that loses nothing would give.

use super::array::Array;
use super::call::Keys;
use super::visible::Key;

/// Everything that a layer has cached, in `f64`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cache {
    requests: Vec<Request>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Request {
    entries: Vec<Entry>,
    /// The indexer's keys, and what pools them.
    index: Vec<Vec<f64>>,
}

/// One token: its latent and rope key; every head's `[k_n; v]` and the rope key; or every group's keys and values.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    first: Vec<f64>,
    second: Vec<f64>,
}

/// A request's part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Which request.
    pub request: usize,
    /// How many new tokens it brings.
    pub tokens: usize,
}

impl Cache {
    /// An empty cache for `requests` requests.
    pub fn new(requests: usize) -> Self {
        Self {
            requests: vec![Request::default(); requests],
        }
    }

    /// Tokens that a request has cached; 0 for one that there is none of.
    pub fn tokens(&self, request: usize) -> usize {
        self.requests
            .get(request)
            .map_or(0, |request| request.entries.len().max(request.index.len()))
    }

    /// A request's cached latents and rope keys, token by token.
    pub fn latent_rows(&self, request: usize) -> (Vec<f64>, Vec<f64>) {
        let entries = self.entries(request);
        let all = |of: fn(&Entry) -> &[f64]| entries.iter().flat_map(of).copied().collect();
        (all(|entry| &entry.first), all(|entry| &entry.second))
    }

    /// A request's cached indexer keys (and what pools them), token by token.
    pub fn index_rows(&self, request: usize) -> Vec<f64> {
        self.requests
            .get(request)
            .map_or_else(Vec::new, |request| request.index.concat())
    }

    pub(super) fn holds(&self, request: usize) -> bool {
        request < self.requests.len()
    }

    /// How many entries a request has, the indexer's keys apart.
    pub(super) fn entry_count(&self, request: usize) -> usize {
        self.entries(request).len()
    }

    fn entries(&self, request: usize) -> &[Entry] {
        self.requests
            .get(request)
            .map_or(&[], |request| &request.entries)
    }

    /// Appends rows, `pieces` saying whose they are.
    pub(super) fn write(&mut self, pieces: &[Piece], first: &Array, second: &Array) {
        let mut rows = 0..first.rows;
        for piece in pieces {
            for row in rows.by_ref().take(piece.tokens) {
                self.requests[piece.request].entries.push(Entry {
                    first: first.row(row).to_vec(),
                    second: second.row(row).to_vec(),
                });
            }
        }
    }

    /// Appends an indexer's keys.
    pub(super) fn write_index(&mut self, pieces: &[Piece], keys: &Array) {
        let mut rows = 0..keys.rows;
        for piece in pieces {
            for row in rows.by_ref().take(piece.tokens) {
                self.requests[piece.request]
                    .index
                    .push(keys.row(row).to_vec());
            }
        }
    }

    /// Entries `range(i)` of piece `i`'s request, one piece after the other, and where they stand.
    pub(super) fn gather(
        &self,
        pieces: &[Piece],
        range: impl Fn(usize) -> std::ops::Range<usize>,
    ) -> (Array, Array, Keys) {
        let (mut first, mut second, mut keys) = (Vec::new(), Vec::new(), Keys::default());
        for (sequence, piece) in pieces.iter().enumerate() {
            let entries = self.entries(piece.request);
            for index in range(sequence) {
                let Some(entry) = entries.get(index) else {
                    break;
                };
                first.push(entry.first.as_slice());
                second.push(entry.second.as_slice());
                keys.0.push(Key {
                    sequence,
                    index,
                    row: None,
                });
            }
        }
        (stacked(&first), stacked(&second), keys)
    }

    /// The indexer keys of every piece's request.
    pub(super) fn gather_index(&self, pieces: &[Piece]) -> (Array, Keys) {
        let (mut rows, mut keys) = (Vec::new(), Keys::default());
        for (sequence, piece) in pieces.iter().enumerate() {
            let request = self.requests.get(piece.request);
            let index = request.map_or(&[][..], |request| &request.index);
            for (index, key) in index.iter().enumerate() {
                rows.push(key.as_slice());
                keys.0.push(Key {
                    sequence,
                    index,
                    row: None,
                });
            }
        }
        (stacked(&rows), keys)
    }
}

fn stacked(rows: &[&[f64]]) -> Array {
    Array::stack(rows, 1, rows.first().map_or(0, |row| row.len()))
}
