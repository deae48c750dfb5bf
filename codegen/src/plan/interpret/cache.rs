//! A cache without pages: what was written, request by request.

use super::Error;
use super::array::Array;
use super::attend::Segment;

/// Everything that a layer has cached, in `f64`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cache {
    requests: Vec<Vec<Entry>>,
}

/// One token: its latent, or every head's key and value; and its shared rope key.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) values: Vec<f64>,
    pub(super) k_rope: Vec<f64>,
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
            requests: vec![Vec::new(); requests],
        }
    }

    /// Tokens that a request has cached; 0 for one that there is none of.
    pub fn tokens(&self, request: usize) -> usize {
        self.requests.get(request).map_or(0, Vec::len)
    }

    /// A request's cached latents and rope keys, token by token.
    pub fn latent_rows(&self, request: usize) -> (Vec<f64>, Vec<f64>) {
        let entries = self.requests.get(request).map_or(&[][..], Vec::as_slice);
        let latent = entries
            .iter()
            .flat_map(|entry| entry.values.clone())
            .collect();
        (
            latent,
            entries
                .iter()
                .flat_map(|entry| entry.k_rope.clone())
                .collect(),
        )
    }

    pub(super) fn holds(&self, request: usize) -> bool {
        request < self.requests.len()
    }

    /// Appends a call's tokens.
    pub(super) fn write(&mut self, pieces: &[Piece], values: &Array, k_rope: &Array) {
        let mut row = 0;
        for piece in pieces {
            for _ in 0..piece.tokens {
                let entry = Entry {
                    values: values.row(row).to_vec(),
                    k_rope: k_rope.row(row).to_vec(),
                };
                self.requests[piece.request].push(entry);
                row += 1;
            }
        }
    }

    /// The first `tokens(piece)` entries of every piece, one piece after the other, and which queries see which of them.
    fn gather(
        &self,
        pieces: &[Piece],
        causal: bool,
        tokens: impl Fn(usize) -> usize,
    ) -> (Vec<&Entry>, Vec<Segment>) {
        let (mut entries, mut segments, mut row) = (Vec::new(), Vec::new(), 0);
        for (index, piece) in pieces.iter().enumerate() {
            let start = entries.len();
            entries.extend(self.requests[piece.request].iter().take(tokens(index)));
            segments.push(Segment {
                queries: row..row + piece.tokens,
                keys: start..entries.len(),
                causal,
            });
            row += piece.tokens;
        }
        (entries, segments)
    }

    /// What the pieces' requests had cached before the call, `cached[i]` tokens of piece `i`, in runs of `chunk` tokens.
    pub(super) fn context(
        &self,
        pieces: &[Piece],
        cached: &[usize],
        chunk: usize,
    ) -> Vec<(Array, Array, Vec<Segment>)> {
        let (entries, segments) = self.gather(pieces, false, |index| cached[index]);
        let chunk = chunk.max(1);
        let runs = entries.chunks(chunk).enumerate().map(|(index, run)| {
            let (start, end) = (index * chunk, index * chunk + run.len());
            let inside = segments.iter().map(|segment| {
                let clamp = |key: usize| key.clamp(start, end) - start;
                Segment {
                    keys: clamp(segment.keys.start)..clamp(segment.keys.end),
                    ..segment.clone()
                }
            });
            let (values, k_rope) = arrays(run);
            (values, k_rope, inside.collect())
        });
        runs.collect()
    }

    /// All that the pieces' requests have cached, the call's own tokens included, and the causal view of it.
    ///
    /// # Errors
    /// When the call's tokens were not written before.
    pub(super) fn everything(
        &self,
        pieces: &[Piece],
        cached: &[usize],
    ) -> Result<(Array, Array, Vec<Segment>), Error> {
        let complete =
            |(piece, cached): (&Piece, &usize)| self.tokens(piece.request) == cached + piece.tokens;
        if !pieces.iter().zip(cached).all(complete) {
            return Err(Error::BadPlan(
                "attention over a cache that the call's tokens are not in",
            ));
        }
        let (entries, segments) = self.gather(pieces, true, |_| usize::MAX);
        let (values, k_rope) = arrays(&entries);
        Ok((values, k_rope, segments))
    }
}

fn arrays(entries: &[&Entry]) -> (Array, Array) {
    let stack = |of: fn(&Entry) -> &[f64]| {
        let rows: Vec<&[f64]> = entries.iter().map(|entry| of(entry)).collect();
        Array::stack(&rows, 1, rows.first().map_or(0, |row| row.len()))
    };
    (stack(|entry| &entry.values), stack(|entry| &entry.k_rope))
}
